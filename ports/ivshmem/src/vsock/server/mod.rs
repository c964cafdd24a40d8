//! The host's end: takes streams that guests open, and finds out whose they are.
//!
//! | who connects | its domain is known by | it is privileged, because |
//! |---|---|---|
//! | the kernel, for a program in a machine | the machine's CID, which the hypervisor chose | the program's own port is one that only such a program can have |
//! | a hypervisor, at a machine's unix socket | the socket | it says what was told to port [`PORT`] of the machine, where only such a program can listen |
//!
//! A connection of the second kind is a *candidate* until it is proven. States, and what moves them:
//!
//! | state | waits for | then |
//! |---|---|---|
//! | `Dialled` | the hypervisor's `OK`: a program of the guest listens | tells it the secret: `Asked` |
//! | `Asked` | the secret, on the candidate itself | it is a stream |
//!
//! **Limits.** [`MOST_OF_A_DOMAIN`] candidates of a domain, the oldest of which goes when one more comes; each has [`PATIENCE`]; [`MOST_A_SECOND`] connections
//! a second by the kernel. What a guest's programs can do is to keep their own machine's front-end from joining; nobody else notices.

use super::PORT;
use super::socket::{self, Address, LAST_PRIVILEGED};
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use vshmem_port::arrivals::{Arrival, Line, StreamServer};

/// Most candidates of one domain.
const MOST_OF_A_DOMAIN: usize = 4;
/// Connections that the kernel may bring in a second.
const MOST_A_SECOND: u32 = 20;
/// How long a candidate may take.
const PATIENCE: Duration = Duration::from_secs(4);
/// Longest answer of a hypervisor to `CONNECT`.
const LONGEST_ANSWER: usize = 32;
/// Hexadecimal digits of a secret.
const SECRET: usize = 32;

/// What is watched, beside candidates: twice a candidate's number is its stream, one more the connection by which it is told the secret.
const LISTENER: u64 = 0;
const NEWS: u64 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Dialled,
    Asked,
}

/// A connection that has to prove itself.
#[derive(Debug)]
struct Candidate {
    domain: String,
    stream: OwnedFd,
    told: OwnedFd,
    state: State,
    secret: String,
    heard: Vec<u8>,
    since: Instant,
}

/// A machine.
#[derive(Debug)]
struct Machine {
    domain: String,
    cid: u32,
    place: PathBuf,
}

/// The server.
#[derive(Debug)]
pub struct VsockServer {
    epoll: OwnedFd,
    /// Readable when `done` has something.
    news: OwnedFd,
    listener: Option<OwnedFd>,
    accepted: u32,
    machines: Vec<Machine>,
    candidates: BTreeMap<u64, Candidate>,
    next: u64,
    done: Vec<Arrival>,
}

