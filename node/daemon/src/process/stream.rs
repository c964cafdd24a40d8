//! A framed byte stream between a front-end and the back-end, with a bounded queue of what could not be written yet.
//! Frames are delimited, so that one cut short by the death of its writer costs nothing but itself.

use rustix::fd::OwnedFd;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::VecDeque;
use std::io;
use vshmem_wire::{Deframer, WireError};

/// Most bytes waiting to be written; a peer that leaves more unread is cut off.
const MOST_QUEUED: usize = 16 << 20;
/// Bytes read at a time.
const PIECE: usize = 64 * 1024;

/// What is wrong with a stream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    /// It ended or failed.
    #[error("the stream ended: {0}")]
    Ended(io::Error),
    /// The peer does not read.
    #[error("the peer has left {0} bytes unread")]
    Unread(usize),
    /// A frame holds something else than a message of this version.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// One end of a stream.
#[derive(Debug)]
pub(crate) struct Stream {
    fd: OwnedFd,
    deframer: Deframer,
    queue: VecDeque<u8>,
    skipped: u64,
}

impl Stream {
    /// Wraps a stream's descriptor, and makes it non-blocking.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Stream {
            fd,
            deframer: Deframer::default(),
            queue: VecDeque::new(),
            skipped: 0,
        })
    }

    /// Its descriptor.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Whether bytes wait to be written.
    pub(crate) fn is_behind(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Reads what is there. `false` when nothing more is there for now; an error at the end.
    pub(crate) fn fill(&mut self) -> Result<bool, StreamError> {
        let mut piece = [0u8; PIECE];
        match rustix::io::read(&self.fd, &mut piece) {
            Ok(0) => Err(StreamError::Ended(io::ErrorKind::UnexpectedEof.into())),
            Ok(n) => {
                self.deframer.push(&piece[..n]);
                Ok(n == PIECE)
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(false),
            Err(e) => Err(StreamError::Ended(e.into())),
        }
    }

    /// The next whole message.
    pub(crate) fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, StreamError> {
        let message = self.deframer.take()?;
        let skipped = self.deframer.skipped();
        if skipped != self.skipped {
            tracing::warn!(
                bytes = skipped - self.skipped,
                "skipped bytes that belong to no frame"
            );
            self.skipped = skipped;
        }
        Ok(message)
    }

    /// Sends a message, or queues it.
    pub(crate) fn send<T: Serialize>(&mut self, message: &T) -> Result<(), StreamError> {
        self.queue.extend(vshmem_wire::frame(message));
        self.flush()?;
        if self.queue.len() > MOST_QUEUED {
            return Err(StreamError::Unread(self.queue.len()));
        }
        Ok(())
    }

    /// Writes what is queued, as far as it goes.
    pub(crate) fn flush(&mut self) -> Result<(), StreamError> {
        while !self.queue.is_empty() {
            match rustix::io::write(&self.fd, self.queue.as_slices().0) {
                Ok(0) => return Err(StreamError::Ended(io::ErrorKind::WriteZero.into())),
                Ok(n) => {
                    self.queue.drain(..n);
                }
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(StreamError::Ended(e.into())),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vshmem_wire::{Down, Up};

    #[test]
    fn messages_pass_and_rubbish_between_them_is_skipped() {
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        let (mut a, mut b) = (Stream::new(a.into()).unwrap(), Stream::new(b.into()).unwrap());
        a.send(&Up::Heartbeat).unwrap();
        rustix::io::write(a.fd(), b"rubbish VSHM more rubbish").unwrap();
        a.send(&Up::Ring { space: 3, at: 64 }).unwrap();
        b.fill().unwrap();
        assert_eq!(b.take::<Up>().unwrap(), Some(Up::Heartbeat));
        assert_eq!(b.take::<Up>().unwrap(), Some(Up::Ring { space: 3, at: 64 }));
        assert_eq!(b.take::<Up>().unwrap(), None);
        drop(a);
        assert!(matches!(b.fill(), Err(StreamError::Ended(_))));
    }

    #[test]
    fn a_peer_that_does_not_read_is_noticed() {
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut a = Stream::new(a.into()).unwrap();
        let big = Down::Refused {
            why: "x".repeat(100_000),
        };
        let result = (0..400).try_for_each(|_| a.send(&big));
        assert!(matches!(result, Err(StreamError::Unread(_))));
    }
}
