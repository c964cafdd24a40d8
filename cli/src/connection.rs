//! A connection to the daemon of this domain: one request, one answer, each within a bounded time.
//!
//! Not for System V calls of programs: the client runtime has its own connection, which survives forks and restarts.

use crate::place::Place;
use crate::trouble::{Trouble, errno_words, reason};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use vshmem_wire::request::Welcome;
use vshmem_wire::{Answer, Envelope, Failure, Kind, Reply, Request, Stat, Status};

/// Name of the daemon's socket in the runtime folder.
pub(crate) const SOCKET: &str = "vshmem.sock";
/// Why nobody answers where no daemon is.
pub(crate) const NOBODY: &str = "none is running there";
/// Most descriptors beside one message: a guest's stream, ring line and bells.
const DESCRIPTORS: usize = 20;
/// How long a daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to try again with a daemon that dies before it answers, and how often.
const AGAIN: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(20);

/// A connection that has been welcomed.
pub(crate) struct Connection {
    line: Line,
    /// What the daemon said at first.
    pub(crate) welcome: Welcome,
}

/// A socket on which requests and answers go back and forth.
struct Line {
    socket: OwnedFd,
    path: PathBuf,
    seq: u64,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects to the daemon that `place` means and introduces this process.
    pub(crate) fn open(place: &Place) -> Result<Connection, Trouble> {
        Connection::open_as(place, place.domain())
    }

    /// Connects to the daemon and asks to be in a domain, or in the daemon's own.
    pub(crate) fn open_as(place: &Place, domain: Option<String>) -> Result<Connection, Trouble> {
        let until = Instant::now() + AGAIN;
        loop {
            let mut ended = false;
            match Connection::try_open(place, domain.clone(), &mut ended) {
                // It died before it answered: its successor will.
                Err(_) if ended && Instant::now() < until => std::thread::sleep(PAUSE),
                other => return other,
            }
        }
    }

    /// Tries it once; `ended` says that there was a daemon and that it went away.
    fn try_open(place: &Place, domain: Option<String>, ended: &mut bool) -> Result<Connection, Trouble> {
        let path = place.folder().join(SOCKET);
        let socket = dial(&path).map_err(|errno| unreachable_daemon(&path, errno))?;
        let mut line = Line {
            socket,
            path,
            seq: 0,
            buffer: vec![0; vshmem_wire::MAX_MESSAGE],
        };
        let hello = Request::Hello {
            version: vshmem_wire::VERSION,
            layout: vshmem_ipc::header::LAYOUT,
            resume: None,
            domain,
        };
        match line.exchange(&hello, &[]).map(|(reply, _)| reply) {
            Ok(Reply::Welcome(welcome)) if welcome.version == vshmem_wire::VERSION => {
                line.seq = welcome.next_seq.saturating_sub(1);
                Ok(Connection { line, welcome })
            }
            Ok(Reply::Welcome(welcome)) => Err(line
                .trouble(format!(
                    "it speaks version {} of the protocol and this command version {}",
                    welcome.version,
                    vshmem_wire::VERSION
                ))
                .remedy("install the same Vshmem on both sides")),
            Ok(other) => Err(line.trouble(format!("unexpected answer {other:?}"))),
            Err(failure) => {
                *ended = matches!(failure.errno, libc::ECONNRESET | libc::EPIPE);
                Err(line.trouble(reason(&failure)))
            }
        }
    }

    /// A request that brings no descriptor.
    pub(crate) fn ask(&mut self, request: &Request) -> Result<Reply, Failure> {
        self.exchange(request, &[]).map(|(reply, _)| reply)
    }