impl VsockServer {
    /// One that knows no machine yet.
    ///
    /// # Errors
    /// The system's, for want of descriptors.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let news = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(
            &epoll,
            &news,
            epoll::EventData::new_u64(NEWS),
            epoll::EventFlags::IN,
        )?;
        Ok(VsockServer {
            epoll,
            news,
            listener: None,
            accepted: 0,
            machines: Vec::new(),
            candidates: BTreeMap::new(),
            next: 1,
            done: Vec::new(),
        })
    }

    /// Listens for what the kernel brings, once there is a machine that may come so. Where it cannot, machines with hypervisors of the other kind still come.
    fn listen(&mut self) {
        if self.listener.is_some() {
            return;
        }
        let listening = socket::listen(PORT).and_then(|listener| {
            let data = epoll::EventData::new_u64(LISTENER);
            epoll::add(&self.epoll, &listener, data, epoll::EventFlags::IN)?;
            Ok(listener)
        });
        match listening {
            Ok(listener) => self.listener = Some(listener),
            Err(e) => tracing::warn!(
                "machines cannot come by the kernel's vsock (port {PORT}: {e}): {}",
                match e.kind() {
                    io::ErrorKind::AddrInUse => "another back-end, or another program, has the port",
                    io::ErrorKind::PermissionDenied => "a back-end needs CAP_NET_BIND_SERVICE for that",
                    _ => "this kernel may have no vsock (modprobe vhost_vsock)",
                }
            ),
        }
    }

    fn tell_of(&mut self, arrival: Arrival) {
        self.done.push(arrival);
        let _ = rustix::io::write(&self.news, &1_u64.to_ne_bytes());
    }

    fn refuse(&mut self, who: String, why: String, stream: &OwnedFd) {
        let _ = Line::Refused(why.clone()).say(stream);
        self.tell_of(Arrival::Refused { who, why });
    }

    /// Takes one connection from the kernel. `false` if there is none.
    fn accept(&mut self) -> bool {
        let Some(listener) = &self.listener else {
            return false;
        };
        if self.accepted >= MOST_A_SECOND {
            let data = epoll::EventData::new_u64(LISTENER);
            let _ = epoll::modify(&self.epoll, listener, data, epoll::EventFlags::empty());
            return false;
        }
        let Ok((stream, from)) = socket::accept(listener) else {
            return false;
        };
        self.accepted += 1;
        self.came(stream, from);
        true
    }

    /// The kernel has brought a connection.
    fn came(&mut self, stream: OwnedFd, Address { cid, port }: Address) {
        let domain = self.machines.iter().find(|machine| machine.cid == cid);
        let Some(domain) = domain.map(|machine| machine.domain.clone()) else {
            let why = format!(
                "no domain has this CID: add cid = {cid} to its [[domain]] in the back-end's configuration"
            );
            return self.refuse(format!("a machine of CID {cid}"), why, &stream);
        };
        if port > LAST_PRIVILEGED {
            let why = format!(
                "it comes from port {port}, which any program can have: a front-end comes from one up to {LAST_PRIVILEGED}"
            );
            return self.refuse(format!("a program in domain {domain}"), why, &stream);
        }
        self.tell_of(Arrival::Stream { domain, stream });
    }

    /// Makes a candidate of a connection, and calls the privileged place of its machine.
    fn call(&mut self, domain: &str, stream: &OwnedFd) -> Result<(OwnedFd, String), String> {
        let machine = self.machines.iter().find(|machine| machine.domain == domain);
        let machine = machine.ok_or("it is no machine with a stream of this kind")?;
        let told = dial(&machine.place).map_err(|e| {
            format!(
                "its hypervisor does not listen at {} ({e}): that must be the path which the device was given",
                machine.place.display()
            )
        })?;
        let mut bytes = [0; SECRET / 2];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .map_err(|e| e.to_string())?;
        let secret = bytes.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        let said = Line::Prove(self.next.to_string()).say(stream);
        said.map_err(|e| e.to_string())?;
        write_all(&told, format!("CONNECT {PORT}\n").as_bytes()).map_err(|e| e.to_string())?;
        Ok((told, secret))
    }

    fn watch(&mut self, number: u64) -> io::Result<()> {
        if let Some(candidate) = self.candidates.get(&number) {
            for (which, fd) in [(0, &candidate.stream), (1, &candidate.told)] {
                let data = epoll::EventData::new_u64(2 * number + which);
                epoll::add(&self.epoll, fd, data, epoll::EventFlags::IN)?;
            }
        }
        Ok(())
    }

    /// Something has happened to one of a candidate's two connections.
    fn advance(&mut self, number: u64, of_told: bool) {
        let Some(candidate) = self.candidates.get_mut(&number) else {
            return;
        };
        let next = match (candidate.state, of_told) {
            (State::Dialled, true) => candidate.answered(number),
            // The guest has read it and is done with this connection, or speaks to nobody: its answer comes by the other one.
            (State::Asked, true) => {
                let _ = epoll::delete(&self.epoll, &candidate.told);
                return;
            }
            (State::Dialled, false) => Err("it speaks before it is asked".to_owned()),
            (State::Asked, false) => candidate.proves(),
        };
        match next {
            Ok(false) => {}
            Ok(true) => {
                if let Some(Candidate { domain, stream, .. }) = self.candidates.remove(&number) {
                    let _ = epoll::delete(&self.epoll, &stream);
                    self.tell_of(Arrival::Stream { domain, stream });
                }
            }
            Err(why) => self.drop_candidate(number, why),
        }
    }

    fn drop_candidate(&mut self, number: u64, why: String) {
        if let Some(candidate) = self.candidates.remove(&number) {
            let who = format!("a program in domain {}", candidate.domain);
            self.refuse(who, why, &candidate.stream);
        }
    }
}

