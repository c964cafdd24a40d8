//! Moves bytes between a line's pages and a socket, in a thread of its own, until either end is gone.

use super::ring::{Corrupt, Ring};
use crate::devices;
use crate::xenstore::Xenstore;
use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vshmem_words::Mapping;

/// How long it waits at most for something to happen.
const LOOK: Duration = Duration::from_millis(500);

/// Where it shows that the other end is there: as long as this stands at this path.
pub(super) struct Watched {
    pub(super) xenstore: Xenstore,
    pub(super) path: String,
    pub(super) said: String,
    pub(super) every: Duration,
}

/// One end of a line at work.
pub(super) struct Pump {
    ring: Ring<Box<Mapping>>,
    socket: OwnedFd,
    evtchn: OwnedFd,
    port: u32,
    watched: Watched,
    /// Taken out of the pages and not yet written to the socket.
    held: Vec<u8>,
}

/// Why it ends.
enum Over {
    /// The socket's other end is closed.
    Closed,
    /// The other domain is gone.
    Gone,
    /// The pages hold nonsense.
    Corrupt(Corrupt),
    /// The kernel refuses.
    Errno(Errno),
}

impl From<Errno> for Over {
    fn from(errno: Errno) -> Self {
        Over::Errno(errno)
    }
}

impl From<Corrupt> for Over {
    fn from(corrupt: Corrupt) -> Self {
        Over::Corrupt(corrupt)
    }
}

impl Pump {
    /// Begins; gives the socket's other end.
    pub(super) fn start(
        ring: Ring<Box<Mapping>>,
        evtchn: OwnedFd,
        port: u32,
        watched: Watched,
    ) -> anyhow::Result<(OwnedFd, JoinHandle<()>)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, socket) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let pump = Pump {
            ring,
            socket,
            evtchn,
            port,
            watched,
            held: Vec::new(),
        };
        let thread = std::thread::Builder::new().name("vshmem-line".into());
        let thread = thread
            .spawn(move || pump.run())
            .context("a thread for the line")?;
        Ok((ours, thread))
    }

    fn run(mut self) {
        let mut looked = Instant::now();
        let over = loop {
            if looked.elapsed() >= self.watched.every {
                looked = Instant::now();
                if self.is_gone() {
                    break Over::Gone;
                }
            }
            if let Err(over) = self.turn() {
                break over;
            }
        };
        match over {
            Over::Closed | Over::Gone => {}
            Over::Corrupt(corrupt) => tracing::warn!(
                "a line to another domain holds nonsense ({} bytes under way, at most 4096 is right): given up",
                corrupt.found
            ),
            Over::Errno(errno) => tracing::warn!("a line to another domain is given up: {errno}"),
        }
    }

    fn is_gone(&mut self) -> bool {
        let Watched {
            xenstore, path, said, ..
        } = &mut self.watched;
        matches!(xenstore.read(path), Ok(found) if found.as_ref() != Some(said))
    }

    fn turn(&mut self) -> Result<(), Over> {
        let mut told = self.inwards()?;
        let room = self.ring.room()?;
        told |= self.outwards(room)?;
        if told {
            match devices::send_event(&self.evtchn, self.port) {
                // The other end is not bound at the moment: it looks when it comes back.
                Ok(()) | Err(_) => {}
            }
        }
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::IN, self.ring.room()? > 0);
        wanted.set(PollFlags::OUT, !self.held.is_empty());
        let mut waits = [
            PollFd::new(&self.socket, wanted),
            PollFd::new(&self.evtchn, PollFlags::IN),
        ];
        let most = Timespec {
            tv_sec: 0,
            tv_nsec: LOOK.as_nanos() as i64,
        };
        match poll(&mut waits, Some(&most)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if waits[0].revents().contains(PollFlags::HUP) && !waits[0].revents().contains(PollFlags::IN) {
            return Err(Over::Closed);
        }
        if waits[1].revents().contains(PollFlags::IN) {
            let _ = devices::take_events(&self.evtchn);
        }
        Ok(())
    }

    /// From the pages to the socket; whether the other end is to hear of it.
    fn inwards(&mut self) -> Result<bool, Over> {
        let mut told = false;
        loop {
            if !self.held.is_empty() {
                match rustix::net::send(&self.socket, &self.held, rustix::net::SendFlags::NOSIGNAL) {
                    Ok(written) => {
                        self.held.drain(..written);
                    }
                    Err(Errno::AGAIN | Errno::INTR) => return Ok(told),
                    Err(Errno::PIPE | Errno::CONNRESET) => return Err(Over::Closed),
                    Err(errno) => return Err(errno.into()),
                }
                if !self.held.is_empty() {
                    return Ok(told);
                }
            }
            let mut buffer = [0; 4096];
            let (taken, waits) = self.ring.take(&mut buffer)?;
            told |= waits;
            if taken == 0 {
                return Ok(told);
            }
            self.held.extend(&buffer[..taken]);
        }
    }

    /// From the socket to the pages; whether anything came.
    fn outwards(&mut self, room: usize) -> Result<bool, Over> {
        let mut buffer = [0; 4096];
        let room = room.min(buffer.len());
        if room == 0 {
            return Ok(false);
        }
        match rustix::io::read(&self.socket, &mut buffer[..room]) {
            Ok(0) => Err(Over::Closed),
            Ok(read) => {
                self.ring.put(&buffer[..read]);
                Ok(true)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(Errno::CONNRESET) => Err(Over::Closed),
            Err(errno) => Err(errno.into()),
        }
    }
}
