//! Which pages of the group's memory are free.
//!
//! Best fit over a map of free runs, neighbours merged; the lowest of equals, so that the same commands always give the same places. What is as large as a huge
//! page begins where one does, if there is such a place, so that it can be reached by as few. Not for zeroing: memory comes back here only together with an [`crate::Effect::Release`], which zeroes it before anything that is told later.

use crate::{PAGE, RESERVED, Store};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use vshmem_wire::Extent;

/// Bytes of a huge page.
const HUGE: u64 = 2 << 20;
/// So many runs are looked at for one in which something fits at a multiple of [`HUGE`]; one that is longer by as much always has such a place.
const LOOKS: usize = 64;

/// Where in a run something of `bytes` bytes fits at a multiple of [`HUGE`].
fn aligned((run, offset): (u64, u64), bytes: u64) -> Option<u64> {
    let at = offset.checked_next_multiple_of(HUGE)?;
    (at - offset <= run.checked_sub(bytes)?).then_some(at)
}

/// The allocator of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pool {
    /// In a pool: start of each free run, and its bytes. Unused without one.
    free: BTreeMap<u64, u64>,
    /// The same runs by size.
    sizes: BTreeSet<(u64, u64)>,
    /// Bytes of the pool; None without one.
    bytes: Option<u64>,
    /// Bytes given out.
    used: u64,
}

impl Pool {
    pub(crate) fn new(store: Store) -> Self {
        let mut pool = Pool {
            free: BTreeMap::new(),
            sizes: BTreeSet::new(),
            bytes: None,
            used: 0,
        };
        if let Store::Pool { bytes } = store {
            let end = bytes / PAGE * PAGE;
            pool.bytes = Some(end);
            if end > RESERVED {
                pool.add(RESERVED, end - RESERVED);
            }
        }
        pool
    }

    /// Bytes given out.
    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    /// Takes `bytes` (a multiple of the page) for a construct that has `behind` bytes already: in one piece if there is one, else in
    /// at most `pieces`. None if there is not enough.
    pub(crate) fn take(&mut self, behind: u64, bytes: u64, pieces: usize) -> Option<Vec<Extent>> {
        let used = self.used.checked_add(bytes)?;
        if self.bytes.is_none() {
            behind.checked_add(bytes)?;
            self.used = used;
            return Some(vec![Extent {
                offset: behind,
                bytes,
            }]);
        }
        let mut taken = Vec::new();
        let mut left = bytes;
        while left > 0 {
            let Some((run, offset, at)) = self.fit(left).filter(|_| taken.len() < pieces) else {
                self.give_back(&taken);
                return None;
            };
            let (end, piece) = (offset + run, (offset + run - at).min(left));
            self.remove(offset, run);
            if at > offset {
                self.add(offset, at - offset);
            }
            if end > at + piece {
                self.add(at + piece, end - at - piece);
            }
            taken.push(Extent {
                offset: at,
                bytes: piece,
            });
            left -= piece;
            self.used += piece;
        }
        Some(taken)
    }

    /// The smallest run that holds so much, else the largest there is: its bytes, where it begins, and where in it the piece is to begin.
    fn fit(&self, bytes: u64) -> Option<(u64, u64, u64)> {
        let large = || self.sizes.range((bytes, 0)..);
        if bytes >= HUGE {
            let long_enough = self.sizes.range((bytes.saturating_add(HUGE), 0)..).take(1);
            let found = large()
                .take(LOOKS)
                .chain(long_enough)
                .find_map(|&run| Some((run, aligned(run, bytes)?)));
            if let Some(((run, offset), at)) = found {
                return Some((run, offset, at));
            }
        }
        let &(run, offset) = large().next().or_else(|| self.sizes.last())?;
        Some((run, offset, offset))
    }

    /// Gives extents back.
    pub(crate) fn give_back(&mut self, extents: &[Extent]) {
        for extent in extents {
            self.used = self.used.saturating_sub(extent.bytes);
            if self.bytes.is_some() {
                self.merge(*extent);
            }
        }
    }

    fn merge(&mut self, extent: Extent) {
        let (mut start, mut end) = (extent.offset, extent.offset + extent.bytes);
        if let Some((&offset, &bytes)) = self.free.range(..start).next_back()
            && offset + bytes == start
        {
            self.remove(offset, bytes);
            start = offset;
        }
        if let Some(&bytes) = self.free.get(&end) {
            self.remove(end, bytes);
            end += bytes;
        }
        self.add(start, end - start);
    }

    fn add(&mut self, offset: u64, bytes: u64) {
        self.free.insert(offset, bytes);
        self.sizes.insert((bytes, offset));
    }

    fn remove(&mut self, offset: u64, bytes: u64) {
        self.free.remove(&offset);
        self.sizes.remove(&(bytes, offset));
    }

