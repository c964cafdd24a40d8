//! What may be seen of memory that other processes write: atomics, and numbers through atomics.
#![allow(unsafe_code)] // The marker trait promises something the compiler cannot check.

use std::marker::PhantomData;
use std::sync::atomic::*;

/// Types that may lie in shared memory: every bit pattern is valid, there is no padding and no pointer, and all change goes
/// through atomic instructions.
///
/// # Safety
/// The type must be made of atomics only, without padding.
pub unsafe trait Shareable {}

macro_rules! shareable {
    ($($atomic:ty),*) => { $(
        // SAFETY: an atomic integer: any bits are valid, no padding.
        unsafe impl Shareable for $atomic {}
    )* };
}
shareable!(
    AtomicU8,
    AtomicI8,
    AtomicU16,
    AtomicI16,
    AtomicU32,
    AtomicI32,
    AtomicU64,
    AtomicI64,
    AtomicUsize,
    AtomicIsize
);

// SAFETY: an array has no padding between elements.
unsafe impl<T: Shareable, const N: usize> Shareable for [T; N] {}

/// Numbers that [`Cells`] can hold.
pub trait Plain: Copy + 'static {
    /// The atomic of the same width.
    type Atomic: Shareable + 'static;
    /// Loads relaxed.
    fn load(from: &Self::Atomic) -> Self;
    /// Stores relaxed.
    fn store(self, to: &Self::Atomic);
}

macro_rules! plain {
    ($($number:ty, $atomic:ty, $to:expr, $from:expr);* $(;)?) => { $(
        impl Plain for $number {
            type Atomic = $atomic;
            #[inline(always)]
            fn load(from: &$atomic) -> $number {
                #[allow(clippy::redundant_closure_call)]
                ($from)(from.load(Ordering::Relaxed))
            }
            #[inline(always)]
            fn store(self, to: &$atomic) {
                #[allow(clippy::redundant_closure_call)]
                to.store(($to)(self), Ordering::Relaxed);
            }
        }
    )* };
}
plain! {
    u8, AtomicU8, |x| x, |x| x;
    i8, AtomicI8, |x| x, |x| x;
    u16, AtomicU16, |x| x, |x| x;
    i16, AtomicI16, |x| x, |x| x;
    u32, AtomicU32, |x| x, |x| x;
    i32, AtomicI32, |x| x, |x| x;
    u64, AtomicU64, |x| x, |x| x;
    i64, AtomicI64, |x| x, |x| x;
    f32, AtomicU32, f32::to_bits, f32::from_bits;
    f64, AtomicU64, f64::to_bits, f64::from_bits;
}

/// Numbers in shared memory, loaded and stored one at a time.
#[derive(Debug, Clone, Copy)]
pub struct Cells<'a, T: Plain> {
    cells: &'a [T::Atomic],
    of: PhantomData<T>,
}

impl<'a, T: Plain> Cells<'a, T> {
    pub(crate) fn new(cells: &'a [T::Atomic]) -> Self {
        Cells {
            cells,
            of: PhantomData,
        }
    }
    /// How many.
    pub fn len(&self) -> usize {
        self.cells.len()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }
    /// The number at `index`. Panics if there is none, as a slice does.
    #[inline(always)]
    pub fn get(&self, index: usize) -> T {
        T::load(&self.cells[index])
    }
    /// Stores a number at `index`. Panics if there is no such cell, as a slice does.
    #[inline(always)]
    pub fn set(&self, index: usize, value: T) {
        value.store(&self.cells[index]);
    }
    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = T> + 'a {
        self.cells.iter().map(T::load)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_in_and_come_out() {
        let memory = [AtomicU64::new(0), AtomicU64::new(0)];
        let cells = Cells::<f64>::new(&memory);
        cells.set(1, -2.5);
        assert_eq!((cells.get(0), cells.get(1), cells.len()), (0.0, -2.5, 2));
        assert_eq!(cells.iter().sum::<f64>(), -2.5);
    }
}
