//! The state log: a memfd that the keeper holds, with entries that are there whole or not at all.
//!
//! ```text
//!  0  "VSHMLOG1"
//!  8  entries: u32 length, u32 mark, bytes; padded to 8
//! ```
//! An entry's bytes are written before its head, and its head by one store of eight bytes: a writer that is killed in between leaves a head of
//! zero, which ends the log.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{MemfdFlags, Mode};
use std::io;

const MAGIC: [u8; 8] = *b"VSHMLOG1";
const MARK: u32 = 0x5653_4c47;

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    /// It is none.
    #[error("the state log does not begin as one")]
    NotALog,
    /// An entry is not whole where it must be.
    #[error("the state log is damaged at byte {0}")]
    Damaged(u64),
    /// An entry is missing: those behind it would be read as if it had never been.
    #[error("the state log lacks an entry that could not be written")]
    Gap,
    /// Reading or writing failed.
    #[error("the state log cannot be used: {0}")]
    Io(#[from] io::Error),
}

/// A log of byte strings.
#[derive(Debug)]
pub(crate) struct Journal {
    file: OwnedFd,
    end: u64,
    /// An entry could not be written.
    gap: bool,
}

impl Journal {
    /// An empty one.
    pub(crate) fn new() -> Result<Self, JournalError> {
        let file = rustix::fs::memfd_create("vshmem-log", MemfdFlags::CLOEXEC).map_err(io::Error::from)?;
        rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR).map_err(io::Error::from)?;
        write_all(&file, &MAGIC, 0)?;
        Ok(Journal {
            file,
            end: 8,
            gap: false,
        })
    }

    /// Reads one that a former life wrote: the entries, and the log ready to be written on.
    pub(crate) fn adopt(file: OwnedFd) -> Result<(Self, Vec<Vec<u8>>), JournalError> {
        let bytes = rustix::fs::fstat(&file).map_err(io::Error::from)?.st_size as u64;
        let mut all = vec![0; bytes as usize];
        read_all(&file, &mut all)?;
        if all.get(..8) != Some(&MAGIC) {
            return Err(JournalError::NotALog);
        }
        let (mut at, mut entries) = (8usize, Vec::new());
        while let Some(head) = all.get(at..at + 8) {
            let word = |i: usize| u32::from_le_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]);
            let (len, mark) = (word(0) as usize, word(4));
            if mark == 0 && len == 0 {
                break;
            }
            let entry = all.get(at + 8..at + 8 + len).filter(|_| mark == MARK);
            entries.push(entry.ok_or(JournalError::Damaged(at as u64))?.to_vec());
            at += 8 + len.next_multiple_of(8);
        }
        // What a killed writer left beyond the last whole entry must not be taken for a head later.
        rustix::fs::ftruncate(&file, at as u64).map_err(io::Error::from)?;
        let journal = Journal {
            file,
            end: at as u64,
            gap: false,
        };
        Ok((journal, entries))
    }

    /// Adds an entry. After one that could not be written none can be: a log with a gap tells another story.
    pub(crate) fn append(&mut self, entry: &[u8]) -> Result<(), JournalError> {
        if self.gap {
            return Err(JournalError::Gap);
        }
        let written = self.write(entry);
        self.gap = written.is_err();
        written
    }

    fn write(&mut self, entry: &[u8]) -> Result<(), JournalError> {
        let len = u32::try_from(entry.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        write_all(&self.file, entry, self.end + 8)?;
        let mut head = [0; 8];
        head[..4].copy_from_slice(&len.to_le_bytes());
        head[4..].copy_from_slice(&MARK.to_le_bytes());
        write_all(&self.file, &head, self.end)?;
        self.end += 8 + u64::from(len).next_multiple_of(8);
        Ok(())
    }

    /// Its size in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.end
    }

    /// For the keeper.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn write_all(file: &OwnedFd, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = rustix::io::pwrite(file, bytes, at)?;
        bytes = &bytes[n..];
        at += n as u64;
    }
    Ok(())
}

fn read_all(file: &OwnedFd, mut into: &mut [u8]) -> io::Result<()> {
    let mut at = 0;
    while !into.is_empty() {
        let n = rustix::io::pread(file, &mut *into, at)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        into = &mut into[n..];
        at += n as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_in_order() {
        let mut log = Journal::new().unwrap();
        let entries: Vec<Vec<u8>> = (0..100usize).map(|i| vec![i as u8; i * 3]).collect();
        for entry in &entries {
            log.append(entry).unwrap();
        }
        let (mut again, read) = Journal::adopt(log.file).unwrap();
        assert_eq!(read, entries);
        again.append(b"more").unwrap();
        let (_, read) = Journal::adopt(again.file).unwrap();
        assert_eq!(read.len(), 101);
        assert_eq!(read[100], b"more");
    }

    #[test]
    fn an_entry_whose_writer_died_is_not_there_and_leaves_nothing_behind() {
        let mut log = Journal::new().unwrap();
        log.append(b"whole").unwrap();
        // Bytes without a head, long enough to look like heads later.
        write_all(&log.file, &[0xff; 4096], log.end + 8).unwrap();
        let (mut log, read) = Journal::adopt(log.file).unwrap();
        assert_eq!(read, [b"whole".to_vec()]);
        log.append(b"x").unwrap();
        let (_, read) = Journal::adopt(log.file).unwrap();
        assert_eq!(read, [b"whole".to_vec(), b"x".to_vec()]);
    }

    #[test]
    fn nothing_follows_an_entry_that_could_not_be_written() {
        use rustix::fs::{SealFlags, fcntl_add_seals, ftruncate};
        let file = rustix::fs::memfd_create("full", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        write_all(&file, &MAGIC, 0).unwrap();
        ftruncate(&file, 64).unwrap();
        fcntl_add_seals(&file, SealFlags::GROW).unwrap();
        let (end, gap) = (8, false);
        let mut log = Journal { file, end, gap };
        log.append(b"first").unwrap();
        assert!(matches!(log.append(&[1; 200]), Err(JournalError::Io(_))));
        // This one would have room.
        assert!(matches!(log.append(b"third"), Err(JournalError::Gap)));
        assert_eq!(log.bytes(), 8 + 8 + 8);
    }

    #[test]
    fn rubbish_is_refused() {
        let file = rustix::fs::memfd_create("rubbish", MemfdFlags::CLOEXEC).unwrap();
        write_all(&file, &[7; 100], 0).unwrap();
        assert!(matches!(Journal::adopt(file), Err(JournalError::NotALog)));
    }
}
