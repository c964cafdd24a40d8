//! shmdt(2).
#![allow(unsafe_code)] // A C function by name.

use crate::kernel;
use std::ffi::c_void;
use vshmem_abi::edge;
use vshmem_runtime::{Errno, Runtime};

#[unsafe(no_mangle)]
unsafe extern "C" fn shmdt(address: *const c_void) -> i32 {
    edge::call_int(|| {
        // SAFETY: whether the memory is still used is the program's to say.
        match unsafe { Runtime::global().shmdt(address) } {
            // Not one of ours: one of the kernel's, or nothing.
            Err(Errno::EINVAL) => Ok(kernel::pass(libc::SYS_shmdt, [address as usize, 0, 0, 0, 0]) as i32),
            other => other.map(|()| 0),
        }
    })
}
