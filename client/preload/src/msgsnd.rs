//! msgsnd(2).
#![allow(unsafe_code)] // A C function by name; a message of the program.

use crate::{kernel, routes};
use std::ffi::c_void;
use vshmem_abi::{edge, msg};
use vshmem_wire::Kind;

#[unsafe(no_mangle)]
unsafe extern "C" fn msgsnd(id: i32, message: *const c_void, bytes: usize, flags: i32) -> i32 {
    edge::call_int(|| {
        if !routes::id_is_ours(Kind::Msg, id) {
            let arguments = [id as usize, message as usize, bytes, flags as usize, 0];
            return Ok(kernel::pass(libc::SYS_msgsnd, arguments) as i32);
        }
        // SAFETY: the program's message.
        unsafe { msg::send(id, message, bytes, flags) }
    })
}
