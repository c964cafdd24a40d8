//! Models of what runs side by side, explored by loom: all interleavings up to a number of preemptions, with the memory orders of the code.
//!
//! Words that are read or written without the set's lock are loom's atomics: lock, control, semaphores, the states of the first slots. The
//! rest is plain memory, which the lock protects.

use super::*;
use crate::header::{CONTROL_AT, LOCK_AT};
use crate::sem::layout::{self, MEETING_AT, slot, word_at};
use loom::sync::atomic::{AtomicU32, AtomicU64};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use std::boxed::Box;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::vec;
use vshmem_words::Ordering;

const NSEMS: u32 = 2;
/// A value that no word has.
const RUBBISH: u64 = 0xdead_beef_dead_beef;

/// Construct memory of a model.
struct Shared {
    /// Loads are exchanges that fail.
    exact: bool,
    heap: Heap,
    w64: Vec<(usize, AtomicU64)>,
    w32: Vec<(usize, AtomicU32)>,
    gate: Mutex<()>,
    bell: Condvar,
}

impl Shared {
    fn new(exact: bool, values: [u16; 2]) -> Arc<Self> {
        Self::after(exact, values, &[])
    }
    /// With client 3 having done `history`.
    fn after(exact: bool, values: [u16; 2], history: &[SemBuf]) -> Arc<Self> {
        let heap = made(NSEMS);
        let set = SemSet::at(&heap, NSEMS);
        // The first semop makes sem_otime non-zero, so that the fast path is open; SETVAL sets the scene.
        set.op(&Puppet::new(9), CONTROL, &[op(0, 1)]).unwrap();
        set.set_all(&Puppet::new(9), CONTROL, &values).unwrap();
        set.op(&Puppet::new(3), CONTROL, history).unwrap();
        let state_at = |unit: usize| layout::arena_at(NSEMS) + unit * layout::UNIT + slot::STATE;
        let word = |at| (at, AtomicU64::new(heap.load64(at, Ordering::Relaxed)));
        let w64 = vec![
            word(CONTROL_AT),
            word(LOCK_AT),
            word(MEETING_AT),
            word(word_at(0)),
            word(word_at(1)),
        ];
        let w32 = (0..2).map(|unit| (state_at(unit), AtomicU32::new(0))).collect();
        Arc::new(Shared {
            exact,
            heap,
            w64,
            w32,
            gate: Mutex::new(()),
            bell: Condvar::new(),
        })
    }
    fn find64(&self, at: usize) -> Option<&AtomicU64> {
        self.w64.iter().find(|w| w.0 == at).map(|w| &w.1)
    }
    fn find32(&self, at: usize) -> Option<&AtomicU32> {
        self.w32.iter().find(|w| w.0 == at).map(|w| &w.1)
    }
    fn set(&self) -> SemSet<'_, Shared> {
        SemSet::at(self, NSEMS)
    }
}

impl Words for Shared {
    fn len(&self) -> usize {
        self.heap.len()
    }
    fn load32(&self, at: usize, order: Ordering) -> u32 {
        match self.find32(at) {
            Some(word) if self.exact => word
                .compare_exchange(RUBBISH as _, RUBBISH as _, order, order)
                .unwrap_or_else(|found| found),
            Some(word) => word.load(order),
            None => self.heap.load32(at, order),
        }
    }
    fn store32(&self, at: usize, value: u32, order: Ordering) {
        match self.find32(at) {
            Some(word) => word.store(value, order),
            None => self.heap.store32(at, value, order),
        }
    }
    fn compare_exchange32(
        &self,
        at: usize,
        cur: u32,
        new: u32,
        s: Ordering,
        f: Ordering,
    ) -> Result<u32, u32> {
        match self.find32(at) {
            Some(word) => word.compare_exchange(cur, new, s, f),
            None => self.heap.compare_exchange32(at, cur, new, s, f),
        }
    }
    fn load64(&self, at: usize, order: Ordering) -> u64 {
        match self.find64(at) {
            Some(word) if self.exact => word
                .compare_exchange(RUBBISH as _, RUBBISH as _, order, order)
                .unwrap_or_else(|found| found),
            Some(word) => word.load(order),
            None => self.heap.load64(at, order),
        }
    }
    fn store64(&self, at: usize, value: u64, order: Ordering) {
        match self.find64(at) {
            Some(word) => word.store(value, order),
            None => self.heap.store64(at, value, order),
        }
    }
    fn compare_exchange64(
        &self,
        at: usize,
        cur: u64,
        new: u64,
        s: Ordering,
        f: Ordering,
    ) -> Result<u64, u64> {
        match self.find64(at) {
            Some(word) => word.compare_exchange(cur, new, s, f),
            None => self.heap.compare_exchange64(at, cur, new, s, f),
        }
    }
    fn copy_out(&self, at: usize, into: &mut [u8]) -> bool {
        self.heap.copy_out(at, into)
    }
    fn copy_in(&self, at: usize, from: &[u8]) -> bool {
        self.heap.copy_in(at, from)
    }
    fn zero(&self, at: usize, bytes: usize) -> bool {
        self.heap.zero(at, bytes)
    }
}

