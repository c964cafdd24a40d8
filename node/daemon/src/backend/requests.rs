//! Local clients: their hellos and their requests. Guests' requests share [`Backend::request`].

use super::Backend;
use super::behalf::Permitted;
use super::stores::Home;
use crate::clients::{Event, Hello};
use crate::process::pages;
use rustix::fd::{AsFd, OwnedFd};
use std::io;
use vshmem_port::store::Serial;
use vshmem_registry::{Command, Done, OUT_OF_REACH};
use vshmem_wire::request::Welcome;
use vshmem_wire::stream::Connected;
use vshmem_wire::{
    Credentials, Extent, Failure, Grants, GroupInfo, HugeBytes, Memory, Reply, Request, Status, VERSION,
    Verdict, Window,
};

/// A descriptor that goes with a reply: of which construct, and whether for writing.
pub(super) type WithMemory = Option<(u64, bool)>;

/// Most characters of a domain's name.
const LONGEST_NAME: usize = 63;

/// Whether a string can name a domain: letters, digits, dots, dashes and underlines, not beginning with a dot.
pub(crate) fn is_domain_name(name: &str) -> bool {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    (1..=LONGEST_NAME).contains(&name.len()) && name.chars().all(fine) && !name.starts_with('.')
}

/// A failure for peers of another version.
pub(crate) fn check_version(version: u32, layout: u32) -> Result<(), Failure> {
    let ours = vshmem_ipc::header::LAYOUT;
    if version == VERSION && layout == ours {
        return Ok(());
    }
    Err(Failure::because(
        libc::EPROTO,
        format!(
            "this daemon speaks protocol {VERSION} and memory layout {ours}, the caller {version} and {layout}: \
             install the same version of Vshmem on both sides"
        ),
    ))
}

impl Backend {
    pub(super) fn on_event(&mut self, event: Event, events: &mut Vec<Event>) {
        match event {
            Event::Hello {
                link,
                seq,
                who,
                hello,
                door,
                fork,
            } => {
                if let Err(failure) = self.hello(link, who, hello, door, fork, events) {
                    self.clients.refuse(&self.reactor, link, seq, failure, events);
                }
            }
            Event::Request {
                client,
                seq,
                body,
                descriptors,
            } => self.local_request(client, seq, body, descriptors, events),
            Event::Gone { client, exec } => {
                self.heap.went();
                if let Some(direct) = &mut self.direct {
                    direct.take_back(client, &self.keeper);
                }
                let _ = self.apply(Command::Gone { client, exec });
            }
            Event::ForkAbandoned { fork } => self.fork_abandoned(fork),
        }
    }

    pub(super) fn fork_abandoned(&mut self, fork: u64) {
        if let Some(domain) = self.end_fork(fork) {
            let _ = self.apply(Command::ForkAbandoned { domain, fork });
        }
    }

    /// The fork's socket needs no keeping any more; gives the fork's domain.
    fn end_fork(&mut self, fork: u64) -> Option<u16> {
        let domain = self.forks.remove(&fork)?;
        self.keeper.drop_kept(super::start::fork_name(fork, domain));
        Some(domain)
    }

    fn hello(
        &mut self,
        link: u32,
        who: Credentials,
        hello: Hello,
        door: Option<u32>,
        fork: Option<u64>,
        events: &mut Vec<Event>,
    ) -> Result<(), Failure> {
        let version = check_version(hello.version, hello.layout);
        if let Err(failure) = version {
            fork.into_iter().for_each(|f| self.fork_abandoned(f));
            return Err(failure);
        }
        let (domain, name) = match fork {
            Some(fork) => self.forks_domain(fork)?,
            None => self.domain_of(&who, door.unwrap_or(0), hello.domain)?,
        };
        // Had before the registry knows of the client: nobody would watch a process that is refused after that.
        let page = match self.time.reader() {
            Ok(page) => page,
            Err(e) => {
                fork.into_iter().for_each(|f| self.fork_abandoned(f));
                let why = format!("the time page cannot be opened: {e}");
                return Err(Failure::because(libc::ENOMEM, why));
            }
        };
        if let Some(fork) = fork {
            self.end_fork(fork);
        }
        let (process, shown) = ((who.pid, who.start), who.shown_pid());
        let of_domain = |c: &u32| self.registry.client(*c).is_some_and(|c| c.domain == domain);
        let same = hello.same.into_iter().find(of_domain);
        let command = Command::Connect {
            domain,
            who,
            resume: hello.resume.or(same),
            fork,
        };
        let connected = match self.apply(command)? {
            Done::Connected(connected) => connected,
            other => return Err(surprise(&other)),
        };
        let client = connected.client;
        let reply = Reply::Welcome(self.welcome(connected, domain, name, shown));
        self.clients.welcome(
            &self.reactor,
            link,
            client,
            process,
            (Ok(reply), vec![page]),
            events,
        );
        Ok(())
    }

