//! Waiting in a slot: spin on its state, then sleep; leave on a result, a signal, a time-out or removal.
//!
//! The set's lock is taken here only to leave without a result. No wake-up is lost, whatever comes first:
//! 1. The waker moves the state before the sleeper sets SLEEPING: the sleeper's exchange fails and it sees the result.
//! 2. After SLEEPING is set, before the sleeper sleeps: the state differs from what the sleep expects, which therefore returns at once.
//! 3. While it sleeps: the waker saw SLEEPING in the exchange that moved the state, and wakes.
//! 4. Removal stores the control word, meets, then moves every queued state it finds; a sleeper sets SLEEPING, meets, then looks at the
//!    control word. To meet is to exchange one word for itself (`meet`). Whoever does so second sees all that the first did before: the
//!    sleeper the control word, or removal the slot.

use super::layout::{MEETING_AT, slot};
use super::slot::{Slot, queued, state};
use super::{SemError, SemSet};
use crate::lock::{self, LockError};
use crate::{Control, Corrupt, Slept, Spin, State, World};
use vshmem_words::{Ordering, Words};

/// How often leaving tries for a lock that a world says not to wait for.
const TRIES: u32 = 1000;

impl<W: Words> SemSet<'_, W> {
    /// Waits for the result of the operations queued in `slot`.
    pub(super) fn wait(
        &self,
        world: &impl World,
        control: Control,
        slot: &Slot,
        mut turn: u32,
        last: u16,
    ) -> Result<(), SemError> {
        let at = slot.at + slot::STATE;
        loop {
            // Acquire: [granted] what the waker did before it granted is seen.
            let found = self.words.load32(at, Ordering::Acquire);
            if !queued(found) {
                return self.result(at, found);
            }
            if Control::load(self.words).state() != State::Live {
                return Err(SemError::Removed);
            }
            let left = if found & state::SLEEPING != 0 {
                match world.sleep(at, found) {
                    Slept::Look => continue,
                    Slept::TimedOut => SemError::Again,
                    Slept::Interrupted => SemError::Interrupted,
                }
            } else {
                match world.spin(turn, last) {
                    Spin::Again => {
                        turn = turn.saturating_add(1);
                        continue;
                    }
                    Spin::Enough => {
                        let sleeping = found | state::SLEEPING;
                        let (order, failed) = (Ordering::AcqRel, Ordering::Relaxed);
                        let _ = self.words.compare_exchange32(at, found, sleeping, order, failed);
                        self.meet();
                        continue;
                    }
                    Spin::Interrupted => SemError::Interrupted,
                }
            };
            return self.leave(world, control, slot, left);
        }
    }

    /// Orders what was done before it with what comes after it, against everybody else who meets.
    pub(super) fn meet(&self) {
        let mut found = self.words.load64(MEETING_AT, Ordering::Relaxed);
        for _ in 0..TRIES {
            // AcqRel: [meeting] each exchange reads the one before it.
            match self
                .words
                .compare_exchange64(MEETING_AT, found, found, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(other) => found = other,
            }
        }
    }

    /// Reads a result and gives the slot back for use.
    fn result(&self, at: usize, found: u32) -> Result<(), SemError> {
        let result = match found {
            state::GRANTED => Ok(()),
            state::REFUSED_RANGE => Err(SemError::Range),
            state::REFUSED_AGAIN => Err(SemError::Again),
            state::REMOVED => return Err(SemError::Removed),
            _ => {
                return Err(SemError::Corrupt(Corrupt {
                    what: "own slot's state",
                    found: found.into(),
                    allowed: state::SEEN.into(),
                }));
            }
        };
        // Release: [seen] the result was read.
        self.words.store32(at, state::SEEN, Ordering::Release);
        result
    }

    /// Leaves the queue for `why`, unless a result came first.
    #[cold]
    fn leave(
        &self,
        world: &impl World,
        control: Control,
        slot: &Slot,
        why: SemError,
    ) -> Result<(), SemError> {
        let mut tries = 0;
        let _guard = loop {
            match lock::acquire(self.words, world) {
                Ok(guard) => break guard,
                Err(LockError::Busy) if tries < TRIES => tries += 1,
                Err(LockError::Busy) => return Err(SemError::LockBusy),
                Err(LockError::Corrupt(corrupt)) => return Err(corrupt.into()),
            }
        };
        let now = Control::load(self.words);
        if now.state() != State::Live {
            return Err(SemError::of(now));
        }
        let at = slot.at + slot::STATE;
        let found = self.words.load32(at, Ordering::Acquire);
        if !queued(found) {
            return self.result(at, found);
        }
        if now != control && !self.reaches(slot) {
            // The set grew while this one slept, and its neighbours lie in an extent that is not mapped here.
            self.uncount(slot)?;
            self.put32(at, state::CANCELLED);
        } else {
            self.unlink(slot)?;
            self.free_unit(slot.unit);
        }
        Err(why)
    }
}