/// A thread of a model. Sleeping is a condition variable, so that a lost wake-up is a deadlock, which loom reports.
struct Person {
    me: Me,
    shared: Arc<Shared>,
    /// Gives up on a lock after so many looks.
    patience: u32,
    /// Sleeps end at once with a time-out.
    hasty: bool,
}

impl Person {
    fn new(shared: &Arc<Shared>, client: u32) -> Self {
        Person {
            me: Puppet::new(client).me,
            shared: shared.clone(),
            patience: u32::MAX,
            hasty: false,
        }
    }
    fn op(&self, ops: &[SemBuf]) -> Result<(), SemError> {
        self.shared.set().op(self, CONTROL, ops)
    }
}

impl World for Person {
    fn me(&self) -> Me {
        self.me
    }
    fn seconds(&self) -> u64 {
        100
    }
    fn spin(&self, _turn: u32, _last: u16) -> Spin {
        Spin::Enough
    }
    fn lock_wait(&self, _owner: Owner, turn: u32) -> LockWait {
        if turn >= self.patience {
            return LockWait::Busy;
        }
        thread::yield_now();
        LockWait::Again
    }
    fn sleep(&self, at: usize, expected: u32) -> Slept {
        if self.hasty {
            return Slept::TimedOut;
        }
        let gate = self.shared.gate.lock().unwrap();
        if self.shared.load32(at, Ordering::SeqCst) == expected {
            drop(self.shared.bell.wait(gate).unwrap());
        }
        Slept::Look
    }
    fn wake(&self, _sleeper: Sleeper) {
        drop(self.shared.gate.lock().unwrap());
        self.shared.bell.notify_all();
    }
}

/// Explores `body` twice. Loom looks for other orders of a word's last two accesses only, so it overlooks what could happen between another
/// thread's access and a thread's own load of a word that it then exchanges. With loads made as exchanges that fail it overlooks less, and gives
/// no stale loads. So: once each way.
fn model(preemptions: usize, body: impl Fn(bool) + Copy + Sync + Send + 'static) {
    for exact in [false, true] {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(preemptions);
        builder.max_branches = 20_000;
        builder.check(move || body(exact));
    }
}

fn values(shared: &Shared) -> [u16; 2] {
    [shared.set().value(0), shared.set().value(1)]
}

#[test]
fn the_lock_is_handed_over() {
    model(2, |exact| {
        let shared = Shared::new(exact, [0, 0]);
        let other = Person::new(&shared, 3);
        let thread = thread::spawn(move || other.op(&[op(0, 1), op(1, 1)]).unwrap());
        Person::new(&shared, 2).op(&[undo(1, 2)]).unwrap();
        thread.join().unwrap();
        assert_eq!(values(&shared), [1, 3]);
    });
}

#[test]
fn a_fast_path_beside_a_locked_one_loses_nothing() {
    model(3, |exact| {
        let shared = Shared::new(exact, [1, 0]);
        let other = Person::new(&shared, 3);
        let thread = thread::spawn(move || other.op(&[op(0, 1), op(1, 1)]).unwrap());
        let person = Person::new(&shared, 2);
        person.op(&[op(0, 1)]).unwrap();
        person.op(&[op(0, -1)]).unwrap();
        thread.join().unwrap();
        assert_eq!(values(&shared), [2, 1]);
    });
}

