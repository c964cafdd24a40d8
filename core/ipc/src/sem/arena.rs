//! The arena: units of 128 bytes for slots, chunks and undo records, handed out under the set's lock.
//!
//! Not for what is in them. A unit never changes between the two sorts (slot or chunk; part of an undo record), so that a walk from the
//! arena's start by kinds always finds the blocks' boundaries. Free lists are a convenience: recovery rebuilds them from the kinds.

use super::SemSet;
use super::layout::{self, FREE_UNIT_AT, UNIT, USED_AT, chunk, kind, slot};
use crate::Corrupt;
use vshmem_words::{Ordering, Words};

/// A checked unit: its index is within the part of the arena that this process sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unit(u32);

impl Unit {
    /// The index, from 1, as it is written into links.
    pub(super) fn link(self) -> u32 {
        self.0
    }
}

impl<W: Words> SemSet<'_, W> {
    /// Units that this process can reach.
    pub(super) fn capacity(&self) -> u32 {
        let bytes = self.words.len().saturating_sub(layout::arena_at(self.nsems));
        u32::try_from(bytes / UNIT).unwrap_or(u32::MAX >> 1)
    }

    /// Units used so far, read and checked.
    pub(super) fn used(&self) -> Result<u32, Corrupt> {
        let used = self.words.load32(USED_AT, Ordering::Relaxed);
        Corrupt::check("arena units in use", used.into(), self.capacity().into()).map(|_| used)
    }

    /// Where a unit is.
    #[inline]
    pub(super) fn unit_at(&self, unit: Unit) -> usize {
        layout::arena_at(self.nsems) + (unit.0 as usize - 1) * UNIT
    }

    /// Checks a link read from construct memory; `None` for 0.
    #[inline]
    pub(super) fn follow(&self, what: &'static str, link: u32) -> Result<Option<Unit>, Corrupt> {
        Corrupt::check(what, link.into(), self.capacity().into())?;
        Ok((link != 0).then_some(Unit(link)))
    }

    /// Follows a link to a unit that must be of the given kind.
    pub(super) fn follow_to(
        &self,
        what: &'static str,
        link: u32,
        want: u32,
    ) -> Result<Option<Unit>, Corrupt> {
        let Some(unit) = self.follow(what, link)? else {
            return Ok(None);
        };
        let found = self.get32(self.unit_at(unit));
        if found == want {
            Ok(Some(unit))
        } else {
            Err(Corrupt {
                what,
                found: found.into(),
                allowed: want.into(),
            })
        }
    }

    /// Takes a unit for a slot or a chunk; `None` if the set has to grow first.
    pub(super) fn take_unit(&self, kind: u32) -> Result<Option<Unit>, Corrupt> {
        let head = self.get32(FREE_UNIT_AT);
        let Some(unit) = self.follow_to("free unit", head, kind::FREE)? else {
            return self.bump(1, kind);
        };
        let at = self.unit_at(unit);
        self.put32(FREE_UNIT_AT, self.get32(at + slot::NEXT));
        self.put32(at, kind);
        Ok(Some(unit))
    }

    /// Gives a slot's or a chunk's unit back.
    pub(super) fn free_unit(&self, unit: Unit) {
        let at = self.unit_at(unit);
        self.put32(at + slot::STATE, 0);
        self.put32(at + chunk::OWNER, 0);
        self.put32(at + slot::NEXT, self.get32(FREE_UNIT_AT));
        self.put32(at, kind::FREE);
        self.put32(FREE_UNIT_AT, unit.0);
    }

    /// Takes `units` neighbouring units that were never used. Their kind is written before they count as used.
    pub(super) fn bump(&self, units: u32, kind: u32) -> Result<Option<Unit>, Corrupt> {
        let used = self.used()?;
        if self.capacity() - used < units {
            return Ok(None);
        }
        let unit = Unit(used + 1);
        self.put32(self.unit_at(unit), kind);
        self.words.store32(USED_AT, used + units, Ordering::Release);
        Ok(Some(unit))
    }

    /// Visits the first unit of every block, with its kind. Safe without the lock: it only reads, and it ends.
    pub(super) fn blocks(
        &self,
        used: u32,
        mut visit: impl FnMut(Unit, u32) -> Result<(), Corrupt>,
    ) -> Result<(), Corrupt> {
        let record = layout::undo_units(self.nsems);
        let mut at = 1;
        while at <= used {
            let unit = Unit(at);
            let kind = self.words.load32(self.unit_at(unit), Ordering::Acquire);
            visit(unit, kind)?;
            at += match kind {
                kind::UNDO | kind::UNDO_FREE => record,
                _ => 1,
            };
        }
        Ok(())
    }

    #[inline(always)]
    pub(super) fn get32(&self, at: usize) -> u32 {
        self.words.load32(at, Ordering::Relaxed)
    }
    // Release throughout: the compiler must keep the order of the stores, since a death between any two is repaired from what is there.
    #[inline(always)]
    pub(super) fn put32(&self, at: usize, value: u32) {
        self.words.store32(at, value, Ordering::Release);
    }
    #[inline(always)]
    pub(super) fn get64(&self, at: usize) -> u64 {
        self.words.load64(at, Ordering::Relaxed)
    }
    #[inline(always)]
    pub(super) fn put64(&self, at: usize, value: u64) {
        self.words.store64(at, value, Ordering::Release);
    }
}
