//! The pages that a daemon shares with its clients, and the buffer that datagrams arrive in.
//!
//! Layouts: [`vshmem_wire::pages`]. A later daemon's pages are mapped over an earlier one's at the same address, so readers need no lock.
#![allow(unsafe_code)] // Mappings and words behind pointers; one static buffer.

use rustix::fd::OwnedFd;
use rustix::mm::{MapFlags, ProtFlags, mmap};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use vshmem_wire::pages as layout;

static NO_TIME: AtomicU64 = AtomicU64::new(0);
static TIME: AtomicPtr<u8> = AtomicPtr::new((&raw const NO_TIME).cast_mut().cast());
static WAIT: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
const TIME_BYTES: usize = 4096;
const WAIT_BYTES: usize = layout::ENTRY * layout::TICKETS as usize;

struct Buffer(UnsafeCell<[u8; vshmem_wire::MAX_MESSAGE]>);
// SAFETY: only used in `with_buffer`, under the control lock.
unsafe impl Sync for Buffer {}
static BUFFER: Buffer = Buffer(UnsafeCell::new([0; vshmem_wire::MAX_MESSAGE]));

/// The buffer for one datagram. A static one: what is never written costs no memory. Callers hold the control lock.
pub(crate) fn with_buffer<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    // SAFETY: connections are only reached through the control lock, and no two of them receive at once.
    work(unsafe { &mut *BUFFER.0.get() })
}

/// Maps the pages that came with a welcome. They do not arrive where this process can have no further file open: those of an earlier welcome, which a
/// restarted daemon goes on with, stay then; MFILE if there are none.
pub(crate) fn take(descriptors: Vec<OwnedFd>, space: u16) -> rustix::io::Result<()> {
    let mut descriptors = descriptors.into_iter();
    let old = TIME.load(Ordering::Relaxed);
    let old = if ptr::eq(old, (&raw const NO_TIME).cast()) {
        ptr::null_mut()
    } else {
        old
    };
    if let Some(time) = arrived(descriptors.next(), old)? {
        TIME.store(
            map_over(old, TIME_BYTES, ProtFlags::READ, &time)?,
            Ordering::Release,
        );
    }
    let old = WAIT.load(Ordering::Relaxed);
    if space != 0
        && let Some(wait) = arrived(descriptors.next(), old)?
    {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        WAIT.store(map_over(old, WAIT_BYTES, protection, &wait)?, Ordering::Release);
    }
    Ok(())
}

fn arrived(page: Option<OwnedFd>, old: *mut u8) -> rustix::io::Result<Option<OwnedFd>> {
    if page.is_none() && old.is_null() {
        return Err(rustix::io::Errno::MFILE);
    }
    Ok(page)
}

/// Whether sleepers use a wait page, since this process's kernel cannot wait on construct memory.
pub(crate) fn in_a_guest() -> bool {
    !WAIT.load(Ordering::Relaxed).is_null()
}

fn map_over(
    old: *mut u8,
    bytes: usize,
    protection: ProtFlags,
    from: &OwnedFd,
) -> rustix::io::Result<*mut u8> {
    let fixed = if old.is_null() {
        MapFlags::empty()
    } else {
        MapFlags::FIXED
    };
    // SAFETY: a new mapping, or one over our own earlier one of the same size and kind.
    unsafe { mmap(old.cast(), bytes, protection, MapFlags::SHARED | fixed, from, 0) }.map(|at| at.cast())
}

/// Seconds since the epoch on the host, 0 before the first welcome.
#[inline(always)]
pub(crate) fn seconds() -> u64 {
    // SAFETY: points to a mapped time page or to a static word.
    unsafe { AtomicU64::from_ptr(TIME.load(Ordering::Relaxed).add(layout::SECONDS_AT).cast()) }
        .load(Ordering::Relaxed)
}

fn limit(at: usize) -> Option<usize> {
    let page = TIME.load(Ordering::Relaxed);
    if ptr::eq(page, (&raw const NO_TIME).cast()) {
        return None;
    }
    // SAFETY: within a mapped time page, aligned to 4.
    let value = unsafe { AtomicU32::from_ptr(page.add(at).cast()) }.load(Ordering::Relaxed);
    value.checked_sub(1).map(|value| value as usize)
}