#[test]
fn no_wake_up_is_lost_from_a_fast_path() {
    model(3, |exact| {
        let shared = Shared::new(exact, [0, 0]);
        let other = Person::new(&shared, 3);
        let thread = thread::spawn(move || other.op(&[op(0, -1)]).unwrap());
        Person::new(&shared, 2).op(&[op(0, 1)]).unwrap();
        thread.join().unwrap();
        assert_eq!(values(&shared), [0, 0]);
        audit::audit(&SemSet::at(&*shared, NSEMS));
    });
}

#[test]
fn no_wake_up_is_lost_of_an_array() {
    model(2, |exact| {
        let shared = Shared::new(exact, [0, 1]);
        let other = Person::new(&shared, 3);
        let thread = thread::spawn(move || other.op(&[op(1, -1), undo(0, -1)]).unwrap());
        let person = Person::new(&shared, 2);
        person.op(&[op(0, 1)]).unwrap();
        person.op(&[op(1, 0)]).unwrap();
        thread.join().unwrap();
        assert_eq!(values(&shared), [0, 0]);
    });
}

#[test]
fn removal_reaches_a_sleeper_that_is_just_lying_down() {
    model(3, |exact| {
        let shared = Shared::new(exact, [0, 0]);
        let other = Person::new(&shared, 3);
        let thread = thread::spawn(move || {
            assert_eq!(other.op(&[op(0, -1)]), Err(SemError::Removed));
        });
        let backend = Person::new(&shared, 1);
        CONTROL.with_state(State::Removed).store(&*shared);
        shared.set().remove(&backend);
        thread.join().unwrap();
    });
}

#[test]
fn a_time_out_beside_a_grant_is_one_or_the_other() {
    model(3, |exact| {
        let shared = Shared::new(exact, [0, 0]);
        let mut other = Person::new(&shared, 3);
        other.hasty = true;
        let thread = thread::spawn(move || other.op(&[op(0, -1)]));
        Person::new(&shared, 2).op(&[op(0, 1)]).unwrap();
        let left = match thread.join().unwrap() {
            Ok(()) => 0,
            Err(error) => {
                assert_eq!(error, SemError::Again);
                1
            }
        };
        assert_eq!(values(&shared), [left, 0]);
        audit::audit(&SemSet::at(&*shared, NSEMS));
    });
}

/// Construct memory of a thread that is killed at its `fatal`th store.
struct Mortal {
    shared: Arc<Shared>,
    left: AtomicUsize,
}

impl Mortal {
    /// Whether the store happens; unwinds at the fatal one.
    fn lives(&self) -> bool {
        match self.left.load(Relaxed) {
            0 => false,
            1 => {
                self.left.store(0, Relaxed);
                resume_unwind(Box::new(()))
            }
            left => {
                self.left.store(left - 1, Relaxed);
                true
            }
        }
    }
}

impl Words for Mortal {
    fn len(&self) -> usize {
        self.shared.len()
    }
    fn load32(&self, at: usize, order: Ordering) -> u32 {
        self.shared.load32(at, order)
    }
    fn store32(&self, at: usize, value: u32, order: Ordering) {
        if self.lives() {
            self.shared.store32(at, value, order);
        }
    }
    fn compare_exchange32(
        &self,
        at: usize,
        cur: u32,
        new: u32,
        s: Ordering,
        f: Ordering,
    ) -> Result<u32, u32> {
        if self.lives() {
            self.shared.compare_exchange32(at, cur, new, s, f)
        } else {
            Err(!cur)
        }
    }
    fn load64(&self, at: usize, order: Ordering) -> u64 {
        self.shared.load64(at, order)
    }
    fn store64(&self, at: usize, value: u64, order: Ordering) {
        if self.lives() {
            self.shared.store64(at, value, order);
        }
    }
    fn compare_exchange64(
        &self,
        at: usize,
        cur: u64,
        new: u64,
        s: Ordering,
        f: Ordering,
    ) -> Result<u64, u64> {
        if self.lives() {
            self.shared.compare_exchange64(at, cur, new, s, f)
        } else {
            Err(!cur)
        }
    }
    fn copy_out(&self, at: usize, into: &mut [u8]) -> bool {
        self.shared.copy_out(at, into)
    }
    fn copy_in(&self, at: usize, from: &[u8]) -> bool {
        self.lives() && self.shared.copy_in(at, from)
    }
    fn zero(&self, at: usize, bytes: usize) -> bool {
        self.lives() && self.shared.zero(at, bytes)
    }
}

