//! Mapping extents into address space.
//!
//! Not for deciding what to map.
#![allow(unsafe_code)] // mmap and its like.

use crate::errno::{Errno, Result};
use rustix::fd::BorrowedFd;
use rustix::mm::{MapFlags, MremapFlags, ProtFlags, mmap, mmap_anonymous, mremap_fixed, munmap};
use std::ffi::c_void;
use std::ptr;
use vshmem_wire::{Extent, Memory, Window};

const PAGE: u64 = 4096;

/// Address space kept free, without memory.
pub(crate) fn reserve(bytes: usize) -> Result<*mut u8> {
    // SAFETY: a new mapping.
    let at = unsafe {
        mmap_anonymous(
            ptr::null_mut(),
            bytes,
            ProtFlags::empty(),
            MapFlags::PRIVATE | MapFlags::NORESERVE,
        )
    };
    Ok(at?.cast())
}

/// The same, `over` bytes above a multiple of `alignment`, a power of two of whole pages.
pub(crate) fn reserve_aligned(bytes: usize, alignment: usize, over: usize) -> Result<*mut u8> {
    if alignment <= PAGE as usize {
        return reserve(bytes);
    }
    let whole = bytes.checked_add(alignment).ok_or(Errno::ENOMEM)?;
    let from = reserve(whole)?;
    let before = over.wrapping_sub(from as usize) & (alignment - 1);
    let at = from.wrapping_add(before);
    let after = whole - before - bytes;
    // SAFETY: parts of our own reservation, which nobody knows of.
    unsafe {
        if before > 0 {
            release(from, before);
        }
        if after > 0 {
            release(at.wrapping_add(bytes), after);
        }
    }
    Ok(at)
}

/// Ends a mapping.
///
/// # Safety
/// Nobody uses it any more.
pub(crate) unsafe fn release(at: *mut u8, bytes: usize) {
    // SAFETY: promised by the caller. A failure leaves address space in use, no more.
    let _ = unsafe { munmap(at.cast(), bytes) };
}

/// Maps `extents` one after another from `at` on, replacing what is there.
///
/// # Safety
/// The address space from `at` on, as long as the extents together, is the caller's to replace.
pub(crate) unsafe fn extents(
    at: *mut u8,
    extents: &[Extent],
    window: Window,
    from: BorrowedFd<'_>,
    protection: ProtFlags,
) -> Result<()> {
    let mut to = at;
    for extent in extents {
        let bytes = usize::try_from(extent.bytes).map_err(|_| Errno::ENOMEM)?;
        // SAFETY: promised by the caller.
        unsafe { one(to, *extent, bytes, window, from, protection)? };
        to = to.wrapping_add(bytes);
    }
    Ok(())
}

unsafe fn one(
    at: *mut u8,
    extent: Extent,
    bytes: usize,
    window: Window,
    from: BorrowedFd<'_>,
    protection: ProtFlags,
) -> Result<()> {
    let flags = MapFlags::SHARED | MapFlags::FIXED;
    match window {
        Window::Direct | Window::InOrder => {
            // SAFETY: promised by the caller.
            unsafe { mmap(at.cast(), bytes, protection, flags, from, extent.offset)? };
        }
        Window::Whole { bytes: whole } => {
            let whole = usize::try_from(whole).map_err(|_| Errno::ENOMEM)?;
            let offset = usize::try_from(extent.offset).map_err(|_| Errno::EPROTO)?;
            if offset.checked_add(bytes).is_none_or(|end| end > whole) {
                return Err(Errno::EPROTO);
            }
            // SAFETY: a new mapping; the piece of it that is wanted moves to where the caller allows, the rest goes.
            unsafe {
                let all = mmap(ptr::null_mut(), whole, protection, MapFlags::SHARED, from, 0)?;
                let piece: *mut c_void = all.wrapping_byte_add(offset);
                let moved = mremap_fixed(piece, bytes, bytes, MremapFlags::MAYMOVE, at.cast());
                if offset > 0 {
                    let _ = munmap(all, offset);
                }
                let after = offset + bytes;
                if whole > after {
                    let _ = munmap(all.wrapping_byte_add(after), whole - after);
                }
                if moved.is_err() {
                    let _ = munmap(piece, bytes);
                }
                moved?;
            }
        }
    }
    Ok(())
}

/// Where the extents lie in the descriptor: there, where it was made for this mapping alone, one after another.
pub(crate) fn placed(memory: &Memory) -> Vec<Extent> {
    let mut behind = 0;
    let mut place = |extent: &Extent| {
        let offset = match memory.window {
            Window::InOrder => behind,
            Window::Direct | Window::Whole { .. } => extent.offset,
        };
        behind += extent.bytes;
        Extent { offset, ..*extent }
    };
    memory.extents.iter().map(&mut place).collect()
}

/// Checks what a daemon said of memory; gives its length.
pub(crate) fn check(memory: &Memory) -> Result<usize> {
    let page = memory.page();
    let fits = |e: &Extent| e.bytes != 0 && e.bytes.is_multiple_of(page) && e.offset.is_multiple_of(page);
    let bytes = memory.bytes();
    if memory.extents.is_empty() || !memory.extents.iter().all(fits) || bytes > isize::MAX as u64 {
        return Err(Errno::EPROTO);
    }
    usize::try_from(bytes).map_err(|_| Errno::ENOMEM)
}

/// Reserves address space at `address`, where nothing may be mapped yet. EINVAL if something is.
pub(crate) fn reserve_at(address: *mut u8, bytes: usize) -> Result<()> {
    // SAFETY: with NOREPLACE the mapping is new or is not made.
    let made = unsafe {
        mmap_anonymous(
            address.cast(),
            bytes,
            ProtFlags::empty(),
            MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED_NOREPLACE,
        )
    };
    match made {
        Ok(at) if at == address.cast() => Ok(()),
        Ok(elsewhere) => {
            // SAFETY: an old kernel took the address for a hint; the mapping is our own.
            let _ = unsafe { munmap(elsewhere, bytes) };
            Err(Errno::EINVAL)
        }
        Err(rustix::io::Errno::EXIST) => Err(Errno::EINVAL),
        Err(errno) => Err(errno.into()),
    }
}
