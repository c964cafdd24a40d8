//! The index of types: which message is the first of a type, which type is the lowest. Under the lock; derived.
//!
//! Messages of one type form a list, oldest first. The oldest of each type is a node of a treap: a search tree by type that is also a heap by a
//! mixed hash of the type, and so almost surely of logarithmic depth. Whatever a receiver asks for, the message it gets is the oldest of its type; so
//! only heads are ever taken out.

use super::layout::{DEPTH, block, field};
use super::view::{Steps, Unit, View, corrupt};
use crate::Corrupt;
use vshmem_words::Words;

/// A node's rank in the heap: a bijection of the type (the finisher of splitmix64), so no two types tie.
#[inline]
fn rank(mtype: i64) -> u64 {
    let mut x = mtype as u64 ^ 0x9e37_79b9_7f4a_7c15;
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

impl<W: Words> View<'_, W> {
    #[inline(always)]
    pub(super) fn type_of(&self, unit: Unit) -> i64 {
        self.get64(unit.at(block::TYPE)) as i64
    }

    /// The oldest message of a type, and where the link to it is.
    #[inline]
    fn locate(&self, mtype: i64) -> Result<(usize, Option<Unit>), Corrupt> {
        let mut link = field::ROOT;
        let mut steps = Steps::new(DEPTH);
        loop {
            let Some(unit) = self.link(link)? else {
                return Ok((link, None));
            };
            let found = self.type_of(unit);
            if found == mtype {
                return Ok((link, Some(unit)));
            }
            steps.one()?;
            link = unit.at(if mtype < found { block::BELOW } else { block::ABOVE });
        }
    }

    /// The oldest message of this type.
    #[inline]
    pub(super) fn first_of_type(&self, mtype: i64) -> Result<Option<Unit>, Corrupt> {
        Ok(self.locate(mtype)?.1)
    }

    /// The oldest message of the lowest type.
    #[inline]
    pub(super) fn first_of_lowest(&self) -> Result<Option<Unit>, Corrupt> {
        let mut lowest = None;
        let mut link = field::ROOT;
        let mut steps = Steps::new(DEPTH);
        while let Some(unit) = self.link(link)? {
            steps.one()?;
            lowest = Some(unit);
            link = unit.at(block::BELOW);
        }
        Ok(lowest)
    }

    /// Adds a message as the youngest of its type.
    #[inline]
    pub(super) fn index_add(&self, unit: Unit, mtype: i64) -> Result<(), Corrupt> {
        self.set(unit.at(block::SAME_NEXT), 0);
        let rank_here = rank(mtype);
        let mut link = field::ROOT;
        let mut steps = Steps::new(DEPTH);
        let below = loop {
            let Some(at) = self.link(link)? else { break 0 };
            let found = self.type_of(at);
            if found == mtype {
                let last = self.unit(self.get(at.at(block::SAME_LAST)))?;
                self.set(last.at(block::SAME_NEXT), unit.raw());
                self.set(at.at(block::SAME_LAST), unit.raw());
                return Ok(());
            }
            if rank(found) < rank_here {
                break at.raw();
            }
            steps.one()?;
            link = at.at(if mtype < found { block::BELOW } else { block::ABOVE });
        };
        self.set(unit.at(block::SAME_LAST), unit.raw());
        self.split(below, mtype, unit)?;
        self.set(link, unit.raw());
        Ok(())
    }

    /// Hangs the parts of a subtree that are below and above a type under `unit`.
    #[inline]
    fn split(&self, mut at: u32, mtype: i64, unit: Unit) -> Result<(), Corrupt> {
        let (mut below, mut above) = (unit.at(block::BELOW), unit.at(block::ABOVE));
        let mut steps = Steps::new(DEPTH);
        while at != 0 {
            steps.one()?;
            let node = self.unit(at)?;
            if self.type_of(node) < mtype {
                self.set(below, at);
                below = node.at(block::ABOVE);
                at = self.get(below);
            } else {
                self.set(above, at);
                above = node.at(block::BELOW);
                at = self.get(above);
            }
        }
        self.set(below, 0);
        self.set(above, 0);
        Ok(())
    }

    /// Takes the oldest message of its type out.
    #[inline]
    pub(super) fn index_remove(&self, unit: Unit, mtype: i64) -> Result<(), Corrupt> {
        let (link, found) = self.locate(mtype)?;
        if found != Some(unit) {
            return Err(corrupt(
                "first of its type",
                found.map_or(0, Unit::raw),
                unit.raw(),
            ));
        }
        let (below, above) = (self.get(unit.at(block::BELOW)), self.get(unit.at(block::ABOVE)));
        let Some(next) = self.link(unit.at(block::SAME_NEXT))? else {
            return self.join(link, below, above);
        };
        self.set(next.at(block::BELOW), below);
        self.set(next.at(block::ABOVE), above);
        self.set(next.at(block::SAME_LAST), self.get(unit.at(block::SAME_LAST)));
        self.set(link, next.raw());
        Ok(())
    }

    /// Makes one subtree of two, every type of the first below every type of the second, and hangs it at `link`.
    #[inline]
    fn join(&self, mut link: usize, mut below: u32, mut above: u32) -> Result<(), Corrupt> {
        let mut steps = Steps::new(DEPTH);
        while below != 0 && above != 0 {
            steps.one()?;
            let (low, high) = (self.unit(below)?, self.unit(above)?);
            if rank(self.type_of(low)) > rank(self.type_of(high)) {
                self.set(link, below);
                link = low.at(block::ABOVE);
                below = self.get(link);
            } else {
                self.set(link, above);
                link = high.at(block::BELOW);
                above = self.get(link);
            }
        }
        self.set(link, below | above);
        Ok(())
    }
}
