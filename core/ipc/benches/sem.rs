//! Semaphores in the memory of one process: each iteration is one operation (increments and decrements take turns), and a handoff
//! between two threads is one round trip.
//!
//! The kernel's own semaphores are measured in `bench/`, between processes.
#![allow(unsafe_code)] // `Mapping::new` over leaked memory: the data path that clients use.

use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use vshmem_ipc::sem::SemSet;
use vshmem_ipc::sysv::{SEM_UNDO, SemBuf};
use vshmem_ipc::{Control, LockWait, Me, Owner, SemError, Sleeper, Slept, Spin, State, World};
use vshmem_words::Mapping;

const CONTROL: Control = Control::new(State::Live, 1, 1, 1);

/// A client thread that spins as long as it likes. The seconds come from memory that somebody else writes.
struct Spinner {
    me: Me,
    seconds: AtomicU64,
    stop: AtomicBool,
}

impl Spinner {
    fn new(client: u32) -> Self {
        Spinner {
            me: Me {
                client,
                thread: 1,
                domain: 1,
                pid: client,
                undo: client.into(),
                place: client as u16,
                ..Me::default()
            },
            seconds: AtomicU64::new(1),
            stop: AtomicBool::new(false),
        }
    }
}

impl World for Spinner {
    #[inline(always)]
    fn me(&self) -> Me {
        self.me
    }
    #[inline(always)]
    fn seconds(&self) -> u64 {
        self.seconds.load(Ordering::Relaxed)
    }
    fn spin(&self, turn: u32, _: u16) -> Spin {
        if self.stop.load(Ordering::Relaxed) {
            return Spin::Interrupted;
        }
        if turn % 10_000 == 9_999 {
            std::thread::yield_now();
        }
        spin_loop();
        Spin::Again
    }
    fn lock_wait(&self, _: Owner, turn: u32) -> LockWait {
        if turn % 1000 == 999 {
            std::thread::yield_now();
        }
        spin_loop();
        LockWait::Again
    }
    fn sleep(&self, _: usize, _: u32) -> Slept {
        std::thread::yield_now();
        Slept::Look
    }
    fn wake(&self, _: Sleeper) {}
}

fn set(nsems: u32) -> SemSet<'static, Mapping> {
    let bytes = SemSet::<Mapping>::bytes(nsems);
    let words = Box::leak(vec![0u64; bytes / 8].into_boxed_slice());
    // SAFETY: leaked, so it stays; the only reference to it ends here.
    let words: &Mapping = Box::leak(Box::new(unsafe {
        Mapping::new(words.as_mut_ptr().cast(), bytes)
    }));
    SemSet::format(words, nsems);
    CONTROL.store(words);
    SemSet::at(words, nsems)
}

fn one(num: u16, op: i16, flags: i16) -> SemBuf {
    SemBuf { num, op, flags }
}

fn taking_turns(c: &mut Criterion, name: &str, up: &[SemBuf], down: &[SemBuf]) {
    let (set, me) = (set(4), Spinner::new(2));
    let mut turn = false;
    c.bench_function(name, |b| {
        b.iter(|| {
            turn = !turn;
            let ops = if turn { up } else { down };
            black_box(&set).op(&me, CONTROL, black_box(ops)).unwrap();
        });
    });
}

fn alone(c: &mut Criterion) {
    taking_turns(c, "uncontended", &[one(0, 1, 0)], &[one(0, -1, 0)]);
    taking_turns(c, "undo", &[one(0, 1, SEM_UNDO)], &[one(0, -1, SEM_UNDO)]);
    let array = |op| [0, 1, 2, 3].map(|num| one(num, op, 0));
    taking_turns(c, "array_4", &array(1), &array(-1));
    let array = |op| [0, 1, 2, 3].map(|num| one(num, op, SEM_UNDO));
    taking_turns(c, "array_4_undo", &array(1), &array(-1));
}

/// One round trip: `give` wakes the other thread, which takes with `take` and answers in the same way on the other semaphore.
fn handoff(c: &mut Criterion, name: &str, take: impl Fn(u16) -> Vec<SemBuf>) {
    let (set, here) = (set(2), Spinner::new(2));
    let echo: &'static Spinner = Box::leak(Box::new(Spinner::new(3)));
    let (ask, answer) = (take(0), take(1));
    std::thread::scope(|scope| {
        let (set, ask) = (&set, &ask);
        scope.spawn(move || {
            loop {
                match set.op(echo, CONTROL, ask) {
                    Ok(()) => set.op(echo, CONTROL, &[one(1, 1, 0)]).unwrap(),
                    Err(SemError::Interrupted) => break,
                    Err(error) => panic!("{error:?}"),
                }
            }
        });
        c.bench_function(name, |b| {
            b.iter(|| {
                set.op(&here, CONTROL, &[one(0, 1, 0)]).unwrap();
                set.op(&here, CONTROL, &answer).unwrap();
            });
        });
        echo.stop.store(true, Ordering::Relaxed);
    });
}

fn between_threads(c: &mut Criterion) {
    handoff(c, "handoff_on_the_word", |num| vec![one(num, -1, 0)]);
    handoff(c, "handoff_through_a_slot", |num| {
        vec![one(num, -1, 0), one(num, 0, 0)]
    });
}

criterion_group!(benches, alone, between_threads);
criterion_main!(benches);
