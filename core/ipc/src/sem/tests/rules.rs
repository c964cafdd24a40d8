//! One test per rule of System V semaphores, named after the rule.

use super::watched::Watched;
use super::*;
use crate::lock;
use crate::sysv::{SEMOPM, SEMVMX};

const OK: Stand = Stand::Ended(Ok(()));
const AGAIN: Stand = Stand::Ended(Err(SemError::Again));

fn asleep(stand: Stand) -> usize {
    match stand {
        Stand::Asleep(at) => at,
        Stand::Ended(result) => panic!("ended with {result:?}"),
    }
}

#[test]
fn otime_is_zero_until_the_first_semop() {
    let heap = made(2);
    let set = SemSet::open(&heap, 2).unwrap();
    let a = Puppet::new(2);
    set.set_ctime(90);
    assert_eq!(set.times(), (0, 90));
    set.set_value(&a, CONTROL, 0, 1).unwrap();
    assert_eq!(set.times(), (0, 100));
    assert_eq!(start(&set, &a, &[op(0, -1)]), OK);
    assert_eq!(set.times().0, 100);
    a.now.set(101);
    assert_eq!(start(&set, &a, &[op(0, 1)]), OK);
    assert_eq!(set.times(), (101, 100));
}

#[test]
fn array_is_atomic_and_later_operations_see_earlier_ones() {
    let heap = made(3);
    let set = SemSet::at(&heap, 3);
    let a = Puppet::new(2);
    assert_eq!(start(&set, &a, &[op(0, 2), op(0, -1), op(1, 1)]), OK);
    assert_eq!((set.value(0), set.value(1)), (1, 1));
    assert_eq!(start(&set, &a, &[op(0, -1), op(1, -1), nowait(2, -1)]), AGAIN);
    assert_eq!((set.value(0), set.value(1), set.value(2)), (1, 1, 0));
    // The flag of the operation that blocks decides, not that of another.
    asleep(start(&set, &a, &[nowait(0, -1), op(2, -1)]));
    assert_eq!((set.ncnt(0), set.ncnt(2)), (0, 1));
}

#[test]
fn numbers_beyond_the_set_give_efbig_before_anything_happens() {
    let heap = made(2);
    let set = SemSet::at(&heap, 2);
    let a = Puppet::new(2);
    for _ in 0..2 {
        assert_eq!(start(&set, &a, &[op(2, 1)]), Stand::Ended(Err(SemError::TooBig)));
        assert_eq!(
            start(&set, &a, &[op(0, 1), op(2, 1)]),
            Stand::Ended(Err(SemError::TooBig))
        );
        assert_eq!(set.value(0), 0);
        set.set_value(&a, CONTROL, 0, 0).unwrap();
    }
}

#[test]
fn values_and_adjustments_stay_in_range() {
    let heap = made(2);
    let set = SemSet::at(&heap, 2);
    let a = Puppet::new(2);
    let range = Stand::Ended(Err(SemError::Range));
    assert_eq!(set.set_value(&a, CONTROL, 0, SEMVMX + 1), Err(SemError::Range));
    set.set_value(&a, CONTROL, 0, SEMVMX).unwrap();
    assert_eq!(start(&set, &a, &[op(0, 1)]), range);
    assert_eq!(start(&set, &a, &[op(0, -1)]), OK);
    assert_eq!(start(&set, &a, &[op(0, 2)]), range);
    assert_eq!(start(&set, &a, &[undo(0, -32766)]), OK);
    assert_eq!(start(&set, &a, &[op(0, 32766)]), OK);
    assert_eq!(start(&set, &a, &[undo(0, -2)]), range);
    assert_eq!(set.value(0), 32766);
}

#[test]
fn pid_is_of_the_last_operation_even_one_that_waits_for_zero() {
    let heap = made(1);
    let set = SemSet::at(&heap, 1);
    let (a, b) = (Puppet::new(2), Puppet::new(3));
    assert_eq!(set.pid(&a, 0), (0, 0));
    assert_eq!(start(&set, &a, &[op(0, 1)]), OK);
    assert_eq!(set.pid(&a, 0), (3, 1002));
    assert_eq!(start(&set, &b, &[op(0, -1)]), OK);
    assert_eq!(start(&set, &a, &[op(0, 0)]), OK);
    assert_eq!(set.pid(&a, 0), (3, 1002));
    set.set_value(&b, CONTROL, 0, 5).unwrap();
    assert_eq!(set.pid(&a, 0), (3, 1003));
}

