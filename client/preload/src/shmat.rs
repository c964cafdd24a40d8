//! shmat(2).
#![allow(unsafe_code)] // A C function by name.

use crate::{kernel, routes};
use std::ffi::c_void;
use vshmem_abi::edge;
use vshmem_runtime::Runtime;
use vshmem_wire::Kind;

#[unsafe(no_mangle)]
unsafe extern "C" fn shmat(id: i32, address: *const c_void, flags: i32) -> *mut c_void {
    let result = edge::call(|| {
        if !routes::id_is_ours(Kind::Shm, id) {
            return Ok(kernel::pass(
                libc::SYS_shmat,
                [id as usize, address as usize, flags as usize, 0, 0],
            ));
        }
        // SAFETY: what SHM_REMAP replaces is the program's to say.
        unsafe { Runtime::global().shmat(id, address, flags) }.map(|at| at as isize)
    });
    result as *mut c_void
}