    /// What is wrong, given the extents in use. For tests.
    pub(crate) fn check<'a>(&self, in_use: impl Iterator<Item = &'a Extent>) -> Result<(), String> {
        let mut used = 0;
        let mut runs: Vec<(u64, u64)> = self
            .free
            .iter()
            .map(|(&offset, &bytes)| (offset, bytes))
            .collect();
        for extent in in_use {
            used += extent.bytes;
            runs.push((extent.offset, extent.bytes));
        }
        if used != self.used {
            return Err(format!("{used} bytes in extents, {} counted", self.used));
        }
        let by_size: BTreeSet<(u64, u64)> = self
            .free
            .iter()
            .map(|(&offset, &bytes)| (bytes, offset))
            .collect();
        if by_size != self.sizes {
            return Err("the two lists of free runs differ".into());
        }
        let Some(end) = self.bytes else {
            return Ok(());
        };
        runs.sort_unstable();
        let mut at = RESERVED.min(end);
        for (offset, bytes) in runs {
            if offset != at || bytes == 0 || bytes % PAGE != 0 {
                return Err(format!("run {offset:#x}+{bytes:#x} where {at:#x} was to begin"));
            }
            at += bytes;
        }
        if at != end {
            return Err(format!("the runs end at {at:#x}, the pool at {end:#x}"));
        }
        for ((&first, &bytes), (&second, _)) in self.free.iter().zip(self.free.iter().skip(1)) {
            if first + bytes == second {
                return Err(format!("free neighbours at {first:#x} and {second:#x}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn best_fit_takes_the_smallest_run_that_holds_it() {
        let mut pool = Pool::new(Store::Pool { bytes: 16 * PAGE });
        let a = pool.take(0, 4 * PAGE, 1).unwrap();
        let _b = pool.take(0, PAGE, 1).unwrap();
        let c = pool.take(0, 2 * PAGE, 1).unwrap();
        let _d = pool.take(0, PAGE, 1).unwrap();
        pool.give_back(&a);
        pool.give_back(&c);
        assert_eq!(pool.take(0, 2 * PAGE, 1).unwrap(), c);
        assert_eq!(pool.take(0, 3 * PAGE, 1).unwrap()[0].offset, a[0].offset);
    }

    #[test]
    fn pieces_are_used_when_no_run_is_long_enough() {
        let mut pool = Pool::new(Store::Pool { bytes: 9 * PAGE });
        let all: Vec<_> = (0..8).map(|_| pool.take(0, PAGE, 1).unwrap()).collect();
        for one in all.iter().step_by(2) {
            pool.give_back(one);
        }
        assert_eq!(pool.take(0, 2 * PAGE, 1), None);
        assert_eq!(pool.take(0, 2 * PAGE, 2).unwrap().len(), 2);
        assert_eq!(pool.take(0, 3 * PAGE, 9), None);
        assert_eq!(pool.used(), 6 * PAGE);
    }

    #[test]
    fn what_is_as_large_as_a_huge_page_begins_where_one_does_if_it_can() {
        let mut pool = Pool::new(Store::Pool { bytes: 4 * HUGE });
        let large = pool.take(0, HUGE + PAGE, 1).unwrap();
        assert_eq!(large[0].offset, HUGE);
        // The smallest run that holds it is the one before.
        let small = pool.take(0, PAGE, 1).unwrap();
        assert_eq!(small[0].offset, RESERVED);
        assert_eq!(pool.take(0, HUGE, 1).unwrap()[0].offset, 3 * HUGE);
        pool.give_back(&small);
        let rest = HUGE - PAGE;
        let all: Vec<_> = [rest, rest].map(|bytes| pool.take(0, bytes, 1).unwrap()).concat();
        assert_eq!(pool.take(0, PAGE, 1), None);
        pool.give_back(&all);
        pool.give_back(&large);
        // One run from the first page to the last huge page: aligned there is no room for so much.
        let most = pool.take(0, 3 * HUGE - PAGE, 1).unwrap();
        assert_eq!(most[0].offset, RESERVED);
        pool.give_back(&most);
        assert_eq!(pool.take(0, 2 * HUGE, 1).unwrap()[0].offset, HUGE);
    }

    #[test]
    fn the_reserved_page_is_never_given_out() {
        let mut pool = Pool::new(Store::Pool { bytes: 3 * PAGE });
        let all = pool.take(0, 2 * PAGE, 1).unwrap();
        assert_eq!(
            all,
            [Extent {
                offset: RESERVED,
                bytes: 2 * PAGE
            }]
        );
        assert_eq!(pool.take(0, PAGE, 1), None);
        pool.check(all.iter()).unwrap();
        assert_eq!(Pool::new(Store::Pool { bytes: 0 }).take(0, PAGE, 1), None);
    }

    #[test]
    fn without_a_pool_extents_follow_one_another_in_the_constructs_own_file() {
        let mut pool = Pool::new(Store::PerConstruct);
        let first = pool.take(0, PAGE, 1).unwrap();
        let second = pool.take(PAGE, 2 * PAGE, 1).unwrap();
        assert_eq!((first[0].offset, second[0].offset), (0, PAGE));
        assert_eq!(pool.take(u64::MAX - 1, PAGE, 1), None);
    }
}
