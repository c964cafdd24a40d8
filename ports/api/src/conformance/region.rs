//! Memory as a program in a domain maps it: extents one after another, through whatever window the port gives.
#![allow(unsafe_code)] // Mapping memory and touching it by address cannot be said in safe code.

use crate::store::Mapped;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, MremapFlags, ProtFlags};
use std::sync::atomic::{AtomicU64, Ordering};
use vshmem_wire::{Extent, Window};
use vshmem_words::{Mapping, Words};

/// A mapping of this process, ended when dropped.
pub(super) struct Region {
    words: Mapping,
    bytes: usize,
    pub(super) memory: OwnedFd,
    window: Window,
}

impl Region {
    /// Maps `extents` of `memory` one after another.
    pub(super) fn map(
        memory: OwnedFd,
        window: Window,
        extents: &[Extent],
        writable: bool,
    ) -> Result<Self, Errno> {
        let bytes = extents.iter().map(|e| e.bytes as usize).sum();
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), bytes, ProtFlags::empty(), flags)?
        };
        // SAFETY: `bytes` bytes from `base` stay mapped until this value is dropped (inaccessible at first; nothing is read before `put` has been everywhere).
        let words = unsafe { Mapping::new(base.cast(), bytes) };
        let region = Region {
            words,
            bytes,
            memory,
            window,
        };
        let mut at = 0;
        for &extent in extents {
            region.put(at, extent, writable)?;
            at += extent.bytes as usize;
        }
        Ok(region)
    }

    /// Maps an extent at `at` within the region.
    fn put(&self, at: usize, extent: Extent, writable: bool) -> Result<(), Errno> {
        let protection = if writable {
            ProtFlags::READ | ProtFlags::WRITE
        } else {
            ProtFlags::READ
        };
        let (offset, bytes) = (extent.offset as usize, extent.bytes as usize);
        let fd = self.memory.as_fd();
        // SAFETY: `at + bytes` lies within the region's reservation, which is ours; the temporary mapping is at an address of the kernel's choice, the wanted part of
        // it is moved onto the reservation and the part before it is unmapped.
        unsafe {
            let target = self.words.base().add(at).cast();
            let flags = MapFlags::SHARED | MapFlags::FIXED;
            match self.window {
                Window::Direct => {
                    rustix::mm::mmap(target, bytes, protection, flags, fd, extent.offset)?;
                }
                Window::InOrder => {
                    rustix::mm::mmap(target, bytes, protection, flags, fd, at as u64)?;
                }
                Window::Whole { .. } => {
                    let end = offset + bytes;
                    let whole =
                        rustix::mm::mmap(std::ptr::null_mut(), end, protection, MapFlags::SHARED, fd, 0)?;
                    let part = whole.cast::<u8>().add(offset).cast();
                    rustix::mm::mremap_fixed(part, bytes, bytes, MremapFlags::MAYMOVE, target)?;
                    if offset > 0 {
                        rustix::mm::munmap(whole, offset)?;
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn words(&self) -> &Mapping {
        &self.words
    }

    /// Adds one to a 64-bit word.
    pub(super) fn fetch_add(&self, at: usize) {
        add_one(&self.words, at);
    }

    /// Tries to make the region writable.
    pub(super) fn make_writable(&self) -> Result<(), Errno> {
        // SAFETY: changes the protection of our own mapping; nobody relies on its being unwritable.
        unsafe {
            rustix::mm::mprotect(
                self.words.base().cast(),
                self.bytes,
                MprotectFlags::READ | MprotectFlags::WRITE,
            )
        }
    }

    /// Tries to map the descriptor's first page for writing.
    pub(super) fn map_writable(&self) -> Result<(), Errno> {
        let again = self.memory.try_clone().map_err(|_| Errno::MFILE)?;
        let first = Extent {
            offset: 0,
            bytes: crate::store::PAGE,
        };
        Region::map(again, self.window, &[first], true).map(drop)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which nobody else has the address of.
        let _ = unsafe { rustix::mm::munmap(self.words.base().cast(), self.bytes) };
    }
}

/// The words of what the back-end's store mapped. The session that asked for it keeps it mapped for as long as it looks at it.
pub(super) fn host_words(mapped: &Mapped) -> Mapping {
    // SAFETY: the store mapped this many bytes, and `Session` ends the mapping only when it no longer uses the words.
    unsafe { Mapping::new(mapped.base, mapped.bytes) }
}

/// One atomic fetch-and-add, for which the trait `Words` has no name.
pub(super) fn add_one(words: &Mapping, at: usize) {
    assert!(at.is_multiple_of(8) && at + 8 <= words.len());
    // SAFETY: aligned and in range (checked above), mapped for as long as `words` lives.
    let word = unsafe { AtomicU64::from_ptr(words.base().add(at).cast()) };
    word.fetch_add(1, Ordering::Relaxed);
}
