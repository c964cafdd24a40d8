//! The arena: allocation and release in constant time, growth, orphans. Under the lock.
//!
//! Blocks lie one behind the other from the first to the end, each saying its own size and that of the block before it. Free
//! neighbours are merged at once. Free blocks are kept in lists by size (see `classes`), the last freed first, with one bit per list.
//! The sizes in the tags are the truth: splitting writes the rest's header before the one store that makes the block smaller, merging is the
//! one store that makes it larger, so a walk over the sizes is right at any instant; lists, bits and the sizes before are derived.
//!
//! # Orphans
//! A process that finds, on coming back for the lock, that others have grown the queue beyond what it has mapped cannot follow the free lists. It
//! leaves its block to nobody (owner 0) and counts it; whoever runs out of room next collects them, and so does `recover`.
//!
//! # The spare
//! Merging the block of a message that was received, only to cut one of the same size for the next, is most of what a message that waits for nobody costs. So
//! the last one is left to nobody too, uncounted, and the queue remembers where it is: the next message of that size takes it, one of another size
//! has it merged, and so does whoever runs out of room. A death needs no thought: by its tag it is an orphan.

use super::FIRST_BLOCK;
use super::classes::{class, class_above};
use super::layout::{CLASSES, Tag, Use, block, field};
use super::list::List;
use super::view::{Unit, View, corrupt, mapped_units};
use crate::Corrupt;
use vshmem_words::Words;

/// Most blocks of a list that are looked at when no larger list has one: its sizes differ, and some fit.
const TRIES: u32 = 16;

/// A free block taken out of its list and cut to size, its tag not yet changed: for a walk over the arena it is still free.
#[derive(Debug, Clone, Copy)]
pub(super) struct Carved {
    pub(super) unit: Unit,
    pub(super) size: u32,
}

