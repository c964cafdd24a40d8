//! How much memory a construct takes, and how it grows.
//!
//! Not for allocation: see the `pool` module.

use crate::PAGE;
use vshmem_ipc::msgq::Queue;
use vshmem_words::Heap;

/// Most bytes a set may grow to.
const SET_CAP: u64 = 64 << 20;
/// Bytes a queue may always grow to.
const QUEUE_CAP: u64 = 8 << 20;
/// Most bytes a queue may grow to, whatever its qbytes.
const QUEUE_CAP_MOST: u64 = 4 << 30;
/// Growth is as much as there is, up to this, so that a growing construct asks seldom.
const GROWTH: u64 = 1 << 20;
/// Most extents of a construct, so that an answer stays small.
pub(crate) const EXTENTS: usize = 1000;

/// `bytes` rounded up to pages.
pub(crate) fn pages_up(bytes: u64) -> Option<u64> {
    Some(bytes.checked_add(PAGE - 1)? / PAGE * PAGE)
}

/// Bytes of a new set, not rounded.
pub(crate) fn set_bytes(nsems: u32) -> u64 {
    vshmem_ipc::sem::SemSet::<Heap>::bytes(nsems) as u64
}

/// Bytes of a new queue, not rounded.
pub(crate) fn queue_bytes() -> u64 {
    Queue::<Heap>::BYTES as u64
}

/// The most bytes a set may grow to.
pub(crate) fn set_cap() -> u64 {
    SET_CAP
}

/// The most bytes a queue may grow to.
pub(crate) fn queue_cap(qbytes: u64) -> u64 {
    let cap = qbytes.saturating_mul(8).clamp(QUEUE_CAP, QUEUE_CAP_MOST);
    cap / PAGE * PAGE
}

/// What to append to a construct of `now` bytes that may have `cap`: the least and the best number of bytes, where `least` and `good` are what the
/// construct could do with. None: it would grow beyond the cap.
pub(crate) fn growth(now: u64, cap: u64, (least, good): (u64, u64)) -> Option<(u64, u64)> {
    let room = cap.checked_sub(now)?;
    let least = pages_up(least.max(1))?;
    let good = pages_up(good.max(now.min(GROWTH)))?;
    (least <= room).then(|| (least, good.max(least).min(room)))
}

/// Bytes of the extent that a set could do with for one more slot or undo record.
pub(crate) fn set_extent(nsems: u32, wanted: u64) -> (u64, u64) {
    let one = (vshmem_ipc::sem::SemSet::<Heap>::extent_bytes(nsems) as u64).max(wanted);
    (one, one)
}

/// Bytes of the extent that a queue could do with for a message of `wanted` bytes: that and a page for what is around it, or better what the queue
/// says. None: no queue holds such a message.
pub(crate) fn queue_extent(wanted: u64) -> Option<(u64, u64)> {
    let bytes = usize::try_from(wanted)
        .ok()
        .filter(|&w| w as u64 <= QUEUE_CAP_MOST)?;
    Some((wanted + PAGE, Queue::<Heap>::extent_bytes(bytes) as u64))
}
