//! Address space of the back-end in which a construct's frames are mapped one after another, with room to grow.
#![allow(unsafe_code)] // Mapping memory over reserved addresses.

use super::libraries::Libraries;
use crate::devices::DomId;
use rustix::mm::{MapFlags, ProtFlags};
use std::io;
use vshmem_port::store::{Mapped, PAGE};

/// The most address space one construct may ask for: 64 TiB.
const MOST: u64 = 1 << 46;

/// Reserves address space for that many bytes.
pub(crate) fn reserve(bytes: u64) -> io::Result<Mapped> {
    let bytes = bytes
        .checked_next_multiple_of(PAGE)
        .filter(|&bytes| bytes > 0 && bytes <= MOST);
    let bytes = bytes.ok_or(io::ErrorKind::OutOfMemory)? as usize;
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let base = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), bytes, ProtFlags::empty(), flags)? };
    Ok(Mapped {
        base: base.cast(),
        bytes: 0,
        room: bytes,
    })
}

/// Maps frames of a domain behind what is mapped already.
pub(crate) fn take(
    mapped: &mut Mapped,
    libraries: &Libraries,
    from: DomId,
    frames: &[u64],
) -> io::Result<()> {
    let bytes = frames.len() * PAGE as usize;
    if bytes > mapped.room {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    if bytes == 0 {
        return Ok(());
    }
    // SAFETY: `bytes + room` bytes from `base` were reserved by `reserve`, the only maker of `Mapped` here; the part from `bytes` on, `room` long, is still
    // inaccessible: replacing it takes nothing from anybody.
    unsafe { libraries.map_at(from, frames, mapped.base.add(mapped.bytes))? };
    mapped.bytes += bytes;
    mapped.room -= bytes;
    Ok(())
}

/// Ends a mapping, its room included.
pub(crate) fn end(mapped: Mapped) -> io::Result<()> {
    // SAFETY: base and length are those of one reservation; whoever gave it up promises not to use it any more.
    unsafe { rustix::mm::munmap(mapped.base.cast(), mapped.bytes + mapped.room)? };
    Ok(())
}
