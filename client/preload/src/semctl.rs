//! semctl(2): variadic in C, with a union by value as fourth argument. On x86-64 and aarch64 that arrives where a pointer would.
#![allow(unsafe_code)] // A C function by name.

use crate::{kernel, routes};
use std::ffi::c_void;
use vshmem_abi::{edge, sem};
use vshmem_wire::Kind;

#[unsafe(no_mangle)]
unsafe extern "C" fn semctl(id: i32, num: i32, command: i32, argument: *mut c_void) -> i32 {
    edge::call_int(|| {
        if sem::takes_id(command) && !routes::id_is_ours(Kind::Sem, id) {
            let arguments = [id as usize, num as usize, command as usize, argument as usize, 0];
            return Ok(kernel::pass(libc::SYS_semctl, arguments) as i32);
        }
        sem::control(id, num, command, argument)
    })
}