#[test]
fn a_waker_does_the_sleepers_operation() {
    let heap = made(1);
    let set = SemSet::at(&heap, 1);
    let (a, b) = (Puppet::new(2), Puppet::new(3));
    let at = asleep(start(&set, &a, &[op(0, -2)]));
    assert_eq!((set.ncnt(0), set.sleepers()), (1, 1));
    assert_eq!(start(&set, &b, &[op(0, 1)]), OK);
    assert_eq!((set.value(0), set.ncnt(0)), (1, 1));
    assert!(b.woken.borrow().is_empty());
    assert_eq!(start(&set, &b, &[op(0, 1)]), OK);
    assert_eq!((set.value(0), set.ncnt(0), set.sleepers()), (0, 0, 0));
    assert_eq!(set.pid(&a, 0), (3, 1002), "the sleeper's pid, not the waker's");
    assert_eq!(b.woken.borrow().len(), 1);
    assert_eq!(look(&set, &a, at), OK);
}

#[test]
fn those_that_wait_for_zero_go_first_and_are_counted() {
    let heap = made(1);
    let set = SemSet::at(&heap, 1);
    let (a, b, c) = (Puppet::new(2), Puppet::new(3), Puppet::new(4));
    set.set_value(&a, CONTROL, 0, 1).unwrap();
    let complex = asleep(start(&set, &a, &[op(0, 0), op(0, 1)]));
    let zero = asleep(start(&set, &b, &[op(0, 0)]));
    assert_eq!((set.zcnt(0), set.ncnt(0)), (2, 0));
    assert_eq!(start(&set, &c, &[op(0, -1)]), OK);
    assert_eq!(set.value(0), 1);
    assert_eq!(set.zcnt(0), 0);
    assert_eq!(look(&set, &a, complex), OK);
    assert_eq!(look(&set, &b, zero), OK);
}

#[test]
fn sleepers_go_on_in_order_and_a_newcomer_may_overtake() {
    let heap = made(1);
    let set = SemSet::at(&heap, 1);
    let worlds: Vec<_> = (2..8).map(Puppet::new).collect();
    let slots: Vec<_> = worlds
        .iter()
        .map(|w| asleep(start(&set, w, &[op(0, -2)])))
        .collect();
    let newcomer = Puppet::new(9);
    assert_eq!(start(&set, &newcomer, &[op(0, 1)]), OK);
    assert_eq!(start(&set, &newcomer, &[op(0, -1)]), OK);
    for (i, world) in worlds.iter().enumerate() {
        assert_eq!(start(&set, &newcomer, &[op(0, 2)]), OK);
        assert_eq!(look(&set, world, slots[i]), OK);
        if let Some(next) = worlds.get(i + 1) {
            assert_eq!(look(&set, next, slots[i + 1]), Stand::Asleep(slots[i + 1]));
        }
    }
}

#[test]
fn counts_fall_on_signal_and_time_out() {
    let heap = made(2);
    let set = SemSet::at(&heap, 2);
    let (a, b) = (Puppet::new(2), Puppet::new(3));
    let one = asleep(start(&set, &a, &[op(0, -1)]));
    let two = asleep(start(&set, &b, &[op(0, -1), op(1, 1)]));
    assert_eq!(set.ncnt(0), 2);
    assert_eq!(end(&set, &a, one, Slept::Interrupted), Err(SemError::Interrupted));
    assert_eq!(set.ncnt(0), 1);
    assert_eq!(end(&set, &b, two, Slept::TimedOut), Err(SemError::Again));
    assert_eq!((set.ncnt(0), set.sleepers()), (0, 0));
    // Nobody waits any more: the fast path is open again.
    assert_eq!(
        heap.load64(super::super::layout::word_at(0), vshmem_words::Ordering::Relaxed)
            & super::super::layout::WAITERS,
        0
    );
}

#[test]
fn a_result_that_came_first_beats_a_signal() {
    let heap = made(1);
    let set = SemSet::at(&heap, 1);
    let (a, b) = (Puppet::new(2), Puppet::new(3));
    let at = asleep(start(&set, &a, &[op(0, -1)]));
    assert_eq!(start(&set, &b, &[op(0, 1)]), OK);
    assert_eq!(end(&set, &a, at, Slept::Interrupted), Ok(()));
    assert_eq!(set.value(0), 0);
}