    fn welcome(&self, connected: Connected, domain: u16, name: String, pid: u32) -> Welcome {
        Welcome {
            version: VERSION,
            client: connected.client,
            domain,
            keys: self.config.keys_of(&name),
            name,
            space: 0,
            undo: connected.undo,
            pid,
            next_seq: connected.next_seq,
            limits: connected.limits,
        }
    }

    fn forks_domain(&self, fork: u64) -> Result<(u16, String), Failure> {
        let domain = *self.forks.get(&fork).ok_or(Failure::errno(libc::ESTALE))?;
        let name = self
            .registry
            .domains()
            .into_iter()
            .find(|d| d.number == domain)
            .map(|d| d.name);
        Ok((domain, name.unwrap_or_default()))
    }

    /// The domain that a caller is in: the listening socket's, or on the main one what privileged callers ask for.
    fn domain_of(
        &mut self,
        who: &Credentials,
        door: u32,
        wanted: Option<String>,
    ) -> Result<(u16, String), Failure> {
        let door = self.doors.get(door as usize).ok_or(Failure::errno(libc::EPERM))?;
        let Some(wanted) = wanted.filter(|w| *w != door.name) else {
            return Ok((door.number, door.name.clone()));
        };
        let trusted = who.uid == 0 || who.uid == rustix::process::geteuid().as_raw();
        if !door.main || !trusted {
            return Err(Failure::because(
                libc::EPERM,
                format!(
                    "processes that come by this socket are in domain {:?}; another one ({wanted:?}) has a socket of its own, or is \
                     for root and the daemon's user to choose",
                    door.name
                ),
            ));
        }
        if !is_domain_name(&wanted) {
            return Err(Failure::because(
                libc::EINVAL,
                format!("{wanted:?} is no name for a domain: letters, digits, dots, dashes, underlines"),
            ));
        }
        if self
            .registry
            .domains()
            .iter()
            .any(|d| d.name == wanted && d.port != super::start::LOCAL)
        {
            return Err(Failure::because(
                libc::EPERM,
                format!("domain {wanted:?} is a guest: its processes connect to its own front-end"),
            ));
        }
        let command = Command::DomainUp {
            name: wanted.clone(),
            port: super::start::LOCAL.into(),
            own_space: false,
        };
        match self.apply(command)? {
            Done::Domain { number, .. } => {
                let introduced = self.stores.introduce(number, None);
                introduced.map_err(|e| Failure::because(libc::EIO, format!("domain {wanted:?}: {e}")))?;
                Ok((number, wanted))
            }
            other => Err(surprise(&other)),
        }
    }

    fn local_request(
        &mut self,
        client: u32,
        seq: u64,
        body: Request,
        mut descriptors: Vec<OwnedFd>,
        events: &mut Vec<Event>,
    ) {
        let (verdict, fds) = match body {
            Request::Ring { space, at, bell } => return self.ring(space, at, bell),
            Request::Bell { wait } => self.give_bell(client, wait),
            Request::ForkPrepare => (self.fork_prepare(client, descriptors.pop()), Vec::new()),
            Request::AttachDomain { name, port } => {
                match self.attach_domain(client, name, port, descriptors) {
                    Ok((reply, pools)) => (Ok(reply), pools),
                    Err(failure) => (Err(failure), Vec::new()),
                }
            }
            Request::OpenDomain { name, port, vsock } => {
                (self.open_domain(client, &name, &port, vsock), Vec::new())
            }
            Request::UseHugePages { domain } => (self.put_into_huge_pages(client, &domain), Vec::new()),
            body => {
                let (verdict, memory) = self.request(client, seq, body);
                let (given, descriptors) = self.with_descriptor(client, verdict, memory);
                (self.handed_out(client, seq, given, memory), descriptors)
            }
        };
        self.clients
            .answer(&self.reactor, client, seq, verdict, fds, events);
    }

    /// An answer with which memory was to go: if that failed, the registry is told that the client does not have it.
    pub(super) fn handed_out(
        &mut self,
        client: u32,
        seq: u64,
        given: Verdict,
        memory: WithMemory,
    ) -> Verdict {
        if let (Err(failure), Some(_)) = (&given, memory) {
            let failure = failure.clone();
            let _ = self.apply(Command::NotHandedOut { client, seq, failure });
        }
        given
    }

