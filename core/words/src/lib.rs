//! The only door to memory that a peer may write.
//!
//! Algorithms over construct memory are generic over [`Words`] and forbid unsafe code; this crate holds the trait and
//! its implementations: [`Mapping`] (a real shared mapping), [`Heap`] (plain memory for tests and models) and [`Scribbled`] (a peer that writes
//! rubbish while the algorithm runs); and [`Foreign`]: the program's own memory, on the other side of a copy, which may not be there.
//!
//! What it is not for: meaning. Nothing here knows what a semaphore or a message is.
//!
//! # Rules of the trait
//! - Offsets are in bytes from the start of the construct. 32-bit accesses want multiples of 4, 64-bit ones of 8.
//! - An access that does not fit (`at + width > len()`), or is misaligned, never faults: a load gives 0, a store does nothing, a
//!   compare-exchange fails with 0, a copy gives `false`. Algorithms check before they access; this is the net below.
//! - `len` may grow at any time (an extent was appended and mapped), it never shrinks while a reference exists.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod foreign;
mod heap;
mod mapping;
mod scribbled;

pub use core::sync::atomic::Ordering;
pub use foreign::{Foreign, landing};
pub use heap::Heap;
pub use mapping::Mapping;
pub use scribbled::Scribbled;

/// Bytes at a time, where a copy takes two steps.
const PIECE: usize = 256;

/// What became of a copy between a construct and the program's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// All of it.
    Whole,
    /// It does not fit into the construct.
    Outside,
    /// The program's memory is not there, or not all of it: some bytes may have been copied.
    Fault,
}

/// Memory that other processes may read and write at any time, addressed by byte offset.
pub trait Words {
    /// Bytes that may be accessed now. May grow between two calls.
    fn len(&self) -> usize;
    /// Whether nothing may be accessed.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A hint that the cache line at `at` will be written soon. Asked for as this processor's own at once, it comes beside others instead of after them, and
    /// once instead of twice, to be read and to be written. Never wrong, only useless.
    #[inline(always)]
    fn claim(&self, at: usize) {
        let _ = at;
    }

    /// Loads the 32-bit word at `at`.
    fn load32(&self, at: usize, order: Ordering) -> u32;
    /// Stores `value` into the 32-bit word at `at`.
    fn store32(&self, at: usize, value: u32, order: Ordering);
    /// Exchanges the 32-bit word at `at` for `new` if it is `current`; gives the value found either way.
    fn compare_exchange32(
        &self,
        at: usize,
        current: u32,
        new: u32,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u32, u32>;

    /// Loads the 64-bit word at `at`.
    fn load64(&self, at: usize, order: Ordering) -> u64;
    /// Stores `value` into the 64-bit word at `at`.
    fn store64(&self, at: usize, value: u64, order: Ordering);
    /// Exchanges the 64-bit word at `at` for `new` if it is `current`; gives the value found either way.
    fn compare_exchange64(
        &self,
        at: usize,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64>;

    /// Copies `into.len()` bytes from `at` out of the construct. The bytes may change while they are copied: what arrives is
    /// some mixture, to be treated as data from an untrusted peer. `false` (and nothing copied) if it does not fit.
    fn copy_out(&self, at: usize, into: &mut [u8]) -> bool;
    /// Copies `from` into the construct at `at`. `false` (and nothing copied) if it does not fit.
    fn copy_in(&self, at: usize, from: &[u8]) -> bool;
    /// Copies the first `bytes` bytes of `to` from `at` on. Never to be called under a lock: it may fault.
    fn copy_out_to(&self, at: usize, to: &Foreign, bytes: usize) -> Copied {
        let mut piece = [0; PIECE];
        let mut done = 0;
        while done < bytes {
            let piece = &mut piece[..PIECE.min(bytes - done)];
            if !self.copy_out(at + done, piece) {
                return Copied::Outside;
            }
            if !to.behind(done).write(piece) {
                return Copied::Fault;
            }
            done += piece.len();
        }
        Copied::Whole
    }
    /// Copies all of `from` into the construct at `at`. Never to be called under a lock: it may fault.
    fn copy_in_from(&self, at: usize, from: &Foreign) -> Copied {
        let mut piece = [0; PIECE];
        let mut done = 0;
        while done < from.len() {
            let piece = &mut piece[..PIECE.min(from.len() - done)];
            if !from.behind(done).read(piece) {
                return Copied::Fault;
            }
            if !self.copy_in(at + done, piece) {
                return Copied::Outside;
            }
            done += piece.len();
        }
        Copied::Whole
    }
    /// Zeroes `bytes` bytes from `at`. `false` (and nothing zeroed) if it does not fit.
    fn zero(&self, at: usize, bytes: usize) -> bool;
}

/// Whether an access of `width` bytes (a power of two) at `at` is aligned and lies within `len` bytes.
#[inline(always)]
pub(crate) fn fits(at: usize, width: usize, len: usize) -> bool {
    begins_below(at, width, len & !(width - 1))
}

/// The same, of a length that is a multiple of `width`: what is aligned and begins there ends there. One comparison, since every access makes it.
#[inline(always)]
pub(crate) fn begins_below(at: usize, width: usize, end: usize) -> bool {
    at & (width - 1) == 0 && at < end
}