#[test]
fn a_sleeper_whose_later_operation_must_not_wait_is_refused() {
    let heap = made(2);
    let set = SemSet::at(&heap, 2);
    let (a, b) = (Puppet::new(2), Puppet::new(3));
    let at = asleep(start(&set, &a, &[op(0, -1), nowait(1, -1)]));
    assert_eq!(start(&set, &b, &[op(0, 1)]), OK);
    assert_eq!(look(&set, &a, at), AGAIN);
    assert_eq!((set.value(0), set.ncnt(0), set.ncnt(1)), (1, 0, 0));
    set.set_value(&b, CONTROL, 1, SEMVMX).unwrap();
    let at = asleep(start(&set, &a, &[op(0, -2), op(1, 1)]));
    assert_eq!(start(&set, &b, &[op(0, 1)]), OK);
    assert_eq!(look(&set, &a, at), Stand::Ended(Err(SemError::Range)));
}

#[test]
fn ncnt_counts_the_operation_a_sleeper_blocks_on_now() {
    let heap = made(2);
    let set = SemSet::at(&heap, 2);
    let (a, b) = (Puppet::new(2), Puppet::new(3));
    asleep(start(&set, &a, &[op(0, -1), op(1, 0), op(1, -1)]));
    assert_eq!((set.ncnt(0), set.zcnt(1), set.ncnt(1)), (1, 0, 0));
    assert_eq!(start(&set, &b, &[op(1, 1)]), OK);
    assert_eq!(start(&set, &b, &[op(0, 1)]), OK);
    assert_eq!((set.ncnt(0), set.zcnt(1), set.ncnt(1)), (0, 1, 0));
    assert_eq!(start(&set, &b, &[op(1, -1)]), OK);
    assert_eq!((set.ncnt(0), set.zcnt(1), set.ncnt(1)), (0, 0, 1));
}

#[test]
fn undo_is_merged_applied_once_and_wakes() {
    let heap = made(2);
    let set = SemSet::at(&heap, 2);
    let (a, b, backend) = (Puppet::new(2), Puppet::new(3), Puppet::new(1));
    set.set_value(&b, CONTROL, 0, 3).unwrap();
    assert_eq!(start(&set, &a, &[undo(0, -1)]), OK);
    assert_eq!(start(&set, &a, &[undo(0, -2), undo(1, 4)]), OK);
    assert_eq!(start(&set, &a, &[op(1, -3)]), OK);
    assert!(set.has_undo(a.me.undo));
    let at = asleep(start(&set, &b, &[op(0, -3)]));
    kill(&set, &backend, &a);
    assert!(!set.has_undo(a.me.undo));
    assert_eq!(look(&set, &b, at), OK);
    assert_eq!(
        (set.value(0), set.value(1)),
        (0, 0),
        "3 put back and taken; 1 - 4 is cut at 0"
    );
    assert_eq!(set.pid(&b, 1), (3, 1002));
    kill(&set, &backend, &a);
    assert_eq!((set.value(0), set.value(1)), (0, 0));
}

#[test]
fn undo_survives_exec_and_is_done_by_the_waker_too() {
    let heap = made(1);
    let set = SemSet::at(&heap, 1);
    let (a, b, backend) = (Puppet::new(2), Puppet::new(3), Puppet::new(1));
    let at = asleep(start(&set, &a, &[undo(0, -1)]));
    assert_eq!(start(&set, &b, &[op(0, 1)]), OK);
    assert_eq!(look(&set, &a, at), OK);
    let exec = Dead {
        client: 2,
        undo: None,
    };
    assert_eq!(set.sweep(&backend, exec), Ok(Sweep::Done));
    assert_eq!(set.value(0), 0);
    let gone = Dead {
        client: 4,
        undo: Some(a.me.undo),
    };
    assert_eq!(set.sweep(&backend, gone), Ok(Sweep::Done));
    assert_eq!(set.value(0), 1);
}

