//! semop(2).
#![allow(unsafe_code)] // A C function by name; an array of the program.

use crate::{edge, kernel, routes};
use std::time::Duration;
use vshmem_runtime::sysv::SEMOPM;
use vshmem_runtime::{Errno, Result, Runtime, SemBuf};
use vshmem_wire::Kind;

/// semop and semtimedop on a set of Vshmem.
///
/// # Safety
/// `operations` is an array of `count` operations, or null.
#[inline(always)]
pub(crate) unsafe fn operate(
    id: i32,
    operations: *const SemBuf,
    count: usize,
    timeout: Option<Duration>,
) -> Result<i32> {
    if count == 0 {
        return Err(Errno::EINVAL);
    }
    if count > SEMOPM {
        return Err(Errno::E2BIG);
    }
    edge::pointer(operations)?;
    // SAFETY: promised by the caller; `SemBuf` is `struct sembuf`.
    let operations = unsafe { std::slice::from_raw_parts(operations, count) };
    Runtime::global().semop(id, operations, timeout).map(|()| 0)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn semop(id: i32, operations: *const SemBuf, count: usize) -> i32 {
    edge::call_int(|| {
        if !routes::id_is_ours(Kind::Sem, id) {
            return Ok(kernel::pass(libc::SYS_semop, [id as usize, operations as usize, count, 0, 0]) as i32);
        }
        // SAFETY: the program's array.
        unsafe { operate(id, operations, count, None) }
    })
}
