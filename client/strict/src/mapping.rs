//! Segments in the memory of a process: mapped and unmapped by a thread of its that is held.

use crate::errand::{Errand, Outcome, Place};
use crate::notice::{self, Notice};
use crate::supervisor::as_return;
use crate::trace::{Held, Trouble};
use rustix::fd::{AsFd, BorrowedFd};
use std::collections::HashSet;
use vshmem_wire::{Extent, Window};

/// Bytes of an ordinary page.
const PAGE: u64 = 4096;
const RESERVED: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

/// Why a call has no result: the thread is dead, and hears of none, or the kernel said no.
enum Failed {
    Gone,
    Errno(i32),
}

impl From<Trouble> for Failed {
    fn from(_: Trouble) -> Self {
        Failed::Gone
    }
}

impl From<i32> for Failed {
    fn from(errno: i32) -> Self {
        Failed::Errno(errno)
    }
}

fn mmap(
    held: &mut Held,
    at: u64,
    bytes: u64,
    protection: u64,
    flags: i32,
    from: i32,
    offset: u64,
) -> Result<u64, Failed> {
    let arguments = [at, bytes, protection, flags as u64, from as i64 as u64, offset];
    Ok(held.call(libc::SYS_mmap, arguments)??)
}

fn munmap(held: &mut Held, at: u64, bytes: u64) -> Result<(), Failed> {
    held.call(libc::SYS_munmap, [at, bytes, 0, 0, 0, 0])??;
    Ok(())
}

/// Maps one piece over what is reserved for it.
fn piece(
    held: &mut Held,
    at: u64,
    extent: &Extent,
    window: Window,
    protection: u64,
    from: i32,
) -> Result<(), Failed> {
    let Extent { offset, bytes } = *extent;
    match window {
        Window::Direct | Window::InOrder => {
            let flags = libc::MAP_SHARED | libc::MAP_FIXED;
            mmap(held, at, bytes, protection, flags, from, offset)?;
        }
        Window::Whole { bytes: whole } => {
            let after = offset.checked_add(bytes).filter(|after| *after <= whole);
            let after = after.ok_or(Failed::Errno(libc::EPROTO))?;
            let all = mmap(held, 0, whole, protection, libc::MAP_SHARED, from, 0)?;
            let how = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
            let moved = held.call(libc::SYS_mremap, [all + offset, bytes, bytes, how, at, 0])?;
            if offset > 0 {
                munmap(held, all, offset)?;
            }
            if whole > after {
                munmap(held, all + after, whole - after)?;
            }
            if moved.is_err() {
                munmap(held, all + offset, bytes)?;
            }
            moved?;
        }
    }
    Ok(())
}

/// Address space of the thread's, kept free, at a multiple of `page`.
fn reserve(held: &mut Held, bytes: u64, page: u64) -> Result<u64, Failed> {
    if page <= PAGE {
        return mmap(held, 0, bytes, 0, RESERVED, -1, 0);
    }
    let whole = bytes.checked_add(page).ok_or(Failed::Errno(libc::ENOMEM))?;
    let from = mmap(held, 0, whole, 0, RESERVED, -1, 0)?;
    let before = from.wrapping_neg() & (page - 1);
    let at = from + before;
    if before > 0 {
        munmap(held, from, before)?;
    }
    munmap(held, at + bytes, page - before)?;
    Ok(at)
}

/// Maps a segment; gives where.
fn map(held: &mut Held, errand: &Errand, from: i32) -> Result<u64, Failed> {
    let Errand::Attach {
        place,
        protection,
        bytes,
        page,
        window,
        extents,
        ..
    } = errand
    else {
        return Err(Failed::Errno(libc::EPROTO));
    };
    let at = match *place {
        Place::Any => reserve(held, *bytes, *page)?,
        Place::Free(at) | Place::Over(at) if !at.is_multiple_of(*page) => {
            return Err(Failed::Errno(libc::EINVAL));
        }
        Place::Free(at) => {
            let free = RESERVED | libc::MAP_FIXED_NOREPLACE;
            match mmap(held, at, *bytes, 0, free, -1, 0) {
                Ok(made) if made == at => at,
                Ok(elsewhere) => {
                    // An old kernel took the address for a hint.
                    munmap(held, elsewhere, *bytes)?;
                    return Err(Failed::Errno(libc::EINVAL));
                }
                Err(Failed::Errno(libc::EEXIST | libc::EPERM)) => return Err(Failed::Errno(libc::EINVAL)),
                Err(other) => return Err(other),
            }
        }
        Place::Over(at) => at,
    };
    let mut to = at;
    for extent in extents {
        if let Err(failed) = piece(held, to, extent, *window, *protection, from) {
            if !matches!(place, Place::Over(_)) {
                munmap(held, at, *bytes)?;
            }
            return Err(failed);
        }
        to += extent.bytes;
    }
    Ok(at)
}

/// Has a thread that waits for the answer to its shmat(2) map the segment, and answers it.
pub(crate) fn attach(
    listener: BorrowedFd<'_>,
    notice: &Notice,
    errand: &Errand,
    from: BorrowedFd<'_>,
) -> Outcome {
    let number = match notice::give(listener, notice.id, from.as_fd()) {
        Ok(number) => number,
        Err(error) => {
            // Too many descriptors open: a limit that shmat(2) does not know of.
            vshmem_runtime::debug!(
                "a descriptor cannot be given to process {}: {error}",
                notice.thread
            );
            notice::answer(listener, notice.id, Err(libc::ENOMEM));
            return Err(libc::ENOMEM);
        }
    };
    hold(listener, notice, |held| {
        let made = map(held, errand, number);
        held.call(libc::SYS_close, [number as u64, 0, 0, 0, 0, 0])?.ok();
        made
    })
}

/// Has a thread that waits for the answer to its shmdt(2) unmap the segment, and answers it.
pub(crate) fn detach(listener: BorrowedFd<'_>, notice: &Notice, address: u64, bytes: u64) -> Outcome {
    hold(listener, notice, |held| munmap(held, address, bytes).map(|()| 0))
}

fn hold(
    listener: BorrowedFd<'_>,
    notice: &Notice,
    work: impl FnOnce(&mut Held) -> Result<u64, Failed>,
) -> Outcome {
    let mut held = match Held::take(listener, notice) {
        Ok(held) => held,
        Err(Trouble::Gone) => return Err(libc::EINTR),
        Err(Trouble::Denied) => {
            vshmem_runtime::error!(
                "process {} cannot attach or detach segments while it is being traced",
                notice.thread
            );
            notice::answer(listener, notice.id, Err(libc::EACCES));
            return Err(libc::EACCES);
        }
    };
    let outcome = match work(&mut held) {
        Ok(value) => Ok(value),
        Err(Failed::Errno(errno)) => Err(errno),
        Err(Failed::Gone) => return Err(libc::EINTR),
    };
    held.let_go(as_return(outcome));
    outcome
}

/// Attachments that another one has been put over whole are no more.
pub(crate) fn cover(attached: &mut HashSet<u64>, place: Place, errand: &Errand) {
    if let (Place::Over(at), Errand::Attach { bytes, .. }) = (place, errand) {
        attached.retain(|other| !(at..at + bytes).contains(other));
    }
}
