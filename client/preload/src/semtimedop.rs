//! semtimedop(2).
#![allow(unsafe_code)] // A C function by name; an array of the program.

use crate::{kernel, routes};
use vshmem_abi::{edge, sem};
use vshmem_runtime::SemBuf;
use vshmem_wire::Kind;

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
        // SAFETY: the program's array.
        unsafe { sem::operate(id, operations, count, timeout) }
    })
}
