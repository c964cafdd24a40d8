//! The back-end's start, after nobody or after a former life of itself, and its end.

use super::bells::Bells;
use super::guests::Guest;
use super::machines::Machines;
use super::memory::Mappings;
use super::stores::Stores;
use super::{Backend, Door, Entry, EntryRef};
use crate::clients::Clients;
use crate::config::Config;
use crate::keeper::{Handover, Journal};
use crate::process::clock::Seconds;
use crate::process::heap::Heap;
use crate::process::limit::Limit;
use crate::process::pages::{self, TimePage};
use crate::process::reactor::{Reactor, Token};
use crate::process::signals;
use crate::process::stream::Stream;
use crate::sockets;
use anyhow::{Context, bail};
use rustix::fd::{AsFd, OwnedFd};
use std::collections::BTreeMap;
use std::time::Instant;
use vshmem_port::store::{Reach, Serial};
use vshmem_registry::{Command, Done, Effect, Registry};
use vshmem_words::Mapping;

/// Name of the host's own domain.
pub(crate) const HOST: &str = "host";
/// The port of domains of the host's kernel.
pub(super) const LOCAL: &str = "local";
/// What the keeper holds, by name.
pub(super) const LOG: &str = "log";
const TIME: &str = "time";
const DOOR: &str = "door/";
const GREETED: &str = "greeted/";
const ATTACHED: &str = "attached/";
const FORK: &str = "fork/";
const BELL: &str = "bell/";
/// Listening sockets for hypervisors.
pub(super) const MACHINE: &str = "machine/";
/// Within such a name, before the CID, the one for streams that a machine opens itself.
pub(super) const VSOCK: &str = "vsock-";
/// What ports' device servers hold.
pub(super) const DEVICE: &str = "device/";

/// The name under which a fork's socket is kept.
pub(super) fn fork_name(fork: u64, domain: u16) -> String {
    format!("{FORK}{fork}/{domain}")
}

/// The name under which a line of a guest's bells is kept; 0 is the ring line.
pub(super) fn bell_name(domain: u16, line: usize) -> String {
    format!("{BELL}{domain}/{line}")
}

/// The name under which a guest's stream is kept.
pub(super) fn guest_name(guest: &Guest) -> String {
    let kind = if guest.greeted { GREETED } else { ATTACHED };
    format!(
        "{kind}{}/{}/{}/{}/{}",
        guest.session, guest.domain, guest.space, guest.port, guest.name
    )
}

/// Runs the back-end until it is told to stop.
pub(crate) fn run(config: Config, handover: Handover) -> anyhow::Result<()> {
    let mut backend = Backend::start(config, handover)?;
    backend.keeper.ready();
    tracing::info!(
        socket = %backend.config.runtime_dir.join(sockets::MAIN).display(),
        restarts = backend.restarts,
        "serving"
    );
    while !backend.stopping {
        backend.turn()?;
    }
    backend.stop();
    Ok(())
}

/// Names under which streams are kept that are kept as greeted guests' as well: the former life was killed between the one and the other.
fn twice_kept(kept: &BTreeMap<String, OwnedFd>) -> Vec<String> {
    let attached = kept
        .keys()
        .filter_map(|name| Some((name, name.strip_prefix(ATTACHED)?)));
    let twice = attached.filter(|(_, rest)| kept.contains_key(&format!("{GREETED}{rest}")));
    twice.map(|(name, _)| name.clone()).collect()
}

/// The state of a former life, or a fresh one.
struct Past {
    registry: Registry,
    journal: Journal,
    again: Vec<Effect>,
    /// Commands in the journal.
    commands: usize,
}

