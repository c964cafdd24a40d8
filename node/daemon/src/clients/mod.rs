//! The local clients of a daemon: their connections, their processes, their deaths. Back-end and front-end share this.
//!
//! Bytes and descriptors go in, [`Event`]s come out; the daemon answers by [`Clients::welcome`], [`Clients::answer`] and [`Clients::refuse`].
//! A client that sends rubbish, does not read its answers or says nothing loses its connection, and nobody else notices.
//!
//! A connection's life: accepted → Hello (identity taken) → welcomed or refused → requests → end of file. A client's life is its process's: the end
//! of a connection is not the end of the client as long as the process still has memory of ours mapped.

mod link;

use crate::process::identity::{self, Image};
use crate::process::limit::Limit;
use crate::process::reactor::{Reactor, Ready, Token};
use crate::process::socket::{self, Sender};
use link::{Link, Stage};
use rustix::fd::{AsFd, OwnedFd};
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};
use vshmem_wire::{Answer, Credentials, Envelope, Failure, MAX_MESSAGE, Request, Verdict};

/// How long a connection may stay silent before its Hello.
const HELLO_WITHIN: Duration = Duration::from_secs(10);

/// Most messages of a dead process that are read. Others may have its socket, and go on sending.
const MOST_LAST_WORDS: usize = 256;

/// The uid of the link of a fork that was prepared before this daemon's restart.
const NOBODY_KNOWN: u32 = u32::MAX;

/// Something that the daemon has to deal with.
#[derive(Debug)]
pub(crate) enum Event {
    /// A process says hello.
    Hello {
        /// Its connection.
        link: u32,
        /// Number of the request.
        seq: u64,
        /// Who it is.
        who: Credentials,
        /// What it says.
        hello: Hello,
        /// Index of the listening socket it came by; None for a forked child.
        door: Option<u32>,
        /// The fork it is the child of.
        fork: Option<u64>,
    },
    /// A client asks.
    Request {
        /// The client.
        client: u32,
        /// Number of the request.
        seq: u64,
        /// What.
        body: Request,
        /// Descriptors that came along.
        descriptors: Vec<OwnedFd>,
    },
    /// A client's process died, or executes another program.
    Gone {
        /// The client.
        client: u32,
        /// The process lives on.
        exec: bool,
    },
    /// A forked child's socket ended before it said hello.
    ForkAbandoned {
        /// The fork.
        fork: u64,
    },
}

/// What a client says first.
#[derive(Debug)]
pub(crate) struct Hello {
    /// Its version of the messages.
    pub(crate) version: u32,
    /// Its version of construct memory.
    pub(crate) layout: u32,
    /// The client number it had.
    pub(crate) resume: Option<u32>,
    /// The domain it wants to be in.
    pub(crate) domain: Option<String>,
    /// Clients that the process is already, where it does not say so itself: it goes on as the one of them that is in its domain.
    pub(crate) same: Vec<u32>,
}

/// A process that is, or was until exec, a client.
#[derive(Debug)]
struct Process {
    pid: u32,
    start: u64,
    pidfd: OwnedFd,
    link: Option<u32>,
    /// Its image was replaced: only its death is still of interest.
    execed: bool,
}

/// All local clients of a daemon.
#[derive(Debug)]
pub(crate) struct Clients {
    doors: Vec<OwnedFd>,
    links: HashMap<u32, Link>,
    next_link: u32,
    processes: BTreeMap<u32, Process>,
    buffer: Vec<u8>,
    most_links_per_uid: usize,
    lines: Limit,
}

impl Clients {
    /// None yet. A user other than root may have `most_links_per_uid` connections.
    pub(crate) fn new(most_links_per_uid: usize) -> Self {
        Clients {
            doors: Vec::new(),
            links: HashMap::new(),
            next_link: 1,
            processes: BTreeMap::new(),
            buffer: vec![0; MAX_MESSAGE + 1],
            most_links_per_uid,
            lines: Limit::new(),
        }
    }

    /// Adds a listening socket; gives its index.
    pub(crate) fn add_door(&mut self, reactor: &Reactor, door: OwnedFd) -> std::io::Result<u32> {
        let index = self.doors.len() as u32;
        rustix::io::ioctl_fionbio(&door, true)?;
        reactor.watch(&door, Token::Door(index))?;
        self.doors.push(door);
        Ok(index)
    }

    /// How many connections are open.
    pub(crate) fn connections(&self) -> usize {
        self.links.len()
    }

    /// Clients known to be alive.
    pub(crate) fn living(&self) -> Vec<u32> {
        self.processes
            .iter()
            .filter(|(_, p)| !p.execed)
            .map(|(c, _)| *c)
            .collect()
    }

