//! A peer that writes rubbish: a [`Words`] that lies.
//!
//! Wraps other memory and, with a seeded generator, now and then overwrites a word before it is read. For tests that show that
//! algorithms over construct memory end, stay in bounds and answer with an error whatever they read.

use crate::{Ordering, Words};
use core::cell::Cell;

/// Memory in which a peer scribbles: about one load in `one_in` first overwrites the word it reads, or another one.
#[derive(Debug)]
pub struct Scribbled<W> {
    inner: W,
    seed: Cell<u64>,
    one_in: u64,
    on: Cell<bool>,
}

impl<W: Words> Scribbled<W> {
    /// Scribbles over `inner`, from `seed`, at about one load in `one_in`.
    pub fn new(inner: W, seed: u64, one_in: u64) -> Self {
        Scribbled {
            inner,
            seed: Cell::new(seed | 1),
            one_in: one_in.max(1),
            on: Cell::new(true),
        }
    }

    /// Starts or stops scribbling.
    pub fn scribble(&self, on: bool) {
        self.on.set(on);
    }

    /// What is scribbled over.
    pub fn inner(&self) -> &W {
        &self.inner
    }

    /// The next number of the generator (xorshift64*).
    pub fn next(&self) -> u64 {
        let mut x = self.seed.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.seed.set(x);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn perhaps(&self, at: usize) {
        if !self.on.get() || !self.next().is_multiple_of(self.one_in) {
            return;
        }
        let words = (self.inner.len() / 4).max(1);
        let at = if self.next().is_multiple_of(2) {
            at & !3
        } else {
            (self.next() as usize % words) * 4
        };
        // Rubbish that is nearly right is the hardest: small numbers, offsets inside the memory, all ones, one flipped bit.
        let value = match self.next() % 6 {
            0 => 0,
            1 => (self.next() % 16) as u32,
            2 => (self.next() as usize % self.inner.len().max(1)) as u32 & !7,
            3 => u32::MAX,
            4 => self.inner.load32(at, Ordering::Relaxed) ^ 1 << (self.next() % 32),
            _ => self.next() as u32,
        };
        self.inner.store32(at, value, Ordering::Relaxed);
    }
}

impl<W: Words> Words for Scribbled<W> {
    fn len(&self) -> usize {
        self.inner.len()
    }
    fn load32(&self, at: usize, order: Ordering) -> u32 {
        self.perhaps(at);
        self.inner.load32(at, order)
    }
    fn store32(&self, at: usize, value: u32, order: Ordering) {
        self.inner.store32(at, value, order);
    }
    fn compare_exchange32(
        &self,
        at: usize,
        cur: u32,
        new: u32,
        s: Ordering,
        f: Ordering,
    ) -> Result<u32, u32> {
        self.perhaps(at);
        self.inner.compare_exchange32(at, cur, new, s, f)
    }
    fn load64(&self, at: usize, order: Ordering) -> u64 {
        self.perhaps(at);
        self.inner.load64(at, order)
    }
    fn store64(&self, at: usize, value: u64, order: Ordering) {
        self.inner.store64(at, value, order);
    }
    fn compare_exchange64(
        &self,
        at: usize,
        cur: u64,
        new: u64,
        s: Ordering,
        f: Ordering,
    ) -> Result<u64, u64> {
        self.perhaps(at);
        self.inner.compare_exchange64(at, cur, new, s, f)
    }
    fn copy_out(&self, at: usize, into: &mut [u8]) -> bool {
        self.perhaps(at);
        self.inner.copy_out(at, into)
    }
    fn copy_in(&self, at: usize, from: &[u8]) -> bool {
        self.inner.copy_in(at, from)
    }
    fn zero(&self, at: usize, bytes: usize) -> bool {
        self.inner.zero(at, bytes)
    }
}
