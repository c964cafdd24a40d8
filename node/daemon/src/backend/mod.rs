//! The back-end daemon: the registry, construct memory, local clients, guests' streams.
//!
//! One thread, one loop: descriptors become ready, events come out of [`Clients`] and of the guests' streams, each becomes a command to the
//! registry; what the registry says is written to the state log, carried out and answered, in this order.
//!
//! | module | what it holds |
//! |---|---|
//! | [`start`] | a first life, or one that follows another; the end |
//! | [`requests`] | local clients' hellos and requests |
//! | [`guests`] | guests' streams |
//! | [`bells`] | guests' lines for ringing past their front-ends |
//! | [`neighbours`] | guests that ring each other with nobody in between |
//! | [`machines`] | sockets for machines that somebody else starts |
//! | [`streams`] | streams that machines open themselves |
//! | [`effects`] | what the registry wants done to construct memory |
//! | [`stat`], [`behalf`] | reading and operating on sets and queues |
//! | [`placement`] | pools in huge pages |
//! | [`stores`] | where the memory of which group is |
//! | [`memory`], [`world`] | how the back-end itself reaches them |

mod behalf;
mod bells;
mod effects;
mod guests;
mod listing;
mod machines;
mod memory;
mod neighbours;
mod placement;
mod requests;
mod resident;
mod start;
mod stat;
mod stores;
mod streams;
mod world;

use crate::clients::{Clients, Event};
use crate::config::Config;
use crate::doors::{Doors, Former};
use crate::keeper::{Journal, Keeper};
use crate::process::clock::Seconds;
use crate::process::heap::Heap;
use crate::process::limit::Limit;
use crate::process::pages::{self, TimePage};
use crate::process::reactor::{Reactor, Ready, Token};
use anyhow::Context;
use guests::Guest;
use machines::Machines;
use memory::Mappings;
use rustix::fd::OwnedFd;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use stores::Stores;
use vshmem_registry::{Command, Done, Effect, Registry, Sweep};
use vshmem_wire::Failure;
use vshmem_words::Mapping;

pub(crate) use requests::{check_version, is_domain_name, memory_of, set_window};
pub(crate) use start::{HOST, run};

/// The log is rewritten as a snapshot when it has grown to this, or to four snapshots, or has so many commands: a restart carries all of them out again
/// while clients wait.
const LOG_BYTES: u64 = 1 << 20;
const LOG_COMMANDS: usize = 50_000;

/// An entry of the state log.
#[derive(Debug, Deserialize)]
enum Entry {
    /// The registry as it was.
    Snapshot(Box<Registry>),
    /// A command applied since, and when.
    Command(u64, Command),
    /// The last command had memory made, which may be in use since: not to be made again.
    Provided,
}

