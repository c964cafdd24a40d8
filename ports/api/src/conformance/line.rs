//! One end of a stream: messages out and in, with a bound on every wait, and no deadlock when both sides write at once.

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;
use serde::{Serialize, de::DeserializeOwned};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use vshmem_wire::Link;

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
    link: Link,
    /// Frames with a right checksum that were no message.
    pub(super) strange: u64,
}

impl<In: DeserializeOwned> Line<In> {
    pub(super) fn new(link: Link) -> Self {
        Line {
            arrived: VecDeque::new(),
            link,
            strange: 0,
        }
    }

    /// Bytes that were no frames.
    pub(super) fn skipped(&self) -> u64 {
        self.link.skipped()
    }

    /// Sends bytes that are no message, behind whatever waits to be sent.
    pub(super) fn send_rubbish(
        &mut self,
        fd: BorrowedFd<'_>,
        bytes: &[u8],
        patience: Duration,
    ) -> Result<(), Lost> {
        self.send_queued(fd, patience)?;
        let deadline = Instant::now() + patience;
        let mut rest = bytes;
        while !rest.is_empty() {
            match written(rustix::io::write(fd, rest))? {
                0 => self.look(fd, PollFlags::IN | PollFlags::OUT, deadline, patience)?,
                bytes => rest = &rest[bytes..],
            }
        }
        Ok(())
    }

    /// Sends a message, reading meanwhile.
    pub(super) fn send<Out: Serialize>(
        &mut self,
        fd: BorrowedFd<'_>,
        message: &Out,
        patience: Duration,
    ) -> Result<(), Lost> {
        self.link.send(message);
        self.send_queued(fd, patience)
    }

    fn send_queued(&mut self, fd: BorrowedFd<'_>, patience: Duration) -> Result<(), Lost> {
        let deadline = Instant::now() + patience;
        loop {
            self.flush(fd)?;
            if !self.link.wants_to_write() && self.link.queued() == 0 {
                return Ok(());
            }
            self.look(fd, self.interest(), deadline, patience)?;
        }
    }

    /// Writes what may be written and the stream takes.
    fn flush(&mut self, fd: BorrowedFd<'_>) -> Result<(), Lost> {
        loop {
            let out = self.link.out();
            if out.is_empty() {
                return Ok(());
            }
            match written(rustix::io::write(fd, out))? {
                0 => return Ok(()),
                bytes => self.link.wrote(bytes),
            }
        }
    }

    fn interest(&self) -> PollFlags {
        if self.link.wants_to_write() {
            PollFlags::IN | PollFlags::OUT
        } else {
            PollFlags::IN
        }
    }

    /// The next message.
    pub(super) fn wait(&mut self, fd: BorrowedFd<'_>, patience: Duration) -> Result<In, Lost> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(message) = self.arrived.pop_front() {
                return Ok(message);
            }
            self.flush(fd)?;
            self.look(fd, self.interest(), deadline, patience)?;
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
        self.link.push(bytes);
        loop {
            match self.link.take() {
                Ok(Some(message)) => self.arrived.push_back(message),
                Ok(None) => return,
                Err(_) => self.strange += 1,
            }
        }
    }
}

/// Bytes written: 0 where the stream takes none now.
fn written(outcome: Result<usize, Errno>) -> Result<usize, Lost> {
    match outcome {
        Ok(bytes) => Ok(bytes),
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        Err(Errno::PIPE | Errno::CONNRESET | Errno::IO) => Err(Lost::Ended),
        Err(other) => Err(Lost::Failed(other)),
    }
}