impl Candidate {
    /// The hypervisor has answered: then the guest's privileged program is told the secret. Never is it proven by that.
    fn answered(&mut self, number: u64) -> Result<bool, String> {
        let ended = || {
            format!(
                "no privileged program of its machine listens at port {PORT}, as a front-end (`vshmem join`, run as root) does while it opens its stream"
            )
        };
        let mut byte = [0];
        loop {
            match rustix::io::read(&self.told, &mut byte) {
                Ok(0) => return Err(ended()),
                Ok(_) if byte[0] == b'\n' => break,
                Ok(_) if self.heard.len() < LONGEST_ANSWER => self.heard.push(byte[0]),
                Ok(_) => return Err("its hypervisor does not say OK".to_owned()),
                Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
                Err(_) => return Err(ended()),
            }
        }
        if !self.heard.starts_with(b"OK ") {
            return Err("its hypervisor does not say OK".to_owned());
        }
        self.heard.clear();
        write_all(&self.told, format!("{number} {}\n", self.secret).as_bytes()).map_err(|e| e.to_string())?;
        self.state = State::Asked;
        Ok(false)
    }

    /// It says something: true when it was the secret. Nothing behind that is read.
    fn proves(&mut self) -> Result<bool, String> {
        let wanted = format!("{}\n", self.secret);
        let mut piece = [0; SECRET + 1];
        let left = wanted.len() - self.heard.len();
        match rustix::io::read(&self.stream, &mut piece[..left]) {
            Ok(0) => return Err("it has ended".to_owned()),
            Ok(n) => self.heard.extend_from_slice(&piece[..n]),
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            Err(e) => return Err(e.to_string()),
        }
        if self.heard.len() < wanted.len() {
            return Ok(false);
        }
        let differ = self.heard.iter().zip(wanted.as_bytes());
        match differ.fold(0, |sum, (a, b)| sum | (a ^ b)) {
            0 => Ok(true),
            _ => Err("it does not know what a privileged program of its machine was told".to_owned()),
        }
    }
}

/// Connects to a hypervisor's socket, without waiting, and never by a symbolic link that somebody put in its place.
fn dial(place: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inode = rustix::fs::open(place, flags, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&inode)?.st_mode) != FileType::Socket {
        return Err(io::Error::other("it is no socket"));
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", inode.as_raw_fd()))?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket)
}

/// Writes to a connection that has room for it.
fn write_all(to: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    match rustix::io::write(to, bytes)? {
        all if all == bytes.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

impl StreamServer for VsockServer {
    fn ready(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    fn expect(&mut self, domain: &str, address: u32, place: &Path) {
        self.machines.retain(|machine| machine.domain != domain);
        self.machines.push(Machine {
            domain: domain.to_owned(),
            cid: address,
            place: place.to_owned(),
        });
        self.listen();
    }

    fn connected(&mut self, domain: &str, socket: OwnedFd) {
        let mut of_domain = self.candidates.iter().filter(|(_, one)| one.domain == domain);
        if let (Some((&oldest, _)), Some(_)) = (of_domain.next(), of_domain.nth(MOST_OF_A_DOMAIN - 2)) {
            self.drop_candidate(oldest, "too many others came after it".to_owned());
        }
        let (told, secret) = match self.call(domain, &socket) {
            Ok(called) => called,
            Err(why) => return self.refuse(format!("a program in domain {domain}"), why, &socket),
        };
        let number = self.next;
        self.next += 1;
        let candidate = Candidate {
            domain: domain.to_owned(),
            stream: socket,
            told,
            state: State::Dialled,
            secret,
            heard: Vec::new(),
            since: Instant::now(),
        };
        self.candidates.insert(number, candidate);
        if let Err(e) = self.watch(number) {
            self.drop_candidate(number, e.to_string());
        }
    }

    fn serve(&mut self) -> Vec<Arrival> {
        let mut events = Vec::with_capacity(32);
        let none = Timespec::default();
        let _ = epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&none),
        );
        for event in events {
            match event.data.u64() {
                LISTENER => while self.accept() {},
                NEWS => {
                    let _ = rustix::io::read(&self.news, &mut [0; 8]);
                }
                other => self.advance(other / 2, other % 2 == 1),
            }
        }
        std::mem::take(&mut self.done)
    }

    fn second(&mut self) -> Vec<Arrival> {
        if let Some(listener) = &self.listener
            && self.accepted >= MOST_A_SECOND
        {
            let data = epoll::EventData::new_u64(LISTENER);
            let _ = epoll::modify(&self.epoll, listener, data, epoll::EventFlags::IN);
        }
        self.accepted = 0;
        let late = self
            .candidates
            .iter()
            .filter(|(_, one)| one.since.elapsed() > PATIENCE);
        for number in late.map(|(number, _)| *number).collect::<Vec<_>>() {
            let why = "it took too long to prove that a privileged program of its machine opened it";
            self.drop_candidate(number, why.to_owned());
        }
        std::mem::take(&mut self.done)
    }
}

#[cfg(test)]
mod tests;
