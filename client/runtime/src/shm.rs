//! V-shm: get, attach, detach, lock.
#![allow(unsafe_code)] // Attaching and detaching change what is mapped where, which only the caller can make sound.

use crate::errno::{Errno, Result};
use crate::map;
use crate::mappings;
use crate::pages;
use crate::process;
use crate::runtime::Runtime;
use rustix::fd::AsFd;
use rustix::mm::ProtFlags;
use rustix::process::Resource;
use std::ffi::c_void;
use vshmem_wire::{Extent, Kind, Memory, Reply, Request, Stat, StatBody, Window};

/// SHMLBA: what SHM_RND rounds down to.
const SHMLBA: usize = 4096;

/// Where to attach.
#[derive(Debug, Clone, Copy)]
enum Place {
    Anywhere,
    /// Nothing may be mapped there.
    Free(*mut u8),
    /// Whatever is mapped there is replaced.
    Over(*mut u8),
}

fn place(address: *const c_void, flags: i32) -> Result<Place> {
    let remap = flags & libc::SHM_REMAP != 0;
    if address.is_null() {
        return if remap {
            Err(Errno::EINVAL)
        } else {
            Ok(Place::Anywhere)
        };
    }
    let over = address as usize % SHMLBA;
    if over != 0 && flags & libc::SHM_RND == 0 {
        return Err(Errno::EINVAL);
    }
    let at = address.cast_mut().cast::<u8>().wrapping_sub(over);
    match (at.is_null(), remap) {
        (true, true) => Err(Errno::EINVAL),
        // Rounded down to the very first page: the kernel looks for nothing there, and says who may map it.
        (true, false) | (false, true) => Ok(Place::Over(at)),
        (false, false) => Ok(Place::Free(at)),
    }
}

/// The first `bytes` bytes of the extents.
fn cut(memory: &Memory, bytes: usize) -> Vec<Extent> {
    let mut left = bytes as u64;
    let mut cut = Vec::with_capacity(memory.extents.len());
    for extent in &map::placed(memory) {
        if left == 0 {
            break;
        }
        let bytes = extent.bytes.min(left);
        cut.push(Extent { bytes, ..*extent });
        left -= bytes;
    }
    cut
}

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
        let place = place(address, flags)?;
        let read_only = flags & libc::SHM_RDONLY != 0;
        let exec = flags & libc::SHM_EXEC != 0;
        let mut state = process::lock();
        fits(&mut state, id, place)?;
        let request = Request::ShmAttach { id, read_only, exec };
        let (reply, descriptors) = state.request(&request, &[]).map_err(|f| Errno(f.errno))?;
        let Reply::Attached { memory, segsz } = reply else {
            return Err(Errno::EPROTO);
        };
        let mut protection = ProtFlags::READ;
        protection.set(ProtFlags::WRITE, !read_only);
        protection.set(ProtFlags::EXEC, exec);
        let made = descriptors.first().ok_or_else(no_file).and_then(|from| {
            // SAFETY: promised by the caller.
            unsafe { map_segment(place, &memory, segsz, from.as_fd(), protection) }
        });
        match made {
            Ok((at, bytes)) => {
                state.not_inherited |= memory.window == Window::InOrder;
                if let Place::Over(_) = place {
                    mappings::gone(&mut state, at as usize, bytes);
                }
                let bits = protection.bits() as i32;
                state
                    .segments
                    .attached(at as usize, bytes, bits, segsz as usize, id);
                Ok(at.cast())
            }
            Err(errno) => {
                let _ = state.ask(&Request::ShmDetach { id });
                Err(errno)
            }
        }
    }

    /// shmdt(2).
    ///
    /// # Safety
    /// Nothing may use the memory attached at `address` afterwards.
    pub unsafe fn shmdt(&self, address: *const c_void) -> Result<()> {
        if process::never_used() {
            return Err(Errno::EINVAL);
        }
        let mut state = process::lock();
        let pieces = state.segments.attachment(address as usize);
        if pieces.is_empty() {
            return Err(Errno::EINVAL);
        }
        for piece in pieces {
            // SAFETY: promised by the caller.
            unsafe { map::release(std::ptr::with_exposed_provenance_mut(piece.at), piece.bytes) };
            mappings::gone(&mut state, piece.at, piece.bytes);
        }
        Ok(())
    }

    /// Whether a segment of Vshmem is attached at `address`.
    pub fn is_attached(&self, address: *const c_void) -> bool {
        self.attached_bytes(address).is_some()
    }

    /// Bytes (segsz) of the segment attached at `address`.
    pub fn attached_bytes(&self, address: *const c_void) -> Option<usize> {
        if process::never_used() {
            return None;
        }
        process::lock().segments.segsz_at(address as usize)
    }

    /// Whether the kernel can wait (futex) on memory at `address`: anywhere but in a guest's segments, which are device memory.
    pub fn kernel_can_wait(&self, address: *const c_void) -> bool {
        if process::never_used() || !pages::in_a_guest() {
            return true;
        }
        !process::lock().segments.shows(address as usize)
    }

    /// SHM_LOCK, SHM_UNLOCK.
    pub fn shm_lock(&self, id: i32, on: bool) -> Result<()> {
        let most = rustix::process::getrlimit(Resource::Memlock).current;
        self.shm_lock_within(id, on, most)
    }

    /// The same with a limit of locked memory that is another process's. `None`: there is none.
    pub fn shm_lock_within(&self, id: i32, on: bool, most: Option<u64>) -> Result<()> {
        self.ask_done(&Request::Lock { id, on, most })
    }
}