    /// A request with descriptors beside it, and the descriptors that came back.
    pub(crate) fn exchange(
        &mut self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(Reply, Vec<OwnedFd>), Failure> {
        self.line.exchange(request, descriptors)
    }

    /// All constructs of a kind.
    pub(crate) fn list(&mut self, kind: Kind) -> Result<Vec<Stat>, Trouble> {
        let mut all = Vec::new();
        let mut from = 0;
        loop {
            match self.ask(&Request::List { kind, from }) {
                Ok(Reply::List(stats, next)) => {
                    all.extend(stats.into_iter().filter(|stat| stat.body.kind() == kind));
                    match next {
                        Some(next) if next > from => from = next,
                        _ => return Ok(all),
                    }
                }
                Ok(other) => return Err(self.line.trouble(format!("unexpected answer {other:?}"))),
                Err(failure) => return Err(Trouble::refused("list of constructs", &failure)),
            }
        }
    }

    /// What the back-end says of itself.
    pub(crate) fn status(&mut self) -> Result<Status, Trouble> {
        match self.ask(&Request::Status) {
            Ok(Reply::Status(status)) => Ok(status),
            Ok(other) => Err(self.line.trouble(format!("unexpected answer {other:?}"))),
            Err(failure) => Err(Trouble::refused("status", &failure)),
        }
    }
}

impl Line {
    fn exchange(
        &mut self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(Reply, Vec<OwnedFd>), Failure> {
        self.seq += 1;
        let envelope = Envelope {
            seq: self.seq,
            body: request.clone(),
        };
        send(self.socket.as_fd(), &vshmem_wire::encode(&envelope), descriptors).map_err(lost)?;
        let until = Instant::now() + PATIENCE;
        loop {
            let (bytes, received) = self.receive(until)?;
            let answer: Answer = vshmem_wire::decode(&self.buffer[..bytes])
                .map_err(|error| Failure::because(libc::EPROTO, format!("unreadable answer: {error}")))?;
            if answer.seq == self.seq {
                return answer.body.map(|reply| (reply, received));
            }
        }
    }

    fn trouble(&self, why: impl std::fmt::Display) -> Trouble {
        Trouble::new(format!("daemon at {}", self.path.display()), why)
    }

    fn receive(&mut self, until: Instant) -> Result<(usize, Vec<OwnedFd>), Failure> {
        wait_readable(self.socket.as_fd(), until)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let message = rustix::net::recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut self.buffer)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
        .map_err(lost)?;
        let mut descriptors = Vec::new();
        for part in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(more) = part {
                descriptors.extend(more);
            }
        }
        if message.bytes == 0 {
            return Err(Failure::because(libc::ECONNRESET, "it closed the connection"));
        }
        Ok((message.bytes, descriptors))
    }
}

fn dial(path: &Path) -> Result<OwnedFd, Errno> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::INVAL);
    }
    rustix::net::sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

fn wait_readable(socket: BorrowedFd<'_>, until: Instant) -> Result<(), Failure> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| Failure::errno(libc::EINVAL))?;
        match poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => {
                let why = format!("no answer within {} s", PATIENCE.as_secs());
                return Err(Failure::because(libc::ETIMEDOUT, why));
            }
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(lost(errno)),
        }
    }
}

fn lost(errno: Errno) -> Failure {
    let why = format!("the connection was lost: {}", errno_words(errno.raw_os_error()));
    Failure::because(errno.raw_os_error(), why)
}

fn unreachable_daemon(path: &Path, errno: Errno) -> Trouble {
    let what = format!("daemon at {}", path.display());
    match errno {
        Errno::NOENT | Errno::CONNREFUSED => Trouble::new(what, NOBODY).remedy(
            "start one with `vshmem serve &` (in a guest: `vshmem join &`), or name its folder with --runtime-dir",
        ),
        Errno::ACCESS | Errno::PERM => Trouble::new(what, "permission denied")
            .remedy("run as a user who may enter the folder, or start your own with `vshmem serve --runtime-dir DIR`"),
        Errno::NAMETOOLONG => Trouble::new(what, "no possible name of a socket (107 bytes at most)")
            .remedy("choose a folder with a shorter name, for the daemon too"),
        other => Trouble::new(what, errno_words(other.raw_os_error())),
    }
}
