//! msgrcv(2).
#![allow(unsafe_code)] // A C function by name; a buffer of the program.

use crate::{kernel, routes};
use std::ffi::{c_long, c_void};
use vshmem_abi::{edge, msg};
use vshmem_wire::Kind;

#[unsafe(no_mangle)]
unsafe extern "C" fn msgrcv(
    id: i32,
    message: *mut c_void,
    bytes: usize,
    msgtyp: c_long,
    flags: i32,
) -> isize {
    edge::call(|| {
        if !routes::id_is_ours(Kind::Msg, id) {
            let arguments = [
                id as usize,
                message as usize,
                bytes,
                msgtyp as usize,
                flags as usize,
            ];
            return Ok(kernel::pass(libc::SYS_msgrcv, arguments));
        }
        // SAFETY: the program's buffer.
        unsafe { msg::receive(id, message, bytes, msgtyp, flags) }
    })
}