    /// Adds to an answer for a guest by what it maps the construct's memory, where it must be granted.
    pub(super) fn with_grants(&mut self, domain: u16, verdict: Verdict, memory: WithMemory) -> Verdict {
        let (Ok(mut reply), Some((serial, writable))) = (verdict.clone(), memory) else {
            return verdict;
        };
        let Some(home) = self.registry.construct(serial).map(|c| (c.group, c.huge)) else {
            return Err(Failure::errno(libc::EIDRM));
        };
        if let Some(memory) = memory_of(&mut reply) {
            let granted = self.granted(home, domain, (serial, writable), &memory.extents);
            memory.grants = granted.map_err(|e| {
                Failure::because(
                    libc::ENOMEM,
                    format!("the construct's memory cannot be granted: {e}"),
                )
            })?;
        }
        Ok(reply)
    }

    /// What a domain maps a construct by, where it needs anything. It is admitted once more where that was taken back since (`unshare`, then `share`), or could not
    /// be done then.
    fn granted(
        &mut self,
        home: Home,
        domain: u16,
        (serial, writable): (u64, bool),
        extents: &[Extent],
    ) -> io::Result<Option<Grants>> {
        let (store, serial) = (self.stores.home_mut(home), Serial(serial));
        let granted = store.grants(serial, domain, extents, writable).or_else(|_| {
            store.admit(serial, domain, writable)?;
            store.grants(serial, domain, extents, writable)
        });
        if let Err(why) = &granted
            && self.lines.allows()
        {
            tracing::warn!(serial = serial.0, domain, "memory is not granted: {why}");
        }
        granted
    }

    /// Adds the descriptor of a construct's memory to an answer.
    fn with_descriptor(
        &mut self,
        client: u32,
        verdict: Verdict,
        memory: WithMemory,
    ) -> (Verdict, Vec<OwnedFd>) {
        let (Ok(mut reply), Some((serial, writable))) = (verdict.clone(), memory) else {
            return (verdict, Vec::new());
        };
        let Some(home) = self.registry.construct(serial).map(|c| (c.group, c.huge)) else {
            return (Err(Failure::errno(libc::EIDRM)), Vec::new());
        };
        let Some(memory) = memory_of(&mut reply) else {
            return (Ok(reply), Vec::new());
        };
        memory.writable = writable;
        let domain = self.registry.client(client).map_or(0, |c| c.domain);
        let opened = self
            .granted(home, domain, (serial, writable), &memory.extents)
            .and_then(|grants| {
                memory.grants = grants;
                self.stores.home(home).open(Serial(serial), memory)
            });
        match opened {
            Ok(fd) => (Ok(reply), vec![fd]),
            Err(e) => {
                let why = format!("the construct's memory cannot be opened: {e}");
                (Err(Failure::because(libc::ENOMEM, why)), Vec::new())
            }
        }
    }

    fn fork_prepare(&mut self, client: u32, socket: Option<OwnedFd>) -> Verdict {
        let socket =
            socket.ok_or_else(|| Failure::because(libc::EINVAL, "no socket came with the request"))?;
        if self.clients.knows_fork(&socket) {
            return Ok(Reply::Done);
        }
        let domain = self
            .registry
            .client(client)
            .map(|c| c.domain)
            .ok_or(Failure::errno(libc::ESTALE))?;
        let fork = self.next_fork;
        self.next_fork += 1;
        // Kept first: a successor gives up a fork that the registry does not know, but of one without a socket it would never hear again.
        self.keeper
            .keep(super::start::fork_name(fork, domain), socket.as_fd());
        self.forks.insert(fork, domain);
        if let Err(failure) = self.apply(Command::ForkPrepare { client, fork }) {
            self.end_fork(fork);
            return Err(failure);
        }
        if let Err(e) = self.clients.add_fork(&self.reactor, socket, client, fork) {
            self.fork_abandoned(fork);
            return Err(Failure::because(
                e.raw_os_error().unwrap_or(libc::EINVAL),
                format!("the socket cannot be used: {e}"),
            ));
        }
        Ok(Reply::Done)
    }

