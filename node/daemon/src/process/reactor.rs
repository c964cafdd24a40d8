//! Waiting for many descriptors at once: a thin layer over epoll with typed tokens.

use rustix::event::{Timespec, epoll};
use rustix::fd::{AsFd, OwnedFd};
use std::io;
use std::time::{Duration, Instant};

/// What a descriptor is, in the daemon's eyes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    /// A listening socket, by index.
    Door(u32),
    /// A client's connection.
    Link(u32),
    /// A client's process, by client number.
    Process(u32),
    /// A guest's stream (back-end) or the stream to the back-end (front-end).
    Stream(u32),
    /// A guest's ring line.
    Bells(u32),
    /// A listening socket for hypervisors, by index.
    Machine(u32),
    /// A port's device server, by index.
    Device(u32),
    /// The server of streams that machines open themselves.
    Streams,
    /// The socket to the keeper.
    Keeper,
    /// Signals.
    Signal,
    /// The seconds.
    Clock,
    /// Time to look at those who sleep.
    Look,
}

impl Token {
    fn pack(self) -> u64 {
        let (kind, number) = match self {
            Token::Door(n) => (1u64, n),
            Token::Link(n) => (2, n),
            Token::Process(n) => (3, n),
            Token::Stream(n) => (4, n),
            Token::Keeper => (5, 0),
            Token::Signal => (6, 0),
            Token::Clock => (7, 0),
            Token::Look => (8, 0),
            Token::Machine(n) => (9, n),
            Token::Device(n) => (10, n),
            Token::Bells(n) => (11, n),
            Token::Streams => (12, 0),
        };
        kind << 32 | u64::from(number)
    }

    fn unpack(word: u64) -> Option<Self> {
        let number = word as u32;
        Some(match word >> 32 {
            1 => Token::Door(number),
            2 => Token::Link(number),
            3 => Token::Process(number),
            4 => Token::Stream(number),
            5 => Token::Keeper,
            6 => Token::Signal,
            7 => Token::Clock,
            8 => Token::Look,
            9 => Token::Machine(number),
            10 => Token::Device(number),
            11 => Token::Bells(number),
            12 => Token::Streams,
            _ => return None,
        })
    }
}

/// Something happened to a descriptor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ready {
    /// Which.
    pub(crate) token: Token,
    /// It can be read, or it ended.
    pub(crate) readable: bool,
    /// It can be written.
    pub(crate) writable: bool,
}

/// An epoll instance.
pub(crate) struct Reactor {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Reactor {
    /// An empty one.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Reactor {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(64),
        })
    }

    /// Watches a descriptor for reading.
    pub(crate) fn watch(&self, fd: impl AsFd, token: Token) -> io::Result<()> {
        let data = epoll::EventData::new_u64(token.pack());
        epoll::add(&self.epoll, fd, data, epoll::EventFlags::IN)?;
        Ok(())
    }

    /// Says for what a watched descriptor is watched.
    pub(crate) fn interest(&self, fd: impl AsFd, token: Token, read: bool, write: bool) -> io::Result<()> {
        let mut flags = epoll::EventFlags::empty();
        flags.set(epoll::EventFlags::IN, read);
        flags.set(epoll::EventFlags::OUT, write);
        let data = epoll::EventData::new_u64(token.pack());
        epoll::modify(&self.epoll, fd, data, flags)?;
        Ok(())
    }

    /// Stops watching. Needed before a descriptor is closed of which the keeper holds a copy.
    pub(crate) fn forget(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Waits until something happens or `until` comes.
    pub(crate) fn wait(&mut self, until: Option<Instant>) -> io::Result<Vec<Ready>> {
        let left = until.map(|t| t.saturating_duration_since(Instant::now()));
        let left = left.map(|d: Duration| Timespec {
            tv_sec: d.as_secs() as _,
            tv_nsec: d.subsec_nanos().into(),
        });
        self.events.clear();
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut self.events),
            left.as_ref(),
        ) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let more = epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        Ok(self
            .events
            .iter()
            .filter_map(|event| {
                let (flags, data) = (event.flags, event.data);
                Some(Ready {
                    token: Token::unpack(data.u64())?,
                    readable: flags.intersects(more),
                    writable: flags.contains(epoll::EventFlags::OUT),
                })
            })
            .collect())
    }
}
