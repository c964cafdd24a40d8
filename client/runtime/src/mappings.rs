//! munmap(2), mremap(2), mprotect(2), mmap(2) and remap_file_pages(2) over attached segments: nattch follows what is mapped, as in Linux.
//!
//! The calls are made as the program asked for them, straight to the kernel (libc's own do no more); afterwards the pieces are counted. Where no segment lies,
//! [`touches`] has said so, and nothing of this is needed.
#![allow(unsafe_code)] // The program's own calls.

use crate::pieces::{Change, touched};
use crate::process::{self, Locked};
use crate::raw::call6;
use vshmem_wire::Request;

const PAGE: usize = 4096;

/// Whether a segment lies within these addresses. A few instructions, no lock.
#[inline]
pub fn touches(at: usize, bytes: usize) -> bool {
    touched(at, bytes)
}

fn tell(state: &mut Locked, changes: &[Change]) {
    for change in changes {
        let request = match *change {
            Change::Split(id) => Request::ShmSplit { id },
            Change::Gone(id) => Request::ShmDetach { id },
        };
        if let Err(errno) = state.ask(&request) {
            // Mapped or unmapped it is; a child of a fork that the daemon does not know of has nothing to be counted.
            crate::debug!("{change:?}: {errno}");
        }
    }
}

fn pages(bytes: usize) -> usize {
    bytes.checked_next_multiple_of(PAGE).unwrap_or(usize::MAX)
}

/// Pieces in these addresses are mapped no more.
pub(crate) fn gone(state: &mut Locked, at: usize, bytes: usize) {
    let changes = state.segments.cut(at, at.saturating_add(pages(bytes)));
    tell(state, &changes);
}

/// A call that changes what is mapped where.
#[derive(Debug, Clone, Copy)]
pub enum Remapping {
    /// munmap(2), and mmap(2) with MAP_FIXED: nothing of what was there is so any more.
    Gone {
        /// From where.
        at: usize,
        /// How much.
        bytes: usize,
    },
    /// mprotect(2).
    Protected {
        /// From where.
        at: usize,
        /// How much.
        bytes: usize,
        /// PROT_READ and its like.
        protection: i32,
    },
    /// mremap(2), whose result is the new address.
    Moved {
        /// From where.
        old: usize,
        /// How much; 0: it stays there, too.
        old_bytes: usize,
        /// How much it is to be.
        new_bytes: usize,
        /// MREMAP_DONTUNMAP and its like.
        flags: i32,
    },
}

/// It has been done, and gave this.
pub(crate) fn done(state: &mut Locked, remapping: Remapping, result: usize) {
    match remapping {
        Remapping::Gone { at, bytes } => gone(state, at, bytes),
        Remapping::Protected {
            at,
            bytes,
            protection,
        } => {
            let end = at.saturating_add(pages(bytes));
            let changes = state.segments.protected(at, end, protection);
            tell(state, &changes);
        }
        Remapping::Moved {
            old,
            old_bytes,
            new_bytes,
            flags,
        } => {
            let kept = old_bytes == 0 || flags & libc::MREMAP_DONTUNMAP != 0;
            let (old_bytes, new_bytes) = (pages(old_bytes), pages(new_bytes));
            let changes = state.segments.moved(old, old_bytes, result, new_bytes, kept);
            tell(state, &changes);
        }
    }
}

/// Makes the call; gives what the kernel gives.
///
/// # Safety
/// The program asked for it.
unsafe fn call(number: libc::c_long, arguments: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: promised by the caller.
    unsafe { call6(number, a, b, c, d, e, f) }
}

fn failed(result: isize) -> bool {
    (-4095..0).contains(&result)
}

/// munmap(2).
///
/// # Safety
/// As for munmap(2).
pub unsafe fn munmap(at: usize, bytes: usize) -> isize {
    let remapping = Remapping::Gone { at, bytes };
    // SAFETY: promised by the caller.
    unsafe { make(remapping, libc::SYS_munmap, [at, bytes, 0, 0, 0, 0]) }
}

/// mmap(2) with MAP_FIXED, with all its arguments.
///
/// # Safety
/// As for mmap(2).
pub unsafe fn mmap(arguments: [usize; 6]) -> isize {
    let [at, bytes, ..] = arguments;
    // SAFETY: promised by the caller.
    unsafe { make(Remapping::Gone { at, bytes }, libc::SYS_mmap, arguments) }
}

/// mprotect(2).
///
/// # Safety
/// As for mprotect(2).
pub unsafe fn mprotect(at: usize, bytes: usize, protection: i32) -> isize {
    let remapping = Remapping::Protected {
        at,
        bytes,
        protection,
    };
    let arguments = [at, bytes, protection as usize, 0, 0, 0];
    // SAFETY: promised by the caller.
    unsafe { make(remapping, libc::SYS_mprotect, arguments) }
}

/// mremap(2).
///
/// # Safety
/// As for mremap(2).
pub unsafe fn mremap(old: usize, old_bytes: usize, new_bytes: usize, flags: i32, new: usize) -> isize {
    let remapping = Remapping::Moved {
        old,
        old_bytes,
        new_bytes,
        flags,
    };
    let arguments = [old, old_bytes, new_bytes, flags as usize, new, 0];
    // SAFETY: promised by the caller.
    unsafe { make(remapping, libc::SYS_mremap, arguments) }
}

/// remap_file_pages(2): shows pages of the segment at `at`, from its page `first` on, at `at`. They must be mapped somewhere in this process: the kernel, which
/// counts in pages of the file that holds the segment, would show others.
///
/// # Safety
/// As for remap_file_pages(2).
pub unsafe fn remap_file_pages(at: usize, bytes: usize, protection: i32, first: usize) -> isize {
    const WRONG: isize = -(libc::EINVAL as isize);
    let (at, bytes) = (at & !(PAGE - 1), bytes & !(PAGE - 1));
    if protection != 0 || bytes == 0 {
        return WRONG;
    }
    let offset = first.saturating_mul(PAGE);
    let shown = process::lock().segments.shown(at, bytes, offset);
    match shown {
        None => return WRONG,
        Some(from) if from == at => return 0,
        Some(from) => {
            let anywhere = libc::MREMAP_MAYMOVE;
            // By way of somewhere else, as where it comes from and where it goes may overlap.
            // SAFETY: of a shared mapping, 0 bytes make a second one; promised by the caller.
            let second = unsafe { mremap(from, 0, bytes, anywhere, 0) };
            if failed(second) {
                return second;
            }
            // SAFETY: promised by the caller.
            let moved = unsafe { mremap(second as usize, bytes, bytes, anywhere | libc::MREMAP_FIXED, at) };
            if failed(moved) {
                // SAFETY: nobody knows of it yet.
                unsafe { munmap(second as usize, bytes) };
                return moved;
            }
        }
    }
    0
}

/// # Safety
/// The program asked for it.
unsafe fn make(remapping: Remapping, number: libc::c_long, arguments: [usize; 6]) -> isize {
    let mut state = process::lock();
    // SAFETY: promised by the caller.
    let result = unsafe { call(number, arguments) };
    if !failed(result) {
        done(&mut state, remapping, result as usize);
    }
    result
}
