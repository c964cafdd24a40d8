//! One connection of a local process, with a bounded queue of answers that it has not read yet.

use crate::process::identity::has_ended;
use crate::process::socket;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::collections::VecDeque;
use std::io;
use std::time::Instant;

/// Most answers that wait for a client to read.
const MOST_UNREAD: usize = 256;

/// The number of a socket; 0 if it has none.
pub(super) fn inode(fd: &OwnedFd) -> u64 {
    rustix::fs::fstat(fd).map_or(0, |stat| stat.st_ino)
}

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing was said.
    Silent,
    /// It said hello and waits.
    Asked,
    /// It is the connection of a client.
    Client(u32),
}

#[derive(Debug)]
enum Progress {
    Silent,
    Asked { seq: u64, pidfd: OwnedFd },
    Client(u32),
}

/// A connection.
#[derive(Debug)]
pub(super) struct Link {
    /// The socket.
    pub(super) fd: OwnedFd,
    /// Uid of whoever connected.
    pub(super) uid: u32,
    /// Index of the listening socket; None for a fork's socket pair.
    pub(super) door: Option<u32>,
    /// The fork whose child is at the other end.
    pub(super) fork: Option<u64>,
    /// Which socket it is, of a fork's: descriptors of the same one have the same number.
    pub(super) inode: u64,
    /// Since when it is open.
    pub(super) since: Instant,
    /// Whether the reactor watches it for writing.
    pub(super) watched_for_writing: bool,
    progress: Progress,
    unread: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
}

impl Link {
    /// A fresh connection.
    pub(super) fn new(fd: OwnedFd, uid: u32, door: Option<u32>, fork: Option<u64>) -> Self {
        let inode = if fork.is_some() { inode(&fd) } else { 0 };
        Link {
            fd,
            uid,
            door,
            fork,
            inode,
            since: Instant::now(),
            watched_for_writing: false,
            progress: Progress::Silent,
            unread: VecDeque::new(),
        }
    }

    /// How far it has come.
    pub(super) fn stage(&self) -> Stage {
        match self.progress {
            Progress::Silent => Stage::Silent,
            Progress::Asked { .. } => Stage::Asked,
            Progress::Client(client) => Stage::Client(client),
        }
    }

    /// It said hello.
    pub(super) fn asked(&mut self, seq: u64, pidfd: OwnedFd) {
        self.progress = Progress::Asked { seq, pidfd };
    }

    /// Whether who said hello died before it was welcome.
    pub(super) fn died_unwelcome(&self) -> bool {
        match &self.progress {
            Progress::Asked { pidfd, .. } => has_ended(pidfd),
            _ => false,
        }
    }

    /// It is a client's now: gives the number of its Hello and its process.
    pub(super) fn welcomed(&mut self, client: u32) -> Option<(u64, OwnedFd)> {
        match std::mem::replace(&mut self.progress, Progress::Client(client)) {
            Progress::Asked { seq, pidfd } => Some((seq, pidfd)),
            other => {
                self.progress = other;
                None
            }
        }
    }

    /// Whether answers wait to be read.
    pub(super) fn is_behind(&self) -> bool {
        !self.unread.is_empty()
    }

    /// Sends an answer, or queues it. The error says why the connection is to be closed.
    pub(super) fn send(&mut self, bytes: Vec<u8>, descriptors: Vec<OwnedFd>) -> Result<(), String> {
        if self.unread.len() >= MOST_UNREAD {
            return Err(format!("it leaves {MOST_UNREAD} answers unread"));
        }
        self.unread.push_back((bytes, descriptors));
        self.flush()
    }

    /// Sends what is queued, as far as it goes.
    pub(super) fn flush(&mut self) -> Result<(), String> {
        while let Some((bytes, descriptors)) = self.unread.front() {
            let fds: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
            match socket::send(&self.fd, bytes, &fds) {
                Ok(()) => {
                    self.unread.pop_front();
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                // The end will be read, too, and says better what became of it.
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                    self.unread.clear();
                }
                Err(e) => return Err(format!("an answer cannot be sent: {e}")),
            }
        }
        Ok(())
    }
}
