//! Extents of a file, mapped one after another into reserved address room: how the back-end reaches constructs.
//!
//! The room behind the extents is reserved with an inaccessible mapping, so that a construct grows in place and nothing else of the
//! process ever lands there.
#![allow(unsafe_code)] // Mapping memory over reserved addresses, and ending such mappings, cannot be said in safe code.

use crate::file;
use rustix::fd::BorrowedFd;
use rustix::mm::{MapFlags, ProtFlags};
use std::io;
use vshmem_port::store::{Mapped, PAGE};
use vshmem_wire::Extent;

/// The most address room one construct may ask for: 64 TiB. A wrong number is refused here rather than by the kernel's mood.
const MOST: u64 = 1 << 46;

fn too_large() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::NOMEM.raw_os_error())
}

/// Maps `extents` one after another and keeps `room` bytes of address space behind them.
pub(crate) fn map(file: BorrowedFd<'_>, limit: u64, extents: &[Extent], room: u64) -> io::Result<Mapped> {
    let mut total = room.checked_next_multiple_of(PAGE).ok_or_else(too_large)?;
    for &extent in extents {
        file::check(extent, limit)?;
        total = total.checked_add(extent.bytes).ok_or_else(too_large)?;
    }
    if total == 0 || total > MOST {
        return Err(too_large());
    }
    // SAFETY: a new mapping at an address of the kernel's choice; nothing of ours lies there.
    let base = unsafe {
        rustix::mm::mmap_anonymous(
            std::ptr::null_mut(),
            total as usize,
            ProtFlags::empty(),
            MapFlags::PRIVATE | MapFlags::NORESERVE,
        )?
    };
    let mut mapped = Mapped {
        base: base.cast(),
        bytes: 0,
        room: total as usize,
    };
    for &extent in extents {
        if let Err(error) = extend(file, limit, &mut mapped, extent) {
            let _ = unmap(mapped);
            return Err(error);
        }
    }
    Ok(mapped)
}

/// Maps one more extent right behind those mapped, into the reserved room.
pub(crate) fn extend(
    file: BorrowedFd<'_>,
    limit: u64,
    mapped: &mut Mapped,
    extent: Extent,
) -> io::Result<()> {
    file::check(extent, limit)?;
    let bytes = usize::try_from(extent.bytes).map_err(|_| too_large())?;
    if bytes > mapped.room {
        return Err(too_large());
    }
    // SAFETY: `bytes + room` bytes from `base` are one reservation made by `map` (the only maker of `Mapped` here), and the part from `bytes` on, `room` long,
    // is still inaccessible: replacing it takes nothing from anybody.
    unsafe {
        rustix::mm::mmap(
            mapped.base.add(mapped.bytes).cast(),
            bytes,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED | MapFlags::FIXED,
            file,
            extent.offset,
        )?;
    }
    mapped.bytes += bytes;
    mapped.room -= bytes;
    Ok(())
}

/// Has the kernel set huge pages aside for a file's first `bytes` bytes: it does so when they are mapped, and they stay set aside for the file when that mapping
/// is gone. The error is that there are none left.
pub(crate) fn set_aside(file: BorrowedFd<'_>, bytes: u64) -> io::Result<()> {
    let bytes = usize::try_from(bytes).map_err(|_| too_large())?;
    // SAFETY: a new mapping at an address of the kernel's choice, which nobody is told and which is ended at once.
    unsafe {
        let at = rustix::mm::mmap(
            std::ptr::null_mut(),
            bytes,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
            file,
            0,
        )?;
        rustix::mm::munmap(at, bytes)?;
    }
    Ok(())
}

/// Ends a mapping, its room included.
pub(crate) fn unmap(mapped: Mapped) -> io::Result<()> {
    // SAFETY: base and length are those of one reservation made by `map`; the caller of `Store::unmap` promises not to use it any more.
    unsafe { rustix::mm::munmap(mapped.base.cast(), mapped.bytes + mapped.room)? };
    Ok(())
}
