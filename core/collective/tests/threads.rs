//! Teams of threads over plain memory: results, deaths, and peers that write rubbish.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};
use vshmem_collective::{Crew, Element, Failure, MOST_PARTIES, Member, Operation, bytes};
use vshmem_words::{Heap, Scribbled};

/// What the parties share beside the memory: a semaphore each, and who is gone.
struct Town {
    units: Vec<(Mutex<u32>, Condvar)>,
    gone: Vec<AtomicBool>,
    /// When a sleeper gives up.
    until: Instant,
}

impl Town {
    fn new(parties: usize) -> Town {
        Town {
            units: (0..parties).map(|_| Default::default()).collect(),
            gone: (0..parties).map(|_| AtomicBool::new(false)).collect(),
            until: Instant::now() + Duration::from_secs(20),
        }
    }
}

struct Citizen<'a>(&'a Town, usize);

impl Crew for Citizen<'_> {
    type Error = &'static str;
    fn spin(&self, turn: u32) -> bool {
        std::hint::spin_loop();
        turn < 20
    }
    fn sleep(&self) -> Result<(), &'static str> {
        let (unit, bell) = &self.0.units[self.1];
        let (mut unit, _) = bell
            .wait_timeout_while(unit.lock().unwrap(), Duration::from_millis(20), |u| *u == 0)
            .unwrap();
        *unit = unit.saturating_sub(1);
        if Instant::now() < self.0.until {
            Ok(())
        } else {
            Err("waited in vain")
        }
    }
    fn wake(&self, rank: usize) {
        let (unit, bell) = &self.0.units[rank];
        *unit.lock().unwrap() += 1;
        bell.notify_one();
    }
    fn gone(&self, rank: usize) -> Result<bool, &'static str> {
        Ok(self.0.gone[rank].load(SeqCst))
    }
}

/// Runs `work` as each party of a team, in a thread each.
fn team<R: Send>(parties: usize, work: impl Fn(Member, &Heap, &Citizen<'_>) -> R + Sync) -> Vec<R> {
    let (heap, town) = (Heap::new(bytes(parties)), Town::new(parties));
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..parties)
            .map(|rank| {
                let (work, heap, town) = (&work, &heap, &town);
                scope.spawn(move || work(Member::new(parties, rank).unwrap(), heap, &Citizen(town, rank)))
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

/// Sums of numbers that differ by party and place, longer than a slot.
fn sums<T: Element + Send + PartialEq + std::fmt::Debug + From<u8>>() {
    for parties in [1, 2, 3, 5, 8, 9, 12] {
        for length in [1, 3, 1500] {
            let own = |rank: usize| -> Vec<T> {
                (0..length)
                    .map(|i| T::from(((rank + 1) * (i % 2 + 1)) as u8))
                    .collect()
            };
            let total = (1..=parties).sum::<usize>() as u8;
            let expected: Vec<T> = (0..length).map(|i| T::from(total * (i % 2 + 1) as u8)).collect();
            let results = team(parties, |mut member, heap, crew| {
                let (mut all, mut one) = (own(member.rank()), own(member.rank()));
                let root = parties / 2;
                for _ in 0..3 {
                    all = own(member.rank());
                    member.allreduce(heap, crew, Operation::Sum, &mut all).unwrap();
                    one = own(member.rank());
                    member.reduce(heap, crew, root, Operation::Sum, &mut one).unwrap();
                }
                (all, one)
            });
            for (rank, (all, one)) in results.into_iter().enumerate() {
                assert_eq!(all, expected, "{parties} parties, rank {rank}");
                let one_expected = if rank == parties / 2 {
                    expected.clone()
                } else {
                    own(rank)
                };
                assert_eq!(one, one_expected, "{parties} parties, rank {rank}");
            }
        }
    }
}

#[test]
fn sums_of_every_type_and_many_sizes_of_team() {
    sums::<i32>();
    sums::<u32>();
    sums::<i64>();
    sums::<u64>();
    sums::<f32>();
    sums::<f64>();
}

#[test]
fn everybody_gets_the_same_bits() {
    for parties in [7, 13] {
        let results = team(parties, |mut member, heap, crew| {
            let mut x = [1.0 / (3.0 + member.rank() as f64)];
            member.allreduce(heap, crew, Operation::Sum, &mut x).unwrap();
            x[0].to_bits()
        });
        assert!(results.iter().all(|bits| *bits == results[0]), "{results:?}");
    }
}

#[test]
fn every_root_is_heard_by_all() {
    for parties in [1, 2, 6, 11] {
        let results = team(parties, |mut member, heap, crew| {
            (0..parties).all(|root| {
                let mut text = vec![member.rank() as u8; 20_000];
                member.broadcast(heap, crew, root, &mut text).unwrap();
                text.iter().all(|byte| usize::from(*byte) == root)
            })
        });
        assert!(results.into_iter().all(|right| right), "{parties}");
    }
}

#[test]
fn nobody_passes_a_barrier_before_all_have_come() {
    for parties in [2, 3, 10] {
        let come = std::sync::atomic::AtomicUsize::new(0);
        team(parties, |mut member, heap, crew| {
            for round in 1..=50 {
                come.fetch_add(1, SeqCst);
                member.barrier(heap, crew).unwrap();
                assert!(come.load(SeqCst) >= round * parties);
                member.barrier(heap, crew).unwrap();
            }
            member.farewell(heap, crew).unwrap();
        });
    }
}

#[test]
fn a_party_that_dies_gives_the_others_an_error() {
    for (parties, dying) in [(2, 1), (3, 0), (12, 5)] {
        let results = team(parties, |mut member, heap, crew| {
            let mut x = [1u32];
            member.allreduce(heap, crew, Operation::Max, &mut x).unwrap();
            if member.rank() == dying {
                crew.0.gone[dying].store(true, SeqCst);
                return Err(Failure::Lost(dying));
            }
            let lost = member.barrier(heap, crew);
            // Whoever has noticed leaves, as a program that ends on errors would.
            crew.0.gone[member.rank()].store(true, SeqCst);
            assert_eq!(member.barrier(heap, crew), lost, "a broken team stays broken");
            lost
        });
        for (rank, result) in results.into_iter().enumerate() {
            assert!(
                matches!(result, Err(Failure::Lost(lost)) if lost != rank || rank == dying),
                "{result:?}"
            );
        }
    }
}

#[test]
fn a_party_that_has_done_its_part_may_leave() {
    for parties in [2, 5, 9] {
        let results = team(parties, |mut member, heap, crew| {
            // Later ranks come later, so the early ones sleep while others are through already.
            std::thread::sleep(Duration::from_millis(5 * member.rank() as u64));
            let result = member.barrier(heap, crew);
            crew.0.gone[member.rank()].store(true, SeqCst);
            result
        });
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    }
}

#[test]
fn roots_and_operations_that_do_not_exist_are_refused_and_harm_nothing() {
    team(2, |mut member, heap, crew| {
        assert_eq!(member.broadcast(heap, crew, 2, &mut [0]), Err(Failure::Unfit));
        let mut x = [1.0f32];
        assert_eq!(
            member.allreduce(heap, crew, Operation::Xor, &mut x),
            Err(Failure::Unfit)
        );
        assert_eq!(
            member.reduce(heap, crew, 9, Operation::Sum, &mut x),
            Err(Failure::Unfit)
        );
        member.allreduce(heap, crew, Operation::Sum, &mut x).unwrap();
        assert_eq!(x, [2.0]);
    });
    assert!(Member::new(2, 2).is_none() && Member::new(MOST_PARTIES + 1, 0).is_none());
}

/// Sleeps end after a while, so that a collective that rubbish has stopped ends too.
struct Hasty(std::cell::Cell<u32>);

impl Crew for Hasty {
    type Error = &'static str;
    fn spin(&self, _turn: u32) -> bool {
        false
    }
    fn sleep(&self) -> Result<(), &'static str> {
        std::thread::yield_now();
        self.0.set(self.0.get() + 1);
        if self.0.get() < 2000 {
            Ok(())
        } else {
            Err("waited in vain")
        }
    }
    fn wake(&self, _rank: usize) {}
    fn gone(&self, _rank: usize) -> Result<bool, &'static str> {
        Ok(false)
    }
}

/// Words by reference, for a scribbler of each thread over one memory.
struct Borrowed<'a>(&'a Heap);