fn recall(config: &Config, log: Option<OwnedFd>) -> anyhow::Result<Past> {
    let Some(log) = log else {
        let registry = Registry::new(config.registry_group());
        let mut journal = Journal::new()?;
        journal.append(&postcard::to_allocvec(&EntryRef::Snapshot(&registry))?)?;
        return Ok(Past {
            registry,
            journal,
            again: Vec::new(),
            commands: 0,
        });
    };
    let (journal, entries) = Journal::adopt(log)?;
    let mut registry: Option<Registry> = None;
    let mut again = Vec::new();
    for (i, entry) in entries.iter().enumerate() {
        match postcard::from_bytes(entry).with_context(|| format!("entry {i} of the state log"))? {
            Entry::Snapshot(snapshot) => registry = Some(*snapshot),
            Entry::Command(at, command) => {
                let registry = registry.as_mut().context("the state log has no beginning")?;
                again = registry.apply(at, command).effects;
            }
            Entry::Provided => again.clear(),
        }
    }
    let registry = registry.context("the state log is empty")?;
    again.extend(registry.restarted());
    Ok(Past {
        registry,
        journal,
        again,
        commands: entries.len(),
    })
}

/// Maps the pools of those groups that have one.
fn map_pools(stores: &Stores) -> anyhow::Result<BTreeMap<u16, Mapping>> {
    let mut pools = BTreeMap::new();
    for (group, store) in stores.all() {
        if let Reach::Pool { bytes } = store.reach() {
            let (fd, _) = store.descriptor(Serial(0), true).context("opening a pool")?;
            let mapping = pages::map_for_ever(fd, bytes as usize).context("mapping a pool")?;
            pools.insert(group, mapping);
        }
    }
    Ok(pools)
}

impl Backend {
    fn start(config: Config, handover: Handover) -> anyhow::Result<Self> {
        let Handover {
            restarts,
            since,
            mut kept,
            keeper,
            ..
        } = handover;
        let time = match kept.remove(TIME) {
            Some(file) => TimePage::adopt(file),
            None => TimePage::new(),
        }
        .context("making the time page")?;
        let stores = Stores::open(&config, &mut kept)?;
        let past = recall(&config, kept.remove(LOG))?;
        let mut backend = Backend {
            reactor: Reactor::new().context("epoll")?,
            clients: Clients::new(config.connections_per_user),
            doors: Vec::new(),
            guests: BTreeMap::new(),
            next_guest: 1,
            machines: Machines::default(),
            direct: None,
            former_direct: crate::doors::former(&mut kept),
            registry: past.registry,
            pools: map_pools(&stores)?,
            stores,
            mappings: Mappings::default(),
            later: Vec::new(),
            snapshot_bytes: past.journal.bytes(),
            commands: past.commands,
            gap: false,
            journal: past.journal,
            keeper,
            time,
            clock: Seconds::new().context("making the clock")?,
            signals: signals::stop_signals().context("preparing for signals")?,
            forks: BTreeMap::new(),
            // Above those that former lives used, unless one began in this very second: see `resume_fork`.
            next_fork: pages::now() << 20,
            suspicions: BTreeMap::new(),
            sums: None,
            resident: None,
            unlisted: true,
            heap: Heap::new(),
            lines: Limit::new(),
            failed_provisions: 0,
            restarts,
            since,
            stopping: false,
            alone_since: None,
            config,
        };
        backend.use_huge_pages_from_the_start()?;
        backend.write_time_page(pages::now());
        backend.keeper.keep(LOG, backend.journal.file());
        // A former life had the keeper hold what there was then.
        if restarts == 0 {
            backend.keep_store();
            backend.warn_of_few_files();
        }
        backend.watch_all(&mut kept)?;
        if restarts > 0 {
            backend.resume(kept, past.again);
        }
        Ok(backend)
    }

    fn write_time_page(&self, now: u64) {
        let limits = self.registry.group().limits;
        self.time.tick(now);
        self.time.set_restarts(self.restarts);
        self.time.set_limits(limits.msgmax, limits.semopm);
        self.keeper.keep(TIME, self.time.file());
    }