#[test]
fn setval_and_setall_clear_adjustments_and_wake() {
    let heap = made(2);
    let set = SemSet::at(&heap, 2);
    let (a, b, backend) = (Puppet::new(2), Puppet::new(3), Puppet::new(1));
    assert_eq!(start(&set, &a, &[undo(0, 5), undo(1, 5)]), OK);
    let at = asleep(start(&set, &b, &[op(0, -6)]));
    set.set_value(&a, CONTROL, 0, 7).unwrap();
    assert_eq!(look(&set, &b, at), OK);
    let at = asleep(start(&set, &b, &[op(0, -4), op(1, -9)]));
    kill(&set, &backend, &a);
    assert_eq!(
        (set.value(0), set.value(1)),
        (1, 0),
        "only semaphore 1 still had an adjustment"
    );
    let c = Puppet::new(4);
    assert_eq!(start(&set, &c, &[undo(1, 1)]), OK);
    set.set_all(&c, CONTROL, &[5, 9]).unwrap();
    assert_eq!(look(&set, &b, at), OK);
    kill(&set, &backend, &c);
    let mut all = [9; 2];
    set.values(&mut all);
    assert_eq!(all, [1, 0]);
}

#[test]
fn removal_wakes_everybody_whoever_holds_the_lock() {
    let heap = made(1);
    let set = SemSet::at(&heap, 1);
    let (a, b, backend) = (Puppet::new(2), Puppet::new(3), Puppet::new(1));
    let at = asleep(start(&set, &a, &[op(0, -1)]));
    let held = lock::acquire(&heap, &b).unwrap();
    CONTROL.with_state(State::Removed).store(&heap);
    set.remove(&backend);
    assert_eq!(backend.woken.borrow().len(), 1);
    assert_eq!(look(&set, &a, at), Stand::Ended(Err(SemError::Removed)));
    drop(held);
    for ops in [&[op(0, 1)][..], &[op(0, 1), op(0, 1)]] {
        assert_eq!(start(&set, &b, ops), Stand::Ended(Err(SemError::Removed)));
    }
}

#[test]
fn another_control_word_is_stale_and_changes_nothing() {
    let heap = made(1);
    let set = SemSet::at(&heap, 1);
    let a = Puppet::new(2);
    let old = Control::new(State::Live, 0, 1, 1);
    for ops in [&[op(0, 1)][..], &[undo(0, 1)], &[op(0, 1), op(0, 1)]] {
        assert_eq!(set.op(&a, old, ops), Err(SemError::Stale));
    }
    assert_eq!(set.set_value(&a, old, 0, 1), Err(SemError::Stale));
    assert_eq!((set.value(0), set.times().0), (0, 0));
}

#[test]
fn five_hundred_operations_with_undo_sleep_and_go_on() {
    let nsems = 500;
    let heap = made(nsems);
    let set = SemSet::at(&heap, nsems);
    let (a, b, backend) = (Puppet::new(2), Puppet::new(3), Puppet::new(1));
    let all: Vec<_> = (0..SEMOPM as u16).map(|i| undo(i, 2)).collect();
    let mut take: Vec<_> = (0..SEMOPM as u16).map(|i| undo(i, -1)).collect();
    let start = |world: &Puppet, ops: &[SemBuf]| loop {
        match super::start(&set, world, ops) {
            Stand::Ended(Err(SemError::NeedExtent)) => {
                heap.grow(heap.len() + SemSet::<Heap>::extent_bytes(nsems))
            }
            stand => return stand,
        }
    };
    let at = asleep(start(&a, &take));
    assert_eq!(start(&b, &all), OK);
    assert_eq!(look(&set, &a, at), OK);
    assert!((0..nsems).all(|i| set.value(i) == 1));
    kill(&set, &backend, &a);
    assert!((0..nsems).all(|i| set.value(i) == 2));
    take[499] = op(499, -3);
    assert!(matches!(start(&a, &take), Stand::Asleep(_)));
    kill(&set, &backend, &b);
    assert!((0..nsems).all(|i| set.value(i) == 0));
    kill(&set, &backend, &a);
    assert_eq!(set.sleepers(), 0);
    take.push(op(0, 1));
    assert_eq!(start(&a, &take), Stand::Ended(Err(SemError::TooBig)));
    assert_eq!(start(&a, &[]), OK);
}