    /// Answers a request of any client, local or in a guest.
    pub(super) fn request(&mut self, client: u32, seq: u64, body: Request) -> (Verdict, WithMemory) {
        match &body {
            Request::Ping => return (Ok(Reply::Done), None),
            Request::Status => return (Ok(Reply::Status(self.status())), None),
            Request::Tickets { .. } => return (Ok(Reply::Tickets(Vec::new())), None),
            _ => {}
        }
        let behalf = match &body {
            Request::OnBehalf { operation, .. } => Some(operation.clone()),
            _ => None,
        };
        let limits = matches!(body, Request::SetLimit { .. });
        let kind = match &body {
            Request::Info { kind } => Some(*kind),
            _ => None,
        };
        let done = self.decide(client, seq, body);
        if limits {
            self.heartbeats(pages::now());
        }
        match done {
            Err(failure) => (Err(failure), None),
            Ok(Done::Nothing) => (Ok(Reply::Done), None),
            Ok(Done::Reply(reply)) => (Ok(reply), None),
            Ok(Done::WithMemory {
                serial,
                writable,
                reply,
                ..
            }) => (Ok(reply), Some((serial, writable))),
            Ok(Done::Stat { serial, mut stat }) => {
                self.complete(serial, &mut stat);
                (Ok(Reply::Stat(stat)), None)
            }
            Ok(Done::List { mut stats, next }) => {
                self.complete_list(&mut stats);
                let stats = stats.into_iter().map(|(_, stat)| stat).collect();
                (Ok(Reply::List(stats, next)), None)
            }
            Ok(Done::Info(mut info)) => {
                kind.into_iter()
                    .for_each(|kind| self.complete_info(kind, &mut info));
                (Ok(Reply::Info(info)), None)
            }
            Ok(Done::Behalf {
                serial,
                control,
                nsems,
                undo,
                pid,
                ..
            }) => {
                let permitted = Permitted {
                    serial,
                    control,
                    nsems,
                    undo,
                    pid,
                };
                let msgmax = self.registry.group().limits.msgmax;
                let verdict = match behalf {
                    Some(operation) => self.on_behalf(permitted, &operation, msgmax),
                    None => Err(Failure::errno(libc::EINVAL)),
                };
                self.answered(client, seq, verdict.clone());
                (verdict, None)
            }
            Ok(other) => (Err(surprise(&other)), None),
        }
    }

    /// What the registry says to a request.
    fn decide(&mut self, client: u32, seq: u64, body: Request) -> Result<Done, Failure> {
        let command = Command::Request { client, seq, body };
        match command {
            Command::Request { client, ref body, .. } if !command.changes() => {
                self.registry.ask(client, body)
            }
            command => {
                let before = self.failed_provisions;
                let done = self.apply(command);
                if let Err(failure) = &done
                    && failure.why == OUT_OF_REACH
                    && self.lines.allows()
                {
                    let domain = self.registry.client(client).map(|c| c.domain);
                    tracing::warn!(?domain, "a guest's program is refused (ENOMEM): {OUT_OF_REACH}");
                }
                if let (Err(failure), true) = (&done, before != self.failed_provisions) {
                    self.answered(client, seq, Err(failure.clone()));
                }
                done
            }
        }
    }

    fn answered(&mut self, client: u32, seq: u64, verdict: Verdict) {
        let _ = self.apply(Command::Answered { client, seq, verdict });
    }

    fn status(&self) -> Status {
        let group = self.registry.group();
        let groups = (0..).zip(group.names()).map(|(number, name)| GroupInfo {
            name: name.to_owned(),
            pool_bytes: self.registry.pool_bytes(number),
            used: self.registry.bytes_used_by(number),
            huge: self.stores.of(number).huge_pages().map(|pages| HugeBytes {
                huge: pages.huge,
                ordinary: pages.ordinary,
            }),
        });
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            restarts: self.restarts,
            uptime: pages::now().saturating_sub(self.since),
            groups: groups.collect(),
            quarantine: self.registry.bytes_quarantined(),
            domains: self.registry.domains(),
        }
    }
}

/// The registry answered a command with what belongs to another one.
pub(super) fn surprise(done: &Done) -> Failure {
    tracing::error!("the registry's answer fits no such command: {done:?}");
    Failure::because(libc::EPROTO, "the registry's answer does not fit the request")
}

/// Says in a reply how the descriptor that goes with it is to be mapped.
pub(crate) fn set_window(reply: &mut Reply, with: Window) {
    if let Some(memory) = memory_of(reply) {
        memory.window = with;
    }
}

/// The memory that a reply tells of.
pub(crate) fn memory_of(reply: &mut Reply) -> Option<&mut Memory> {
    match reply {
        Reply::Attached { memory, .. } => Some(memory),
        Reply::Opened { memory, .. } => memory.as_mut(),
        _ => None,
    }
}
