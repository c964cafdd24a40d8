//! V-shm: get, attach, detach, lock.
#![allow(unsafe_code)] // Attaching and detaching change what is mapped where, which only the caller can make sound.

use crate::errno::{Errno, Result};
use crate::runtime::Runtime;
use std::ffi::c_void;
use vshmem_wire::Request;

impl Runtime {
    /// shmget(2).
    pub fn shmget(&self, key: i32, size: usize, flags: i32) -> Result<i32> {
        self.ask_id(&Request::ShmGet {
            key,
            size: size as u64,
            flags,
        })
    }

    /// shmat(2).
    ///
    /// # Safety
    /// With SHM_REMAP, whatever is mapped from `address` on is replaced: nobody may rely on it.
    pub unsafe fn shmat(&self, id: i32, address: *const c_void, flags: i32) -> Result<*mut c_void> {
        let _ = (id, address, flags);
        Err(Errno::ENOSYS)
    }

    /// shmdt(2).
    ///
    /// # Safety
    /// Nothing may use the memory attached at `address` afterwards.
    pub unsafe fn shmdt(&self, address: *const c_void) -> Result<()> {
        let _ = address;
        Err(Errno::EINVAL)
    }

    /// Bytes (segsz) of the segment attached at `address`.
    pub fn attached_bytes(&self, address: *const c_void) -> Option<usize> {
        let _ = address;
        None
    }

    /// SHM_LOCK, SHM_UNLOCK.
    pub fn shm_lock(&self, id: i32, on: bool) -> Result<()> {
        self.ask_done(&Request::Lock { id, on })
    }
}
