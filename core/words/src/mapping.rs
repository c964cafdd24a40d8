//! A real shared mapping: the one place where construct memory is touched through a pointer.
//!
//! Not for making or ending mappings: whoever maps memory promises, in [`Mapping::new`], how long it stays mapped.
#![allow(unsafe_code)] // The data path is loads and stores through a raw pointer: there is no safe way to say that.

use crate::{Copied, Foreign, Ordering, Words, begins_below};
use core::sync::atomic::{AtomicU32, AtomicU64};

/// Shared memory of this process at a fixed address. Its length stays as it is: who maps more makes another.
#[derive(Debug)]
pub struct Mapping {
    base: *mut u8,
    len: usize,
    /// Where the last whole word of 32 bits ends, and of 64.
    end32: usize,
    end64: usize,
}

// SAFETY: the pointer is only used for atomic accesses and for the audited copies below, which tolerate concurrent writers.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Wraps `len` bytes mapped at `base`.
    ///
    /// # Safety
    /// `base` is aligned to 8 bytes, and `len` bytes from it stay mapped readable and writable for as long as this value is used; no Rust reference
    /// to any of these bytes exists meanwhile.
    pub unsafe fn new(base: *mut u8, len: usize) -> Self {
        Mapping {
            base,
            len,
            end32: len & !3,
            end64: len & !7,
        }
    }

    /// Where it is mapped.
    pub fn base(&self) -> *mut u8 {
        self.base
    }

    #[inline(always)]
    fn word32(&self, at: usize) -> Option<&AtomicU32> {
        if !begins_below(at, 4, self.end32) {
            return None;
        }
        // SAFETY: in range and aligned (checked above; base is aligned), mapped (promise of `new`).
        Some(unsafe { AtomicU32::from_ptr(self.base.add(at).cast()) })
    }

    #[inline(always)]
    fn word64(&self, at: usize) -> Option<&AtomicU64> {
        if !begins_below(at, 8, self.end64) {
            return None;
        }
        // SAFETY: in range and aligned (checked above; base is aligned), mapped (promise of `new`).
        Some(unsafe { AtomicU64::from_ptr(self.base.add(at).cast()) })
    }

    fn fits_bytes(&self, at: usize, bytes: usize) -> bool {
        at <= self.len && self.len - at >= bytes
    }
}

