//! msgsnd(2).
#![allow(unsafe_code)] // A C function by name; a message of the program.

use crate::{edge, kernel, routes};
use std::ffi::{c_long, c_void};
use vshmem_runtime::{Errno, Runtime};
use vshmem_wire::Kind;

#[unsafe(no_mangle)]
unsafe extern "C" fn msgsnd(id: i32, message: *const c_void, bytes: usize, flags: i32) -> i32 {
    edge::call_int(|| {
        if !routes::id_is_ours(Kind::Msg, id) {
            let arguments = [id as usize, message as usize, bytes, flags as usize, 0];
            return Ok(kernel::pass(libc::SYS_msgsnd, arguments) as i32);
        }
        let mtype = edge::read(message.cast::<c_long>())?;
        if mtype < 1 || isize::try_from(bytes).is_err() {
            return Err(Errno::EINVAL);
        }
        // SAFETY: the program says that so many bytes follow the type. They are only read, by the audited copy.
        let text =
            unsafe { std::slice::from_raw_parts(message.cast::<u8>().add(size_of::<c_long>()), bytes) };
        Runtime::global().msgsnd(id, mtype, text, flags).map(|()| 0)
    })
}
