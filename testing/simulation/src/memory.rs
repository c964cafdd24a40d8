//! Construct memory, with a step of the simulation at each access.
//!
//! The pool is one piece of memory; a construct's extents are found in it as a mapping would put them one after another. What is beyond the extents that were mapped is
//! not there.

use crate::baton::Sim;
use vshmem_wire::Extent;
use vshmem_words::{Ordering, Words};

/// A construct as one thread maps it.
pub(crate) struct Mapped<'a> {
    sim: &'a Sim,
    /// None: outside of the run, no steps.
    thread: Option<usize>,
    extents: Vec<Extent>,
    len: usize,
}

impl<'a> Mapped<'a> {
    pub(crate) fn new(sim: &'a Sim, thread: Option<usize>, extents: &[Extent]) -> Self {
        Mapped {
            sim,
            thread,
            extents: extents.to_vec(),
            len: extents.iter().map(|e| e.bytes as usize).sum(),
        }
    }

    /// Where an offset is in the pool.
    pub(crate) fn place(&self, mut at: usize) -> Option<usize> {
        for extent in &self.extents {
            if at < extent.bytes as usize {
                return Some(extent.offset as usize + at);
            }
            at -= extent.bytes as usize;
        }
        None
    }

    /// The place of an access, after a step; None beyond the memory, and for the doomed, who access nothing any more.
    fn access(&self, at: usize, width: usize) -> Option<usize> {
        if std::thread::panicking() {
            return None;
        }
        if let Some(thread) = self.thread {
            self.sim.step(thread);
        }
        let fits = at & (width - 1) == 0 && at <= self.len && self.len - at >= width;
        if fits { self.place(at) } else { None }
    }

    /// Runs of the pool that an access covers: (place, first byte, bytes).
    fn runs(&self, at: usize, bytes: usize) -> Option<Vec<(usize, usize, usize)>> {
        if at > self.len || self.len - at < bytes {
            return None;
        }
        let mut runs = Vec::new();
        let (mut begin, end) = (0, at + bytes);
        for extent in &self.extents {
            let next = begin + extent.bytes as usize;
            let (from, to) = (at.max(begin), end.min(next));
            if from < to {
                runs.push((extent.offset as usize + from - begin, from - at, to - from));
            }
            begin = next;
        }
        Some(runs)
    }

    /// A copy in two halves, with a step before each: somebody may die in the middle.
    fn copy(&self, at: usize, bytes: usize, mut one: impl FnMut(usize, usize, usize)) -> bool {
        let Some(runs) = self.runs(at, bytes) else {
            return false;
        };
        for (place, first, bytes) in runs {
            let half = bytes / 2;
            for (skip, bytes) in [(0, half), (half, bytes - half)] {
                if std::thread::panicking() {
                    return false;
                }
                if let Some(thread) = self.thread {
                    self.sim.step(thread);
                }
                one(place + skip, first + skip, bytes);
            }
        }
        true
    }
}

impl Words for Mapped<'_> {
    fn len(&self) -> usize {
        self.len
    }
    fn load32(&self, at: usize, order: Ordering) -> u32 {
        self.access(at, 4)
            .map_or(0, |place| self.sim.pool.load32(place, order))
    }
    fn store32(&self, at: usize, value: u32, order: Ordering) {
        if let Some(place) = self.access(at, 4) {
            self.sim.trace_word(self.thread, place, value);
            self.sim.pool.store32(place, value, order);
        }
    }
    fn compare_exchange32(
        &self,
        at: usize,
        current: u32,
        new: u32,
        s: Ordering,
        f: Ordering,
    ) -> Result<u32, u32> {
        let place = self.access(at, 4).ok_or(0u32)?;
        self.sim.trace_word(self.thread, place, new);
        self.sim.pool.compare_exchange32(place, current, new, s, f)
    }
    fn load64(&self, at: usize, order: Ordering) -> u64 {
        self.access(at, 8)
            .map_or(0, |place| self.sim.pool.load64(place, order))
    }
    fn store64(&self, at: usize, value: u64, order: Ordering) {
        if let Some(place) = self.access(at, 8) {
            self.sim.pool.store64(place, value, order);
        }
    }
    fn compare_exchange64(
        &self,
        at: usize,
        current: u64,
        new: u64,
        s: Ordering,
        f: Ordering,
    ) -> Result<u64, u64> {
        let place = self.access(at, 8).ok_or(0u64)?;
        self.sim.pool.compare_exchange64(place, current, new, s, f)
    }
    fn copy_out(&self, at: usize, into: &mut [u8]) -> bool {
        let bytes = into.len();
        self.copy(at, bytes, |place, first, bytes| {
            self.sim.pool.copy_out(place, &mut into[first..first + bytes]);
        })
    }
    fn copy_in(&self, at: usize, from: &[u8]) -> bool {
        self.copy(at, from.len(), |place, first, bytes| {
            self.sim.pool.copy_in(place, &from[first..first + bytes]);
        })
    }
    fn zero(&self, at: usize, bytes: usize) -> bool {
        self.copy(at, bytes, |place, _, bytes| {
            self.sim.pool.zero(place, bytes);
        })
    }
}
