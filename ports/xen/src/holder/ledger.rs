//! What the back-end must know of a holder beyond its grant table: which page shows which frame, and whose it is; in a file that the keeper holds.
//!
//! | at | what |
//! |---|---|
//! | 0 | magic, version, the holder's number, pages of the pool, frames populated (u64 each) |
//! | [`DOMAINS`] | by domain of Vshmem: Xen's number of it, plus one (u32 each) |
//! | [`FRAMES`] | frames populated, in order (u32 each) |
//! | `pages` | by page of the pool: frame plus one (u64), whose it is (u64) |
//!
//! A page is entered last when it is provided and first struck out when it is released, so that a back-end killed in between never finds a page that shows
//! what it should not. The file is the back-end's alone: nobody else writes it.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::MemfdFlags;
use std::io;

const MAGIC: u64 = 0x786d_656d_6873_7600;
const VERSION: u64 = 1;
const DOMAINS: u64 = 4096;
const FRAMES: u64 = DOMAINS + 65536 * 4;

/// The file.
#[derive(Debug)]
pub(crate) struct Ledger {
    file: OwnedFd,
    /// The holder.
    pub(crate) holder: u16,
    /// Pages of the pool.
    pub(crate) pages: u64,
    frames: u64,
}

/// A page of the pool that shows a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) page: u64,
    pub(crate) frame: u32,
    pub(crate) serial: u64,
}

/// What a ledger tells.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) frames: Vec<u32>,
    pub(crate) pages: Vec<Page>,
    /// Vshmem's number and Xen's.
    pub(crate) domains: Vec<(u16, u16)>,
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

fn halves(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes
        .chunks_exact(4)
        .map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
}

impl Ledger {
    /// Frames that a holder may have beyond the pool's pages: those that are given back and still mapped somewhere.
    const SPARE: u64 = 2;

    /// A new one.
    pub(crate) fn new(holder: u16, pages: u64) -> io::Result<Self> {
        let file = rustix::fs::memfd_create("vshmem-holder", MemfdFlags::CLOEXEC)?;
        let ledger = Ledger {
            file,
            holder,
            pages,
            frames: 0,
        };
        rustix::fs::ftruncate(&ledger.file, ledger.at_page(pages))?;
        ledger.head()?;
        Ok(ledger)
    }

    fn at_page(&self, page: u64) -> u64 {
        (FRAMES + self.most_frames() * 4).next_multiple_of(4096) + page * 16
    }

    /// Frames that can be entered.
    pub(crate) fn most_frames(&self) -> u64 {
        self.pages * Self::SPARE
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let written = rustix::io::pwrite(&self.file, bytes, at)?;
        if written == bytes.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }

    fn read(&self, at: u64, bytes: u64) -> io::Result<Vec<u8>> {
        let mut read = vec![0; bytes as usize];
        let mut done = 0;
        while done < read.len() {
            match rustix::io::pread(&self.file, &mut read[done..], at + done as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                more => done += more,
            }
        }
        Ok(read)
    }

    fn head(&self) -> io::Result<()> {
        let words = [MAGIC, VERSION, u64::from(self.holder), self.pages, self.frames];
        self.write(0, &words.map(u64::to_le_bytes).concat())
    }

    /// One that a former life wrote, and what it tells.
    pub(crate) fn adopt(file: OwnedFd) -> io::Result<(Self, Told)> {
        let mut ledger = Ledger {
            file,
            holder: 0,
            pages: 0,
            frames: 0,
        };
        let head = ledger.read(0, 40)?;
        if (word(&head, 0), word(&head, 8)) != (MAGIC, VERSION) {
            let why = "the record of construct memory is of another version of Vshmem";
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        ledger.holder = word(&head, 16) as u16;
        ledger.pages = word(&head, 24);
        ledger.frames = word(&head, 32);
        let mut told = Told {
            frames: halves(&ledger.read(FRAMES, ledger.frames * 4)?).collect(),
            ..Told::default()
        };
        let domains = ledger.read(DOMAINS, 65536 * 4)?;
        let known = |(number, domain): (usize, u32)| Some((number as u16, domain.checked_sub(1)? as u16));
        told.domains = halves(&domains).enumerate().filter_map(known).collect();
        let pages = ledger.read(ledger.at_page(0), ledger.pages * 16)?;
        let shown = |(page, entry): (usize, &[u8])| {
            Some(Page {
                page: page as u64,
                frame: word(entry, 0).checked_sub(1)? as u32,
                serial: word(entry, 8),
            })
        };
        told.pages = pages.chunks_exact(16).enumerate().filter_map(shown).collect();
        Ok((ledger, told))
    }

    /// The file, for the keeper.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The holder has more frames.
    pub(crate) fn add_frames(&mut self, frames: &[u32]) -> io::Result<()> {
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.to_le_bytes()).collect();
        self.write(FRAMES + self.frames * 4, &bytes)?;
        self.frames += frames.len() as u64;
        self.head()
    }

    /// Pages from `page` on show these frames, of one construct.
    pub(crate) fn enter(&self, page: u64, frames: &[u32], serial: u64) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(frames.len() * 16);
        for &frame in frames {
            bytes.extend((u64::from(frame) + 1).to_le_bytes());
            bytes.extend(serial.to_le_bytes());
        }
        self.write(self.at_page(page), &bytes)
    }

    /// That many pages from `page` on show none any more.
    pub(crate) fn strike(&self, page: u64, pages: usize) -> io::Result<()> {
        self.write(self.at_page(page), &vec![0; pages * 16])
    }

    /// A domain of Vshmem is that of Xen.
    pub(crate) fn name(&self, domain: u16, of_xen: u16) -> io::Result<()> {
        self.write(
            DOMAINS + u64::from(domain) * 4,
            &(u32::from(of_xen) + 1).to_le_bytes(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_entered_is_told_to_the_next_life() {
        let mut ledger = Ledger::new(7, 100).unwrap();
        ledger.add_frames(&[1000, 1001]).unwrap();
        ledger.add_frames(&[2000]).unwrap();
        let page = Page {
            page: 99,
            frame: 1001,
            serial: u64::MAX,
        };
        ledger.enter(97, &[1000, 2000, 1001], u64::MAX).unwrap();
        ledger.enter(0, &[1001, 1000], 5).unwrap();
        ledger.strike(0, 2).unwrap();
        ledger.strike(97, 2).unwrap();
        ledger.name(65535, 0).unwrap();
        let file = rustix::io::fcntl_dupfd_cloexec(ledger.file(), 0).unwrap();
        let (again, told) = Ledger::adopt(file).unwrap();
        assert_eq!((again.holder, again.pages, again.frames), (7, 100, 3));
        assert_eq!(told.frames, [1000, 1001, 2000]);
        assert_eq!(told.pages, [page]);
        assert_eq!(told.domains, [(65535, 0)]);
    }

    #[test]
    fn another_file_is_refused() {
        let file = rustix::fs::memfd_create("x", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 4096).unwrap();
        assert!(
            Ledger::adopt(file)
                .unwrap_err()
                .to_string()
                .contains("another version")
        );
    }
}
