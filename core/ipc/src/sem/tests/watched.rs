//! Memory whose every access a test watches.

use vshmem_words::{Heap, Ordering, Words};

/// What an access does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Load,
    /// Anything that may change memory.
    Store,
}

/// `inner`, as long as `len` says, with `watch` called before each access; a store for which it gives `false` does not happen (a
/// compare-exchange fails with what is there).
pub(super) struct Watched<'a, F: Fn(Access) -> bool> {
    pub(super) inner: &'a Heap,
    pub(super) len: usize,
    pub(super) watch: F,
}

impl<'a, F: Fn(Access) -> bool> Watched<'a, F> {
    pub(super) fn new(inner: &'a Heap, watch: F) -> Self {
        Watched {
            inner,
            len: inner.len(),
            watch,
        }
    }
    fn load(&self) -> &Heap {
        (self.watch)(Access::Load);
        self.inner
    }
    fn store(&self, at: usize) -> Option<&Heap> {
        assert!(at < self.len, "a store beyond what this process maps");
        (self.watch)(Access::Store).then_some(self.inner)
    }
}

impl<F: Fn(Access) -> bool> Words for Watched<'_, F> {
    fn len(&self) -> usize {
        self.len
    }
    fn load32(&self, at: usize, order: Ordering) -> u32 {
        self.load().load32(at, order)
    }
    fn store32(&self, at: usize, value: u32, order: Ordering) {
        if let Some(heap) = self.store(at) {
            heap.store32(at, value, order);
        }
    }
    fn compare_exchange32(
        &self,
        at: usize,
        cur: u32,
        new: u32,
        s: Ordering,
        f: Ordering,
    ) -> Result<u32, u32> {
        match self.store(at) {
            Some(heap) => heap.compare_exchange32(at, cur, new, s, f),
            None => Err(self.inner.load32(at, f)),
        }
    }
    fn load64(&self, at: usize, order: Ordering) -> u64 {
        self.load().load64(at, order)
    }
    fn store64(&self, at: usize, value: u64, order: Ordering) {
        if let Some(heap) = self.store(at) {
            heap.store64(at, value, order);
        }
    }
    fn compare_exchange64(
        &self,
        at: usize,
        cur: u64,
        new: u64,
        s: Ordering,
        f: Ordering,
    ) -> Result<u64, u64> {
        match self.store(at) {
            Some(heap) => heap.compare_exchange64(at, cur, new, s, f),
            None => Err(self.inner.load64(at, f)),
        }
    }
    fn copy_out(&self, at: usize, into: &mut [u8]) -> bool {
        self.load().copy_out(at, into)
    }
    fn copy_in(&self, at: usize, from: &[u8]) -> bool {
        self.store(at).is_some_and(|heap| heap.copy_in(at, from))
    }
    fn zero(&self, at: usize, bytes: usize) -> bool {
        self.store(at).is_some_and(|heap| heap.zero(at, bytes))
    }
}