impl vshmem_words::Words for Borrowed<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn load32(&self, at: usize, order: vshmem_words::Ordering) -> u32 {
        self.0.load32(at, order)
    }
    fn store32(&self, at: usize, value: u32, order: vshmem_words::Ordering) {
        self.0.store32(at, value, order);
    }
    fn compare_exchange32(
        &self,
        at: usize,
        current: u32,
        new: u32,
        s: vshmem_words::Ordering,
        f: vshmem_words::Ordering,
    ) -> Result<u32, u32> {
        self.0.compare_exchange32(at, current, new, s, f)
    }
    fn load64(&self, at: usize, order: vshmem_words::Ordering) -> u64 {
        self.0.load64(at, order)
    }
    fn store64(&self, at: usize, value: u64, order: vshmem_words::Ordering) {
        self.0.store64(at, value, order);
    }
    fn compare_exchange64(
        &self,
        at: usize,
        current: u64,
        new: u64,
        s: vshmem_words::Ordering,
        f: vshmem_words::Ordering,
    ) -> Result<u64, u64> {
        self.0.compare_exchange64(at, current, new, s, f)
    }
    fn copy_out(&self, at: usize, into: &mut [u8]) -> bool {
        self.0.copy_out(at, into)
    }
    fn copy_in(&self, at: usize, from: &[u8]) -> bool {
        self.0.copy_in(at, from)
    }
    fn zero(&self, at: usize, bytes: usize) -> bool {
        self.0.zero(at, bytes)
    }
}

#[test]
fn rubbish_in_the_memory_ends_in_results_or_errors_never_in_a_panic_or_a_hang() {
    for seed in 1..=60u64 {
        for parties in [2, 3, 9] {
            let heap = Heap::new(bytes(parties));
            std::thread::scope(|scope| {
                for rank in 0..parties {
                    let heap = &heap;
                    scope.spawn(move || {
                        let memory = Scribbled::new(Borrowed(heap), seed * 1000 + rank as u64, 7);
                        let crew = Hasty(Default::default());
                        let mut member = Member::new(parties, rank).unwrap();
                        let mut text = vec![1; 9000];
                        let mut numbers = vec![1.0f64; 1100];
                        let _ = member.broadcast(&memory, &crew, 0, &mut text);
                        let _ = member.allreduce(&memory, &crew, Operation::Sum, &mut numbers);
                        let _ = member.barrier(&memory, &crew);
                        let _ = member.farewell(&memory, &crew);
                    });
                }
            });
        }
    }
}
