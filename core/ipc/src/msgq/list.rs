//! First-in-first-out lists of units: messages, waiting receivers, waiting senders, settled slots. Under the lock.
//!
//! A list is two words, first and last; neighbours are linked both ways through `PREV` and `NEXT`, which lie at the same place in a block and in a slot.
//! Lists are derived: [`View::sorted`] makes one again out of its members and their sequence numbers.

use super::layout::{block, field};
use super::view::{Unit, View};
use crate::Corrupt;
use vshmem_words::Words;

/// Where a list's two words are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct List(usize);

impl List {
    /// All messages.
    pub(super) const FIFO: List = List(field::FIFO);
    /// Receivers that wait.
    pub(super) const RECEIVERS: List = List(field::RECEIVERS);
    /// Senders that wait.
    pub(super) const SENDERS: List = List(field::SENDERS);
    /// Slots that were settled and whose owners may not have looked yet.
    pub(super) const SETTLED: List = List(field::SETTLED);

    /// Where the link to the first member is.
    #[inline(always)]
    pub(super) fn first(self) -> usize {
        self.0
    }
    /// Where the link to the last member is.
    #[inline(always)]
    pub(super) fn last(self) -> usize {
        self.0 + 4
    }
}

impl<W: Words> View<'_, W> {
    /// Makes `unit` the last member.
    #[inline]
    pub(super) fn push(&self, list: List, unit: Unit) -> Result<(), Corrupt> {
        let last = self.link(list.last())?;
        self.set(unit.at(block::NEXT), 0);
        self.set(unit.at(block::PREV), last.map_or(0, Unit::raw));
        match last {
            Some(last) => self.set(last.at(block::NEXT), unit.raw()),
            None => self.set(list.first(), unit.raw()),
        }
        self.set(list.last(), unit.raw());
        Ok(())
    }

    /// Takes a member out.
    #[inline]
    pub(super) fn unlink(&self, list: List, unit: Unit) -> Result<(), Corrupt> {
        let next = self.link(unit.at(block::NEXT))?;
        let prev = self.link(unit.at(block::PREV))?;
        match next {
            Some(next) => self.set(next.at(block::PREV), prev.map_or(0, Unit::raw)),
            None => self.set(list.last(), prev.map_or(0, Unit::raw)),
        }
        match prev {
            Some(prev) => self.set(prev.at(block::NEXT), next.map_or(0, Unit::raw)),
            None => self.set(list.first(), next.map_or(0, Unit::raw)),
        }
        Ok(())
    }

    /// Sorts a chain (linked through `NEXT` alone) by sequence number and gives its new first member. A merge sort from below: `bins[i]` holds
    /// a sorted chain of 2^i members or nothing.
    pub(super) fn sorted(&self, chain: u32) -> Result<u32, Corrupt> {
        let mut bins = [0u32; 30];
        let mut steps = self.steps();
        let mut rest = chain;
        while rest != 0 {
            steps.one()?;
            let unit = self.unit(rest)?;
            rest = self.get(unit.at(block::NEXT));
            self.set(unit.at(block::NEXT), 0);
            let mut run = unit.raw();
            for bin in &mut bins {
                if *bin == 0 {
                    *bin = run;
                    run = 0;
                    break;
                }
                run = self.merged(*bin, run)?;
                *bin = 0;
            }
            // More members than 2^30 cannot be: a unit number has 28 bits.
            debug_assert_eq!(run, 0);
        }
        bins.into_iter().try_fold(0, |run, bin| match (run, bin) {
            (run, 0) => Ok(run),
            (0, bin) => Ok(bin),
            (run, bin) => self.merged(bin, run),
        })
    }

    /// Merges two sorted chains that are not empty.
    fn merged(&self, a: u32, b: u32) -> Result<u32, Corrupt> {
        let (mut a, mut b) = (self.unit(a)?, self.unit(b)?);
        let mut first = 0;
        let mut tail: Option<Unit> = None;
        let mut steps = self.steps();
        loop {
            steps.one()?;
            let older = self.get64(a.at(block::SEQUENCE)) <= self.get64(b.at(block::SEQUENCE));
            let (next, other) = if older { (a, b) } else { (b, a) };
            match tail {
                Some(tail) => self.set(tail.at(block::NEXT), next.raw()),
                None => first = next.raw(),
            }
            tail = Some(next);
            match self.link(next.at(block::NEXT))? {
                Some(after) => (a, b) = if older { (after, other) } else { (other, after) },
                None => {
                    self.set(next.at(block::NEXT), other.raw());
                    return Ok(first);
                }
            }
        }
    }
}
