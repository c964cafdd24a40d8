//! A peer that writes rubbish while operations run: they end, without a panic, whatever they read.

use super::*;
use std::vec;
use vshmem_words::Scribbled;

/// Any answer will do.
fn said(_: Result<(), SemError>) {}

/// Does a bit of everything on memory that is scribbled on about once in `one_in` loads.
fn ordeal(seed: u64, one_in: u64, nsems: u32) {
    let heap = made(nsems);
    heap.grow(heap.len() + SemSet::<Heap>::extent_bytes(nsems));
    let (clients, backend): (Vec<_>, _) = ((2..6).map(Puppet::new).collect(), Puppet::new(1));
    {
        // Some honest history first: sleepers, undo records, a granted slot.
        let set = SemSet::at(&heap, nsems);
        let last = nsems as u16 - 1;
        let _ = start(&set, &clients[0], &[undo(last, 2)]);
        let _ = start(&set, &clients[1], &[op(0, -1); 12]);
        let _ = start(&set, &clients[2], &[op(0, -1)]);
        let _ = start(&set, &clients[2], &[undo(last, 0)]);
        let _ = start(&set, &clients[3], &[op(0, -3), op(last, 1)]);
        let _ = start(&set, &clients[0], &[op(0, 1)]);
    }
    let memory = Scribbled::new(heap, seed, one_in);
    let set = SemSet::at(&memory, nsems);
    for turn in 0..12u32 {
        let world = &clients[(memory.next() % 4) as usize];
        let num = (memory.next() % u64::from(nsems)) as u16;
        let amount = (memory.next() % 7) as i16 - 3;
        world.spins.set(2);
        let how = if memory.next().is_multiple_of(2) {
            Slept::Interrupted
        } else {
            Slept::TimedOut
        };
        world.sleep.set(Some(how));
        let control = Control::load(memory.inner());
        match memory.next() % 9 {
            0 | 1 => said(set.op(world, control, &[op(num, amount)])),
            2 => said(set.op(world, control, &[undo(num, amount)])),
            3 => said(set.op(world, control, &[op(num, amount), op(0, 1), undo(num, 1)])),
            4 => said(set.op(world, control, &[undo(num, amount); 30])),
            5 => said(set.set_value(world, control, num.into(), 3)),
            6 => said(set.set_all(world, control, &vec![2; nsems as usize])),
            7 => {
                let dead = Dead {
                    client: world.me.client,
                    undo: Some(world.me.undo),
                };
                let _ = set.sweep(&backend, dead);
            }
            _ => {
                set.ring(&backend);
                set.values(&mut vec![0; nsems as usize]);
                let _ = (
                    set.has_undo(9),
                    set.ncnt(turn),
                    set.pid(world, turn),
                    set.sleepers(),
                );
            }
        }
        // A scribbled lock or control word would end the ordeal early: mend these two.
        memory.scribble(false);
        if turn % 3 == 0 {
            memory.store64(
                crate::header::LOCK_AT,
                u64::from(world.me.client),
                vshmem_words::Ordering::Relaxed,
            );
        } else {
            memory.store64(crate::header::LOCK_AT, 0, vshmem_words::Ordering::Relaxed);
            memory.store64(
                super::super::layout::JOURNAL_AT,
                0,
                vshmem_words::Ordering::Relaxed,
            );
        }
        CONTROL.store(&memory);
        memory.scribble(true);
        if turn % 3 == 0 {
            let dead = Dead {
                client: world.me.client,
                undo: None,
            };
            let _ = set.sweep(&backend, dead);
        }
    }
    set.remove(&backend);
}

#[test]
fn rubbish_ends_in_an_answer() {
    for seed in 0..600 {
        ordeal(seed * 7919 + 1, 40 + seed % 400, 1 + (seed % 5) as u32);
    }
}

#[test]
fn dense_rubbish_ends_in_an_answer() {
    for seed in 0..300 {
        ordeal(seed * 104_729 + 1, 1 + seed % 12, 2);
    }
}

#[test]
fn a_foreign_or_short_set_is_not_opened() {
    let heap = made(4);
    assert!(SemSet::open(&heap, 4).is_ok());
    for nsems in [0, 3, 5] {
        assert!(SemSet::open(&heap, nsems).is_err());
    }
    heap.store32(0, 0, vshmem_words::Ordering::Relaxed);
    assert!(SemSet::open(&heap, 4).is_err());
    let short = Heap::new(4096);
    SemSet::format(&short, 32);
    assert!(SemSet::open(&short, 32).is_err());
}
