//! The back-end as the algorithms over construct memory see it: it never waits, and it wakes whomever they say.

use crate::process::pages;
use std::cell::RefCell;
use std::collections::BTreeSet;
use vshmem_ipc::{LockWait, Me, Owner, Sleeper, Slept, Spin, World};
use vshmem_words::Mapping;

/// Looks at a held lock on a caller's behalf: some tens of microseconds, as a section takes a fraction of one. Whoever was stopped inside it makes
/// others' calls fail as if they had to wait.
const SPIN: u32 = 2000;

/// For one operation on one construct.
#[derive(Debug)]
pub(super) struct BackWorld<'a> {
    me: Me,
    seconds: u64,
    mapping: &'a Mapping,
    patience: u32,
    rung: RefCell<BTreeSet<u16>>,
}

impl<'a> BackWorld<'a> {
    /// The back-end itself.
    pub(super) fn new(mapping: &'a Mapping) -> Self {
        let me = Me {
            client: vshmem_ipc::lock::BACKEND,
            thread: 1,
            place: Me::NOWHERE,
            ..Me::default()
        };
        BackWorld {
            me,
            seconds: pages::as_programs_see_it(),
            mapping,
            patience: 0,
            rung: RefCell::new(BTreeSet::new()),
        }
    }

    /// On behalf of a client.
    pub(super) fn on_behalf(mapping: &'a Mapping, pid: vshmem_wire::Pid, undo: u64) -> Self {
        let mut world = Self::new(mapping);
        world.me.domain = pid.domain;
        world.me.pid = pid.pid;
        world.me.undo = undo;
        world.patience = SPIN;
        world
    }

    /// The other spaces in which somebody is to be woken.
    pub(super) fn rung(self) -> BTreeSet<u16> {
        self.rung.into_inner()
    }
}

impl World for BackWorld<'_> {
    fn me(&self) -> Me {
        self.me
    }
    fn seconds(&self) -> u64 {
        self.seconds
    }
    fn spin(&self, _turn: u32, _last: u16) -> Spin {
        Spin::Enough
    }
    fn lock_wait(&self, _owner: Owner, turn: u32) -> LockWait {
        if turn >= self.patience {
            return LockWait::Busy;
        }
        std::hint::spin_loop();
        LockWait::Again
    }
    fn sleep(&self, _at: usize, _expected: u32) -> Slept {
        Slept::TimedOut
    }
    fn wake(&self, sleeper: Sleeper) {
        if sleeper.space == 0 {
            pages::wake_futex(self.mapping, sleeper.at);
        } else {
            self.rung.borrow_mut().insert(sleeper.space);
        }
    }
}
