//! The fast path: one operation without undo on a word that nobody waits on is one compare-and-swap.
//!
//! Not for anything that needs the lock. It is refused while sem_otime is 0, so that the first operation and sem_otime change in one journal
//! step: a program that waits for sem_otime to become non-zero (the usual cure of the race between semget and SETVAL) would wait for
//! ever if the first operator died between the two stores.

use super::layout::{LOCKED, MOVED, OTIME_AT, PLACE, WAITERS, place_bits, place_of, stamp, word_at};
use super::{SemError, SemSet};
use crate::sysv::{IPC_NOWAIT, SEMVMX, SemBuf};
use crate::{Control, Me, Spin, World};
use vshmem_words::{Ordering, Words};

/// Lost races after which the locked path is taken instead.
const TRIES: u32 = 64;

/// What the fast path gave.
pub(super) enum Fast {
    /// The operation's result.
    Done(Result<(), SemError>),
    /// Take the locked path; so many turns of spinning are used up.
    Locked(u32),
}

/// What one look at the word gave.
enum Look {
    Changed,
    Blocked(u64),
    Locked,
}

impl<W: Words> SemSet<'_, W> {
    #[inline(always)]
    pub(super) fn fast(&self, world: &impl World, control: Control, one: SemBuf) -> Fast {
        let now = Control::load(self.words);
        if now != control {
            return Fast::Done(Err(SemError::of(now)));
        }
        if u32::from(one.num) >= self.nsems {
            return Fast::Done(Err(SemError::TooBig));
        }
        let otime = self.words.load64(OTIME_AT, Ordering::Relaxed);
        if otime == 0 {
            return Fast::Locked(0);
        }
        let me = world.me();
        match self.try_word(&me, one) {
            Look::Changed => {
                let seconds = world.seconds();
                if seconds != otime {
                    self.words.store64(OTIME_AT, seconds, Ordering::Relaxed);
                }
                Fast::Done(Ok(()))
            }
            Look::Locked => Fast::Locked(0),
            Look::Blocked(_) if one.flags & IPC_NOWAIT != 0 => Fast::Done(Err(SemError::Again)),
            Look::Blocked(word) => self.spin_on_word(world, control, &me, one, word),
        }
    }

    /// One compare-and-swap of value, sempid and, on an increment, its place.
    #[inline(always)]
    fn try_word(&self, me: &Me, one: SemBuf) -> Look {
        let at = word_at(one.num.into());
        let mut word = self.words.load64(at, Ordering::Relaxed);
        for _ in 0..TRIES {
            if word & (LOCKED | WAITERS | MOVED) != 0 {
                return Look::Locked;
            }
            let value = i32::from(word as u16);
            let result = value + i32::from(one.op);
            if one.op == 0 && value != 0 || result < 0 {
                return Look::Blocked(word);
            }
            if result > i32::from(SEMVMX) {
                return Look::Locked;
            }
            let place = if one.op > 0 {
                place_bits(me.place)
            } else {
                word & PLACE
            };
            let new = result as u64 | stamp(me) | place;
            // AcqRel: [semaphore] what the last decrement or increment published is seen, what this one publishes is seen by the next.
            match self
                .words
                .compare_exchange64(at, word, new, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return Look::Changed,
                Err(found) => word = found,
            }
        }
        Look::Locked
    }

    /// Spins for a while on the word before queueing: a handoff between two CPUs then needs neither the lock nor a slot.
    #[inline(never)]
    fn spin_on_word(&self, world: &impl World, control: Control, me: &Me, one: SemBuf, seen: u64) -> Fast {
        let mut last = place_of(seen);
        let mut turn = 0;
        loop {
            match world.spin(turn, last) {
                Spin::Again => turn = turn.saturating_add(1),
                Spin::Enough => return Fast::Locked(turn),
                Spin::Interrupted => return Fast::Done(Err(SemError::Interrupted)),
            }
            let now = Control::load(self.words);
            if now != control {
                return Fast::Done(Err(SemError::of(now)));
            }
            match self.try_word(me, one) {
                Look::Changed => {
                    let seconds = world.seconds();
                    if seconds != self.words.load64(OTIME_AT, Ordering::Relaxed) {
                        self.words.store64(OTIME_AT, seconds, Ordering::Relaxed);
                    }
                    return Fast::Done(Ok(()));
                }
                Look::Blocked(word) => last = place_of(word),
                Look::Locked => return Fast::Locked(turn),
            }
        }
    }
}
