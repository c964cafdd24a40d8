//! msgrcv(2).
#![allow(unsafe_code)] // A C function by name; a buffer of the program.

use crate::{edge, kernel, routes};
use std::ffi::{c_long, c_void};
use vshmem_runtime::{Errno, Runtime};
use vshmem_wire::Kind;

/// No message is longer, whatever a program says that its buffer holds.
const LONGEST: usize = 1 << 30;

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
        if isize::try_from(bytes).is_err() {
            return Err(Errno::EINVAL);
        }
        edge::pointer(message)?;
        // SAFETY: the program says that it has room for so many bytes behind the type. They are only written.
        let into = unsafe {
            let text = message.cast::<u8>().add(size_of::<c_long>());
            std::slice::from_raw_parts_mut(text, bytes.min(LONGEST))
        };
        let received = Runtime::global().msgrcv(id, into, msgtyp, flags)?;
        edge::write(message.cast::<c_long>(), received.mtype)?;
        Ok(received.len as isize)
    })
}
