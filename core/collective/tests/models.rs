//! Models of teams, explored by loom: all interleavings up to a number of preemptions, with the memory orders of the code.
//!
//! Every 64-bit word that the parties touch is loom's atomic; a slot's bytes are such words, read and written relaxed, so that what a party may see
//! of them is what the signals' orders promise and no more. Sleeping is a semaphore, so that a lost wake-up is a deadlock, which loom reports.

use loom::sync::atomic::{AtomicU64, Ordering as O};
use loom::sync::{Arc, Condvar, Mutex};
use std::collections::BTreeMap;
use vshmem_collective::{Crew, Member, Operation};
use vshmem_words::{Ordering, Words};

const LINE: usize = 64;
const BLOCK: usize = 18 * LINE;

struct Shared {
    words: BTreeMap<usize, AtomicU64>,
    units: Vec<(Mutex<u32>, Condvar)>,
}

impl Shared {
    fn new(parties: usize) -> Arc<Shared> {
        let mut places = Vec::new();
        for rank in 0..parties {
            places.extend((0..18).map(|line| LINE + rank * BLOCK + line * LINE));
            let slots = vshmem_collective::control_bytes(parties).next_multiple_of(4096);
            places.extend((0..2).map(|parity| slots + (2 * rank + parity) * vshmem_collective::CHUNK));
        }
        Arc::new(Shared {
            words: places.into_iter().map(|at| (at, AtomicU64::new(0))).collect(),
            units: (0..parties).map(|_| (Mutex::new(0), Condvar::new())).collect(),
        })
    }
}

impl Words for Shared {
    fn len(&self) -> usize {
        usize::MAX
    }
    fn load32(&self, _at: usize, _order: Ordering) -> u32 {
        unreachable!("collectives use 64-bit words")
    }
    fn store32(&self, _at: usize, _value: u32, _order: Ordering) {
        unreachable!("collectives use 64-bit words")
    }
    fn compare_exchange32(&self, _: usize, _: u32, _: u32, _: Ordering, _: Ordering) -> Result<u32, u32> {
        unreachable!("collectives use 64-bit words")
    }
    fn load64(&self, at: usize, order: Ordering) -> u64 {
        self.words[&at].load(order)
    }
    fn store64(&self, at: usize, value: u64, order: Ordering) {
        self.words[&at].store(value, order);
    }
    fn compare_exchange64(
        &self,
        at: usize,
        current: u64,
        new: u64,
        s: Ordering,
        f: Ordering,
    ) -> Result<u64, u64> {
        self.words[&at].compare_exchange(current, new, s, f)
    }
    fn copy_out(&self, at: usize, into: &mut [u8]) -> bool {
        into.copy_from_slice(&self.words[&at].load(O::Relaxed).to_ne_bytes());
        true
    }
    fn copy_in(&self, at: usize, from: &[u8]) -> bool {
        self.words[&at].store(u64::from_ne_bytes(from.try_into().unwrap()), O::Relaxed);
        true
    }
    fn zero(&self, _at: usize, _bytes: usize) -> bool {
        unreachable!("collectives zero nothing")
    }
}

struct Person(Arc<Shared>, usize);

impl Crew for Person {
    type Error = ();
    fn spin(&self, _turn: u32) -> bool {
        false
    }
    fn sleep(&self) -> Result<(), ()> {
        let (unit, bell) = &self.0.units[self.1];
        let mut unit = unit.lock().unwrap();
        while *unit == 0 {
            unit = bell.wait(unit).unwrap();
        }
        *unit -= 1;
        Ok(())
    }
    fn wake(&self, rank: usize) {
        let (unit, bell) = &self.0.units[rank];
        *unit.lock().unwrap() += 1;
        bell.notify_one();
    }
    fn gone(&self, _rank: usize) -> Result<bool, ()> {
        Ok(false)
    }
}

/// Explores `work`, done by every party of a team.
fn explore(parties: usize, preemptions: usize, work: fn(&mut Member, &Shared, &Person)) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(move || {
        let shared = Shared::new(parties);
        let one = move |shared: &Arc<Shared>, rank: usize| {
            let mut member = Member::new(parties, rank).unwrap();
            work(&mut member, shared, &Person(shared.clone(), rank));
        };
        let others: Vec<_> = (1..parties)
            .map(|rank| {
                let shared = shared.clone();
                loom::thread::spawn(move || one(&shared, rank))
            })
            .collect();
        one(&shared, 0);
        for other in others {
            other.join().unwrap();
        }
    });
}

#[test]
fn two_parties_meet_again_and_again_and_no_wake_up_is_lost() {
    explore(2, 3, |member, shared, person| {
        for _ in 0..3 {
            member.barrier(shared, person).unwrap();
        }
    });
}

#[test]
fn three_parties_meet() {
    explore(3, 2, |member, shared, person| {
        member.barrier(shared, person).unwrap();
    });
}

#[test]
fn a_slot_used_again_was_read_by_all() {
    explore(2, 3, |member, shared, person| {
        for round in 1..=3 {
            let mut x = [round * 10 + member.rank() as u64];
            member.allreduce(shared, person, Operation::Sum, &mut x).unwrap();
            assert_eq!(x, [round * 20 + 1]);
        }
    });
}

#[test]
fn what_the_root_says_is_what_all_hear() {
    explore(2, 3, |member, shared, person| {
        for root in [0, 0, 1] {
            let mut text = [member.rank() as u8 + 7; 8];
            member.broadcast(shared, person, root, &mut text).unwrap();
            assert_eq!(text, [root as u8 + 7; 8]);
        }
    });
}

#[test]
fn rank_0_says_farewell_last() {
    explore(3, 2, |member, shared, person| {
        member.farewell(shared, person).unwrap();
    });
}