type Deed = fn(&SemSet<'_, Mortal>, &Person) -> Result<(), SemError>;

#[derive(Clone, Copy)]
struct Scene {
    values: [u16; 2],
    /// What the one to be killed has done before.
    history: &'static [SemBuf],
    /// What it is doing when it is killed.
    deed: Deed,
    /// What another tries once meanwhile, on the fast path if it can.
    other: SemBuf,
    /// The undo list that the sweep applies.
    undo: Option<u64>,
    /// Judges whether the other succeeded, and the values after the sweep.
    right: fn(bool, [u16; 2]) -> bool,
}

/// Plays a scene with the thread killed at its `fatal`th store.
fn killed_beside_a_fast_path(fatal: usize, scene: Scene) {
    model(2, move |exact| {
        let Scene {
            values: before,
            history,
            deed,
            other,
            undo,
            right,
        } = scene;
        let shared = Shared::after(exact, before, history);
        let victim = Person::new(&shared, 3);
        let thread = thread::spawn(move || {
            let mortal = Mortal {
                shared: victim.shared.clone(),
                left: AtomicUsize::new(fatal),
            };
            let set = SemSet::at(&mortal, NSEMS);
            let _ = catch_unwind(AssertUnwindSafe(|| deed(&set, &victim)));
        });
        let mut person = Person::new(&shared, 2);
        person.patience = 1;
        let result = person.op(&[other]);
        assert!(matches!(
            result,
            Ok(()) | Err(SemError::LockBusy | SemError::Again)
        ));
        thread.join().unwrap();
        let dead = Dead { client: 3, undo };
        let set = shared.set();
        assert_eq!(set.sweep(&Person::new(&shared, 1), dead), Ok(Sweep::Done));
        audit::audit(&set);
        let values = values(&shared);
        assert!(right(result.is_ok(), values), "{fatal}: {result:?} {values:?}");
    });
}

#[test]
fn an_array_killed_beside_a_fast_path_loses_nothing() {
    let scene = Scene {
        values: [0, 0],
        history: &[],
        deed: |set, me| set.op(me, CONTROL, &[op(0, 1), undo(1, 2)]),
        other: op(0, 4),
        undo: None,
        right: |other, values| {
            let more = if other { 4 } else { 0 };
            values == [more, 0] || values == [more + 1, 2]
        },
    };
    (1..40).for_each(|fatal| killed_beside_a_fast_path(fatal, scene));
}

#[test]
fn a_setval_killed_beside_a_fast_path_happens_once() {
    let scene = Scene {
        values: [0, 0],
        history: &[],
        deed: |set, me| set.set_value(me, CONTROL, 0, 10),
        // Whoever took all ten has seen the SETVAL: replaying it must not bring them back.
        other: nowait(0, -10),
        undo: None,
        right: |other, values| values[0] == 0 || !other && values[0] == 10,
    };
    (1..20).for_each(|fatal| killed_beside_a_fast_path(fatal, scene));
}

#[test]
fn a_sweep_killed_beside_a_fast_path_applies_undo_once() {
    const TOOK_TEN: &[SemBuf] = &[SemBuf {
        num: 0,
        op: -10,
        flags: SEM_UNDO,
    }];
    let scene = Scene {
        values: [10, 0],
        history: TOOK_TEN,
        deed: |set, me| {
            let dead = Dead {
                client: 3,
                undo: Some(me.me.undo),
            };
            set.sweep(me, dead).map(|_| ()).map_err(SemError::from)
        },
        other: nowait(0, -10),
        undo: Some(Puppet::new(3).me.undo),
        right: |other, values| values[0] == if other { 0 } else { 10 },
    };
    (1..40).for_each(|fatal| killed_beside_a_fast_path(fatal, scene));
}
