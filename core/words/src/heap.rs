//! Plain memory behind the [`Words`] trait, in safe code: for tests, models and private copies.
//!
//! Not for sharing between processes.

use crate::{Ordering, Words, fits};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicU32, AtomicUsize};

/// Memory of this process, as an array of 32-bit atomics. 64-bit accesses are two halves under a
/// spin flag, so they are atomic among users of the same `Heap`.
#[derive(Debug)]
pub struct Heap {
    words: Box<[AtomicU32]>,
    len: AtomicUsize,
    pair: AtomicU32,
}

impl Heap {
    /// `bytes` zeroed bytes, able to grow to `most`.
    pub fn with_room(bytes: usize, most: usize) -> Self {
        let words = (0..most.max(bytes).div_ceil(4))
            .map(|_| AtomicU32::new(0))
            .collect();
        Heap {
            words,
            len: AtomicUsize::new(bytes),
            pair: AtomicU32::new(0),
        }
    }

    /// `bytes` zeroed bytes.
    pub fn new(bytes: usize) -> Self {
        Self::with_room(bytes, bytes)
    }

    /// Appends: the memory now reaches `bytes` bytes, at most what room was made for.
    pub fn grow(&self, bytes: usize) {
        self.len
            .fetch_max(bytes.min(self.words.len() * 4), Ordering::Release);
    }

    fn word(&self, at: usize, width: usize) -> Option<usize> {
        fits(at, width, self.len.load(Ordering::Relaxed)).then_some(at / 4)
    }

    fn locked<T>(&self, work: impl FnOnce() -> T) -> T {
        while self
            .pair
            .compare_exchange_weak(0, 1, Ordering::SeqCst, Ordering::SeqCst)
            .is_err()
        {
            core::hint::spin_loop();
        }
        let result = work();
        self.pair.store(0, Ordering::SeqCst);
        result
    }

    fn get64(&self, i: usize) -> u64 {
        u64::from(self.words[i].load(Ordering::SeqCst))
            | u64::from(self.words[i + 1].load(Ordering::SeqCst)) << 32
    }

    fn set64(&self, i: usize, value: u64) {
        self.words[i].store(value as u32, Ordering::SeqCst);
        self.words[i + 1].store((value >> 32) as u32, Ordering::SeqCst);
    }

    fn byte(&self, at: usize) -> u8 {
        (self.words[at / 4].load(Ordering::SeqCst) >> (at % 4 * 8)) as u8
    }

    fn set_byte(&self, at: usize, value: u8) {
        let shift = at % 4 * 8;
        let word = &self.words[at / 4];
        let _ = word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |w| {
            Some(w & !(0xff << shift) | u32::from(value) << shift)
        });
    }

    fn fits_bytes(&self, at: usize, bytes: usize) -> bool {
        let len = self.len.load(Ordering::Relaxed);
        at <= len && len - at >= bytes
    }
}

impl Words for Heap {
    fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }
    fn load32(&self, at: usize, _: Ordering) -> u32 {
        self.word(at, 4)
            .map_or(0, |i| self.words[i].load(Ordering::SeqCst))
    }
    fn store32(&self, at: usize, value: u32, _: Ordering) {
        if let Some(i) = self.word(at, 4) {
            self.words[i].store(value, Ordering::SeqCst);
        }
    }
    fn compare_exchange32(
        &self,
        at: usize,
        current: u32,
        new: u32,
        _: Ordering,
        _: Ordering,
    ) -> Result<u32, u32> {
        let Some(i) = self.word(at, 4) else { return Err(0) };
        self.words[i].compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst)
    }
    fn load64(&self, at: usize, _: Ordering) -> u64 {
        self.word(at, 8).map_or(0, |i| self.locked(|| self.get64(i)))
    }
    fn store64(&self, at: usize, value: u64, _: Ordering) {
        if let Some(i) = self.word(at, 8) {
            self.locked(|| self.set64(i, value));
        }
    }
    fn compare_exchange64(
        &self,
        at: usize,
        current: u64,
        new: u64,
        _: Ordering,
        _: Ordering,
    ) -> Result<u64, u64> {
        let Some(i) = self.word(at, 8) else { return Err(0) };
        self.locked(|| {
            let found = self.get64(i);
            if found != current {
                return Err(found);
            }
            self.set64(i, new);
            Ok(found)
        })
    }
    fn copy_out(&self, at: usize, into: &mut [u8]) -> bool {
        if !self.fits_bytes(at, into.len()) {
            return false;
        }
        into.iter_mut()
            .enumerate()
            .for_each(|(i, byte)| *byte = self.byte(at + i));
        true
    }
    fn copy_in(&self, at: usize, from: &[u8]) -> bool {
        if !self.fits_bytes(at, from.len()) {
            return false;
        }
        from.iter()
            .enumerate()
            .for_each(|(i, &byte)| self.set_byte(at + i, byte));
        true
    }
    fn zero(&self, at: usize, bytes: usize) -> bool {
        if !self.fits_bytes(at, bytes) {
            return false;
        }
        (at..at + bytes).for_each(|i| self.set_byte(i, 0));
        true
    }
}
