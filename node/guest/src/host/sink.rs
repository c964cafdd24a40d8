//! One output stream of the program on its way to a descriptor of the host, with the credit that its writing earns.
//!
//! The descriptor may be shared with other processes, so it is not made non-blocking; it is written in pieces that a
//! descriptor which polls writable takes at once (a pipe promises that for up to a page).

use std::os::fd::OwnedFd;

use rustix::io::Errno;

const PIECE: usize = 4096;

/// Holds at most one window.
#[derive(Debug)]
pub(super) struct Sink {
    /// `None` once nobody reads.
    pub(super) fd: Option<OwnedFd>,
    held: Vec<u8>,
    from: usize,
    /// Written (or dropped) and not yet credited.
    earned: usize,
}

impl Sink {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self {
            fd: Some(fd),
            held: Vec::new(),
            from: 0,
            earned: 0,
        }
    }

    /// Bytes not written yet.
    pub(super) fn pending(&self) -> usize {
        self.held.len() - self.from
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.fd.is_none() {
            self.earned += bytes.len();
            return;
        }
        if self.from > 0 && self.from >= self.held.len() / 2 {
            self.held.drain(..self.from);
            self.from = 0;
        }
        self.held.extend_from_slice(bytes);
    }

    /// Writes a piece; to be called when the descriptor is writable. True if nobody reads any more.
    pub(super) fn flush(&mut self) -> bool {
        let Some(fd) = &self.fd else { return false };
        let rest = &self.held[self.from..];
        match rustix::io::write(fd, &rest[..rest.len().min(PIECE)]) {
            Ok(n) => {
                self.from += n;
                self.earned += n;
                false
            }
            Err(Errno::INTR | Errno::AGAIN) => false,
            Err(_) => {
                self.earned += self.pending();
                self.held.clear();
                self.from = 0;
                self.fd = None;
                true
            }
        }
    }

    /// Credit to give, in portions worth a message.
    pub(super) fn credit(&mut self) -> Option<u32> {
        let portion = if self.pending() == 0 {
            1
        } else {
            crate::frame::WINDOW / 4
        };
        (self.earned >= portion).then(|| u32::try_from(std::mem::take(&mut self.earned)).unwrap_or(u32::MAX))
    }
}
