//! Segments in the memory of a process: mapped and unmapped by a thread of its that is held.

use crate::errand::{Errand, Outcome, Place};
use crate::filter::WINDOW;
use crate::memory;
use crate::notice::{self, Notice};
use crate::trace::{Held, Pass, Trouble};
use rustix::fd::{AsFd, BorrowedFd};
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

/// Address space of the thread's, kept free, at a multiple of `page`: in the window, where what becomes of it is heard of, if there is room.
fn reserve(held: &mut Held, bytes: u64, page: u64) -> Result<u64, Failed> {
    if let Some(at) = gap(&memory::mapped(held.thread()), bytes, page) {
        match mmap(held, at, bytes, 0, RESERVED | libc::MAP_FIXED_NOREPLACE, -1, 0) {
            Ok(made) if made == at => return Ok(at),
            Ok(elsewhere) => munmap(held, elsewhere, bytes)?,
            // Another thread has just taken it.
            Err(Failed::Errno(libc::EEXIST)) => {}
            Err(other) => return Err(other),
        }
    }
    reserve_anywhere(held, bytes, page)
}

/// Where in the window so much is free, among what is mapped in the order of addresses.
fn gap(mapped: &[(u64, u64)], bytes: u64, page: u64) -> Option<u64> {
    let mut at = WINDOW.start.checked_next_multiple_of(page)?;
    for &(first, after) in mapped.iter().filter(|(_, after)| *after > WINDOW.start) {
        if at.checked_add(bytes)? <= first {
            break;
        }
        at = at.max(after).checked_next_multiple_of(page)?;
    }
    (at.checked_add(bytes)? <= WINDOW.end).then_some(at)
}

fn reserve_anywhere(held: &mut Held, bytes: u64, page: u64) -> Result<u64, Failed> {
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
                Err(Failed::Errno(libc::EEXIST)) => return Err(Failed::Errno(libc::EINVAL)),
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

/// What came of an errand, and the thread that did it, to be let go with that when the daemon knows. Without a thread the call has been answered.
pub(crate) type Made = (Outcome, Option<Held>);

/// Has a thread that waits for the answer to its shmat(2) map the segment.
pub(crate) fn attach(whose: Pass<'_>, notice: &Notice, errand: &Errand, from: BorrowedFd<'_>) -> Made {
    let number = match notice::give(whose.listener, notice.id, from.as_fd()) {
        Ok(number) => number,
        Err(error) => {
            // Too many descriptors open: a limit that shmat(2) does not know of.
            vshmem_runtime::debug!(
                "a descriptor cannot be given to process {}: {error}",
                notice.thread
            );
            notice::answer(whose.listener, notice.id, Err(libc::ENOMEM));
            return (Err(libc::ENOMEM), None);
        }
    };
    hold(whose, notice, |held| {
        let made = map(held, errand, number);
        held.call(libc::SYS_close, [number as u64, 0, 0, 0, 0, 0])?.ok();
        made
    })
}

/// Has a thread that waits for the answer to its shmdt(2) unmap what lies there.
pub(crate) fn unmap(whose: Pass<'_>, notice: &Notice, ranges: &[(u64, u64)]) -> Made {
    hold(whose, notice, |held| {
        for &(at, bytes) in ranges {
            munmap(held, at, bytes)?;
        }
        Ok(0)
    })
}

/// Has a thread make the call that it waits for the answer to. One that is traced makes it, too, but nobody knows when.
pub(crate) fn call(whose: Pass<'_>, notice: &Notice) -> Made {
    hold(whose, notice, |held| {
        Ok(held.call(notice.number.into(), notice.arguments)??)
    })
}

fn hold(whose: Pass<'_>, notice: &Notice, work: impl FnOnce(&mut Held) -> Result<u64, Failed>) -> Made {
    let mut held = match Held::take(whose, notice) {
        Ok(held) => held,
        Err(Trouble::Gone) => return (Err(libc::EINTR), None),
        Err(Trouble::Denied) => return (denied(whose.listener, notice), None),
    };
    match work(&mut held) {
        Ok(value) => (Ok(value), Some(held)),
        Err(Failed::Errno(errno)) => (Err(errno), Some(held)),
        Err(Failed::Gone) => (Err(libc::EINTR), None),
    }
}

/// Somebody else traces the thread.
fn denied(listener: BorrowedFd<'_>, notice: &Notice) -> Outcome {
    let number = i64::from(notice.number);
    if number == libc::SYS_shmat || number == libc::SYS_shmdt {
        vshmem_runtime::error!(
            "process {} cannot attach or detach segments while it is being traced",
            notice.thread
        );
        notice::answer(listener, notice.id, Err(libc::EACCES));
    } else {
        vshmem_runtime::error!(
            "process {} is being traced: what it does to parts of segments or leaves to undo is not counted",
            notice.thread
        );
        notice::let_go(listener, notice.id);
    }
    Err(libc::EACCES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_found_in_the_window_only() {
        const PAGE: u64 = 4096;
        let at = WINDOW.start;
        assert_eq!(gap(&[], PAGE, PAGE), Some(at));
        let low = (0x1000, 0x2000);
        assert_eq!(gap(&[low, (at, at + PAGE)], PAGE, PAGE), Some(at + PAGE));
        let taken = [low, (at, at + PAGE), (at + 2 * PAGE, at + 3 * PAGE)];
        assert_eq!(gap(&taken, PAGE, PAGE), Some(at + PAGE));
        assert_eq!(gap(&taken, 2 * PAGE, PAGE), Some(at + 3 * PAGE));
        assert_eq!(gap(&taken, PAGE, 16 * PAGE), Some(at + 16 * PAGE));
        assert_eq!(gap(&[(at - PAGE, at + PAGE)], PAGE, PAGE), Some(at + PAGE));
        assert_eq!(gap(&[(at, WINDOW.end)], PAGE, PAGE), None);
        assert_eq!(gap(&[], WINDOW.end - at + PAGE, PAGE), None);
        assert_eq!(gap(&[], u64::MAX, PAGE), None);
    }
}
