//! A byte stream in each direction through pages that two domains share.
//!
//! The layout, version 1. The first page:
//!
//! | at | word (u32) | who writes it |
//! |---|---|---|
//! | 0 | bytes that dom0 has put in, counted from the beginning | dom0 |
//! | 64 | bytes that the guest has taken out | guest |
//! | 128 | the guest waits for bytes (unused), dom0 waits for room: not 0 | dom0 |
//! | 192, 256, 320 | the same from the guest to dom0 | the other way round |
//!
//! The second page holds what goes to the guest, the third what goes to dom0. The other side may write anything anywhere at any time: what it says is read
//! once, checked, and used from a copy; nonsense is [`Corrupt`].

use std::ops::Deref;
use vshmem_words::{Ordering, Words};

/// Pages of a line.
pub(crate) const PAGES: u32 = 3;
const SIZE: u32 = 4096;

/// The other side has written nonsense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Corrupt {
    /// Bytes said to be under way.
    pub(crate) found: u32,
}

/// Which end this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Host,
    Guest,
}

/// One end of a line, over memory that `W` points to.
#[derive(Debug)]
pub(crate) struct Ring<W> {
    words: W,
    /// Where its words and bytes are: what this end puts in, and what it takes out.
    out: (usize, usize),
    back: (usize, usize),
    put: u32,
    taken: u32,
}

const PUT: usize = 0;
const TAKEN: usize = 64;
const FULL: usize = 128;

impl<W> Ring<W>
where
    W: Deref,
    W::Target: Words + Sized,
{
    /// An end of the line in `words`, going on where its words say it was.
    pub(crate) fn new(words: W, end: End) -> Self {
        let (down, up) = ((0, 4096), (192, 8192));
        let (out, back) = match end {
            End::Host => (down, up),
            End::Guest => (up, down),
        };
        let put = words.load32(out.0 + PUT, Ordering::Relaxed);
        let taken = words.load32(back.0 + TAKEN, Ordering::Relaxed);
        Ring {
            words,
            out,
            back,
            put,
            taken,
        }
    }

    fn under_way(put: u32, taken: u32) -> Result<u32, Corrupt> {
        let found = put.wrapping_sub(taken);
        if found > SIZE {
            Err(Corrupt { found })
        } else {
            Ok(found)
        }
    }

    /// How many bytes can be put in now. Where there is no room the other side is told to say when there is some.
    pub(crate) fn room(&self) -> Result<usize, Corrupt> {
        let room = || {
            // SeqCst: with the flag below, which the other side reads after it has taken something out.
            let taken = self.words.load32(self.out.0 + TAKEN, Ordering::SeqCst);
            Self::under_way(self.put, taken).map(|used| (SIZE - used) as usize)
        };
        let now = room()?;
        self.words
            .store32(self.out.0 + FULL, u32::from(now == 0), Ordering::SeqCst);
        if now == 0 { room() } else { Ok(now) }
    }

    /// How many bytes can be taken out now.
    pub(crate) fn there(&self) -> Result<usize, Corrupt> {
        let put = self.words.load32(self.back.0 + PUT, Ordering::SeqCst);
        Self::under_way(put, self.taken).map(|there| there as usize)
    }

    /// Puts bytes in, no more than there is room for.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.copy(bytes.len(), self.put, self.out.1, |words, at, part| {
            words.copy_in(at, &bytes[part])
        });
        self.put = self.put.wrapping_add(bytes.len() as u32);
        // Release: [put], so that the bytes are there when the count is.
        self.words.store32(self.out.0 + PUT, self.put, Ordering::SeqCst);
    }

    /// Takes bytes out, as many as there are and fit; and whether the other side waits for the room.
    pub(crate) fn take(&mut self, into: &mut [u8]) -> Result<(usize, bool), Corrupt> {
        // Acquire: [put].
        let put = self.words.load32(self.back.0 + PUT, Ordering::SeqCst);
        let there = (Self::under_way(put, self.taken)? as usize).min(into.len());
        self.copy(there, self.taken, self.back.1, |words, at, part| {
            words.copy_out(at, &mut into[part])
        });
        self.taken = self.taken.wrapping_add(there as u32);
        self.words
            .store32(self.back.0 + TAKEN, self.taken, Ordering::SeqCst);
        let waits = self.words.load32(self.back.0 + FULL, Ordering::SeqCst) != 0;
        Ok((there, waits && there > 0))
    }

    /// Does something with each of the one or two stretches in which `bytes` bytes from a count on lie.
    fn copy(
        &self,
        bytes: usize,
        from: u32,
        base: usize,
        mut act: impl FnMut(&W::Target, usize, std::ops::Range<usize>) -> bool,
    ) {
        let start = (from % SIZE) as usize;
        let first = bytes.min(SIZE as usize - start);
        act(&self.words, base + start, 0..first);
        if bytes > first {
            act(&self.words, base, first..bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vshmem_words::Heap;

    #[test]
    fn bytes_arrive_in_order_both_ways_and_fullness_is_told() {
        let memory = Heap::new(3 * 4096);
        let (mut host, mut guest) = (Ring::new(&memory, End::Host), Ring::new(&memory, End::Guest));
        let bytes: Vec<u8> = (0..20_000u32).map(|i| (i * 7 % 251) as u8).collect();
        let (mut sent, mut got) = (0, Vec::<u8>::new());
        let mut buffer = [0; 1500];
        while got.len() < bytes.len() {
            let room = host.room().unwrap().min(bytes.len() - sent);
            host.put(&bytes[sent..sent + room]);
            sent += room;
            let full = host.room().unwrap() == 0;
            let (read, waits) = guest.take(&mut buffer).unwrap();
            assert_eq!(waits, full);
            got.extend(&buffer[..read]);
        }
        assert_eq!(got, bytes);
        guest.put(b"back");
        assert_eq!(host.take(&mut buffer).unwrap(), (4, false));
        assert_eq!(&buffer[..4], b"back");
        // Another end begins where this one was.
        guest.put(b"again");
        let mut later = Ring::new(&memory, End::Host);
        assert_eq!(later.take(&mut buffer).unwrap().0, 5);
    }

    #[test]
    fn nonsense_is_noticed() {
        let memory = Heap::new(3 * 4096);
        let mut host = Ring::new(&memory, End::Host);
        memory.store32(192, 4097, Ordering::Relaxed);
        assert_eq!(host.take(&mut [0; 8]), Err(Corrupt { found: 4097 }));
        memory.store32(64, 1, Ordering::Relaxed);
        assert!(host.room().is_err());
    }
}
