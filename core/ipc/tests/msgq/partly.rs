//! Memory that a process has mapped only in part, because others have grown it since.

use std::cell::Cell;
use vshmem_words::{Heap, Ordering, Words};

/// Memory of which less is mapped than there is: `mapped` bytes, and `later`, if given, after a text was copied in.
pub(crate) struct Partly<'a> {
    pub(crate) inner: &'a Heap,
    pub(crate) mapped: Cell<usize>,
    pub(crate) later: Option<usize>,
}

impl Words for Partly<'_> {
    fn len(&self) -> usize {
        self.mapped.get()
    }
    fn load32(&self, at: usize, o: Ordering) -> u32 {
        self.inner.load32(at, o)
    }
    fn store32(&self, at: usize, v: u32, o: Ordering) {
        self.inner.store32(at, v, o);
    }
    fn compare_exchange32(&self, at: usize, c: u32, n: u32, s: Ordering, f: Ordering) -> Result<u32, u32> {
        self.inner.compare_exchange32(at, c, n, s, f)
    }
    fn load64(&self, at: usize, o: Ordering) -> u64 {
        self.inner.load64(at, o)
    }
    fn store64(&self, at: usize, v: u64, o: Ordering) {
        self.inner.store64(at, v, o);
    }
    fn compare_exchange64(&self, at: usize, c: u64, n: u64, s: Ordering, f: Ordering) -> Result<u64, u64> {
        self.inner.compare_exchange64(at, c, n, s, f)
    }
    fn copy_out(&self, at: usize, into: &mut [u8]) -> bool {
        self.inner.copy_out(at, into)
    }
    fn copy_in(&self, at: usize, from: &[u8]) -> bool {
        self.mapped.set(self.later.unwrap_or(self.mapped.get()));
        self.inner.copy_in(at, from)
    }
    fn zero(&self, at: usize, bytes: usize) -> bool {
        self.inner.zero(at, bytes)
    }
}
