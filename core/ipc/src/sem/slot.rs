//! Slots: one per sleeper, with its operations, in queues.
//!
//! The state word of a slot is what its sleeper watches (and the futex, where construct memory can hold one):
//!
//! | state | meaning | who moves it | to |
//! |---|---|---|---|
//! | 0 | not in use | the sleeper-to-be, lock held | FILLING |
//! | FILLING | being written | the same, lock held | QUEUED |
//! | QUEUED | waiting, watched by a spinning sleeper | the sleeper, no lock | QUEUED+SLEEPING |
//! | QUEUED+SLEEPING | waiting; whoever moves it must wake | | |
//! | either | | a waker, lock held, its journal committed | GRANTED |
//! | either | | a waker, lock held | REFUSED_RANGE, REFUSED_AGAIN |
//! | either | | the back-end's remove, no lock | REMOVED |
//! | either | | the sleeper, lock held: signal, time-out | 0, or CANCELLED |
//! | GRANTED, REFUSED | the sleeper may go on with this result | the sleeper, no lock | SEEN |
//! | SEEN | to be used again | an enqueuer, lock held | FILLING |
//! | CANCELLED | linked still: the sleeper could not reach its neighbours | any walker, lock held | 0 |
//! | any, owner dead | | the back-end's sweep, lock held | 0 |
//!
//! Slots are the truth about who waits for what. Queues, free lists, counters and WAITERS bits follow from them, and recovery makes them anew.
//!
//! A slot let go on stands in the *granted* list until its sleeper has seen the result and the slot is wanted again: so going on
//! needs no lock, and a sweep finds those that may not have been woken.

use super::SemSet;
use super::arena::Unit;
use super::layout::{
    ALTER_AT, CHUNKED, CONST_AT, GRANTED_AT, INLINE, SEQUENCE_AT, SLEEPERS_AT, WAITERS, chunk, kind, side,
    side_at, slot, stamp, word_at,
};
use super::plan::Doer;
use crate::sysv::{SEMOPM, SemBuf};
use crate::{Corrupt, Me, Sleeper};
use vshmem_words::{Ordering, Words};

/// Values of a slot's state word.
pub(super) mod state {
    pub(in crate::sem) const FILLING: u32 = 1;
    pub(in crate::sem) const QUEUED: u32 = 2;
    pub(in crate::sem) const GRANTED: u32 = 3;
    pub(in crate::sem) const REFUSED_RANGE: u32 = 4;
    pub(in crate::sem) const REFUSED_AGAIN: u32 = 5;
    pub(in crate::sem) const REMOVED: u32 = 6;
    pub(in crate::sem) const SEEN: u32 = 7;
    pub(in crate::sem) const CANCELLED: u32 = 8;
    /// Flag beside QUEUED.
    pub(in crate::sem) const SLEEPING: u32 = 0x100;
}

/// Races with the sleeper (which moves its state once while it is queued) before a state word counts as scribbled on.
const TRIES: u32 = 16;
/// How many of the granted an enqueuer looks at for one to use again.
const LOOKS: u32 = 4;

/// Whether a state is QUEUED, sleeping or not.
pub(super) fn queued(state: u32) -> bool {
    state & !state::SLEEPING == state::QUEUED
}

/// A queued slot, read once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub(super) unit: Unit,
    pub(super) at: usize,
    pub(super) nops: usize,
    pub(super) first: SemBuf,
}

/// Where the head of a queue is; the tail is in the next word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Queue(pub(super) usize);

fn pack(op: SemBuf) -> u64 {
    u64::from(op.num) | u64::from(op.op as u16) << 16 | u64::from(op.flags as u16) << 32
}

fn unpack(word: u64) -> SemBuf {
    SemBuf {
        num: word as u16,
        op: (word >> 16) as i16,
        flags: (word >> 32) as i16,
    }
}

/// What an operation that blocks waits for, as kept in a slot: 1 to decrement, 2 for zero.
fn blocking_word(op: SemBuf) -> u32 {
    u32::from(op.num) | if op.op == 0 { 2 << 16 } else { 1 << 16 }
}

