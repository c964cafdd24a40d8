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

/// Maps frames of a domain behind what is mapped already. If that fails and somebody else has got the address space meanwhile, the room is given up.
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
    let done = unsafe { libraries.map_at(from, frames, mapped.base.add(mapped.bytes)) };
    if done.is_err() {
        reserve_again(mapped, bytes)?;
        return done;
    }
    mapped.bytes += bytes;
    mapped.room -= bytes;
    Ok(())
}

/// After a mapping of the first `bytes` of the room has failed they may be nobody's: they are taken back, unless another thread has got them by now.
fn reserve_again(mapped: &mut Mapped, bytes: usize) -> io::Result<()> {
    let at = mapped.base.wrapping_add(mapped.bytes);
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED_NOREPLACE;
    // SAFETY: replaces nothing.
    let got = unsafe { rustix::mm::mmap_anonymous(at.cast(), bytes, ProtFlags::empty(), flags) };
    if got == Ok(at.cast()) {
        return Ok(());
    }
    if let Ok(elsewhere) = got {
        // A kernel that does not know the flag.
        // SAFETY: mapped just now, and used by nobody.
        unsafe { rustix::mm::munmap(elsewhere, bytes)? };
    }
    let behind = mapped.room - bytes;
    mapped.room = 0;
    if behind > 0 {
        // SAFETY: the rest of the room, which is reserved as it was, and which `mapped` does not count any more.
        unsafe { rustix::mm::munmap(at.wrapping_add(bytes).cast(), behind)? };
    }
    Ok(())
}

/// Ends a mapping, its room included.
pub(crate) fn end(mapped: Mapped) -> io::Result<()> {
    // SAFETY: base and length are those of one reservation; whoever gave it up promises not to use it any more.
    unsafe { rustix::mm::munmap(mapped.base.cast(), mapped.bytes + mapped.room)? };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::holder::libraries::imitation::refuse;

    fn pages(count: usize) -> usize {
        count * PAGE as usize
    }

    /// Whether nothing is mapped at a page of the room.
    fn is_nobodys(mapped: &Mapped, page: usize) -> bool {
        let at = mapped.base.wrapping_add(pages(page));
        let mut seen = [0u8];
        // SAFETY: asks about an address, and writes one byte here.
        unsafe { libc::mincore(at.cast(), pages(1), seen.as_mut_ptr()) != 0 }
    }

    #[test]
    fn room_stays_reserved_where_a_mapping_fails() {
        let libraries = Libraries::of_test();
        let mut mapped = reserve(4 * PAGE).unwrap();
        take(&mut mapped, &libraries, 7, &[1]).unwrap();
        refuse(true);
        take(&mut mapped, &libraries, 7, &[2, 3]).unwrap_err();
        refuse(false);
        assert_eq!((mapped.bytes, mapped.room), (pages(1), pages(3)));
        assert!((0..4).all(|page| !is_nobodys(&mapped, page)));
        take(&mut mapped, &libraries, 7, &[2, 3, 4]).unwrap();
        end(mapped).unwrap();
    }

    #[test]
    fn room_that_somebody_else_has_got_is_given_up() {
        let libraries = Libraries::of_test();
        let mut mapped = reserve(4 * PAGE).unwrap();
        take(&mut mapped, &libraries, 7, &[1]).unwrap();
        // As if another thread had been quicker.
        reserve_again(&mut mapped, pages(2)).unwrap();
        assert_eq!((mapped.bytes, mapped.room), (pages(1), 0));
        assert!(!is_nobodys(&mapped, 1) && is_nobodys(&mapped, 3));
        assert!(take(&mut mapped, &libraries, 7, &[2]).is_err());
        let (base, room) = (mapped.base, mapped.room);
        end(mapped).unwrap();
        let after = Mapped { base, bytes: 0, room };
        assert!(is_nobodys(&after, 0) && !is_nobodys(&after, 1));
        // SAFETY: the other thread's.
        unsafe { rustix::mm::munmap(base.wrapping_add(pages(1)).cast(), pages(2)).unwrap() };
    }
}
