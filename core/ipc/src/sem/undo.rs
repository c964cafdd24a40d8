//! Undo records: what SEM_UNDO has promised to put back when a process ends.
//!
//! A record belongs to an undo list (a process, over exec), holds one adjustment per semaphore, and stays until the back-end applies or
//! deletes it. Records are found by a hash of the list's number. Not for applying them: `recover` does.

use super::SemSet;
use super::arena::Unit;
use super::layout::{self, BUCKETS, FREE_UNDO_AT, buckets_at, kind, undo};
use crate::Corrupt;
use vshmem_words::{Ordering, Words};

/// An undo record, found and checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Undo {
    pub(super) unit: Unit,
    pub(super) at: usize,
}

impl Undo {
    /// Where a semaphore's adjustment is.
    #[inline(always)]
    pub(super) fn adjust_at(self, num: u32) -> usize {
        self.at + undo::ADJUST + 4 * num as usize
    }
}

impl<W: Words> SemSet<'_, W> {
    fn bucket_at(&self, list: u64) -> usize {
        // The high half of a product with an odd number near 2^64 divided by the golden ratio: neighbouring numbers spread.
        let hash = (list.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % BUCKETS;
        buckets_at(self.nsems) + 4 * hash
    }

    /// A unit as an undo record, if all of it is within reach.
    pub(super) fn record(&self, unit: Unit) -> Result<Undo, Corrupt> {
        let last = u64::from(unit.link()) + u64::from(layout::undo_units(self.nsems)) - 1;
        Corrupt::check("undo record's end", last, self.capacity().into())?;
        Ok(Undo {
            unit,
            at: self.unit_at(unit),
        })
    }

    /// Finds the record of an undo list.
    #[inline]
    pub(super) fn find_undo(&self, list: u64) -> Result<Option<Undo>, Corrupt> {
        let mut link = self.get32(self.bucket_at(list));
        let mut steps = 0;
        while let Some(unit) = self.follow_to("undo chain", link, kind::UNDO)? {
            let at = self.unit_at(unit);
            if self.get64(at + undo::LIST) == list {
                return self.record(unit).map(Some);
            }
            steps += 1;
            Corrupt::check("undo chain's length", steps, self.capacity().into())?;
            link = self.get32(at + undo::NEXT);
        }
        Ok(None)
    }

    /// Finds or makes the record of an undo list; `None` if the set has to grow first.
    #[inline]
    pub(super) fn undo_for(&self, list: u64, stamp: u64) -> Result<Option<Undo>, Corrupt> {
        match self.find_undo(list)? {
            Some(undo) => Ok(Some(undo)),
            None => self.make_undo(list, stamp),
        }
    }

    #[cold]
    fn make_undo(&self, list: u64, stamp: u64) -> Result<Option<Undo>, Corrupt> {
        let free = self.get32(FREE_UNDO_AT);
        let unit = match self.follow_to("free undo record", free, kind::UNDO_FREE)? {
            Some(unit) => {
                self.put32(FREE_UNDO_AT, self.get32(self.unit_at(unit) + undo::NEXT));
                unit
            }
            None => match self.bump(layout::undo_units(self.nsems), kind::UNDO_FREE)? {
                Some(unit) => unit,
                None => return Ok(None),
            },
        };
        let record = self.record(unit)?;
        self.words.zero(record.at + undo::ADJUST, 4 * self.nsems as usize);
        self.put64(record.at + undo::STAMP, stamp);
        // The list's number goes in after the adjustments are zero: from here on recovery counts the record as alive.
        self.put64(record.at + undo::LIST, list);
        self.put32(record.at, kind::UNDO);
        self.chain_undo(record, list);
        Ok(Some(record))
    }

    /// Puts a record at the head of its chain.
    pub(super) fn chain_undo(&self, record: Undo, list: u64) {
        let bucket = self.bucket_at(list);
        self.put32(record.at + undo::NEXT, self.get32(bucket));
        self.put32(bucket, record.unit.link());
    }

    /// Takes a record, which the journal has already declared dead, out of its chain and frees it.
    pub(super) fn free_undo(&self, record: Undo, list: u64) -> Result<(), Corrupt> {
        let mut before = self.bucket_at(list);
        for _ in 0..self.capacity() {
            let link = self.get32(before);
            let Some(unit) = self.follow_to("undo chain", link, kind::UNDO)? else {
                break;
            };
            if unit == record.unit {
                self.put32(before, self.get32(record.at + undo::NEXT));
                break;
            }
            before = self.unit_at(unit) + undo::NEXT;
        }
        self.put_undo_on_free_list(record);
        Ok(())
    }

    pub(super) fn put_undo_on_free_list(&self, record: Undo) {
        self.put64(record.at + undo::LIST, 0);
        self.put32(record.at + undo::NEXT, self.get32(FREE_UNDO_AT));
        self.put32(record.at, kind::UNDO_FREE);
        self.put32(FREE_UNDO_AT, record.unit.link());
    }

    /// A semaphore's adjustment in a record, checked.
    #[inline(always)]
    pub(super) fn adjustment(&self, record: Undo, num: u32) -> Result<i16, Corrupt> {
        let found = self.words.load32(record.adjust_at(num), Ordering::Relaxed);
        i16::try_from(found as i32).map_err(|_| Corrupt {
            what: "adjustment",
            found: found.into(),
            allowed: 0x7fff,
        })
    }

    /// Clears the adjustment of one semaphore, or of all, in every record.
    pub(super) fn forget_adjustments(&self, of: Option<u32>) -> Result<(), Corrupt> {
        let used = self.used()?;
        self.blocks(used, |unit, kind| {
            if kind == kind::UNDO {
                let record = self.record(unit)?;
                match of {
                    Some(num) => self.put32(record.adjust_at(num), 0),
                    None => {
                        self.words.zero(record.adjust_at(0), 4 * self.nsems as usize);
                    }
                }
            }
            Ok(())
        })
    }
}