#[test]
fn a_full_set_asks_for_an_extent_and_slots_are_used_again() {
    let heap = made(1);
    let set = SemSet::at(&heap, 1);
    let waker = Puppet::new(9);
    let mut sleepers = Vec::new();
    let full = loop {
        let world = Puppet::new(10 + sleepers.len() as u32);
        match start(&set, &world, &[op(0, -1)]) {
            Stand::Asleep(at) => sleepers.push((world, at)),
            Stand::Ended(result) => break result,
        }
    };
    assert_eq!(full, Err(SemError::NeedExtent));
    assert!(sleepers.len() >= 16);
    for round in 0..3 {
        assert_eq!(start(&set, &waker, &[op(0, 1)]), OK);
        let (world, at) = sleepers.remove(0);
        assert_eq!(
            start(&set, &waker, &[op(0, -1)]),
            Stand::Ended(Err(SemError::NeedExtent)),
            "{round}"
        );
        assert_eq!(look(&set, &world, at), OK);
        match start(&set, &world, &[op(0, -1)]) {
            Stand::Asleep(at) => sleepers.push((world, at)),
            Stand::Ended(result) => panic!("{result:?}"),
        }
    }
    heap.grow(heap.len() + SemSet::<Heap>::extent_bytes(1));
    asleep(start(&set, &waker, &[op(0, -1)]));
}

#[test]
fn a_sleeper_that_cannot_reach_its_neighbours_leaves_a_cancelled_slot() {
    // Two views of one set: the sleeper's does not reach an extent that others have mapped.
    let heap = made(1);
    let (short, long) = (Watched::new(&heap, |_| true), SemSet::at(&heap, 1));
    let set = SemSet::at(&short, 1);
    let (a, waker) = (Puppet::new(2), Puppet::new(3));
    let mut last = Vec::new();
    while let Stand::Asleep(at) = start(&set, &a, &[op(0, -1)]) {
        last.push(at);
    }
    heap.grow(heap.len() + SemSet::<Heap>::extent_bytes(1));
    let grown = Control::new(State::Live, 1, 2, 1);
    grown.store(&heap);
    let beyond = asleep(park(|| long.op(&waker, grown, &[op(0, -1)])));
    let sleepers = long.sleepers();
    // The last of those in the first extent has a neighbour in the second.
    let at = last.pop().unwrap();
    assert_eq!(end(&set, &a, at, Slept::Interrupted), Err(SemError::Interrupted));
    assert_eq!((long.sleepers(), long.ncnt(0)), (sleepers - 1, sleepers - 1));
    for _ in 0..sleepers - 1 {
        long.op(&waker, grown, &[op(0, 1)]).unwrap();
    }
    let slot = slot_at(&long, beyond);
    assert_eq!(long.wait(&waker, grown, &slot, 0, 0), Ok(()));
    assert_eq!((long.sleepers(), long.ncnt(0), long.value(0)), (0, 0, 0));
    long.op(&waker, grown, &[op(0, 1)]).unwrap();
    assert_eq!(long.value(0), 1);
}

#[test]
fn spinning_on_the_word_needs_no_slot() {
    let heap = std::rc::Rc::new(made(1));
    let set = SemSet::at(&*heap, 1);
    let a = Puppet::new(2);
    assert_eq!(start(&set, &a, &[op(0, 1), op(0, -1)]), OK);
    a.spins.set(10);
    let (peer, mut turn) = (heap.clone(), 0);
    *a.at_spin.borrow_mut() = Some(std::boxed::Box::new(move || {
        turn += 1;
        if turn == 5 {
            SemSet::at(&*peer, 1)
                .op(&Puppet::new(3), CONTROL, &[op(0, 1)])
                .unwrap();
        }
    }));
    assert_eq!(start(&set, &a, &[op(0, -1)]), OK);
    assert_eq!((set.value(0), set.used()), (0, Ok(0)));
    assert_eq!(set.pid(&a, 0), (3, 1002));
}

#[test]
fn ten_thousand_waiters_stay_flat() {
    let heap = {
        let bytes = SemSet::<Heap>::bytes(2) + 2_000_000;
        let heap = Heap::new(bytes);
        SemSet::format(&heap, 2);
        CONTROL.store(&heap);
        heap
    };
    let count = Cell::new(0);
    let counted = Watched::new(&heap, |_| {
        count.set(count.get() + 1);
        true
    });
    let set = SemSet::at(&counted, 2);
    let (a, waker) = (Puppet::new(2), Puppet::new(3));
    let cost = || {
        count.set(0);
        assert_eq!(start(&set, &waker, &[op(0, 1)]), OK);
        count.get()
    };
    for _ in 0..10 {
        asleep(start(&set, &a, &[op(0, -1)]));
    }
    cost();
    let before = cost();
    for _ in 0..10_000 {
        asleep(start(&set, &a, &[op(0, -1)]));
    }
    assert_eq!(cost(), before);
    count.set(0);
    asleep(start(&set, &a, &[op(0, -1)]));
    assert!(count.get() < 200, "{} accesses to lie down", count.get());
}
