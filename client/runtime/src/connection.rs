//! One connection to the daemon: hello, requests, connecting again after the daemon was restarted.
//!
//! A process is one client, whatever its user: when that changes it connects again and goes on as the same client.

use crate::control::Settings;
use crate::errno::Errno;
use crate::pages;
use crate::process;
use crate::socket::{self, Socket};
use rustix::fd::{BorrowedFd, OwnedFd};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use vshmem_wire::request::Welcome;
use vshmem_wire::{Answer, Envelope, Failure, Reply, Request, Verdict};

/// How long one answer may take before the connection counts as broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The socket said no.
    Socket(rustix::io::Errno),
    /// The other end closed.
    Closed,
    /// The answer is none.
    Malformed(String),
    /// The daemon refused.
    Refused(Failure),
}

impl Trouble {
    /// The daemon does not know the client that it was told to go on with.
    pub(crate) fn is_stale(&self) -> bool {
        matches!(self, Trouble::Refused(failure) if failure.errno == libc::ESTALE)
    }

    /// This process can have no further file open.
    pub(crate) fn is_full(&self) -> bool {
        use rustix::io::Errno;
        matches!(self, Trouble::Socket(Errno::MFILE | Errno::NFILE))
    }

    /// The other end is gone, rather than silent or of another opinion.
    fn is_end(&self) -> bool {
        use rustix::io::Errno;
        matches!(
            self,
            Trouble::Closed | Trouble::Socket(Errno::CONNRESET | Errno::PIPE)
        )
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Socket(errno) => write!(f, "no daemon: {errno}"),
            Trouble::Closed => f.write_str("the daemon closed the connection"),
            Trouble::Malformed(why) => write!(f, "the daemon speaks another language: {why}"),
            Trouble::Refused(failure) => {
                write!(f, "the daemon refused: {} {}", Errno(failure.errno), failure.why)
            }
        }
    }
}

impl From<rustix::io::Errno> for Trouble {
    fn from(errno: rustix::io::Errno) -> Self {
        Trouble::Socket(errno)
    }
}

/// Who this client is, for the data path. Lives for ever, once made.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) client: u32,
    pub(crate) domain: u16,
    pub(crate) pid: u32,
    /// The process's undo list: unshare(2) gives it a new one.
    pub(crate) undo: AtomicU64,
    pub(crate) space: u16,
    pub(crate) msgmax: u32,
    /// The socket's number and what it was, for rings without a lock.
    pub(crate) socket: AtomicI32,
    pub(crate) device: AtomicU64,
    pub(crate) inode: AtomicU64,
}

/// On whose behalf a connection asks: the kernel told the daemon when it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct User {
    uid: u32,
    gid: u32,
    privileges: u64,
    /// How often the process that this one stands in for may have become another user.
    wards: u32,
}