/// The same, to be written.
#[derive(Debug, Serialize)]
enum EntryRef<'a> {
    Snapshot(&'a Registry),
    Command(u64, &'a Command),
    Provided,
}

/// Something to be tried again.
#[derive(Debug, Clone, Copy)]
enum Later {
    Sweep(Sweep),
    SetQbytes(u64),
}

impl Later {
    fn serial(&self) -> u64 {
        match self {
            Later::Sweep(sweep) => sweep.serial,
            Later::SetQbytes(serial) => *serial,
        }
    }
}

/// A listening socket's domain.
#[derive(Debug)]
struct Door {
    name: String,
    number: u16,
    /// The main one: root and the daemon's own user may ask for other domains.
    main: bool,
}

/// The back-end.
struct Backend {
    config: Config,
    reactor: Reactor,
    clients: Clients,
    doors: Vec<Door>,
    guests: BTreeMap<u32, Guest>,
    next_guest: u32,
    machines: Machines,
    /// The host's bells with nobody in between, from the first guest on that has such; and what a former life had of them.
    direct: Option<Doors>,
    former_direct: Former,
    registry: Registry,
    stores: Stores,
    /// The groups' whole pools: sets and queues in them, and sleepers of space 0 to be woken on behalf of guests, are reached through them.
    pools: BTreeMap<u16, Mapping>,
    mappings: Mappings,
    later: Vec<(Instant, usize, Later)>,
    journal: Journal,
    snapshot_bytes: u64,
    /// Commands in the log behind the snapshot.
    commands: usize,
    /// One could not be written.
    gap: bool,
    keeper: Keeper,
    time: TimePage,
    clock: Seconds,
    signals: OwnedFd,
    /// Domains of forks under way whose child has not said hello.
    forks: BTreeMap<u64, u16>,
    next_fork: u64,
    /// How often clients found a construct corrupt that looks sound from here.
    suspicions: BTreeMap<u64, u32>,
    sums: Option<stat::Sums>,
    /// Bytes that all segments hold, and until when that is good enough.
    resident: Option<(u64, Instant)>,
    /// Something may have changed that machines are shown.
    unlisted: bool,
    heap: Heap,
    /// Log lines about corrupt constructs and missing memory.
    lines: Limit,
    /// How often memory could not be had.
    failed_provisions: u64,
    restarts: u32,
    since: u64,
    stopping: bool,
    alone_since: Option<Instant>,
}

impl Backend {
    fn turn(&mut self) -> anyhow::Result<()> {
        let until = self.later.iter().map(|(at, _, _)| *at).min();
        let ready = self.reactor.wait(until).context("waiting")?;
        for ready in self.clients.deaths_first(ready) {
            self.on_ready(ready);
        }
        self.retry();
        Ok(())
    }

    fn on_ready(&mut self, ready: Ready) {
        let mut events = Vec::new();
        match ready.token {
            Token::Door(door) => self.clients.accept(&self.reactor, door),
            Token::Link(link) => {
                self.clients
                    .link_ready(&self.reactor, link, ready.readable, ready.writable, &mut events);
            }
            Token::Process(client) => self.clients.process_ended(&self.reactor, client, &mut events),
            Token::Stream(guest) => self.guest_ready(guest, ready),
            Token::Bells(guest) => self.bells_ready(guest),
            Token::Keeper => self.keeper_said(),
            Token::Signal => self.stopping |= crate::process::signals::came(&self.signals),
            Token::Clock => self.second(&mut events),
            Token::Machine(door) => self.machine_connects(door),
            Token::Device(server) => self.serve_devices(server),
            Token::Streams => self.serve_streams(),
            // Only a front-end has sleepers to look at.
            Token::Look => {}
        }
        self.deal_with(events);
    }

    /// Events may cause more events (a connection that cannot be written to ends, say).
    fn deal_with(&mut self, mut events: Vec<Event>) {
        while !events.is_empty() {
            let mut more = Vec::new();
            for event in events {
                self.on_event(event, &mut more);
            }
            events = more;
        }
    }

    fn second(&mut self, events: &mut Vec<Event>) {
        self.clock.came();
        let seconds = pages::now();
        self.time.tick(seconds);
        self.clients.expire(&self.reactor, events);
        self.heartbeats(seconds);
        self.machines_second();
        self.streams_second();
        self.stores.second();
        self.show_constructs();
        self.heap.second();
        if self.keeper.socket().is_none() && self.clients.connections() == 0 && self.guests.is_empty() {
            let since = *self.alone_since.get_or_insert_with(Instant::now);
            if since.elapsed() > Duration::from_secs(3) {
                tracing::warn!("the keeper has ended and nobody is connected: stopping");
                self.stopping = true;
            }
        } else {
            self.alone_since = None;
        }
    }

    fn keeper_said(&mut self) {
        // It says nothing after the start: this is its end.
        if let Some(socket) = self.keeper.socket() {
            self.reactor.forget(socket);
        }
        self.keeper.ended();
        tracing::error!(
            "the keeper has ended: this daemon goes on while anybody uses it, but will not be restarted"
        );
    }

    /// Puts a command to the registry, writes it to the log, carries out what follows from it.
    fn apply(&mut self, command: Command) -> Result<Done, Failure> {
        let now = pages::as_programs_see_it();
        let entry = command
            .changes()
            .then(|| postcard::to_allocvec(&EntryRef::Command(now, &command)));
        self.unlisted |= entry.is_some();
        let outcome = self.registry.apply(now, command);
        match entry {
            None => {}
            Some(Ok(bytes)) => self.log(&bytes),
            Some(Err(e)) => tracing::error!("a command cannot be written to the log: {e}"),
        }
        let provides = outcome
            .effects
            .iter()
            .any(|effect| matches!(effect, Effect::Provide { .. }));
        let carried = self.carry_out(outcome.effects);
        if provides && carried.is_ok() {
            // Before anybody is answered.
            self.note_provided();
        }
        self.failed_provisions += u64::from(carried.is_err());
        // Not before: a life that begins with a snapshot carries nothing of what led to it out again.
        self.tend_log();
        match (outcome.reply, carried) {
            (Ok(_), Err(e)) => {
                let errno = match e.raw_os_error() {
                    Some(errno @ (libc::ENOMEM | libc::ENOSPC)) => errno,
                    Some(libc::EMFILE | libc::ENFILE) => libc::ENOSPC,
                    _ if e.kind() == std::io::ErrorKind::QuotaExceeded => libc::ENOSPC,
                    _ => libc::ENOMEM,
                };
                Err(Failure::because(errno, format!("memory cannot be had: {e}")))
            }
            (reply, _) => reply,
        }
    }

    fn note_provided(&mut self) {
        match postcard::to_allocvec(&EntryRef::Provided) {
            Ok(bytes) => self.log(&bytes),
            Err(e) => tracing::error!("that memory was made cannot be written to the log: {e}"),
        }
    }

    fn log(&mut self, bytes: &[u8]) {
        if let Err(e) = self.journal.append(bytes) {
            self.gap = true;
            if self.lines.allows() {
                tracing::error!(
                    "{e}: until it can be written anew, a restart would lose what happens from here on"
                );
            }
        }
        self.commands += 1;
    }

    /// Writes the log anew where it has grown long, or lacks something.
    fn tend_log(&mut self) {
        let long = self.journal.bytes() > LOG_BYTES.max(4 * self.snapshot_bytes);
        if (long || self.gap || self.commands > LOG_COMMANDS)
            && let Err(e) = self.compact()
            && self.lines.allows()
        {
            tracing::error!("the state log cannot be written anew: {e:#}");
        }
    }

    /// Writes a new log that begins with the registry as it is now, and has the keeper hold it instead of the old one.
    fn compact(&mut self) -> anyhow::Result<()> {
        let mut journal = Journal::new()?;
        journal.append(&postcard::to_allocvec(&EntryRef::Snapshot(&self.registry))?)?;
        self.snapshot_bytes = journal.bytes();
        self.commands = 0;
        self.keeper.keep(start::LOG, journal.file());
        self.journal = journal;
        self.gap = false;
        Ok(())
    }

    /// Has the keeper hold what the stores need held from the start.
    fn keep_store(&self) {
        for (name, fd) in self.stores.keep() {
            self.keeper.keep(name, fd);
        }
    }
}
