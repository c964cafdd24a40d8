//! semop(2).
#![allow(unsafe_code)] // A C function by name; an array of the program.

use crate::{kernel, routes};
use vshmem_abi::{edge, sem};
use vshmem_runtime::SemBuf;
use vshmem_wire::Kind;

#[unsafe(no_mangle)]
unsafe extern "C" fn semop(id: i32, operations: *const SemBuf, count: usize) -> i32 {
    edge::call_int(|| {
        if !routes::id_is_ours(Kind::Sem, id) {
            return Ok(kernel::pass(libc::SYS_semop, [id as usize, operations as usize, count, 0, 0]) as i32);
        }
        // SAFETY: the program's array.
        unsafe { sem::operate(id, operations, count, std::ptr::null()) }
    })
}