/// MSGMAX, if it is known.
#[inline(always)]
pub(crate) fn msgmax() -> Option<usize> {
    limit(layout::MSGMAX_AT)
}

/// Whether there may be ids of Vshmem without [`vshmem_wire::ID_BIT`].
pub(crate) fn low_ids() -> bool {
    let page = TIME.load(Ordering::Relaxed);
    if ptr::eq(page, (&raw const NO_TIME).cast()) {
        return false;
    }
    // SAFETY: within a mapped time page, aligned to 4.
    unsafe { AtomicU32::from_ptr(page.add(layout::LOW_IDS_AT).cast()) }.load(Ordering::Relaxed) != 0
}

/// SEMOPM, if it is known.
#[inline(always)]
pub(crate) fn semopm() -> Option<usize> {
    limit(layout::SEMOPM_AT)
}

/// The number by which a bell, or with 0 a front-end, is rung with nobody in between, if it is known.
pub(crate) fn door(space: u16, bell: u16) -> Option<u32> {
    let page = TIME.load(Ordering::Relaxed);
    if ptr::eq(page, (&raw const NO_TIME).cast()) {
        return None;
    }
    let row = |place: usize| {
        // SAFETY: within a mapped time page, aligned to 8.
        unsafe { AtomicU64::from_ptr(page.add(layout::DOORS_AT + 8 * place).cast()) }.load(Ordering::Relaxed)
    };
    (0..layout::DOORS)
        .map(row)
        .take_while(|&row| row != 0)
        .find_map(|row| layout::number_of(row, space, bell))
}

/// An entry of the wait page.
pub(crate) struct Entry(*mut u8);

/// The entry of a ticket, if there is such a ticket and a wait page.
pub(crate) fn entry(ticket: u32) -> Option<Entry> {
    let page = WAIT.load(Ordering::Acquire);
    let there = !page.is_null() && ticket != 0 && ticket < layout::TICKETS;
    there.then(|| Entry(page.wrapping_add(ticket as usize * layout::ENTRY)))
}

impl Entry {
    fn word(&self, at: usize) -> &AtomicU32 {
        // SAFETY: the page is mapped for ever, the ticket was checked, entries are aligned to 32.
        unsafe { AtomicU32::from_ptr(self.0.add(at).cast()) }
    }
    /// The word that the sleeper waits on.
    pub(crate) fn sequence(&self) -> &AtomicU32 {
        self.word(layout::SEQUENCE_AT)
    }
    /// Says what the sleeper watches, and that it does. Gives the sequence to wait on.
    pub(crate) fn announce(&self, expected: u32, watched: u64) -> u32 {
        self.word(layout::EXPECTED_AT).store(expected, Ordering::Relaxed);
        self.word(layout::HOW_AT).store(0, Ordering::Relaxed);
        // SAFETY: as in `word`; the offset is a multiple of 8.
        unsafe { AtomicU64::from_ptr(self.0.add(layout::WATCHED_AT).cast()) }
            .store(watched, Ordering::Relaxed);
        self.word(layout::ACTIVE_AT).store(1, Ordering::SeqCst);
        self.sequence().load(Ordering::SeqCst)
    }
    /// The sleeper is awake. Gives what its waker said of itself.
    pub(crate) fn withdraw(&self) -> u32 {
        self.word(layout::ACTIVE_AT).store(0, Ordering::Release);
        self.word(layout::HOW_AT).load(Ordering::Relaxed)
    }
    /// Says that a neighbour wakes it.
    pub(crate) fn woken_here(&self) {
        self.word(layout::HOW_AT)
            .store(layout::FROM_HERE, Ordering::Relaxed);
    }

    /// What a sleeping owner expects and watches: as a front-end sees it.
    #[cfg(test)]
    pub(crate) fn seen(&self) -> Option<(u32, u64)> {
        // SAFETY: as in `announce`.
        let watched = unsafe { AtomicU64::from_ptr(self.0.add(layout::WATCHED_AT).cast()) };
        (self.word(layout::ACTIVE_AT).load(Ordering::SeqCst) == 1).then(|| {
            let expected = self.word(layout::EXPECTED_AT).load(Ordering::SeqCst);
            (expected, watched.load(Ordering::SeqCst))
        })
    }
}
