//! Real threads on one set: units wander between semaphores by every kind of operation, none gets lost, and nobody sleeps for ever.

use super::audit::audit;
use super::*;
use std::sync::{Condvar, Mutex};
use std::time::Duration;
use std::{thread, vec};
use vshmem_words::Ordering;

const NSEMS: u32 = 4;
const UNITS: u16 = 1;

#[derive(Default)]
struct Bell {
    gate: Mutex<()>,
    rings: Condvar,
}

struct Person<'a> {
    me: Me,
    heap: &'a Heap,
    bell: &'a Bell,
    spins: u32,
}

impl World for Person<'_> {
    fn me(&self) -> Me {
        self.me
    }
    fn seconds(&self) -> u64 {
        100
    }
    fn spin(&self, turn: u32, _last: u16) -> Spin {
        if turn < self.spins {
            Spin::Again
        } else {
            Spin::Enough
        }
    }
    fn lock_wait(&self, _owner: Owner, _turn: u32) -> LockWait {
        thread::yield_now();
        LockWait::Again
    }
    fn sleep(&self, at: usize, expected: u32) -> Slept {
        let gate = self.bell.gate.lock().unwrap();
        if self.heap.load32(at, Ordering::Acquire) != expected {
            return Slept::Look;
        }
        let (_gate, late) = self
            .bell
            .rings
            .wait_timeout(gate, Duration::from_secs(20))
            .unwrap();
        assert!(!late.timed_out(), "nobody woke the sleeper at {at}");
        Slept::Look
    }
    fn wake(&self, _sleeper: Sleeper) {
        drop(self.bell.gate.lock().unwrap());
        self.bell.rings.notify_all();
    }
}

/// Moves units about: each round takes from one semaphore and gives to another, in one of four ways.
fn wander(person: &Person<'_>, set: &SemSet<'_, Heap>, mut seed: u64) {
    let mut next = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let one = |ops: &[SemBuf]| assert_eq!(set.op(person, CONTROL, ops), Ok(()));
    for _ in 0..3000 {
        let from = next(u64::from(NSEMS)) as u16;
        let to = next(u64::from(NSEMS)) as u16;
        match next(4) {
            0 => {
                one(&[op(from, -1)]);
                one(&[op(to, 1)]);
            }
            1 => one(&[op(from, -1), op(to, 1)]),
            2 => {
                one(&[undo(from, -1)]);
                one(&[undo(from, 1)]);
            }
            _ => {
                one(&[op(from, -1), undo(to, 1)]);
                one(&[undo(to, -1), op(to, 1)]);
            }
        }
    }
}

#[test]
fn no_unit_is_lost_and_nobody_sleeps_for_ever() {
    let heap = made(NSEMS);
    let (set, bell) = (SemSet::at(&heap, NSEMS), Bell::default());
    set.set_all(&Puppet::new(9), CONTROL, &[UNITS; NSEMS as usize])
        .unwrap();
    let mut given = 0;
    thread::scope(|scope| {
        let mut threads = vec![];
        for client in 2..6u32 {
            let person = Person {
                me: Puppet::new(client).me,
                heap: &heap,
                bell: &bell,
                spins: client % 2 * 20,
            };
            let heap = &heap;
            threads.push(
                scope.spawn(move || wander(&person, &SemSet::at(heap, NSEMS), u64::from(client) * 7919)),
            );
        }
        // All may come to wait for the same empty semaphore: then one unit more somewhere, until they go on.
        let giver = Person {
            me: Puppet::new(6).me,
            heap: &heap,
            bell: &bell,
            spins: 0,
        };
        while threads.iter().any(|thread| !thread.is_finished()) {
            let alive = threads.iter().filter(|thread| !thread.is_finished()).count();
            if set.sleepers() as usize >= alive {
                set.op(&giver, CONTROL, &[op(given % NSEMS as u16, 1)]).unwrap();
                given += 1;
            }
            thread::yield_now();
        }
    });
    let mut values = vec![0; NSEMS as usize];
    set.values(&mut values);
    assert_eq!(values.iter().sum::<u16>(), UNITS * NSEMS as u16 + given);
    audit(&set);
    // All adjustments cancelled out: the deaths of all change nothing.
    (2..6).for_each(|client| kill(&set, &Puppet::new(1), &Puppet::new(client)));
    let mut after = vec![0; NSEMS as usize];
    set.values(&mut after);
    assert_eq!(values, after);
    assert_eq!(audit(&set), 0);
}
