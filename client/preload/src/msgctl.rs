//! msgctl(2).
#![allow(unsafe_code)] // A C function by name.

use crate::{kernel, routes};
use std::ffi::c_void;
use vshmem_abi::{edge, msg};
use vshmem_wire::Kind;

#[unsafe(no_mangle)]
unsafe extern "C" fn msgctl(id: i32, command: i32, argument: *mut c_void) -> i32 {
    edge::call_int(|| {
        if msg::takes_id(command) && !routes::id_is_ours(Kind::Msg, id) {
            let arguments = [id as usize, command as usize, argument as usize, 0, 0];
            return Ok(kernel::pass(libc::SYS_msgctl, arguments) as i32);
        }
        msg::control(id, command, argument)
    })
}
