//! Guests: domains with a kernel of their own, whose front-ends speak over a byte stream.
//!
//! A guest is made by [`Request::AttachDomain`](vshmem_wire::Request::AttachDomain), which hands its stream over. The back-end says nothing on
//! it before it is spoken to (a serial line that nobody has set up yet echoes). The stream's end is the domain's end; silence is not, since a paused
//! VM is silent.

use super::bells::Bells;
use super::requests::{check_version, is_domain_name, surprise};
use super::{Backend, start};
use crate::process::pages;
use crate::process::reactor::{Ready, Token};
use crate::process::stream::{Stream, StreamError};
use rustix::fd::{AsFd, OwnedFd};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use vshmem_port::store::{Reach, Serial, Store};
use vshmem_registry::{Command, Done};
use vshmem_wire::pool::{self, GroupPool, HEADER_BYTES, PoolHeader};
use vshmem_wire::{Down, Failure, ID_BIT, Reply, Request, ShownPool, Up, Verdict};

/// Silence that is worth a line in the log.
const SILENCE: Duration = Duration::from_secs(10);

/// With more bytes than these unwritten, a guest is not rung but owed a ring.
const RING_BEHIND: usize = 256;

/// What a machine is told whose front-end was welcomed in another stay.
const RESTORED: &str = "this front-end was welcomed in a session that is over, so this machine was restored from a snapshot or its stream was moved: the \
                        programs in it hold stale memory; end them, and start `vshmem join` anew";

/// Writes a pool's header, by which a guest's front-end knows the group's memory among what its machine was given. Written for each guest that comes in,
/// since any other can have overwritten it.
fn label_pool(store: &dyn Store, header: &PoolHeader) -> std::io::Result<()> {
    let (pool, _) = store.descriptor(Serial(0), true)?;
    match rustix::io::pwrite(&pool, &header.write(), 0)? {
        HEADER_BYTES => Ok(()),
        _ => Err(std::io::ErrorKind::WriteZero.into()),
    }
}

fn is_not_for_guests(request: &Request) -> bool {
    matches!(
        request,
        Request::AttachDomain { .. }
            | Request::OpenDomain { .. }
            | Request::UseHugePages { .. }
            | Request::ForkPrepare
            | Request::Hello { .. }
    )
}

fn new_session() -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_le_bytes(bytes))
}

/// A domain with a stream.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) domain: u16,
    pub(super) space: u16,
    pub(super) name: String,
    pub(super) port: String,
    pub(super) stream: Stream,
    pub(super) bells: Bells,
    /// The port's number of its machine, where guests ring each other with nobody in between.
    pub(super) machine: Option<u32>,
    /// Names its stay: a front-end that names another one belongs to a machine that was restored from a snapshot.
    pub(super) session: u64,
    /// It has said hello.
    pub(super) greeted: bool,
    /// It has to say hello (again), since this daemon was restarted.
    pub(super) ask_again: bool,
    heard: Instant,
    silent: bool,
    watched_for_writing: bool,
    /// It is to be rung when it has read more.
    ring_owed: bool,
}

impl Guest {
    /// A guest whose stream was handed over.
    pub(super) fn new(domain: u16, space: u16, name: String, port: String, stream: Stream) -> Self {
        Guest {
            domain,
            space,
            name,
            port,
            stream,
            bells: Bells::default(),
            machine: None,
            session: 0,
            greeted: false,
            ask_again: false,
            heard: Instant::now(),
            silent: false,
            watched_for_writing: false,
            ring_owed: false,
        }
    }

    /// Nothing was heard of it for so long that it is worth a line in the log.
    pub(super) fn is_silent(&self) -> bool {
        self.heard.elapsed() > SILENCE
    }
}