// `match` and not `map_or` here: the closure's call is sometimes not inlined, and then the order is matched at run time on every access.
impl Words for Mapping {
    #[inline(always)]
    fn len(&self) -> usize {
        self.len
    }
    #[inline(always)]
    fn claim(&self, at: usize) {
        // Processors that do not know it take it for an instruction that does nothing.
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        // SAFETY: a prefetch changes nothing but caches and never faults, whatever the address.
        unsafe {
            let line = self.base.wrapping_add(at);
            core::arch::asm!("prefetchw [{}]", in(reg) line, options(nostack, preserves_flags, readonly));
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        let _ = at;
    }
    #[inline(always)]
    fn load32(&self, at: usize, order: Ordering) -> u32 {
        match self.word32(at) {
            Some(w) => w.load(order),
            None => 0,
        }
    }
    #[inline(always)]
    fn store32(&self, at: usize, value: u32, order: Ordering) {
        if let Some(w) = self.word32(at) {
            w.store(value, order);
        }
    }
    #[inline(always)]
    fn compare_exchange32(
        &self,
        at: usize,
        current: u32,
        new: u32,
        s: Ordering,
        f: Ordering,
    ) -> Result<u32, u32> {
        match self.word32(at) {
            Some(w) => w.compare_exchange(current, new, s, f),
            None => Err(0),
        }
    }
    #[inline(always)]
    fn load64(&self, at: usize, order: Ordering) -> u64 {
        match self.word64(at) {
            Some(w) => w.load(order),
            None => 0,
        }
    }
    #[inline(always)]
    fn store64(&self, at: usize, value: u64, order: Ordering) {
        if let Some(w) = self.word64(at) {
            w.store(value, order);
        }
    }
    #[inline(always)]
    fn compare_exchange64(
        &self,
        at: usize,
        current: u64,
        new: u64,
        s: Ordering,
        f: Ordering,
    ) -> Result<u64, u64> {
        match self.word64(at) {
            Some(w) => w.compare_exchange(current, new, s, f),
            None => Err(0),
        }
    }
    #[inline]
    fn copy_out(&self, at: usize, into: &mut [u8]) -> bool {
        if !self.fits_bytes(at, into.len()) {
            return false;
        }
        // SAFETY: the source is in range and mapped; the destination is ours alone, so they do not overlap.
        unsafe { copy_bytes(self.base.add(at), into.as_mut_ptr(), into.len()) };
        true
    }
    #[inline]
    fn copy_in(&self, at: usize, from: &[u8]) -> bool {
        if !self.fits_bytes(at, from.len()) {
            return false;
        }
        // SAFETY: the destination is in range and mapped; the source is ours alone, so they do not overlap.
        unsafe { copy_bytes(from.as_ptr(), self.base.add(at), from.len()) };
        true
    }
    #[inline]
    fn copy_out_to(&self, at: usize, to: &Foreign, bytes: usize) -> Copied {
        if !self.fits_bytes(at, bytes) {
            return Copied::Outside;
        }
        // SAFETY: the source is in range and mapped.
        match unsafe { to.take(self.base.add(at), bytes) } {
            true => Copied::Whole,
            false => Copied::Fault,
        }
    }
    #[inline]
    fn copy_in_from(&self, at: usize, from: &Foreign) -> Copied {
        if !self.fits_bytes(at, from.len()) {
            return Copied::Outside;
        }
        // SAFETY: the destination is in range and mapped.
        match unsafe { from.give(self.base.add(at)) } {
            true => Copied::Whole,
            false => Copied::Fault,
        }
    }
    fn zero(&self, at: usize, bytes: usize) -> bool {
        if !self.fits_bytes(at, bytes) {
            return false;
        }
        // SAFETY: in range and mapped. Volatile bytes through `write_bytes` on memory a peer may write: see `copy_bytes`.
        unsafe { core::ptr::write_bytes(self.base.add(at), 0, bytes) };
        true
    }
}

/// The audited copy routine: user payload goes through here and nowhere else.
///
/// A peer may write the shared side while it is copied. On x86-64 the copy is one `rep movsb` in inline assembly (and plain moves of
/// up to 16 bytes for the short ones), which the compiler must treat as opaque: it can neither assume that the bytes stay the same nor
/// read them twice. Elsewhere it is a loop of volatile byte or word accesses.
///
/// # Safety
/// `from` is readable and `to` writable for `bytes` bytes, and they do not overlap.
#[inline]
pub(crate) unsafe fn copy_bytes(from: *const u8, to: *mut u8, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        if bytes <= 128 {
            // SAFETY: as promised by the caller.
            unsafe { copy_words(from, to, bytes) };
            return;
        }
        // SAFETY: as promised by the caller; the direction flag is clear by the ABI.
        unsafe {
            core::arch::asm!(
                "rep movsb",
                inout("rcx") bytes => _,
                inout("rsi") from => _,
                inout("rdi") to => _,
                options(nostack, preserves_flags)
            );
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: as promised by the caller.
    unsafe {
        copy_short(from, to, bytes)
    }
}

/// A copy by words, then the rest. `rep movsb` has a start-up cost of tens of cycles; below about 128 bytes this wins. Words of 8 bytes and not of 16: what
/// was just written by 8 can be read by 8 at once, but by 16 only once it has reached the cache. In assembly, since volatile accesses of unaligned words go
/// by way of the stack.
///
/// # Safety
/// As for [`copy_bytes`].
#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn copy_words(from: *const u8, to: *mut u8, bytes: usize) {
    // Miri runs no assembly: there all is the rest.
    let whole = if cfg!(miri) { 0 } else { bytes & !7 };
    if whole != 0 {
        // SAFETY: reads and writes the first `whole` bytes, which are not more than `bytes`.
        unsafe {
            core::arch::asm!(
                "test {at}, 31",
                "jz 3f",
                "2:",
                "mov {word}, [{from} + {at}]",
                "mov [{to} + {at}], {word}",
                "add {at}, 8",
                "test {at}, 31",
                "jnz 2b",
                "test {at}, {at}",
                "jz 4f",
                "3:",
                "mov {word}, [{from} + {at}]",
                "mov {other}, [{from} + {at} + 8]",
                "mov [{to} + {at}], {word}",
                "mov [{to} + {at} + 8], {other}",
                "mov {word}, [{from} + {at} + 16]",
                "mov {other}, [{from} + {at} + 24]",
                "mov [{to} + {at} + 16], {word}",
                "mov [{to} + {at} + 24], {other}",
                "add {at}, 32",
                "jnz 3b",
                "4:",
                from = in(reg) from.add(whole),
                to = in(reg) to.add(whole),
                at = inout(reg) (whole as isize).wrapping_neg() => _,
                word = out(reg) _,
                other = out(reg) _,
                options(nostack)
            );
        }
    }
    // SAFETY: the rest.
    unsafe { copy_short(from.add(whole), to.add(whole), bytes - whole) };
}

/// A copy by volatile unaligned words, then the rest.
///
/// # Safety
/// As for [`copy_bytes`].
#[inline]
unsafe fn copy_short(from: *const u8, to: *mut u8, bytes: usize) {
    let mut done = 0;
    while bytes - done >= 8 {
        // SAFETY: `done + 8 <= bytes`.
        unsafe { move_one::<Unaligned<u64>>(from.add(done), to.add(done)) };
        done += 8;
    }
    if bytes & 4 != 0 {
        // SAFETY: the rest is below 8 bytes and has bit 2: `done + 4 <= bytes`.
        unsafe { move_one::<Unaligned<u32>>(from.add(done), to.add(done)) };
        done += 4;
    }
    while done < bytes {
        // SAFETY: `done < bytes`.
        unsafe { move_one::<u8>(from.add(done), to.add(done)) };
        done += 1;
    }
}

/// A number anywhere: packed, so that a volatile access of it is one machine access without an alignment. (An array of bytes would do as well by
/// its meaning, but is read byte by byte.)
#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Unaligned<T>(T);

/// One volatile read and one volatile write.
///
/// # Safety
/// `from` is readable and `to` writable for a `T`, whose alignment is 1.
#[inline(always)]
unsafe fn move_one<T: Copy>(from: *const u8, to: *mut u8) {
    const { assert!(align_of::<T>() == 1) };
    // SAFETY: as promised by the caller; the alignment is checked above.
    unsafe { core::ptr::write_volatile(to.cast::<T>(), core::ptr::read_volatile(from.cast::<T>())) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    #[test]
    fn copies_every_length_and_alignment_and_nothing_beside() {
        let mut memory = vec![0u64; 64];
        // SAFETY: the vector outlives the mapping and is not touched while the mapping is used.
        let mapping = unsafe { Mapping::new(memory.as_mut_ptr().cast(), 512) };
        for at in 0..17 {
            for len in 0..300 {
                let data: Vec<u8> = (0..len).map(|i| (i * 7 + at) as u8 | 1).collect();
                assert!(mapping.zero(0, 512));
                assert!(mapping.copy_in(at, &data));
                let mut back = vec![0; len];
                assert!(mapping.copy_out(at, &mut back));
                assert_eq!(back, data);
                let mut rest = [9; 1];
                assert!(mapping.copy_out(at + len, &mut rest));
                assert_eq!(rest, [0]);
            }
        }
        drop(memory);
    }

    #[test]
    fn accesses_that_do_not_fit_do_nothing() {
        let mut memory = [7u64; 2];
        // SAFETY: the array outlives the mapping and is not touched while the mapping is used.
        let mapping = unsafe { Mapping::new(memory.as_mut_ptr().cast(), 16) };
        assert_eq!(mapping.load64(16, Ordering::Relaxed), 0);
        assert_eq!(mapping.load64(4, Ordering::Relaxed), 0);
        assert_eq!(mapping.load32(usize::MAX & !3, Ordering::Relaxed), 0);
        mapping.store64(12, 1, Ordering::Relaxed);
        assert!(!mapping.copy_in(9, &[0; 8]));
        assert!(!mapping.zero(usize::MAX, 1));
        assert_eq!(mapping.load64(8, Ordering::Relaxed), 7);
    }
}
