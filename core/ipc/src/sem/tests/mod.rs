//! Tests of V-sem: the harness they share. Sleepers are simulated in one thread: an operation that goes to sleep unwinds out of the
//! world's `sleep` (no lock is held there), and is taken up again where it lay down.

mod audit;
mod deaths;
mod hostile;
mod model;
mod models;
mod rules;
mod threads;
mod watched;

use super::arena::Unit;
use super::slot::Slot;
use super::{Dead, SemError, SemSet, Sweep};
use crate::sysv::{IPC_NOWAIT, SEM_UNDO, SemBuf};
use crate::{Control, LockWait, Me, Owner, Sleeper, Slept, Spin, State, World};
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::vec::Vec;
use vshmem_words::{Heap, Words};

pub(super) const CONTROL: Control = Control::new(State::Live, 1, 1, 1);

/// The payload of an unwinding that means: gone to sleep, watching this word.
struct Parked(usize);

/// A world whose thread never really sleeps.
pub(super) struct Puppet {
    pub(super) me: Me,
    pub(super) now: Cell<u64>,
    /// What the next sleep gives; without it, the operation is parked.
    pub(super) sleep: Cell<Option<Slept>>,
    pub(super) spins: Cell<u32>,
    pub(super) woken: RefCell<Vec<Sleeper>>,
    /// Called at every spin, before the word is looked at again.
    pub(super) at_spin: RefCell<Option<std::boxed::Box<dyn FnMut()>>>,
}

impl Puppet {
    pub(super) fn new(client: u32) -> Self {
        Puppet {
            me: Me {
                client,
                thread: 1,
                domain: 3,
                pid: 1000 + client,
                undo: u64::from(client) * 1_000_003,
                space: 0,
                ticket: 0,
                place: 1,
            },
            now: Cell::new(100),
            sleep: Cell::new(None),
            spins: Cell::new(0),
            woken: RefCell::new(Vec::new()),
            at_spin: RefCell::new(None),
        }
    }
}

impl World for Puppet {
    fn me(&self) -> Me {
        self.me
    }
    fn seconds(&self) -> u64 {
        self.now.get()
    }
    fn spin(&self, turn: u32, _last: u16) -> Spin {
        if let Some(work) = self.at_spin.borrow_mut().as_mut() {
            work();
        }
        if turn < self.spins.get() {
            Spin::Again
        } else {
            Spin::Enough
        }
    }
    fn lock_wait(&self, _owner: Owner, _turn: u32) -> LockWait {
        LockWait::Busy
    }
    fn sleep(&self, at: usize, _expected: u32) -> Slept {
        match self.sleep.take() {
            Some(slept) => slept,
            None => resume_unwind(std::boxed::Box::new(Parked(at))),
        }
    }
    fn wake(&self, sleeper: Sleeper) {
        // Whoever is killed wakes nobody, though its values are dropped as in an unwinding.
        if !std::thread::panicking() {
            self.woken.borrow_mut().push(sleeper);
        }
    }
}

/// How a simulated operation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stand {
    Ended(Result<(), SemError>),
    /// Asleep in the slot of this unit.
    Asleep(usize),
}

fn park(work: impl FnOnce() -> Result<(), SemError>) -> Stand {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => Stand::Ended(result),
        Err(payload) => match payload.downcast::<Parked>() {
            Ok(parked) => Stand::Asleep(parked.0 - super::layout::slot::STATE),
            Err(other) => resume_unwind(other),
        },
    }
}

/// A formatted set in plain memory.
pub(super) fn made(nsems: u32) -> Heap {
    let bytes = SemSet::<Heap>::bytes(nsems);
    let heap = Heap::with_room(bytes, bytes + 4 * SemSet::<Heap>::extent_bytes(nsems));
    SemSet::format(&heap, nsems);
    CONTROL.store(&heap);
    heap
}

/// Starts an operation.
pub(super) fn start<W: Words>(set: &SemSet<'_, W>, world: &Puppet, ops: &[SemBuf]) -> Stand {
    park(|| set.op(world, CONTROL, ops))
}

/// The slot at an offset.
pub(super) fn slot_at<W: Words>(set: &SemSet<'_, W>, at: usize) -> Slot {
    let link = (at - super::layout::arena_at(set.nsems)) / super::layout::UNIT + 1;
    let unit: Unit = set.follow("slot", link as u32).unwrap().unwrap();
    set.slot(unit).unwrap()
}

/// Takes up a sleeping operation again.
pub(super) fn look<W: Words>(set: &SemSet<'_, W>, world: &Puppet, at: usize) -> Stand {
    let slot = slot_at(set, at);
    park(|| set.wait(world, CONTROL, &slot, 0, 0))
}

/// Takes up a sleeping operation with a signal or a time-out.
pub(super) fn end<W: Words>(
    set: &SemSet<'_, W>,
    world: &Puppet,
    at: usize,
    how: Slept,
) -> Result<(), SemError> {
    world.sleep.set(Some(how));
    match look(set, world, at) {
        Stand::Ended(result) => result,
        Stand::Asleep(_) => panic!("still asleep"),
    }
}

pub(super) fn op(num: u16, op: i16) -> SemBuf {
    SemBuf { num, op, flags: 0 }
}
pub(super) fn nowait(num: u16, op: i16) -> SemBuf {
    SemBuf {
        num,
        op,
        flags: IPC_NOWAIT,
    }
}
pub(super) fn undo(num: u16, op: i16) -> SemBuf {
    SemBuf {
        num,
        op,
        flags: SEM_UNDO,
    }
}

pub(super) fn kill<W: Words>(set: &SemSet<'_, W>, backend: &Puppet, client: &Puppet) {
    let dead = Dead {
        client: client.me.client,
        undo: Some(client.me.undo),
    };
    assert_eq!(set.sweep(backend, dead), Ok(Sweep::Done));
}
