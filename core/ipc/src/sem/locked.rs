//! The locked path of semop: several operations, undo, anything with sleepers about, and everything that has to wait.
//!
//! Lock order: the set's lock alone; wakes that are owed are given after it is released.

use super::journal::Commit;
use super::layout::{JOURNAL_AT, WAITERS, place_bits, place_of, stamp};
use super::plan::{Doer, Plan, Verdict};
use super::slot::Slot;
use super::undo::Undo;
use super::update::{Changed, Wakes};
use super::{SemError, SemSet};
use crate::lock::{self, Guard, LockError};
use crate::sysv::{IPC_NOWAIT, SEM_UNDO, SEMOPM, SemBuf};
use crate::{Control, Corrupt, Me, World};
use vshmem_words::Words;

/// How the locked part ended.
enum Ended {
    Done,
    /// The caller is queued here; whoever it awaits was last seen at this place.
    Queued(Slot, u16),
}

impl<W: Words> SemSet<'_, W> {
    #[inline(never)]
    pub(super) fn locked(
        &self,
        world: &impl World,
        control: Control,
        ops: &[SemBuf],
        turn: u32,
    ) -> Result<(), SemError> {
        match ops.len() {
            0 => Ok(()),
            1 => self.locked_of::<1>(world, control, ops, turn),
            2..=4 => self.locked_of::<4>(world, control, ops, turn),
            5..=8 => self.locked_of::<8>(world, control, ops, turn),
            9..=SEMOPM => self.locked_long(world, control, ops, turn),
            _ => Err(SemError::TooBig),
        }
    }

    /// Many operations. In a frame of its own: its plan takes 16 KiB, which is all the stack that a thread with few operations may have.
    #[cold]
    #[inline(never)]
    fn locked_long(
        &self,
        world: &impl World,
        control: Control,
        ops: &[SemBuf],
        turn: u32,
    ) -> Result<(), SemError> {
        self.locked_of::<SEMOPM>(world, control, ops, turn)
    }

    fn locked_of<const N: usize>(
        &self,
        world: &impl World,
        control: Control,
        ops: &[SemBuf],
        turn: u32,
    ) -> Result<(), SemError> {
        if ops.iter().any(|op| u32::from(op.num) >= self.nsems) {
            let now = Control::load(self.words);
            return Err(if now == control {
                SemError::TooBig
            } else {
                SemError::of(now)
            });
        }
        let mut wakes = Wakes::new(world);
        let guard = self.enter(world, control)?;
        let ended = self.under_lock::<N, _>(&mut wakes, ops);
        drop(guard);
        drop(wakes);
        match ended? {
            Ended::Done => Ok(()),
            Ended::Queued(slot, last) => self.wait(world, control, &slot, turn, last),
        }
    }

    /// Takes the set's lock and checks that the attachment is good.
    #[inline]
    pub(super) fn enter(&self, world: &impl World, control: Control) -> Result<Guard<'_, W>, SemError> {
        let guard = lock::acquire(self.words, world).map_err(|error| match error {
            LockError::Busy => SemError::LockBusy,
            LockError::Corrupt(corrupt) => SemError::Corrupt(corrupt),
        })?;
        // Under the lock: whatever an earlier holder linked from a new extent, it had seen the control word that announces it, so
        // it is seen here too. From here on a link beyond the mapping is rubbish, not growth.
        let now = Control::load(self.words);
        if now != control {
            return Err(SemError::of(now));
        }
        let journal = self.get64(JOURNAL_AT);
        Corrupt::check("journal of a free lock", journal, 0)?;
        Ok(guard)
    }

    #[inline(always)]
    fn under_lock<const N: usize, Wd: World>(
        &self,
        wakes: &mut Wakes<Wd>,
        ops: &[SemBuf],
    ) -> Result<Ended, SemError> {
        let me = wakes.world.me();
        let undo = self.undo_wanted(&me, ops)?;
        let mut plan = Plan::<N>::new();
        let verdict = match self.evaluate(ops, undo, &mut plan) {
            Ok(verdict) => verdict,
            Err(corrupt) => {
                self.release(&plan, 0);
                return Err(corrupt.into());
            }
        };
        match verdict {
            Verdict::Go => {
                let commit = Commit {
                    doer: Doer {
                        stamp: stamp(&me),
                        place: place_bits(me.place),
                    },
                    undo,
                    now: wakes.now,
                    grant: None,
                };
                self.commit(&plan, &commit);
                if plan.awaited() && ops.iter().any(|op| op.op != 0) {
                    self.update(wakes, Changed::of(ops))?;
                }
                Ok(Ended::Done)
            }
            Verdict::Range => {
                self.release(&plan, 0);
                Err(SemError::Range)
            }
            Verdict::Block(index) => {
                let queued = match ops.get(index) {
                    Some(op) if op.flags & IPC_NOWAIT == 0 => self.enqueue(&me, ops, *op),
                    _ => {
                        self.release(&plan, 0);
                        return Err(SemError::Again);
                    }
                };
                self.settle(&plan, ops, queued)
            }
        }
    }

    /// Lets the claimed words go with WAITERS set, if the caller was queued.
    #[inline(never)]
    fn settle<const N: usize>(
        &self,
        plan: &Plan<N>,
        ops: &[SemBuf],
        queued: Result<Option<Slot>, Corrupt>,
    ) -> Result<Ended, SemError> {
        match queued {
            Ok(Some(slot)) => {
                let last = plan
                    .touches()
                    .last()
                    .map_or(Me::NOWHERE, |touch| place_of(touch.old));
                // WAITERS and the end of LOCKED are one store: no change of the word it blocks on slips through between.
                self.release(plan, WAITERS);
                for op in ops {
                    self.await_word(op.num.into())?;
                }
                Ok(Ended::Queued(slot, last))
            }
            Ok(None) => {
                self.release(plan, 0);
                Err(SemError::NeedExtent)
            }
            Err(corrupt) => {
                self.release(plan, 0);
                Err(corrupt.into())
            }
        }
    }

    /// The caller's undo record, made before anything changes, if an operation asks for one.
    #[inline(always)]
    fn undo_wanted(&self, me: &Me, ops: &[SemBuf]) -> Result<Option<Undo>, SemError> {
        if me.undo == 0 || ops.iter().all(|op| op.flags & SEM_UNDO == 0) {
            return Ok(None);
        }
        match self.undo_for(me.undo, stamp(me))? {
            Some(undo) => Ok(Some(undo)),
            None => Err(SemError::NeedExtent),
        }
    }
}
