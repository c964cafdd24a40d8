//! Looks at a quiet set as a whole: every list, counter and bit must agree with the slots.

use super::super::layout::{
    self, ALTER_AT, CONST_AT, FREE_UNDO_AT, FREE_UNIT_AT, GRANTED_AT, kind, side, slot, undo,
};
use super::super::slot::{queued, state};
use super::*;
use std::collections::BTreeMap;
use vshmem_words::Ordering;

/// Panics unless the set is sound. Gives the number of units that are neither free nor part of an undo record.
pub(super) fn audit<W: Words>(set: &SemSet<'_, W>) -> usize {
    let used = set.used().unwrap();
    let mut kinds = BTreeMap::new();
    set.blocks(used, |unit, kind| {
        kinds.insert(unit.link(), kind);
        Ok(())
    })
    .unwrap();
    assert_eq!(set.get64(crate::header::LOCK_AT), 0);
    assert_eq!(set.get64(layout::JOURNAL_AT), 0);
    let list = |head: u32, next_at: usize, want: u32| {
        let (mut link, mut members) = (head, Vec::new());
        while link != 0 {
            assert_eq!(kinds.get(&link), Some(&want), "kind of {link}");
            members.push(link);
            assert!(members.len() <= used as usize);
            link = set.get32(set.unit_at(set.follow("audit", link).unwrap().unwrap()) + next_at);
        }
        members
    };
    let free = list(set.get32(FREE_UNIT_AT), slot::NEXT, kind::FREE);
    let free_undo = list(set.get32(FREE_UNDO_AT), undo::NEXT, kind::UNDO_FREE);
    let mut records = 0;
    for bucket in 0..layout::BUCKETS {
        let head = set.get32(layout::buckets_at(set.nsems) + 4 * bucket);
        records += list(head, undo::NEXT, kind::UNDO).len();
    }
    let (mut touched, mut ncnt, mut zcnt) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let (mut sleepers, mut chunks) = (0, 0);
    let mut heads = std::vec![(ALTER_AT, true, false), (CONST_AT, false, false)];
    for num in 0..set.nsems {
        let of = layout::side_at(set.nsems, num);
        heads.extend([(of + side::DECREMENT, true, true), (of + side::ZERO, false, true)]);
    }
    let mut slots = 0;
    for (head, alters, single) in heads {
        let members = list(set.get32(head), slot::NEXT, kind::SLOT);
        assert_eq!(set.get32(head + 4), members.last().copied().unwrap_or(0), "tail");
        let mut before = 0;
        for link in members {
            let slot = set.slot(set.follow("audit", link).unwrap().unwrap()).unwrap();
            let found = set.words.load32(slot.at + slot::STATE, Ordering::Relaxed);
            assert!(queued(found), "state {found:#x}");
            assert_eq!(set.get32(slot.at + slot::PREV), before);
            before = link;
            let mut some = false;
            set.each_op(&slot, |op| {
                some |= op.op != 0;
                *touched.entry(u32::from(op.num)).or_insert(0u32) += 1;
            })
            .unwrap();
            assert_eq!((some, slot.nops == 1), (alters, single));
            chunks += slot.nops.saturating_sub(layout::INLINE).div_ceil(layout::CHUNKED);
            let blocking = set.get32(slot.at + slot::BLOCKING);
            let counts = if blocking >> 16 == 1 { &mut ncnt } else { &mut zcnt };
            *counts.entry(blocking & 0xffff).or_insert(0u32) += 1;
            (sleepers, slots) = (sleepers + 1, slots + 1);
        }
    }
    for link in list(set.get32(GRANTED_AT), slot::NEXT, kind::SLOT) {
        let at = set.unit_at(set.follow("audit", link).unwrap().unwrap());
        let found = set.words.load32(at + slot::STATE, Ordering::Relaxed);
        assert!((state::GRANTED..=state::SEEN).contains(&found));
        slots += 1;
    }
    for num in 0..set.nsems {
        let of = layout::side_at(set.nsems, num);
        let count = |counts: &BTreeMap<u32, u32>| counts.get(&num).copied().unwrap_or(0);
        assert_eq!(set.get32(of + side::TOUCHED), count(&touched), "touched {num}");
        assert_eq!((set.ncnt(num), set.zcnt(num)), (count(&ncnt), count(&zcnt)));
        let word = set.get64(layout::word_at(num));
        assert_eq!(
            word & layout::WAITERS != 0,
            count(&touched) != 0,
            "WAITERS of {num}"
        );
        assert_eq!(word & layout::LOCKED, 0);
    }
    assert_eq!(set.sleepers(), sleepers);
    let of_kind = |want: u32| kinds.values().filter(|&&kind| kind == want).count();
    assert_eq!(of_kind(kind::FREE), free.len(), "lost units");
    assert_eq!(of_kind(kind::UNDO_FREE), free_undo.len(), "lost records");
    assert_eq!(of_kind(kind::UNDO), records);
    assert_eq!(
        (of_kind(kind::SLOT), of_kind(kind::CHUNK)),
        (slots, chunks),
        "lost slots or chunks"
    );
    slots + chunks
}