impl Backend {
    /// Makes a guest's domain.
    pub(super) fn attach_domain(
        &mut self,
        client: u32,
        name: String,
        port: String,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(Reply, Vec<OwnedFd>), Failure> {
        self.check_may_bring_in(client)?;
        let pools = self.pools_of(&name, &port)?;
        let mut descriptors = descriptors.into_iter();
        let stream = descriptors
            .next()
            .ok_or_else(|| Failure::because(libc::EINVAL, "no stream came with the request"))?;
        let open = |pool: &GroupPool| {
            let opened = self.stores.of(pool.number).descriptor(Serial(0), true);
            opened
                .map(|(file, _)| file)
                .map_err(|e| Failure::because(libc::ENOMEM, format!("a pool cannot be opened: {e}")))
        };
        let pools = pools.into_iter().filter(|pool| self.shows_whole(pool.number));
        let pools: Vec<GroupPool> = pools.collect();
        let files = pools.iter().map(open).collect::<Result<_, _>>()?;
        let domain = self.bring_in(name, port, stream, descriptors.collect())?;
        let shown = pools.into_iter().map(|pool| ShownPool {
            group: pool.header.group,
            bytes: pool.header.bytes,
        });
        let pools = shown.collect();
        Ok((Reply::DomainReady { domain, pools }, files))
    }

    /// Bringing guests in is for some only.
    pub(super) fn check_may_bring_in(&self, client: u32) -> Result<(), Failure> {
        let uid = self.clients.uid(client);
        if uid != Some(0) && uid != Some(rustix::process::geteuid().as_raw()) {
            let why = "only root and the daemon's own user may bring a guest in";
            return Err(Failure::because(libc::EPERM, why));
        }
        Ok(())
    }

    /// The pools of a domain's groups, which a guest must have, all of them.
    pub(super) fn pools_of(&self, domain: &str, port: &str) -> Result<Vec<GroupPool>, Failure> {
        let groups = self.registry.group();
        let mut pools = Vec::new();
        for &number in groups.groups_of(domain) {
            let group = groups.name_of(number).to_owned();
            let (Reach::Pool { bytes } | Reach::Granted { bytes }) = self.stores.of(number).reach() else {
                let why = format!(
                    "the memory of group {group} is a file per construct, which a guest cannot reach: set memory = \"pool\" for it in the configuration"
                );
                return Err(Failure::because(libc::EOPNOTSUPP, why));
            };
            let id = self.config.pool_ids.get(usize::from(number));
            let id = id.copied().unwrap_or_default();
            let header = PoolHeader { bytes, id, group };
            pools.push(GroupPool { number, header });
        }
        let most = vshmem_port_select::most_pools(port);
        if pools.len() > most {
            let why = format!(
                "domain {domain:?} is in {} groups with a pool each, and a guest of port {port} can be shown {most}: have the configuration name fewer groups for \
                 it, or use another port",
                pools.len()
            );
            return Err(Failure::because(libc::EOPNOTSUPP, why));
        }
        Ok(pools)
    }

    /// Whether a domain that reaches one construct of the group reaches them all.
    fn shows_whole(&self, group: u16) -> bool {
        matches!(self.stores.of(group).reach(), Reach::Pool { .. })
    }

    /// The pools that a guest is told of, with their headers in place.
    fn labelled_pools(&self, domain: &str, port: &str) -> Result<Vec<GroupPool>, String> {
        let pools = self.pools_of(domain, port).map_err(|failure| failure.why)?;
        for pool in pools.iter().filter(|pool| self.shows_whole(pool.number)) {
            label_pool(self.stores.of(pool.number), &pool.header).map_err(|e| {
                format!(
                    "the header of group {}'s pool cannot be written: {e}",
                    pool.header.group
                )
            })?;
        }
        Ok(pools)
    }

    /// Makes the domain of a guest whose stream is there, and maybe its bells; gives its number.
    pub(super) fn bring_in(
        &mut self,
        name: String,
        port: String,
        stream: OwnedFd,
        bells: Vec<OwnedFd>,
    ) -> Result<u16, Failure> {
        if !is_domain_name(&name) || port == start::LOCAL && name == start::HOST {
            let why = format!("{name:?} is no name for a guest: letters, digits, dots, dashes, underlines");
            return Err(Failure::because(libc::EINVAL, why));
        }
        if self.registry.domains().iter().any(|d| d.name == name && d.up) {
            let why = format!("there is a domain {name:?} already: end it first, or take another name");
            return Err(Failure::because(libc::EEXIST, why));
        }
        let unusable =
            |e: std::io::Error| Failure::because(libc::EINVAL, format!("the stream cannot be used: {e}"));
        let stream = Stream::paced(stream, false).map_err(unusable)?;
        let bells = Bells::new(bells).map_err(unusable)?;
        let command = Command::DomainUp {
            name: name.clone(),
            port: port.clone(),
            own_space: true,
        };
        let (number, space) = match self.apply(command)? {
            Done::Domain { number, space } => (number, space),
            other => return Err(surprise(&other)),
        };
        if let Err(e) = self.stores.introduce(number, Some(&name)) {
            let _ = self.apply(Command::DomainDown { domain: number });
            let why = format!("the machine of domain {name:?} is not found: {e}");
            return Err(Failure::because(libc::ENXIO, why));
        }
        tracing::info!(domain = %name, number, space, %port, "a guest comes in");
        let mut guest = Guest::new(number, space, name, port, stream);
        guest.session = new_session().map_err(unusable)?;
        guest.bells = bells;
        self.add_guest(guest).map_err(unusable)?;
        Ok(number)
    }

    /// Watches a guest's stream, and has the keeper hold it.
    pub(super) fn add_guest(&mut self, guest: Guest) -> std::io::Result<()> {
        let number = self.next_guest;
        self.next_guest += 1;
        self.reactor.watch(guest.stream.fd(), Token::Stream(number))?;
        self.keeper
            .keep(start::guest_name(&guest), guest.stream.fd().as_fd());
        self.guests.insert(number, guest);
        self.add_bells(number)
    }

    pub(super) fn guest_ready(&mut self, number: u32, ready: Ready) {
        if let Err(e) = self.talk(number, ready) {
            self.lose_guest(number, &e.to_string());
            return;
        }
        self.settle_guest(number);
    }

    fn talk(&mut self, number: u32, ready: Ready) -> Result<(), StreamError> {
        let Some(guest) = self.guests.get_mut(&number) else {
            return Ok(());
        };
        if ready.writable {
            guest.stream.flush()?;
        }
        if !ready.readable {
            return Ok(());
        }
        guest.stream.fill()?;
        guest.heard = Instant::now();
        guest.silent = false;
        while let Some(guest) = self.guests.get_mut(&number) {
            match guest.stream.take::<Up>() {
                Ok(Some(up)) => self.on_up(number, up)?,
                Ok(None) => break,
                Err(StreamError::Wire(e)) => {
                    let why = format!("a message that cannot be read ({e}): another version of Vshmem?");
                    guest.stream.send(&Down::Refused { why })?;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn on_up(&mut self, number: u32, up: Up) -> Result<(), StreamError> {
        let Some(guest) = self.guests.get_mut(&number) else {
            return Ok(());
        };
        let domain = guest.domain;
        if !guest.greeted && !matches!(up, Up::Hello { .. }) {
            if !guest.ask_again {
                tracing::warn!(domain = %guest.name, "a guest speaks before its hello");
            }
            guest.ask_again = true;
            return Ok(());
        }
        match up {
            Up::Hello {
                version,
                layout,
                domain: wanted,
                clients,
                session,
            } => return self.guest_hello(number, (version, layout), (wanted, session), clients),
            Up::Heartbeat => {}
            Up::Ring { space, at, bell } => self.ring(space, at, bell),
            Up::Bells { count } => guest.bells.opened(count),
            Up::Doors { space, doors } => self.pass_doors_on(number, space, doors),
            Up::BellRead { bell, bytes } => guest.bells.was_read(bell, bytes),
            Up::Connect {
                tag,
                who,
                resume,
                fork,
            } => {
                let command = Command::Connect {
                    domain,
                    who,
                    resume,
                    fork,
                };
                let outcome = match self.apply(command) {
                    Ok(Done::Connected(connected)) => Ok(connected),
                    Ok(other) => Err(surprise(&other)),
                    Err(failure) => Err(failure),
                };
                return self.tell(number, &Down::Connected { tag, outcome });
            }
            Up::Request { client, seq, body } => {
                let body = self.guests_request(domain, client, seq, body);
                return self.tell(number, &Down::Answer { client, seq, body });
            }
            Up::ForkPrepare { client, fork } => {
                if self.is_of(client, domain) {
                    let _ = self.apply(Command::ForkPrepare { client, fork });
                }
            }
            Up::ForkAbandoned { fork } => {
                let _ = self.apply(Command::ForkAbandoned { domain, fork });
            }
            Up::Gone { client, exec } => {
                if self.is_of(client, domain) {
                    let _ = self.apply(Command::Gone { client, exec });
                }
            }
        }
        Ok(())
    }

    fn guests_request(&mut self, domain: u16, client: u32, seq: u64, body: Request) -> Verdict {
        if !self.is_of(client, domain) {
            return Err(Failure::errno(libc::ESTALE));
        }
        if is_not_for_guests(&body) {
            let why = "not a request for a guest's client";
            return Err(Failure::because(libc::EPERM, why));
        }
        let (verdict, memory) = self.request(client, seq, body);
        let given = self.with_grants(domain, verdict, memory);
        self.handed_out(client, seq, given, memory)
    }

    fn is_of(&self, client: u32, domain: u16) -> bool {
        self.registry.client(client).is_some_and(|c| c.domain == domain)
    }

    fn guest_hello(
        &mut self,
        number: u32,
        (version, layout): (u32, u32),
        (wanted, claimed): (Option<String>, Option<u64>),
        clients: Vec<u32>,
    ) -> Result<(), StreamError> {
        let Some(guest) = self.guests.get(&number) else {
            return Ok(());
        };
        let (domain, space, name) = (guest.domain, guest.space, guest.name.clone());
        let (port, session) = (guest.port.clone(), guest.session);
        let refusal = match (check_version(version, layout), wanted.filter(|w| *w != name)) {
            (Err(failure), _) => Err(failure.why),
            (_, Some(wanted)) => Err(format!("this guest is domain {name:?}, not {wanted:?}")),
            _ if claimed.is_some_and(|claimed| claimed != session) => Err(RESTORED.to_owned()),
            _ => self.labelled_pools(&name, &port),
        };
        let pools = match refusal {
            Ok(pools) => pools,
            Err(why) => {
                tracing::warn!(domain = %name, "front-end refused: {why}");
                return self.tell(number, &Down::Refused { why });
            }
        };
        let _ = self.apply(Command::Alive { domain, clients });
        let keys = self.config.keys_of(&name);
        if let Some(guest) = self.guests.get_mut(&number) {
            if !guest.greeted {
                let before = start::guest_name(guest);
                guest.greeted = true;
                // Kept first: a successor knows what to make of a stream under both names, and of one under none it would never hear again.
                self.keeper
                    .keep(start::guest_name(guest), guest.stream.fd().as_fd());
                self.keeper.drop_kept(before);
                tracing::info!(domain = %name, "a guest's front-end is there");
            }
            guest.ask_again = false;
        }
        let welcome = Down::Welcome {
            domain,
            name,
            space,
            seconds: pages::now(),
            pools,
            session,
            keys,
        };
        self.tell(number, &welcome)?;
        self.introduce_neighbours(number);
        Ok(())
    }

    fn tell(&mut self, number: u32, down: &Down) -> Result<(), StreamError> {
        match self.guests.get_mut(&number) {
            Some(guest) => guest.stream.send(down),
            None => Ok(()),
        }
    }

    /// Tells a guest; its stream's failure is its end.
    pub(super) fn tell_or_lose(&mut self, number: u32, down: &Down) {
        match self.tell(number, down) {
            Ok(()) => self.settle_guest(number),
            Err(e) => self.lose_guest(number, &e.to_string()),
        }
    }

    fn settle_guest(&mut self, number: u32) {
        if let Some(guest) = self.guests.get_mut(&number) {
            if guest.ring_owed && guest.stream.queued() <= RING_BEHIND {
                guest.ring_owed = false;
                if let Err(e) = guest.stream.send(&Down::Ring) {
                    return self.lose_guest(number, &e.to_string());
                }
            }
            let waits = guest.stream.wants_to_write();
            if waits != guest.watched_for_writing {
                guest.watched_for_writing = waits;
                let _ = self
                    .reactor
                    .interest(guest.stream.fd(), Token::Stream(number), true, waits);
            }
        }
    }

    pub(super) fn lose_guest(&mut self, number: u32, why: &str) {
        let Some(guest) = self.guests.remove(&number) else {
            return;
        };
        tracing::info!(domain = %guest.name, "a guest is gone: {why}");
        self.reactor.forget(guest.stream.fd());
        for (i, line) in guest.bells.descriptors().enumerate() {
            self.reactor.forget(line);
            self.keeper.drop_kept(start::bell_name(guest.domain, i));
        }
        self.keeper.drop_kept(start::guest_name(&guest));
        let _ = self.apply(Command::DomainDown { domain: guest.domain });
        self.neighbour_gone(&guest);
    }

    /// Wakes sleepers: in space 0 whoever sleeps on the word at a place, in another one whoever waits on the bell, or else by ringing its front-end.
    pub(super) fn ring(&mut self, space: u16, at: u64, bell: u16) {
        if space == 0 {
            let (group, at) = pool::split(at);
            if let (Some(pool), Ok(at)) = (self.pools.get(&group), usize::try_from(at)) {
                pages::wake_futex(pool, at);
            }
            self.ring_direct(space, bell);
            return;
        }
        if self.ring_direct(space, bell) {
            return;
        }
        let greeted = |guest: &Guest| guest.space == space && guest.greeted;
        let Some(number) = self.guests.iter().find(|(_, g)| greeted(g)).map(|(n, _)| *n) else {
            return;
        };
        if bell == 0 || !self.ring_bell(number, bell) {
            self.ring_front_end(number);
        }
    }

    fn ring_front_end(&mut self, number: u32) {
        let Some(guest) = self.guests.get_mut(&number) else {
            return;
        };
        // While it is behind with reading, one bell later is as good as many now.
        if guest.stream.queued() > RING_BEHIND {
            guest.ring_owed = true;
        } else {
            self.tell_or_lose(number, &Down::Ring);
        }
    }

    /// Rings every one of these spaces.
    pub(super) fn ring_all(&mut self, spaces: BTreeSet<u16>) {
        self.ring_all_direct(0);
        for space in spaces {
            self.ring_all_direct(space);
            let there = self.guests.iter().find(|(_, g)| g.space == space && g.greeted);
            let Some(number) = there.map(|(n, _)| *n) else {
                continue;
            };
            self.ring_front_end(number);
            self.ring_bells(number);
        }
    }

    /// Once a second: a sign of life to every guest, and a look at those that give none.
    pub(super) fn heartbeats(&mut self, seconds: u64) {
        let limits = self.registry.group().limits;
        let (msgmax, semopm) = (limits.msgmax, limits.semopm);
        self.time.set_limits(msgmax, semopm);
        let asked_for = limits.next_ids.iter().any(|id| (0..ID_BIT).contains(id));
        let low_ids = self.time.low_ids() || asked_for;
        self.time.set_low_ids(low_ids);
        let numbers: Vec<u32> = self.guests.keys().copied().collect();
        for number in numbers {
            let Some(guest) = self.guests.get_mut(&number) else {
                continue;
            };
            if guest.greeted && !guest.silent && guest.heard.elapsed() > SILENCE {
                guest.silent = true;
                tracing::warn!(domain = %guest.name, "a guest has been silent for {SILENCE:?}: paused, or stuck");
            }
            let down = if guest.ask_again {
                Down::Restarted
            } else {
                Down::Heartbeat {
                    seconds,
                    msgmax,
                    semopm,
                    low_ids,
                }
            };
            // Who does not read gets no more to read.
            if (guest.greeted || guest.ask_again) && !guest.stream.is_behind() {
                self.tell_or_lose(number, &down);
            }
        }
    }

    /// The back-end stops for good.
    pub(super) fn goodbye(&mut self) {
        for guest in self.guests.values_mut().filter(|g| g.greeted) {
            let _ = guest.stream.send(&Down::Goodbye);
        }
    }
}
