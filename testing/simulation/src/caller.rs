//! A process in an operation, as the algorithms over construct memory see it.

use crate::baton::Status;
use crate::memory::Mapped;
use crate::process::{EIDRM, Image};
use vshmem_ipc::{LockWait, Me, Owner, Sleeper, Slept, Spin, World};
use vshmem_wire::{Kind, Request};
use vshmem_words::{Ordering, Words};

/// A process in an operation.
pub(crate) struct Caller<'a, 'w> {
    pub(crate) image: &'a Image<'a>,
    pub(crate) kind: Kind,
    pub(crate) id: i32,
    pub(crate) serial: u64,
    pub(crate) words: &'w Mapped<'w>,
}

impl World for Caller<'_, '_> {
    fn me(&self) -> Me {
        let image = self.image;
        Me {
            client: image.numbers.client,
            thread: 1,
            domain: image.domain,
            pid: image.pid,
            undo: image.numbers.undo,
            space: image.space,
            ticket: if image.space == 0 { 0 } else { image.me as u32 },
            place: image.me as u16,
        }
    }

    fn seconds(&self) -> u64 {
        self.image.sim.state().seconds
    }

    fn spin(&self, turn: u32, _: u16) -> Spin {
        if std::thread::panicking() || turn > 1 {
            return Spin::Enough;
        }
        self.image.sim.give_way(self.image.me);
        Spin::Again
    }

    fn lock_wait(&self, owner: Owner, turn: u32) -> LockWait {
        if std::thread::panicking() {
            return LockWait::Busy;
        }
        self.image.sim.give_way(self.image.me);
        if turn % 30 == 29 {
            let stuck = Request::LockStuck {
                kind: self.kind,
                id: self.id,
                owner: owner.0,
            };
            if self.image.request(stuck) == Err(EIDRM) {
                return LockWait::Busy;
            }
        }
        LockWait::Again
    }

    fn sleep(&self, at: usize, expected: u32) -> Slept {
        let (sim, me) = (self.image.sim, self.image.me);
        let Some(place) = self.words.place(at).filter(|_| !std::thread::panicking()) else {
            return Slept::TimedOut;
        };
        // A futex: nothing comes between the look and the sleep.
        if sim.pool.load32(place, Ordering::SeqCst) != expected {
            return Slept::Look;
        }
        match sim.below(40) {
            0 => Slept::Interrupted,
            1 => Slept::Look,
            _ => sim.block(
                me,
                Status::Sleeping {
                    serial: self.serial,
                    at,
                    place,
                    expected,
                    space: self.image.space,
                },
            ),
        }
    }

    fn wake(&self, sleeper: Sleeper) {
        if !std::thread::panicking() {
            self.image.sim.wake(self.serial, sleeper);
            // A bell costs time: others come in between.
            self.image.sim.step(self.image.me);
        }
    }
}
