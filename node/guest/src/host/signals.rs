//! The signals that a user sends to the host's side, turned into something that can be polled.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::{pipe, unregister};

/// Listens while it lives.
#[derive(Debug)]
pub(super) struct Signals {
    heard: Vec<(u8, UnixStream, SigId)>,
}

impl Signals {
    /// Listens to SIGINT, SIGTERM and SIGHUP.
    pub(super) fn new() -> io::Result<Self> {
        let mut heard = Self::none();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let (ours, theirs) = UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            let id = pipe::register(signal, theirs)?;
            heard
                .heard
                .push((u8::try_from(signal).unwrap_or_default(), ours, id));
        }
        Ok(heard)
    }

    /// Listens to nothing.
    pub(super) fn none() -> Self {
        Self { heard: Vec::new() }
    }

    /// What to poll.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.heard.iter().map(|(_, stream, _)| stream.as_fd())
    }

    /// The signals that came since the last call, each as often as it was seen.
    pub(super) fn take(&mut self) -> Vec<u8> {
        let mut came = Vec::new();
        for (signal, stream, _) in &self.heard {
            let mut marks = [0_u8; 64];
            while let Ok(n @ 1..) = io::Read::read(&mut &*stream, &mut marks) {
                came.extend(std::iter::repeat_n(*signal, n));
            }
        }
        came
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for (_, _, id) in &self.heard {
            unregister(*id);
        }
    }
}