impl<W: Words> View<'_, W> {
    /// Finds room for `units` units, taking in what was appended and collecting orphans if need be.
    #[inline]
    pub(super) fn allocate(&mut self, units: u32) -> Result<Option<Carved>, Corrupt> {
        if let Some(found) = self.find_free(units)? {
            return self.carve(found, units).map(Some);
        }
        self.allocate_otherwise(units)
    }

    #[cold]
    fn allocate_otherwise(&mut self, units: u32) -> Result<Option<Carved>, Corrupt> {
        if self.get(field::SPARE) != 0 {
            self.give_up_spare()?;
            if let Some(found) = self.find_free(units)? {
                return self.carve(found, units).map(Some);
            }
        }
        if self.get(field::ORPHANS) != 0 || self.get(List::SETTLED.first()) != 0 {
            self.collect_orphans()?;
            self.collect_done()?;
            if let Some(found) = self.find_free(units)? {
                return self.carve(found, units).map(Some);
            }
        }
        if mapped_units(self.words) > self.end {
            self.take_in()?;
            if let Some(found) = self.find_free(units)? {
                return self.carve(found, units).map(Some);
            }
        }
        Ok(None)
    }

    /// Frees a block: the store of the tag is what counts.
    #[inline]
    pub(super) fn release(&self, unit: Unit, size: u32) -> Result<(), Corrupt> {
        self.set_tag(unit, Tag::new(size, Use::Free, 0));
        self.merge(unit, size)
    }

    /// Puts a block that is free already into the lists, merged with its free neighbours.
    #[inline]
    pub(super) fn merge(&self, mut unit: Unit, mut size: u32) -> Result<(), Corrupt> {
        let after = unit.raw() + size;
        if after < self.end {
            let next = self.unit(after)?;
            let tag = self.tag(next)?;
            if tag.state == Use::Free {
                self.unlist(next, tag.size)?;
                size += tag.size;
            }
        }
        let before = self.get(unit.at(block::SIZE_BEFORE));
        if before != 0 {
            let prev = self.unit(unit.raw().saturating_sub(before))?;
            let tag = self.tag(prev)?;
            if tag.size != before {
                return Err(corrupt("size of the block before", before, tag.size));
            }
            if tag.state == Use::Free {
                self.unlist(prev, tag.size)?;
                unit = prev;
                size += before;
            }
        }
        self.set_tag(unit, Tag::new(size, Use::Free, 0));
        self.set_size_before(unit.raw() + size, size)?;
        self.enlist(unit, size)
    }

    /// Leaves a block to nobody: for those who cannot reach the lists.
    pub(super) fn orphan(&self, unit: Unit, size: u32) {
        self.set_tag(unit, Tag::new(size, Use::Taken, 0));
        self.set(field::ORPHANS, self.get(field::ORPHANS).wrapping_add(1));
    }

    /// Makes a block the spare, if there is none yet; else frees it. Its tag says that it is nobody's.
    #[inline]
    pub(super) fn keep(&self, unit: Unit, size: u32) -> Result<(), Corrupt> {
        if self.get(field::SPARE) != 0 {
            return self.release(unit, size);
        }
        self.set(field::SPARE, unit.raw());
        Ok(())
    }

    /// The spare, if it has `units` units: no longer the spare, but by its tag still nobody's. One of another size is freed.
    #[inline]
    pub(super) fn spare(&self, units: u32) -> Result<Option<Carved>, Corrupt> {
        let Some(unit) = self.link(field::SPARE)? else {
            return Ok(None);
        };
        let size = self.tag_of_spare(unit)?.size;
        self.set(field::SPARE, 0);
        if size == units {
            return Ok(Some(Carved { unit, size }));
        }
        self.release(unit, size)?;
        Ok(None)
    }

    #[inline]
    fn tag_of_spare(&self, unit: Unit) -> Result<Tag, Corrupt> {
        let tag = self.tag(unit)?;
        if tag.state != Use::Taken || tag.owner != 0 {
            return Err(corrupt("owner of the spare block", tag.owner, 0));
        }
        Ok(tag)
    }

    fn give_up_spare(&self) -> Result<(), Corrupt> {
        // No spare has so many units.
        self.spare(0).map(drop)
    }

    fn collect_orphans(&self) -> Result<(), Corrupt> {
        self.set(field::ORPHANS, 0);
        self.set(field::SPARE, 0);
        let mut at = FIRST_BLOCK;
        while at < self.end {
            let unit = self.unit(at)?;
            let tag = self.tag(unit)?;
            // When the next block is merged into this one, its tag stays readable where it was: the walk goes on over it.
            at += tag.size;
            if tag.owner == 0 && matches!(tag.state, Use::Taken | Use::Reserved) {
                self.release(unit, tag.size)?;
            }
        }
        Ok(())
    }

    /// Adds what was appended to the construct since: one free block, announced by the one store of the new end.
    fn take_in(&mut self) -> Result<(), Corrupt> {
        let old = self.end;
        self.end = mapped_units(self.words);
        let unit = self.unit(old)?;
        let size = self.end - old;
        self.set_tag(unit, Tag::new(size, Use::Free, 0));
        self.set(unit.at(block::SIZE_BEFORE), self.get(field::LAST_SIZE));
        self.set(field::END, self.end);
        self.merge(unit, size)
    }

    /// Writes the size of the block before `at`, which may be the end.
    #[inline]
    pub(super) fn set_size_before(&self, at: u32, size: u32) -> Result<(), Corrupt> {
        if at == self.end {
            self.set(field::LAST_SIZE, size);
        } else {
            self.set(self.unit(at)?.at(block::SIZE_BEFORE), size);
        }
        Ok(())
    }

    /// Takes a free block that holds `units` out of its list. Constant: a look at two words of bits, at most sixteen blocks of one list.
    #[inline]
    fn find_free(&self, units: u32) -> Result<Option<Carved>, Corrupt> {
        if let Some(list) = self.list_from(class_above(units)) {
            let Some(unit) = self.link(head(list))? else {
                return Err(corrupt("free list without blocks", list, 0));
            };
            return self.claim(unit, units).map(Some);
        }
        self.find_in_list(units)
    }

    #[cold]
    fn find_in_list(&self, units: u32) -> Result<Option<Carved>, Corrupt> {
        let mut at = self.link(head(class(units)))?;
        for _ in 0..TRIES {
            let Some(unit) = at else { break };
            if self.tag(unit)?.size >= units {
                return self.claim(unit, units).map(Some);
            }
            at = self.link(unit.at(block::NEXT))?;
        }
        Ok(None)
    }

    #[inline]
    fn claim(&self, unit: Unit, units: u32) -> Result<Carved, Corrupt> {
        let tag = self.tag(unit)?;
        if tag.state != Use::Free || tag.size < units {
            return Err(corrupt("size of a free block", tag.size, units));
        }
        self.unlist(unit, tag.size)?;
        Ok(Carved { unit, size: tag.size })
    }

    /// Cuts a block to `units`. Its tag stays as it is, so that the caller's store of it is the one that counts.
    #[inline]
    fn carve(&self, found: Carved, units: u32) -> Result<Carved, Corrupt> {
        if found.size == units {
            return Ok(found);
        }
        let rest = self.unit(found.unit.raw() + units)?;
        let size = found.size - units;
        self.set_tag(rest, Tag::new(size, Use::Free, 0));
        self.set(rest.at(block::SIZE_BEFORE), units);
        self.set_size_before(rest.raw() + size, size)?;
        self.enlist(rest, size)?;
        Ok(Carved {
            unit: found.unit,
            size: units,
        })
    }

    /// The first list from `from` on that holds something.
    #[inline]
    fn list_from(&self, from: u32) -> Option<u32> {
        if from < 64 {
            let bits = self.get64(field::FREE_MAP) >> from;
            if bits != 0 {
                return Some(from + bits.trailing_zeros());
            }
        }
        let from = from.max(64) - 64;
        let bits = self.get64(field::FREE_MAP + 8).checked_shr(from).unwrap_or(0);
        let list = from + 64 + bits.trailing_zeros();
        (bits != 0 && list < CLASSES as u32).then_some(list)
    }

    /// Puts a free block at the head of its list.
    #[inline]
    pub(super) fn enlist(&self, unit: Unit, size: u32) -> Result<(), Corrupt> {
        let list = class(size);
        let first = self.link(head(list))?;
        self.set(unit.at(block::PREV), 0);
        match first {
            Some(first) => {
                self.set(unit.at(block::NEXT), first.raw());
                self.set(first.at(block::PREV), unit.raw());
            }
            None => {
                self.set(unit.at(block::NEXT), 0);
                let (at, bit) = bit(list);
                self.set64(at, self.get64(at) | bit);
            }
        }
        self.set(head(list), unit.raw());
        Ok(())
    }

    /// Takes a free block out of its list.
    #[inline]
    fn unlist(&self, unit: Unit, size: u32) -> Result<(), Corrupt> {
        let list = class(size);
        let next = self.link(unit.at(block::NEXT))?;
        let prev = self.link(unit.at(block::PREV))?;
        if let Some(next) = next {
            self.set(next.at(block::PREV), prev.map_or(0, Unit::raw));
        }
        match prev {
            Some(prev) => self.set(prev.at(block::NEXT), next.map_or(0, Unit::raw)),
            None => {
                self.set(head(list), next.map_or(0, Unit::raw));
                if next.is_none() {
                    let (at, bit) = bit(list);
                    self.set64(at, self.get64(at) & !bit);
                }
            }
        }
        Ok(())
    }
}

#[inline(always)]
fn head(list: u32) -> usize {
    field::FREE_LISTS + list as usize * 4
}

#[inline(always)]
fn bit(list: u32) -> (usize, u64) {
    (field::FREE_MAP + (list as usize / 64) * 8, 1 << (list % 64))
}