impl<W: Words> SemSet<'_, W> {
    // ---- reading -------------------------------------------------------------------------------------------------

    /// Reads a slot that a queue led to.
    pub(super) fn slot(&self, unit: Unit) -> Result<Slot, Corrupt> {
        let at = self.unit_at(unit);
        let nops = (self.get32(at + slot::PLACE) >> 16) as usize;
        Corrupt::check(
            "slot's operations",
            nops.wrapping_sub(1) as u64,
            SEMOPM as u64 - 1,
        )?;
        let first = unpack(self.get64(at + slot::OPS));
        Corrupt::check("slot's semaphore", first.num.into(), u64::from(self.nsems) - 1)?;
        Ok(Slot {
            unit,
            at,
            nops,
            first,
        })
    }

    /// Visits a slot's operations, each read once and its number checked.
    pub(super) fn each_op(&self, slot: &Slot, mut visit: impl FnMut(SemBuf)) -> Result<(), Corrupt> {
        let (mut at, mut room, mut link) = (slot.at + slot::OPS, INLINE, self.get32(slot.at + slot::CHUNK));
        for _ in 0..slot.nops {
            if room == 0 {
                let Some(next) = self.follow_to("chunk", link, kind::CHUNK)? else {
                    return Err(Corrupt {
                        what: "chunk of operations",
                        found: 0,
                        allowed: 1,
                    });
                };
                let chunk_at = self.unit_at(next);
                (at, room, link) = (chunk_at + chunk::OPS, CHUNKED, self.get32(chunk_at + chunk::NEXT));
            }
            let op = unpack(self.get64(at));
            Corrupt::check("slot's semaphore", op.num.into(), u64::from(self.nsems) - 1)?;
            visit(op);
            at += 8;
            room -= 1;
        }
        Ok(())
    }

    /// For whom a slot's operations are done.
    pub(super) fn doer(&self, slot: &Slot) -> Doer {
        Doer {
            stamp: self.get64(slot.at + slot::STAMP) & super::layout::STAMP,
            place: super::layout::place_bits(self.get32(slot.at + slot::PLACE) as u16),
        }
    }

    /// Whom to wake for a slot.
    pub(super) fn sleeper(&self, at: usize) -> Sleeper {
        Sleeper {
            space: (self.get32(at + slot::THREAD) >> 16) as u16,
            ticket: self.get32(at + slot::TICKET),
            at: at + slot::STATE,
        }
    }

    /// The queue that a slot with these operations belongs in.
    pub(super) fn queue_of(&self, first: SemBuf, nops: usize, alters: bool) -> Queue {
        let of = side_at(self.nsems, first.num.into());
        Queue(match (nops, alters) {
            (1, true) => of + side::DECREMENT,
            (1, false) => of + side::ZERO,
            (_, true) => ALTER_AT,
            (_, false) => CONST_AT,
        })
    }

    // ---- queues --------------------------------------------------------------------------------------------------

    /// Appends a slot to a queue.
    pub(super) fn append(&self, queue: Queue, unit: Unit) -> Result<(), Corrupt> {
        let at = self.unit_at(unit);
        let tail = self.get32(queue.0 + 4);
        self.put32(at + slot::NEXT, 0);
        self.put32(at + slot::PREV, tail);
        match self.follow_to("queue's tail", tail, kind::SLOT)? {
            Some(last) => self.put32(self.unit_at(last) + slot::NEXT, unit.link()),
            None => self.put32(queue.0, unit.link()),
        }
        self.put32(queue.0 + 4, unit.link());
        Ok(())
    }

    /// Takes a slot out of its queue.
    fn detach(&self, queue: Queue, unit: Unit) -> Result<(), Corrupt> {
        let at = self.unit_at(unit);
        let (next, prev) = (self.get32(at + slot::NEXT), self.get32(at + slot::PREV));
        let (after, before) = (
            self.follow_to("slot's next", next, kind::SLOT)?,
            self.follow_to("slot's previous", prev, kind::SLOT)?,
        );
        match before {
            Some(before) => self.put32(self.unit_at(before) + slot::NEXT, next),
            None => self.put32(queue.0, next),
        }
        match after {
            Some(after) => self.put32(self.unit_at(after) + slot::PREV, prev),
            None => self.put32(queue.0 + 4, prev),
        }
        Ok(())
    }

    // ---- entering ------------------------------------------------------------------------------------------------

    /// Queues the caller with `ops`, of which the one at `blocking` blocks. `None` if the set has to grow first (nothing changed then).
    pub(super) fn enqueue(&self, me: &Me, ops: &[SemBuf], blocking: SemBuf) -> Result<Option<Slot>, Corrupt> {
        let Some(unit) = self.take_slot()? else {
            return Ok(None);
        };
        let at = self.unit_at(unit);
        let &[first, ..] = ops else { return Ok(None) };
        let slot = Slot {
            unit,
            at,
            nops: ops.len(),
            first,
        };
        self.put32(at + slot::STATE, state::FILLING);
        if !self.write_ops(&slot, ops)? {
            self.free_slot(&slot)?;
            return Ok(None);
        }
        self.put32(at + slot::CLIENT, me.client);
        self.put32(
            at + slot::THREAD,
            u32::from(me.thread) | u32::from(me.space) << 16,
        );
        self.put32(at + slot::TICKET, me.ticket);
        self.put32(at + slot::PLACE, u32::from(me.place) | (ops.len() as u32) << 16);
        self.put64(at + slot::STAMP, stamp(me));
        self.put64(at + slot::UNDO, me.undo);
        let sequence = self.get64(SEQUENCE_AT);
        self.put64(SEQUENCE_AT, sequence.wrapping_add(1));
        self.put64(at + slot::SEQUENCE, sequence);
        self.put32(at + slot::BLOCKING, blocking_word(blocking));
        let alters = ops.iter().any(|op| op.op != 0);
        self.append(self.queue_of(first, ops.len(), alters), unit)?;
        for op in ops {
            self.count(op.num.into(), side::TOUCHED, 1);
        }
        self.count_blocking(&slot, 1)?;
        self.put32(SLEEPERS_AT, self.get32(SLEEPERS_AT).wrapping_add(1));
        self.put32(at + slot::STATE, state::QUEUED);
        Ok(Some(slot))
    }

    /// Writes the operations into the slot and its chunks; `false` if there are not enough units.
    fn write_ops(&self, slot: &Slot, ops: &[SemBuf]) -> Result<bool, Corrupt> {
        self.put32(slot.at + slot::CHUNK, 0);
        let (inside, rest) = ops.split_at(ops.len().min(INLINE));
        for (i, op) in inside.iter().enumerate() {
            self.put64(slot.at + slot::OPS + 8 * i, pack(*op));
        }
        let mut link_at = slot.at + slot::CHUNK;
        for part in rest.chunks(CHUNKED) {
            let Some(unit) = self.take_unit(kind::CHUNK)? else {
                return Ok(false);
            };
            let at = self.unit_at(unit);
            self.put32(at + 4, 0);
            self.put32(at + chunk::NEXT, 0);
            self.put32(at + chunk::OWNER, slot.unit.link());
            for (i, op) in part.iter().enumerate() {
                self.put64(at + chunk::OPS + 8 * i, pack(*op));
            }
            self.put32(link_at, unit.link());
            link_at = at + chunk::NEXT;
        }
        Ok(true)
    }

    /// A slot to use: one whose sleeper has seen its result, a free unit, a fresh one.
    fn take_slot(&self) -> Result<Option<Unit>, Corrupt> {
        if let Some(unit) = self.reuse(LOOKS)? {
            return Ok(Some(unit));
        }
        if let Some(unit) = self.take_unit(kind::SLOT)? {
            return Ok(Some(unit));
        }
        self.reuse(self.used()?)
    }

    /// Looks at up to `looks` of the granted for one that was seen; the others go to the list's end.
    fn reuse(&self, looks: u32) -> Result<Option<Unit>, Corrupt> {
        for _ in 0..looks {
            let Some(unit) = self.pop_granted()? else { break };
            // Acquire: [seen] the sleeper has read its result.
            let state = self
                .words
                .load32(self.unit_at(unit) + slot::STATE, Ordering::Acquire);
            if state == state::SEEN {
                return Ok(Some(unit));
            }
            self.push_granted(unit)?;
        }
        Ok(None)
    }

    pub(super) fn pop_granted(&self) -> Result<Option<Unit>, Corrupt> {
        let head = self.get32(GRANTED_AT);
        let Some(unit) = self.follow_to("granted slot", head, kind::SLOT)? else {
            return Ok(None);
        };
        let next = self.get32(self.unit_at(unit) + slot::NEXT);
        self.put32(GRANTED_AT, next);
        if next == 0 {
            self.put32(GRANTED_AT + 4, 0);
        }
        Ok(Some(unit))
    }

    pub(super) fn push_granted(&self, unit: Unit) -> Result<(), Corrupt> {
        self.append(Queue(GRANTED_AT), unit)
    }

    // ---- leaving -------------------------------------------------------------------------------------------------

    /// Moves a slot from QUEUED to GRANTED; a slot in another state stays as it is. Gives the state found.
    pub(super) fn grant(&self, at: usize) -> u32 {
        self.move_from_queued(at, state::GRANTED)
    }

    /// Moves the state word at `at` from QUEUED, sleeping or not; gives the state found.
    pub(super) fn move_from_queued(&self, at: usize, to: u32) -> u32 {
        let mut found = self.words.load32(at, Ordering::Relaxed);
        for _ in 0..TRIES {
            if !queued(found) {
                break;
            }
            // Release: [granted] pairs with the sleeper's acquire.
            match self
                .words
                .compare_exchange32(at, found, to, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(was) => return was,
                Err(other) => found = other,
            }
        }
        found
    }

    /// Takes a slot whose state is no longer QUEUED (or shall not be) out of queue and counters; chunks are freed, the slot's unit is not.
    pub(super) fn unlink(&self, slot: &Slot) -> Result<(), Corrupt> {
        self.uncount(slot)?;
        self.detach_and_untouch(slot)
    }

    /// Takes a slot out of the counters that GETNCNT, GETZCNT and the daemon read.
    pub(super) fn uncount(&self, slot: &Slot) -> Result<(), Corrupt> {
        self.count_blocking(slot, -1)?;
        self.put32(slot.at + slot::BLOCKING, 0);
        self.put32(SLEEPERS_AT, self.get32(SLEEPERS_AT).saturating_sub(1));
        Ok(())
    }

    /// The rest of [`Self::unlink`].
    pub(super) fn detach_and_untouch(&self, slot: &Slot) -> Result<(), Corrupt> {
        let mut alters = false;
        self.each_op(slot, |op| {
            alters |= op.op != 0;
            let num = u32::from(op.num);
            if self.count(num, side::TOUCHED, -1) == 0 {
                let word = self.get64(word_at(num));
                if word & WAITERS != 0 {
                    self.put64(word_at(num), word & !WAITERS);
                }
            }
        })?;
        self.detach(self.queue_of(slot.first, slot.nops, alters), slot.unit)?;
        self.free_chunks(slot)
    }

    /// Gives a slot and its chunks back. It must be in no list.
    pub(super) fn free_slot(&self, slot: &Slot) -> Result<(), Corrupt> {
        self.free_chunks(slot)?;
        self.free_unit(slot.unit);
        Ok(())
    }

    fn free_chunks(&self, slot: &Slot) -> Result<(), Corrupt> {
        let mut link = self.get32(slot.at + slot::CHUNK);
        self.put32(slot.at + slot::CHUNK, 0);
        for _ in 0..SEMOPM / CHUNKED + 1 {
            let Some(unit) = self.follow_to("chunk", link, kind::CHUNK)? else {
                return Ok(());
            };
            link = self.get32(self.unit_at(unit) + chunk::NEXT);
            self.free_unit(unit);
        }
        Corrupt::check("chunks of a slot", link.into(), 0).map(|_| ())
    }

    /// Whether this process can reach everything that unlinking the slot touches (it may see less of a set that grew while it slept).
    pub(super) fn reaches(&self, slot: &Slot) -> bool {
        let links = [slot::NEXT, slot::PREV].map(|link| self.get32(slot.at + link));
        links.iter().all(|&link| link <= self.capacity())
    }

    // ---- counters ------------------------------------------------------------------------------------------------

    /// Notes which operation a sleeper blocks on now.
    pub(super) fn set_blocking(&self, slot: &Slot, op: SemBuf) -> Result<(), Corrupt> {
        if self.get32(slot.at + slot::BLOCKING) != blocking_word(op) {
            self.count_blocking(slot, -1)?;
            self.put32(slot.at + slot::BLOCKING, blocking_word(op));
            self.count_blocking(slot, 1)?;
        }
        Ok(())
    }

    /// Adds to semncnt or semzcnt of the semaphore that a slot blocks on.
    pub(super) fn count_blocking(&self, slot: &Slot, by: i32) -> Result<(), Corrupt> {
        let blocking = self.get32(slot.at + slot::BLOCKING);
        let num = blocking & 0xffff;
        Corrupt::check("blocking semaphore", num.into(), u64::from(self.nsems) - 1)?;
        match blocking >> 16 {
            1 => self.count(num, side::NCNT, by),
            2 => self.count(num, side::ZCNT, by),
            _ => 0,
        };
        Ok(())
    }

    /// Adds to a counter of a side record, never below 0; gives the new value.
    pub(super) fn count(&self, num: u32, what: usize, by: i32) -> u32 {
        let at = side_at(self.nsems, num) + what;
        let new = self.get32(at).saturating_add_signed(by);
        self.put32(at, new);
        new
    }
}
