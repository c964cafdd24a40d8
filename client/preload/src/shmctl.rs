//! shmctl(2).
#![allow(unsafe_code)] // A C function by name.

use crate::{kernel, routes};
use std::ffi::c_void;
use vshmem_abi::{edge, shm};
use vshmem_wire::Kind;

#[unsafe(no_mangle)]
unsafe extern "C" fn shmctl(id: i32, command: i32, argument: *mut c_void) -> i32 {
    edge::call_int(|| {
        if shm::takes_id(command) && !routes::id_is_ours(Kind::Shm, id) {
            let arguments = [id as usize, command as usize, argument as usize, 0, 0];
            return Ok(kernel::pass(libc::SYS_shmctl, arguments) as i32);
        }
        shm::control(id, command, argument)
    })
}