/// Whether the segment can be mapped where it is to go, if that is in doubt: where it cannot, nothing shows that it was asked for.
fn fits(state: &mut process::Locked, id: i32, place: Place) -> Result<()> {
    let doubtful = match place {
        Place::Anywhere => rustix::process::getrlimit(Resource::As).current.is_some(),
        Place::Free(_) | Place::Over(_) => true,
    };
    if !doubtful {
        return Ok(());
    }
    let Some(segsz) = size_of_segment(state, id) else {
        return Ok(());
    };
    let bytes = usize::try_from(segsz).map_err(|_| Errno::ENOMEM)?;
    let whole = bytes.max(1).checked_next_multiple_of(4096).ok_or(Errno::ENOMEM)?;
    let at = match place {
        Place::Free(at) => {
            at.addr().checked_add(bytes).ok_or(Errno::EINVAL)?;
            map::reserve_at(at, whole)?;
            at
        }
        Place::Over(at) => match map::reserve_at(at, whole) {
            // Something is there: address space that can be had.
            Err(Errno::EINVAL) => return Ok(()),
            result => result.map(|()| at)?,
        },
        Place::Anywhere => map::reserve(whole)?,
    };
    // SAFETY: our reservation, which nobody knows of.
    unsafe { map::release(at, whole) };
    Ok(())
}

/// Bytes of a segment. `None`: something is wrong with it, and attaching says what.
pub(crate) fn size_of_segment(state: &mut process::Locked, id: i32) -> Option<u64> {
    let which = vshmem_wire::request::Which::Id(id);
    let asked = state.ask(&Request::Stat {
        kind: Kind::Shm,
        which,
    });
    match asked {
        Ok(Reply::Stat(Stat {
            body: StatBody::Shm { segsz, .. },
            ..
        })) => Some(segsz),
        _ => None,
    }
}

/// A segment's descriptor was sent and did not arrive.
fn no_file() -> Errno {
    crate::error!(
        "attaching a segment needs a file for a moment, and none arrived: this process, or its daemon, can open none (ulimit -n)"
    );
    Errno::ENOMEM
}

/// Bytes of a segment's pages: it is mapped at multiples of them.
fn page(memory: &Memory) -> Result<usize> {
    usize::try_from(memory.page()).map_err(|_| Errno::ENOMEM)
}

/// Bytes of the whole pages that hold a segment.
fn pages_of(memory: &Memory, segsz: u64) -> Result<usize> {
    let whole = map::check(memory)?;
    let bytes = usize::try_from(segsz).map_err(|_| Errno::ENOMEM)?;
    let bytes = bytes
        .max(1)
        .checked_next_multiple_of(page(memory)?)
        .ok_or(Errno::ENOMEM)?;
    if bytes > whole {
        return Err(Errno::EPROTO);
    }
    Ok(bytes)
}

/// As much of a segment's memory as is to be mapped, and how many bytes that is.
pub(crate) fn needed(memory: Memory, segsz: u64) -> Result<(Memory, usize)> {
    let bytes = pages_of(&memory, segsz)?;
    let extents = cut(&memory, bytes);
    Ok((Memory { extents, ..memory }, bytes))
}

/// Bytes of the huge pages that a pool may lie in.
const HUGE: usize = 2 << 20;

/// Address space for a segment, where the kernel could reach its memory by huge pages if it lies in such: it does that where addresses lie in them as places in the file do.
fn anywhere(memory: &Memory, bytes: usize, page: usize) -> Result<*mut u8> {
    let first = memory
        .extents
        .first()
        .map_or(0, |extent| extent.offset as usize % HUGE);
    if memory.window == Window::Direct && page < HUGE && bytes >= HUGE {
        // There may be room for the segment and none for finding such an address.
        return map::reserve_aligned(bytes, HUGE, first).or_else(|_| map::reserve(bytes));
    }
    map::reserve_aligned(bytes, page, 0)
}

/// Maps a segment; gives where and how many bytes.
///
/// # Safety
/// With `Place::Over`, nobody relies on what is mapped there.
unsafe fn map_segment(
    place: Place,
    memory: &Memory,
    segsz: u64,
    from: rustix::fd::BorrowedFd<'_>,
    protection: ProtFlags,
) -> Result<(*mut u8, usize)> {
    let bytes = pages_of(memory, segsz)?;
    let page = page(memory)?;
    let at = match place {
        Place::Anywhere => anywhere(memory, bytes, page)?,
        Place::Free(at) | Place::Over(at) if !(at as usize).is_multiple_of(page) => {
            return Err(Errno::EINVAL);
        }
        Place::Free(at) => {
            map::reserve_at(at, bytes)?;
            at
        }
        Place::Over(at) => at,
    };
    // SAFETY: reserved above, or the caller's to replace.
    match unsafe { map::extents(at, &cut(memory, bytes), memory.window, from, protection) } {
        Ok(()) => Ok((at, bytes)),
        Err(errno) => {
            if !matches!(place, Place::Over(_)) {
                // SAFETY: our reservation, which nobody knows of.
                unsafe { map::release(at, bytes) };
            }
            Err(errno)
        }
    }
}