    /// Says so where the limit of open files is met before the limits of constructs are.
    fn warn_of_few_files(&self) {
        let per_construct = self.stores.of(0).reach() == Reach::PerConstruct;
        let limits = &self.config.group.limits;
        let wanted = u64::from(limits.shmmni) + u64::from(limits.semmni) + u64::from(limits.msgmni);
        let most = self.stores.most_files();
        if per_construct && most < wanted {
            tracing::warn!(
                "this daemon's limit of open files allows {most} constructs with a file each, where the group's limits allow {wanted}: \
                 raise it (LimitNOFILE= of the service, or ulimit -n) or expect ENOSPC earlier"
            );
        }
    }

    fn watch_all(&mut self, kept: &mut BTreeMap<String, OwnedFd>) -> anyhow::Result<()> {
        self.reactor.watch(self.clock.fd(), Token::Clock)?;
        self.reactor.watch(&self.signals, Token::Signal)?;
        if let Some(socket) = self.keeper.socket() {
            self.reactor.watch(socket, Token::Keeper)?;
        }
        // The main socket comes last: whoever finds it finds the others.
        self.open_machines(kept)?;
        self.open_doors(kept)
    }

    /// Local domains and their listening sockets: the host's, and those of the configuration.
    fn open_doors(&mut self, kept: &mut BTreeMap<String, OwnedFd>) -> anyhow::Result<()> {
        let names: Vec<String> = std::iter::once(HOST.to_owned())
            .chain(self.config.local_domains().map(str::to_owned))
            .collect();
        let mut doors = BTreeMap::new();
        // The host's comes first among the domains, and its socket last: whoever finds that finds the others.
        for name in names.iter().rev() {
            let path = sockets::path(&self.config.runtime_dir, (name != HOST).then_some(name.as_str()));
            let fd = match kept.remove(&format!("{DOOR}{name}")) {
                Some(fd) => fd,
                None => sockets::listen(&path, &self.config.socket)?,
            };
            self.keeper.keep(format!("{DOOR}{name}"), fd.as_fd());
            doors.insert(name.clone(), fd);
        }
        for name in names {
            let main = name == HOST;
            let fd = doors.remove(&name).context("a domain that is named twice")?;
            let command = Command::DomainUp {
                name: name.clone(),
                port: LOCAL.into(),
                own_space: false,
            };
            let number = match self.apply(command) {
                Ok(Done::Domain { number, .. }) => number,
                Ok(other) => bail!("domain {name:?}: {other:?}"),
                Err(failure) => bail!("domain {name:?} cannot be made: {}", failure.why),
            };
            self.stores.introduce(number, None)?;
            self.clients.add_door(&self.reactor, fd)?;
            self.doors.push(Door { name, number, main });
        }
        Ok(())
    }

    /// Goes on where a former life was killed.
    fn resume(&mut self, mut kept: BTreeMap<String, OwnedFd>, again: Vec<Effect>) {
        let begun = Instant::now();
        self.mend_all();
        let _ = self.carry_out(again);
        let mut streams = 0;
        let mut bells = super::machines::take_out(&mut kept, BELL);
        for name in twice_kept(&kept) {
            kept.remove(&name);
            self.keeper.drop_kept(name);
        }
        for (name, fd) in kept {
            if let Some(rest) = name.strip_prefix(FORK) {
                self.resume_fork(rest, fd);
            } else if let Some((rest, greeted)) = name
                .strip_prefix(GREETED)
                .map(|rest| (rest, true))
                .or(name.strip_prefix(ATTACHED).map(|rest| (rest, false)))
            {
                streams += 1;
                if let Err(e) = self.resume_guest(rest, fd, greeted, &mut bells) {
                    tracing::error!("guest {rest} is lost: {e:#}");
                }
            } else if !name.starts_with(DOOR) && name != sockets::LOCK {
                tracing::warn!("nobody knows what {name} was kept for");
                self.keeper.drop_kept(name);
            }
        }
        for name in bells.into_keys() {
            self.keeper.drop_kept(format!("{BELL}{name}"));
        }
        self.resume_domains();
        self.resume_clients();
        tracing::info!(took = ?begun.elapsed(), streams, "took over from the former back-end");
    }

