//! semtimedop(2).
#![allow(unsafe_code)] // A C function by name.

use crate::{edge, kernel, routes, semop};
use std::time::Duration;
use vshmem_runtime::{Errno, Result, SemBuf};
use vshmem_wire::Kind;

fn duration(time: libc::timespec) -> Result<Duration> {
    let seconds = u64::try_from(time.tv_sec).map_err(|_| Errno::EINVAL)?;
    match u32::try_from(time.tv_nsec) {
        Ok(nanos) if nanos < 1_000_000_000 => Ok(Duration::new(seconds, nanos)),
        _ => Err(Errno::EINVAL),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn semtimedop(
    id: i32,
    operations: *const SemBuf,
    count: usize,
    timeout: *const libc::timespec,
) -> i32 {
    edge::call_int(|| {
        if !routes::id_is_ours(Kind::Sem, id) {
            let arguments = [id as usize, operations as usize, count, timeout as usize, 0];
            return Ok(kernel::pass(libc::SYS_semtimedop, arguments) as i32);
        }
        let timeout = match timeout.is_null() {
            true => None,
            false => Some(duration(edge::read(timeout)?)?),
        };
        // SAFETY: the program's array.
        unsafe { semop::operate(id, operations, count, timeout) }
    })
}
