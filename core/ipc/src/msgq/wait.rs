//! Waiting in a slot, giving up, and the two ways in which the back-end stirs all waiters.
//!
//! The lock is not held while waiting. The steps and their interleavings are told in `slots`.

use super::layout::slot;
use super::view::{Unit, View};
use super::{MsgError, Queue};
use crate::header::CONTROL_AT;
use crate::{Control, Corrupt, Slept, Spin, State, World};
use vshmem_words::{Ordering, Words};

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Woken {
    Granted,
    Refused,
    Retry,
}

impl Woken {
    fn of(state: u32) -> Option<Self> {
        match state {
            slot::GRANTED => Some(Woken::Granted),
            slot::REFUSED => Some(Woken::Refused),
            slot::RETRY => Some(Woken::Retry),
            _ => None,
        }
    }
}

/// State and permission generation of a control word: what a waiter minds. Growth and limits do not concern it.
const MINDED: u64 = 0xff_ffff;

impl<'a, W: Words> Queue<'a, W> {
    /// Waits until the slot is settled. `last` is the place of whoever is awaited, `late` the answer when the operation's time is over. On an error the
    /// slot is given back.
    pub(super) fn wait(
        &self,
        world: &impl World,
        control: Control,
        unit: Unit,
        last: u16,
        late: MsgError,
    ) -> Result<Woken, MsgError> {
        let at = unit.at(slot::STATE);
        let mut turn = 0;
        let mut spinning = true;
        loop {
            // Acquire: [grant].
            let state = self.words.load32(at, Ordering::Acquire);
            if let Some(woken) = Woken::of(state) {
                return Ok(woken);
            }
            if spinning {
                match world.spin(turn, last) {
                    Spin::Again => turn = turn.saturating_add(1),
                    Spin::Enough => spinning = false,
                    Spin::Interrupted => return self.leave(world, unit, MsgError::Interrupted),
                }
                continue;
            }
            match state {
                // SeqCst: [sleep], [remove].
                slot::QUEUED => {
                    if self
                        .words
                        .compare_exchange32(
                            at,
                            slot::QUEUED,
                            slot::SLEEPING,
                            Ordering::SeqCst,
                            Ordering::Relaxed,
                        )
                        .is_err()
                    {
                        continue;
                    }
                }
                slot::SLEEPING => {}
                found => {
                    return Err(
                        super::view::corrupt("state of a waiting slot", found, slot::SLEEPING).into(),
                    );
                }
            }
            // SeqCst: [remove].
            let now = Control(self.words.load64(CONTROL_AT, Ordering::SeqCst));
            if now.state() != State::Live {
                // Nobody will use this queue again: the slot may stay as it is. A grant that came first counts.
                let state = self.words.load32(at, Ordering::Acquire);
                return Woken::of(state).ok_or(MsgError::Removed);
            }
            if (now.0 ^ control.0) & MINDED != 0 {
                return self.leave(world, unit, MsgError::Stale);
            }
            match world.sleep(at, slot::SLEEPING) {
                Slept::Look => {}
                Slept::TimedOut => return self.leave(world, unit, late),
                Slept::Interrupted => return self.leave(world, unit, MsgError::Interrupted),
            }
        }
    }

    /// The owner needs its settled slot no longer, nor the block that was handed over in it. Without the lock: whoever has it next frees both.
    #[inline]
    pub(super) fn done(&self, unit: Unit) {
        // Release: [done].
        self.words
            .store32(unit.at(slot::STATE), slot::DONE, Ordering::Release);
    }

    /// Gives up waiting, unless somebody was quicker.
    #[cold]
    fn leave(&self, world: &impl World, unit: Unit, why: MsgError) -> Result<Woken, MsgError> {
        self.locked(world, |queue| {
            let at = unit.at(slot::STATE);
            // Under the lock nobody settles it, but `remove` may still move it from SLEEPING to QUEUED.
            let state = queue.words.load32(at, Ordering::Acquire);
            if let Some(woken) = Woken::of(state) {
                return Ok(woken);
            }
            if queue.covered()? {
                queue.unlink(queue.list_of(unit)?, unit)?;
                queue.discard(unit)?;
            } else {
                // The neighbours may lie beyond what is mapped: whoever meets the slot takes it out.
                queue.words.store32(at, slot::LEFT, Ordering::Release);
            }
            Err(why)
        })
    }

    /// Wakes everybody who sleeps in the queue, so that they see the control word, which says already that the queue was removed (back-end only).
    /// Never blocks.
    pub fn remove(&self, world: &impl World) {
        self.stir(world);
    }

    /// Wakes everybody who sleeps in the queue, so that they see the control word with its new permission generation and leave with
    /// [`MsgError::Stale`] (back-end only). Never blocks.
    pub fn recheck(&self, world: &impl World) {
        self.stir(world);
    }

    fn stir(&self, world: &impl World) {
        // SeqCst: [remove]. The exchange of the word for itself puts the caller's store of it before the loads below.
        let control = self.words.load64(CONTROL_AT, Ordering::Relaxed);
        let _ =
            self.words
                .compare_exchange64(CONTROL_AT, control, control, Ordering::SeqCst, Ordering::Relaxed);
        let view = View::new(self.words);
        // Rubbish among the blocks of slots ends the walk: those beyond it look for themselves, later.
        let _: Result<(), Corrupt> = view.for_each_slot(|unit| {
            let at = unit.at(slot::STATE);
            // SeqCst: [remove].
            let state = self.words.load32(at, Ordering::SeqCst);
            if state == slot::SLEEPING {
                let (success, failure) = (Ordering::SeqCst, Ordering::Relaxed);
                let _ = self
                    .words
                    .compare_exchange32(at, slot::SLEEPING, slot::QUEUED, success, failure);
            }
            // Also those who are no longer SLEEPING: a former life of the back-end, or a granter, may have died before it woke them.
            if state != slot::FREE && state != slot::LEFT {
                world.wake(view.sleeper(unit));
            }
            Ok(())
        });
    }
}