    fn resume_fork(&mut self, rest: &str, fd: OwnedFd) {
        let Some((fork, domain)) = rest
            .split_once('/')
            .and_then(|(f, d)| Some((f.parse().ok()?, d.parse().ok()?)))
        else {
            return;
        };
        if !self.registry.has_fork(domain, fork) {
            // The former life was killed before it counted anything, or after all was settled.
            return self.keeper.drop_kept(fork_name(fork, domain));
        }
        self.forks.insert(fork, domain);
        self.next_fork = self.next_fork.max(fork.saturating_add(1));
        if self.clients.add_fork(&self.reactor, fd, 0, fork).is_err() {
            self.fork_abandoned(fork);
        }
    }

    fn resume_guest(
        &mut self,
        rest: &str,
        fd: OwnedFd,
        greeted: bool,
        bells: &mut BTreeMap<String, OwnedFd>,
    ) -> anyhow::Result<()> {
        let mut words = rest.splitn(5, '/');
        let mut next = || words.next().context("a name without its parts");
        let session = next()?.parse()?;
        let (domain, space, port, name) = (next()?.parse()?, next()?.parse()?, next()?, next()?);
        let mut guest = Guest::new(
            domain,
            space,
            name.into(),
            port.into(),
            Stream::paced(fd, greeted)?,
        );
        self.stores.introduce(domain, Some(name))?;
        guest.session = session;
        guest.greeted = greeted;
        guest.ask_again = greeted;
        // They can be rung when the front-end has said hello again.
        let lines = (0..).map_while(|line| bells.remove(&format!("{domain}/{line}")));
        guest.bells = Bells::new(lines.collect())?;
        self.add_guest(guest)?;
        Ok(())
    }

    /// Guests of the registry whose stream is not there any more are gone.
    fn resume_domains(&mut self) {
        for domain in self.registry.domains() {
            let there = domain.port == LOCAL || self.guests.values().any(|g| g.domain == domain.number);
            if domain.up && !there {
                let _ = self.apply(Command::DomainDown {
                    domain: domain.number,
                });
            }
        }
        self.heartbeats(pages::now());
    }

    /// Local clients: those that died meanwhile are gone, the others are watched until they connect again.
    fn resume_clients(&mut self) {
        let own: Vec<u16> = self.guests.values().map(|g| g.domain).collect();
        let known: Vec<_> = self
            .registry
            .clients()
            .filter(|c| !own.contains(&c.domain))
            .map(|c| (c.client, c.pid, c.start, c.alive))
            .collect();
        for (client, pid, start, alive) in known {
            if !self.clients.track(&self.reactor, client, pid, start, !alive) {
                let _ = self.apply(Command::Gone { client, exec: false });
            }
        }
        let mut events = Vec::new();
        self.clients.audit_all(&mut events);
        self.deal_with(events);
    }

    fn stop(&mut self) {
        tracing::info!("stopping");
        self.goodbye();
        for door in &self.doors {
            let path = sockets::path(
                &self.config.runtime_dir,
                (!door.main).then_some(door.name.as_str()),
            );
            sockets::remove(&path);
        }
        sockets::clear(&self.config.runtime_dir, self.config.made_dir);
        self.stores.retire();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_is_kept_under_both_names_is_taken_once() {
        let names = [
            "attached/1/2/2/uml/a",
            "attached/3/4/4/uml/b",
            "greeted/1/2/2/uml/a",
            "greeted/5/6/6/uml/c",
        ];
        let file = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let kept = names.map(|name| (name.to_owned(), file())).into();
        assert_eq!(twice_kept(&kept), ["attached/1/2/2/uml/a"]);
    }
}
