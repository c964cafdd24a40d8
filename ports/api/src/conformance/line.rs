//! One end of a stream: messages out and in, with a bound on every wait, and no deadlock when both sides write at once.

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;
use serde::{Serialize, de::DeserializeOwned};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use vshmem_wire::Deframer;

/// Why no message came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Lost {
    /// The other side is gone.
    #[error("the stream has ended")]
    Ended,
    /// The bound on waiting is reached.
    #[error("no answer within {0:?}")]
    Slow(Duration),
    /// The kernel refused.
    #[error("the stream failed: {0}")]
    Failed(Errno),
}

pub(super) struct Line<In> {
    arrived: VecDeque<In>,
    deframer: Deframer,
    /// Frames with a right checksum that were no message.
    pub(super) strange: u64,
}

impl<In: DeserializeOwned> Line<In> {
    pub(super) fn new() -> Self {
        Line {
            arrived: VecDeque::new(),
            deframer: Deframer::default(),
            strange: 0,
        }
    }

    /// Bytes that were no frames.
    pub(super) fn skipped(&self) -> u64 {
        self.deframer.skipped()
    }

    /// Sends bytes, reading meanwhile.
    pub(super) fn send_bytes(
        &mut self,
        fd: BorrowedFd<'_>,
        bytes: &[u8],
        patience: Duration,
    ) -> Result<(), Lost> {
        let deadline = Instant::now() + patience;
        let mut rest = bytes;
        while !rest.is_empty() {
            match rustix::io::write(fd, rest) {
                Ok(written) => rest = &rest[written..],
                Err(Errno::AGAIN | Errno::INTR) => {
                    self.look(fd, PollFlags::IN | PollFlags::OUT, deadline, patience)?;
                }
                Err(Errno::PIPE | Errno::CONNRESET | Errno::IO) => return Err(Lost::Ended),
                Err(other) => return Err(Lost::Failed(other)),
            }
        }
        Ok(())
    }

    /// Sends a message.
    pub(super) fn send<Out: Serialize>(
        &mut self,
        fd: BorrowedFd<'_>,
        message: &Out,
        patience: Duration,
    ) -> Result<(), Lost> {
        self.send_bytes(fd, &vshmem_wire::frame(message), patience)
    }

    /// The next message.
    pub(super) fn wait(&mut self, fd: BorrowedFd<'_>, patience: Duration) -> Result<In, Lost> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(message) = self.arrived.pop_front() {
                return Ok(message);
            }
            self.look(fd, PollFlags::IN, deadline, patience)?;
        }
    }

    /// Waits for one of `what`, then takes in what has arrived.
    fn look(
        &mut self,
        fd: BorrowedFd<'_>,
        what: PollFlags,
        deadline: Instant,
        patience: Duration,
    ) -> Result<(), Lost> {
        let left = deadline
            .checked_duration_since(Instant::now())
            .ok_or(Lost::Slow(patience))?;
        let left = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), what)];
        match rustix::event::poll(&mut fds, Some(&left)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(other) => return Err(Lost::Failed(other)),
        }
        let mut buffer = [0; 16 * 1024];
        loop {
            match rustix::io::read(fd, &mut buffer) {
                Ok(0) | Err(Errno::CONNRESET | Errno::IO) => return Err(Lost::Ended),
                Ok(bytes) => self.take_in(&buffer[..bytes]),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(other) => return Err(Lost::Failed(other)),
            }
        }
    }

    fn take_in(&mut self, bytes: &[u8]) {
        self.deframer.push(bytes);
        loop {
            match self.deframer.take() {
                Ok(Some(message)) => self.arrived.push_back(message),
                Ok(None) => return,
                Err(_) => self.strange += 1,
            }
        }
    }
}