    /// All clients whose processes live, also those whose program was replaced by exec.
    pub(crate) fn known(&self) -> Vec<u32> {
        self.processes.keys().copied().collect()
    }

    /// All processes: client number, pid, start time, whether the program was replaced by exec.
    pub(crate) fn processes(&self) -> impl Iterator<Item = (u32, u32, u64, bool)> {
        self.processes
            .iter()
            .map(|(&client, p)| (client, p.pid, p.start, p.execed))
    }

    /// Kills the processes of all clients; gives their number. One whose program was replaced has nothing of ours any more and stays.
    pub(crate) fn kill_all(&self) -> usize {
        let ours = self.processes.values().filter(|p| !p.execed);
        ours.filter(|p| rustix::process::pidfd_send_signal(&p.pidfd, rustix::process::Signal::KILL).is_ok())
            .count()
    }

    /// The user at the other end of a client's connection.
    pub(crate) fn uid(&self, client: u32) -> Option<u32> {
        let link = self.processes.get(&client)?.link?;
        self.links.get(&link).map(|l| l.uid)
    }

    /// A listening socket has somebody waiting.
    pub(crate) fn accept(&mut self, reactor: &Reactor, door: u32) {
        let Some(listener) = self.doors.get(door as usize) else {
            return;
        };
        let flags = rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK;
        let fd = match rustix::net::accept_with(listener, flags) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {
                return;
            }
            Err(e) => {
                if self.lines.allows() {
                    tracing::warn!("cannot accept a connection: {e}");
                }
                // Out of descriptors, most likely: do not spin on it.
                std::thread::sleep(Duration::from_millis(5));
                return;
            }
        };
        let uid = match socket::peer(fd.as_fd()) {
            Ok(peer) => peer.uid,
            Err(e) => return tracing::warn!("cannot tell who connected: {e}"),
        };
        if self.has_too_many(uid) {
            return;
        }
        if let Err(e) = self.add_link(reactor, Link::new(fd, uid, Some(door), None)) {
            tracing::warn!("cannot watch a connection: {e}");
        }
    }

    /// Whether a user has as many connections as it may, forks under way included.
    fn has_too_many(&mut self, uid: u32) -> bool {
        let theirs = self.links.values().filter(|l| l.uid == uid).count();
        let too_many = ![0, NOBODY_KNOWN].contains(&uid) && theirs >= self.most_links_per_uid;
        if too_many && self.lines.allows() {
            tracing::warn!(uid, theirs, "too many connections of one user: refused");
        }
        too_many
    }

    fn add_link(&mut self, reactor: &Reactor, link: Link) -> std::io::Result<()> {
        let number = self.next_link;
        self.next_link = self.next_link.wrapping_add(1).max(1);
        reactor.watch(&link.fd, Token::Link(number))?;
        self.links.insert(number, link);
        Ok(())
    }

    /// Whether a fork with this socket is under way already: its parent asks again, as it heard no answer from this daemon's former life. Two would be
    /// counted for one child, and would read its words from under each other's noses.
    pub(crate) fn knows_fork(&self, fd: &OwnedFd) -> bool {
        let inode = link::inode(fd);
        let forks = self.links.values().filter(|link| link.fork.is_some());
        inode != 0 && forks.into_iter().any(|link| link.inode == inode)
    }

    /// The daemon's end of the socket pair of a fork under way.
    pub(crate) fn add_fork(
        &mut self,
        reactor: &Reactor,
        fd: OwnedFd,
        parent: u32,
        fork: u64,
    ) -> std::io::Result<()> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        rustix::net::sockopt::set_socket_passcred(&fd, true)?;
        let uid = self.uid(parent).unwrap_or(NOBODY_KNOWN);
        if self.has_too_many(uid) {
            return Err(rustix::io::Errno::USERS.into());
        }
        self.add_link(reactor, Link::new(fd, uid, None, Some(fork)))
    }

    /// What became ready at once, in the order in which it is to be looked at: children of forks and deaths before what others ask. Who asks after
    /// its child was waited for, or after it was told of a death, is answered as the kernel would answer: that the dead are gone. epoll keeps no
    /// order between a descriptor that it gave out before and one that became ready since.
    pub(crate) fn deaths_first(&self, mut ready: Vec<Ready>) -> Vec<Ready> {
        ready.sort_by_key(|ready| match ready.token {
            Token::Link(link) if self.links.get(&link).is_some_and(|l| l.fork.is_some()) => 0,
            Token::Process(_) => 1,
            _ => 2,
        });
        ready
    }

    /// Whether who said hello by this connection died, or left, before it was welcome: until it is, nobody can say that it is gone.
    pub(crate) fn left_unwelcome(&self, number: u32) -> bool {
        self.links.get(&number).is_none_or(Link::died_unwelcome)
    }

    /// A connection can be read or written.
    pub(crate) fn link_ready(
        &mut self,
        reactor: &Reactor,
        number: u32,
        readable: bool,
        writable: bool,
        events: &mut Vec<Event>,
    ) {
        if writable {
            self.flush(reactor, number, events);
        }
        if !readable {
            return;
        }
        let Some(link) = self.links.get(&number) else {
            return;
        };
        let got = match socket::receive(&link.fd, &mut self.buffer) {
            Ok(Some(got)) => got,
            Ok(None) => return self.close(reactor, number, None, events),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return,
            // Killed before it read its answer.
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => {
                return self.close(reactor, number, None, events);
            }
            Err(e) => return self.close(reactor, number, Some(&e.to_string()), events),
        };
        if got.truncated || got.bytes > MAX_MESSAGE {
            return self.close(reactor, number, Some("a message that is too large"), events);
        }
        let envelope: Envelope = match vshmem_wire::decode(&self.buffer[..got.bytes]) {
            Ok(envelope) => envelope,
            Err(e) => return self.close(reactor, number, Some(&e.to_string()), events),
        };
        self.incoming(reactor, number, envelope, got, events);
    }

    fn incoming(
        &mut self,
        reactor: &Reactor,
        number: u32,
        envelope: Envelope,
        got: socket::Datagram,
        events: &mut Vec<Event>,
    ) {
        let Some(link) = self.links.get(&number) else {
            return;
        };
        match (link.stage(), envelope.body) {
            (
                Stage::Silent,
                Request::Hello {
                    version,
                    layout,
                    resume,
                    domain,
                },
            ) => {
                let hello = Hello {
                    version,
                    layout,
                    resume,
                    domain,
                    same: Vec::new(),
                };
                self.hello(
                    reactor,
                    number,
                    envelope.seq,
                    hello,
                    (got.sender, got.descriptors),
                    events,
                );
            }
            (Stage::Client(client), body) if !matches!(body, Request::Hello { .. }) => {
                events.push(Event::Request {
                    client,
                    seq: envelope.seq,
                    body,
                    descriptors: got.descriptors,
                });
            }
            _ => self.close(reactor, number, Some("a message out of turn"), events),
        }
    }

    fn hello(
        &mut self,
        reactor: &Reactor,
        number: u32,
        seq: u64,
        hello: Hello,
        (sender, descriptors): (Option<Sender>, Vec<OwnedFd>),
        events: &mut Vec<Event>,
    ) {
        let Some(link) = self.links.get_mut(&number) else {
            return;
        };
        let identity = match link.fork {
            Some(_) => sender
                .ok_or_else(|| anyhow::anyhow!("the kernel does not say who sent this"))
                .and_then(identity::forked),
            None => socket::peer(link.fd.as_fd())
                .map_err(Into::into)
                .and_then(identity::connected),
        };
        let identity = identity.and_then(|(own, pidfd)| match descriptors.first() {
            Some(other) => Ok((identity::standing_in(own, other)?, pidfd)),
            None => Ok((own, pidfd)),
        });
        let (who, pidfd) = match identity {
            Ok(identity) => identity,
            Err(e) => {
                let failure = Failure::because(libc::EPERM, format!("{e:#}"));
                return self.refuse(reactor, number, seq, failure, events);
            }
        };
        link.asked(seq, pidfd);
        link.uid = who.uid;
        let (door, fork) = (link.door, link.fork);
        let mut hello = hello;
        if hello.resume.is_none() && fork.is_none() {
            hello.same = self.same_image(reactor, who.pid, who.start, events);
        }
        events.push(Event::Hello {
            link: number,
            seq,
            who,
            hello,
            door,
            fork,
        });
    }

    /// A process says hello as if for the first time. If it is a client already whose program still runs (its effective uid has changed, say, or
    /// a second library of ours is in it), it goes on as that one, with the new connection and the new identity instead of the old; what was
    /// another program's before exec ends.
    fn same_image(&mut self, reactor: &Reactor, pid: u32, start: u64, events: &mut Vec<Event>) -> Vec<u32> {
        let mut same = Vec::new();
        let old: Vec<(u32, Option<u32>)> = self
            .processes
            .iter()
            .filter(|(_, p)| p.pid == pid && p.start == start && !p.execed)
            .map(|(client, p)| (*client, p.link))
            .collect();
        for (client, link) in old {
            let open = link.and_then(|l| self.links.get(&l));
            if open.is_none_or(|open| socket::ended(open.fd.as_fd())) {
                match link {
                    Some(link) => self.close(reactor, link, None, events),
                    None => self.audit(client, events),
                }
                // Where nobody may look: a program that goes on would have said which client it is.
                self.replace_if(client, |image| image != Image::Same, events);
            }
            if self.processes.get(&client).is_some_and(|p| !p.execed) {
                same.push(client);
            }
        }
        same
    }

    /// The client has no connection: does its process still run the same program?
    fn audit(&mut self, client: u32, events: &mut Vec<Event>) {
        self.replace_if(client, |image| image == Image::Other, events);
    }

    fn replace_if(&mut self, client: u32, replaced: impl Fn(Image) -> bool, events: &mut Vec<Event>) {
        let Some(process) = self.processes.get_mut(&client) else {
            return;
        };
        if !process.execed && process.link.is_none() && replaced(identity::image(process.pid)) {
            process.execed = true;
            events.push(Event::Gone { client, exec: true });
        }
    }

    /// The registry has taken the process behind a connection as a client.
    pub(crate) fn welcome(
        &mut self,
        reactor: &Reactor,
        number: u32,
        client: u32,
        who: (u32, u64),
        reply: (Verdict, Vec<OwnedFd>),
        events: &mut Vec<Event>,
    ) {
        let Some((seq, pidfd)) = self.links.get_mut(&number).and_then(|l| l.welcomed(client)) else {
            // It went away meanwhile. Its process may live: watch it as a client without a connection.
            if !self.track(reactor, client, who.0, who.1, false) {
                events.push(Event::Gone { client, exec: false });
            }
            return;
        };
        if let Some(old) = self
            .processes
            .get(&client)
            .and_then(|p| p.link)
            .filter(|l| *l != number)
            && let Some(old) = self.links.remove(&old)
        {
            reactor.forget(&old.fd);
        }
        self.track_opened(reactor, client, who, pidfd, Some(number), events);
        self.send(reactor, number, seq, reply.0, reply.1, events);
        self.bury(reactor, client, events);
    }

    /// Tells the end of a process that was dead before it was welcome: others may know of it already.
    fn bury(&mut self, reactor: &Reactor, client: u32, events: &mut Vec<Event>) {
        let process = self.processes.get(&client);
        if process.is_some_and(|process| identity::has_ended(&process.pidfd)) {
            self.process_ended(reactor, client, events);
        }
    }

    /// Watches a client's process that is known from before this daemon's restart. `false` if it is dead.
    pub(crate) fn track(
        &mut self,
        reactor: &Reactor,
        client: u32,
        pid: u32,
        start: u64,
        execed: bool,
    ) -> bool {
        let Ok(pidfd) = identity::open_pid(pid) else {
            return false;
        };
        if identity::start_time(pid).ok() != Some(start) || identity::has_ended(&pidfd) {
            return false;
        }
        let mut events = Vec::new();
        self.track_opened(reactor, client, (pid, start), pidfd, None, &mut events);
        if let Some(process) = self.processes.get_mut(&client) {
            process.execed = execed;
        }
        events.is_empty()
    }

    /// Looks at all clients without a connection.
    pub(crate) fn audit_all(&mut self, events: &mut Vec<Event>) {
        for client in self.living() {
            self.audit(client, events);
        }
    }

    fn track_opened(
        &mut self,
        reactor: &Reactor,
        client: u32,
        (pid, start): (u32, u64),
        pidfd: OwnedFd,
        link: Option<u32>,
        events: &mut Vec<Event>,
    ) {
        if let Some(known) = self.processes.get_mut(&client) {
            known.link = link;
            known.execed = false;
            return;
        }
        // Of a process that executed one program after another, the last one's death is the one that counts.
        let replaced = |p: &Process| p.pid == pid && p.start == start && p.execed;
        let before: Vec<u32> = self
            .processes
            .iter()
            .filter(|(_, p)| replaced(p))
            .map(|(c, _)| *c)
            .collect();
        for old in before {
            if let Some(old) = self.processes.remove(&old) {
                reactor.forget(&old.pidfd);
            }
        }
        if let Err(e) = reactor.watch(&pidfd, Token::Process(client)) {
            tracing::warn!(client, pid, "cannot watch a client's process: {e}");
            events.push(Event::Gone { client, exec: false });
        }
        let process = Process {
            pid,
            start,
            pidfd,
            link,
            execed: false,
        };
        self.processes.insert(client, process);
    }

    /// A client's process has ended. What it said last counts still: a ring, say, that somebody waits for.
    pub(crate) fn process_ended(&mut self, reactor: &Reactor, client: u32, events: &mut Vec<Event>) {
        let link = self.processes.get(&client).and_then(|p| p.link);
        for _ in 0..MOST_LAST_WORDS {
            match link.and_then(|link| self.links.get(&link)) {
                Some(open) if socket::has_more(open.fd.as_fd()) => {}
                _ => break,
            }
            self.link_ready(reactor, link.unwrap_or_default(), true, false, events);
        }
        let Some(process) = self.processes.remove(&client) else {
            return;
        };
        reactor.forget(&process.pidfd);
        if let Some(link) = process.link.and_then(|l| self.links.remove(&l)) {
            reactor.forget(&link.fd);
        }
        events.push(Event::Gone { client, exec: false });
    }

    /// Answers a client's request.
    pub(crate) fn answer(
        &mut self,
        reactor: &Reactor,
        client: u32,
        seq: u64,
        verdict: Verdict,
        descriptors: Vec<OwnedFd>,
        events: &mut Vec<Event>,
    ) {
        if let Some(link) = self.processes.get(&client).and_then(|p| p.link) {
            self.send(reactor, link, seq, verdict, descriptors, events);
        }
    }

    /// Answers a Hello with a failure, and closes the connection.
    pub(crate) fn refuse(
        &mut self,
        reactor: &Reactor,
        number: u32,
        seq: u64,
        failure: Failure,
        events: &mut Vec<Event>,
    ) {
        let why = failure.why.clone();
        self.send(reactor, number, seq, Err(failure), Vec::new(), events);
        if self.links.contains_key(&number) {
            self.close(reactor, number, Some(&why), events);
        }
    }

    fn send(
        &mut self,
        reactor: &Reactor,
        number: u32,
        seq: u64,
        body: Verdict,
        descriptors: Vec<OwnedFd>,
        events: &mut Vec<Event>,
    ) {
        let Some(link) = self.links.get_mut(&number) else {
            return;
        };
        let bytes = vshmem_wire::encode(&Answer { seq, body });
        if let Err(why) = link.send(bytes, descriptors) {
            return self.close(reactor, number, Some(&why), events);
        }
        self.settle_interest(reactor, number);
    }

    fn flush(&mut self, reactor: &Reactor, number: u32, events: &mut Vec<Event>) {
        if let Some(Err(why)) = self.links.get_mut(&number).map(Link::flush) {
            return self.close(reactor, number, Some(&why), events);
        }
        self.settle_interest(reactor, number);
    }

    /// A connection with unread answers is watched for writing, and not read from: who does not listen is not heard.
    fn settle_interest(&mut self, reactor: &Reactor, number: u32) {
        if let Some(link) = self.links.get_mut(&number) {
            let behind = link.is_behind();
            if link.watched_for_writing != behind {
                link.watched_for_writing = behind;
                let _ = reactor.interest(&link.fd, Token::Link(number), !behind, behind);
            }
        }
    }

    fn close(&mut self, reactor: &Reactor, number: u32, why: Option<&str>, events: &mut Vec<Event>) {
        let Some(link) = self.links.remove(&number) else {
            return;
        };
        reactor.forget(&link.fd);
        let stage = link.stage();
        if let Some(why) = why
            && self.lines.allows()
        {
            tracing::warn!(uid = link.uid, ?stage, "closing a connection: {why}");
        }
        match stage {
            Stage::Client(client) => {
                if let Some(process) = self.processes.get_mut(&client).filter(|p| p.link == Some(number)) {
                    process.link = None;
                    self.audit(client, events);
                }
            }
            Stage::Silent | Stage::Asked => {
                // Once it has asked, the registry decides what becomes of the fork.
                if let (Some(fork), Stage::Silent) = (link.fork, stage) {
                    events.push(Event::ForkAbandoned { fork });
                }
            }
        }
    }

    /// Closes connections that have said nothing for too long.
    pub(crate) fn expire(&mut self, reactor: &Reactor, events: &mut Vec<Event>) {
        let now = Instant::now();
        let silent: Vec<u32> = self
            .links
            .iter()
            .filter(|(_, l)| l.fork.is_none() && l.stage() == Stage::Silent)
            .filter(|(_, l)| now - l.since > HELLO_WITHIN)
            .map(|(n, _)| *n)
            .collect();
        for number in silent {
            self.close(reactor, number, Some("it has said nothing"), events);
        }
    }
}
