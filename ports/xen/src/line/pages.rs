//! A line's pages, mapped by either end for as long as the process lives.
#![allow(unsafe_code)] // Mapping memory, and promising how long it stays.

use rustix::fd::OwnedFd;
use rustix::mm::{MapFlags, ProtFlags};
use std::io;
use vshmem_words::Mapping;

/// Maps them. The device's descriptor may be closed afterwards: the mapping keeps it.
pub(super) fn map(device: OwnedFd, at: u64, pages: u32) -> io::Result<Mapping> {
    let bytes = pages as usize * 4096;
    // SAFETY: a new mapping at an address of the kernel's choice; it is never unmapped, which is what `Mapping` asks for.
    unsafe {
        let base = rustix::mm::mmap(
            std::ptr::null_mut(),
            bytes,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
            &device,
            at,
        )?;
        Ok(Mapping::new(base.cast(), bytes))
    }
}