impl User {
    /// A digest of the process's supplementary groups and effective capabilities.
    pub(crate) fn privileges() -> u64 {
        let groups = rustix::process::getgroups().unwrap_or_default();
        let mut hasher = std::hash::DefaultHasher::new();
        groups.iter().for_each(|group| group.as_raw().hash(&mut hasher));
        if let Ok(sets) = rustix::thread::capabilities(None) {
            sets.effective.bits().hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Who the process is now, its privileges as they were when their digest was made.
    pub(crate) fn now(privileges: u64) -> User {
        User {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            privileges,
            wards: crate::ward::changes(),
        }
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: Socket,
    pub(crate) user: User,
    /// None while the answer to the hello has not been read.
    welcome: Option<(Welcome, &'static Identity)>,
    seq: u64,
}

/// The hello's bytes.
fn hello(settings: &Settings, resume: Option<u32>) -> Vec<u8> {
    vshmem_wire::encode(&Envelope {
        seq: 0,
        body: Request::Hello {
            version: vshmem_wire::VERSION,
            layout: vshmem_ipc::header::LAYOUT,
            resume,
            domain: settings.domain.clone(),
        },
    })
}

impl Connection {
    /// Connects and says hello.
    pub(crate) fn open(settings: &Settings, user: User) -> Result<Connection, Trouble> {
        let mut connection = Connection {
            socket: Socket::connect(&settings.socket, PATIENCE)?,
            user,
            welcome: None,
            seq: 1,
        };
        let greeted = connection
            .greet(settings, None)
            .and_then(|()| connection.read_welcome());
        match greeted {
            Ok(()) => Ok(connection),
            // There was a daemon, and it died before it answered: the next one will.
            Err(trouble) if trouble.is_end() => {
                let until = Instant::now() + settings.timeout;
                connection.again(settings, user, until)?;
                Ok(connection)
            }
            Err(trouble) => Err(trouble),
        }
    }

    /// A forked child's connection: says hello without waiting for the answer.
    pub(crate) fn of_child(end: OwnedFd, settings: &Settings, user: User) -> Result<Connection, Trouble> {
        let _ = rustix::net::sockopt::set_socket_timeout(
            &end,
            rustix::net::sockopt::Timeout::Recv,
            Some(PATIENCE),
        );
        let connection = Connection {
            socket: Socket::from(end)?,
            user,
            welcome: None,
            seq: 1,
        };
        let descriptor = connection.socket.get().ok_or(Trouble::Closed)?;
        socket::send_with_credentials(descriptor, &hello(settings, None), &settings.ward.beside())?;
        Ok(connection)
    }

    fn greet(&self, settings: &Settings, resume: Option<u32>) -> Result<(), Trouble> {
        let descriptor = self.socket.get().ok_or(Trouble::Closed)?;
        socket::send(descriptor, &hello(settings, resume), &settings.ward.beside())?;
        Ok(())
    }

    /// The next answer. The caller has just sent something, so the descriptor is ours.
    fn receive(&self) -> Result<(Answer, Vec<OwnedFd>), Trouble> {
        let descriptor = self.socket.unchecked().ok_or(Trouble::Closed)?;
        let mut descriptors = Vec::new();
        pages::with_buffer(|buffer| {
            let bytes = socket::receive(descriptor, buffer, &mut descriptors)?;
            match buffer.get(..bytes) {
                None | Some([]) => Err(Trouble::Closed),
                Some(bytes) => vshmem_wire::decode(bytes).map_err(|e| Trouble::Malformed(e.to_string())),
            }
        })
        .map(|answer| (answer, descriptors))
    }

    /// Reads the answer to the hello and becomes who it says.
    fn read_welcome(&mut self) -> Result<(), Trouble> {
        let (answer, descriptors) = self.receive()?;
        let welcome = match answer.body {
            Ok(Reply::Welcome(welcome)) if welcome.version == vshmem_wire::VERSION => welcome,
            Ok(Reply::Welcome(welcome)) => {
                return Err(Trouble::Malformed(format!("version {}", welcome.version)));
            }
            Ok(_) => return Err(Trouble::Malformed("no welcome".into())),
            Err(failure) => return Err(Trouble::Refused(failure)),
        };
        pages::take(descriptors, welcome.space)?;
        crate::debug!(
            "client {} of domain {} ({})",
            welcome.client,
            welcome.name,
            welcome.domain
        );
        let same = self
            .welcome
            .as_ref()
            .map(|(_, identity)| *identity)
            .filter(|identity| {
                identity.client == welcome.client && identity.undo.load(Ordering::Relaxed) == welcome.undo
            });
        if self.welcome.is_some() && same.is_none() {
            // A daemon that does not know us any more: everything must be opened again.
            process::next_epoch();
        }
        let identity = same.unwrap_or_else(|| {
            Box::leak(Box::new(Identity {
                client: welcome.client,
                domain: welcome.domain,
                pid: welcome.pid,
                undo: AtomicU64::new(welcome.undo),
                space: welcome.space,
                msgmax: welcome.limits.msgmax,
                socket: AtomicI32::new(-1),
                device: AtomicU64::new(0),
                inode: AtomicU64::new(0),
            }))
        });
        identity.device.store(self.socket.device, Ordering::Relaxed);
        identity.inode.store(self.socket.inode, Ordering::Relaxed);
        identity.socket.store(self.socket.number(), Ordering::Relaxed);
        // A request that is under way keeps its number: the daemon knows whether it was carried out.
        self.seq = if same.is_some() {
            self.seq.max(welcome.next_seq)
        } else {
            welcome.next_seq
        };
        self.welcome = Some((welcome, identity));
        Ok(())
    }

    /// What the daemon said first.
    pub(crate) fn welcome(&mut self) -> Result<(&Welcome, &'static Identity), Trouble> {
        if self.welcome.is_none() {
            // The hello was sent at the fork: much may have happened to the descriptor since.
            self.socket.get().ok_or(Trouble::Closed)?;
            self.read_welcome()?;
        }
        match &self.welcome {
            Some((welcome, identity)) => Ok((welcome, identity)),
            None => Err(Trouble::Closed),
        }
    }

    /// The number of a new request.
    pub(crate) fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq - 1
    }

    /// Sends a request and waits for its answer.
    pub(crate) fn exchange(
        &mut self,
        seq: u64,
        bytes: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Result<(Reply, Vec<OwnedFd>), Failure>, Trouble> {
        let descriptor = self.socket.get().ok_or(Trouble::Closed)?;
        socket::send(descriptor, bytes, descriptors)?;
        loop {
            let (answer, descriptors) = self.receive()?;
            if answer.seq == seq {
                let verdict: Verdict = answer.body;
                if let Err(failure) = &verdict
                    && !failure.why.is_empty()
                {
                    crate::debug!("{}: {}", Errno(failure.errno), failure.why);
                }
                return Ok(verdict.map(|reply| (reply, descriptors)));
            }
        }
    }

    /// Asks for a sign of life and waits for it for a bounded time, without memory of the heap: a signal handler may ask. Whether it came; what is wrong with the
    /// connection the next request finds out.
    pub(crate) fn ping(&mut self, patience: Duration) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let Some(descriptor) = self.welcome.as_ref().and(self.socket.get()) else {
            return false;
        };
        let (seq, mut buffer) = (self.seq, [0; 64]);
        let body = Request::Ping;
        let Some(bytes) = vshmem_wire::codec::encode_into(&Envelope { seq, body }, &mut buffer) else {
            return false;
        };
        self.seq += 1;
        if socket::send(descriptor, bytes, &[]).is_err() {
            return false;
        }
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let left = Timespec {
                tv_sec: left.as_secs() as _,
                tv_nsec: left.subsec_nanos().into(),
            };
            match poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&left)) {
                Ok(1..) => {}
                Err(rustix::io::Errno::INTR) => continue,
                _ => return false,
            }
            match self.receive() {
                Ok((answer, _)) if answer.seq == seq => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }

    /// Connects again, as the same client, until it works or the time is up. ESTALE of a daemon that has no memory of us (any more).
    pub(crate) fn again(&mut self, settings: &Settings, user: User, until: Instant) -> Result<(), Trouble> {
        let resume = self.welcome.as_ref().map(|(_, identity)| identity.client);
        let mut pause = Duration::from_millis(2);
        loop {
            let made = Socket::connect(&settings.socket, PATIENCE)
                .map_err(Trouble::from)
                .and_then(|made| {
                    self.socket = made;
                    self.user = user;
                    self.greet(settings, resume)?;
                    self.read_welcome()
                });
            match made {
                Ok(()) => return Ok(()),
                Err(trouble @ Trouble::Refused(_)) => return Err(trouble),
                Err(trouble) if Instant::now() >= until => return Err(trouble),
                Err(_) => std::thread::sleep(pause),
            }
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }
}
