//! What was told to whom, written down in a file that outlives the daemon.
//!
//! | bytes | what |
//! |---|---|
//! | 0–3 | the next number to be given out |
//! | 64 + 4 × place, 4 bytes | the peer at that place: 0, state, number |
//! | 4096 + [`PLACES`] × place + other, 1 byte | how many vectors of the other it was told; with [`UNDER_WAY`]: the next one is on its way |
//!
//! The file is a memfd of this process and its successors alone. Writes to it do not fail for want of room: it is taken when the file is made.

use super::roster::{Id, Place};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::io;

/// Most peers at a time, those included that are gone and whose end not all have been told.
pub(super) const PLACES: Place = 512;
/// A vector is being told: whether it was, only the one who is told knows.
pub(super) const UNDER_WAY: u8 = 0x80;

const ROWS: u64 = 64;
const TOLD: u64 = 4096;
const BYTES: u64 = TOLD + (PLACES as u64) * (PLACES as u64);

/// What a peer's row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Free,
    SetUp,
    Shown,
    Gone,
}

/// The file.
#[derive(Debug)]
pub(super) struct Ledger {
    file: OwnedFd,
}

impl Ledger {
    /// An empty one.
    pub(super) fn new() -> io::Result<Self> {
        let file = rustix::fs::memfd_create("vshmem-ivshmem-server", rustix::fs::MemfdFlags::CLOEXEC)?;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, BYTES)?;
        Ok(Ledger { file })
    }

    /// A former life's.
    pub(super) fn adopt(file: OwnedFd) -> Self {
        Ledger { file }
    }

    /// To be held.
    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        if let Err(e) = rustix::io::pwrite(&self.file, bytes, at) {
            tracing::error!("the ivshmem server's ledger cannot be written: {e}");
        }
    }

    fn read<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        let _ = rustix::io::pread(&self.file, &mut bytes, at);
        bytes
    }

    /// The next number.
    pub(super) fn next(&self) -> u32 {
        u32::from_le_bytes(self.read(0))
    }

    pub(super) fn set_next(&self, next: u32) {
        self.write(0, &next.to_le_bytes());
    }

    /// A peer's row.
    pub(super) fn row(&self, place: Place) -> (State, Id) {
        let [_, state, low, high] = self.read(ROWS + 4 * u64::from(place));
        let state = match state {
            1 => State::SetUp,
            2 => State::Shown,
            3 => State::Gone,
            _ => State::Free,
        };
        (state, Id::from_le_bytes([low, high]))
    }

    pub(super) fn set_row(&self, place: Place, state: State, id: Id) {
        let [low, high] = id.to_le_bytes();
        self.write(ROWS + 4 * u64::from(place), &[0, state as u8, low, high]);
    }

    /// What a peer was told of the others.
    pub(super) fn told(&self, place: Place) -> [u8; PLACES as usize] {
        self.read(TOLD + u64::from(PLACES) * u64::from(place))
    }

    pub(super) fn set_told(&self, place: Place, other: Place, vectors: u8) {
        let row = u64::from(PLACES) * u64::from(place);
        self.write(TOLD + row + u64::from(other), &[vectors]);
    }

    /// A peer knows nothing.
    pub(super) fn forget(&self, place: Place) {
        self.write(TOLD + u64::from(PLACES) * u64::from(place), &[0; PLACES as usize]);
    }
}
