//! A framed byte stream between a front-end and the back-end, with a bounded queue of what could not be written yet.
//! Frames are delimited, so that one cut short by the death of its writer costs nothing but itself. The back-end's end is paced, since a guest's
//! line may hold little ([`vshmem_wire::link`]).

use rustix::fd::OwnedFd;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use vshmem_wire::{Link, WireError};

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
    link: Link,
    skipped: u64,
}

impl Stream {
    /// The front-end's end: makes the descriptor non-blocking.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        Self::with(fd, Link::new())
    }

    /// The back-end's end. `spoken`: the front-end has spoken on it before, to this process or to an earlier one.
    pub(crate) fn paced(fd: OwnedFd, spoken: bool) -> io::Result<Self> {
        let mut first = [0; 4];
        rustix::rand::getrandom(&mut first, rustix::rand::GetRandomFlags::empty())?;
        let first = u32::from_ne_bytes(first);
        let link = if spoken {
            Link::paced_again(first)
        } else {
            Link::paced(first)
        };
        Self::with(fd, link)
    }

    fn with(fd: OwnedFd, link: Link) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Stream { fd, link, skipped: 0 })
    }

    /// Its descriptor.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Whether bytes wait to be written, be it for room or for the other end to read.
    pub(crate) fn is_behind(&self) -> bool {
        self.link.is_behind()
    }

    /// Bytes of messages that wait, be it for room or for the other end to read.
    pub(crate) fn queued(&self) -> usize {
        self.link.queued()
    }

    /// Whether bytes wait for room.
    pub(crate) fn wants_to_write(&self) -> bool {
        self.link.wants_to_write()
    }

    /// Reads what is there. `false` when nothing more is there for now; an error at the end.
    pub(crate) fn fill(&mut self) -> Result<bool, StreamError> {
        let mut piece = [0u8; PIECE];
        match rustix::io::read(&self.fd, &mut piece) {
            Ok(0) => Err(StreamError::Ended(io::ErrorKind::UnexpectedEof.into())),
            Ok(n) => {
                self.link.push(&piece[..n]);
                Ok(n == PIECE)
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(false),
            Err(e) => Err(StreamError::Ended(e.into())),
        }
    }

    /// The next whole message. Call it until there is none: then it writes what reading has made room for.
    pub(crate) fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, StreamError> {
        let message = self.link.take()?;
        if message.is_none() {
            self.flush()?;
        }
        let skipped = self.link.skipped();
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
        self.link.send(message);
        self.flush()?;
        match self.link.queued() {
            queued if queued > MOST_QUEUED => Err(StreamError::Unread(queued)),
            _ => Ok(()),
        }
    }

    /// Writes what is queued, as far as it goes.
    pub(crate) fn flush(&mut self) -> Result<(), StreamError> {
        loop {
            let out = self.link.out();
            if out.is_empty() {
                return Ok(());
            }
            match rustix::io::write(&self.fd, out) {
                Ok(0) => return Err(StreamError::Ended(io::ErrorKind::WriteZero.into())),
                Ok(n) => self.link.wrote(n),
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(StreamError::Ended(e.into())),
            }
        }
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
        let ring = Up::Ring {
            space: 3,
            at: 64,
            bell: 0,
        };
        a.send(&ring).unwrap();
        b.fill().unwrap();
        assert_eq!(b.take::<Up>().unwrap(), Some(Up::Heartbeat));
        assert_eq!(b.take::<Up>().unwrap(), Some(ring));
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
