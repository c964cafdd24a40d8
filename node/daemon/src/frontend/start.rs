//! The front-end's start, after nobody or after a former life of itself, and its end.

use super::bells::Bells;
use super::sleepers::{LOOK, Sleepers};
use super::{Entry, Frontend, Setup};
use crate::clients::Clients;
use crate::config::SocketConfig;
use crate::doors::{self, Doors};
use crate::keeper::{ForGood, Handover, Journal, Keeper};
use crate::process::limit::Limit;
use crate::process::pages::{self, TimePage, WaitPage};
use crate::process::reactor::{Reactor, Token};
use crate::process::stream::Stream;
use crate::process::{clock, signals};
use crate::sockets;
use anyhow::Context;
use rustix::fd::{AsFd, OwnedFd};
use std::collections::BTreeMap;
use vshmem_port::guest::GuestPort;

/// What the keeper holds, by name.
const LOG: &str = "log";
const TIME: &str = "time";
const WAIT: &str = "wait";
const DOOR: &str = "door";
/// A stream that ends when nobody has it.
const CONNECTION: &str = "connection";
/// Followed by a number: the ring line is 0.
const BELL: &str = "bell/";
pub(super) const FORK: &str = "fork/";
/// Descriptors of a front-end in a process of the host's kernel, given from outside.
pub(crate) const STREAM: &str = "given/stream";
pub(crate) const POOLS: &str = "given/pool/";

/// The name of a bell's line that was given from outside; 0 is the ring line.
pub(crate) fn given_bell(number: usize) -> String {
    format!("given/bell/{number}")
}

/// Lines under names with a number at their end, from 0 on.
fn numbered(kept: &mut BTreeMap<String, OwnedFd>, name: impl Fn(usize) -> String) -> Vec<OwnedFd> {
    (0..).map_while(|number| kept.remove(&name(number))).collect()
}

/// The log is written anew when it has grown to this.
const LOG_BYTES: u64 = 256 << 10;
/// Connections of one user.
const CONNECTIONS: usize = 4096;

/// Runs the front-end until it is told to stop, or the back-end stops.
pub(crate) fn run(setup: Setup, handover: Handover) -> anyhow::Result<()> {
    let mut frontend = Frontend::start(setup, handover)?;
    frontend.greet();
    let end = frontend.until_the_end();
    let for_good = |end: &anyhow::Error| end.is::<ForGood>();
    if frontend.domain.is_none() || end.as_ref().map_or_else(for_good, |()| true) {
        frontend.stop();
    }
    end
}

fn choose_port(setup: &Setup, kept: &mut BTreeMap<String, OwnedFd>) -> anyhow::Result<Box<dyn GuestPort>> {
    let bells = numbered(kept, given_bell);
    let Some(stream) = kept.remove(STREAM) else {
        return vshmem_port_select::guest(&setup.port, &setup.stream);
    };
    let names: Vec<String> = kept
        .keys()
        .filter(|name| name.starts_with(POOLS))
        .cloned()
        .collect();
    let pools = names.iter().filter_map(|name| kept.remove(name)).collect();
    Ok(vshmem_port_select::local_guest(stream, pools, bells))
}

/// The stream to the back-end: a former life's, where it would have ended with that, or else the port's.
fn open_stream(port: &dyn GuestPort, former: Option<OwnedFd>, keeper: &Keeper) -> anyhow::Result<Stream> {
    let stream = match former {
        Some(stream) => stream,
        None => port.stream()?,
    };
    if port.stream_ends_with_its_holder() {
        keeper.keep(CONNECTION, stream.as_fd());
    }
    Stream::new(stream).context("the stream to the back-end")
}

/// The domain's bells: those of a former life, in whose lines clients may be waiting, or else the port's. Without them everything works, more slowly.
fn open_bells(port: &dyn GuestPort, kept: &mut BTreeMap<String, OwnedFd>, keeper: &Keeper) -> Option<Bells> {
    let mut lines = numbered(kept, |number| format!("{BELL}{number}"));
    let bells = if lines.len() > 1 {
        let ring = lines.remove(0);
        Some(vshmem_port::guest::Bells { ring, lines })
    } else {
        port.bells().unwrap_or_else(|e| {
            tracing::warn!("this domain is woken by its stream alone: {e:#}");
            None
        })
    };
    let bells = Bells::new(bells?);
    for (number, line) in bells.descriptors().enumerate() {
        keeper.keep(format!("{BELL}{number}"), line);
    }
    Some(bells)
}

/// Bells with nobody in between, if the port has such. Without them everything works, more slowly.
fn open_direct(port: &dyn GuestPort, kept: &mut BTreeMap<String, OwnedFd>, keeper: &Keeper) -> Option<Doors> {
    let (lines, state) = doors::former(kept);
    let opened = port.direct_bells(lines).and_then(|bells| {
        let doors = bells.map(|bells| Doors::new(bells, state, keeper));
        doors.transpose()
    });
    opened.unwrap_or_else(|e| {
        tracing::warn!("this domain is woken by its stream alone: {e:#}");
        None
    })
}

/// Clients of a former life, as its log tells: pid, start time, and whether the program was replaced.
#[derive(Default)]
struct Past {
    clients: BTreeMap<u32, (u32, u64, bool)>,
    tickets: BTreeMap<u32, Vec<u32>>,
    bells: BTreeMap<u32, Vec<u16>>,
    session: Option<u64>,
}

fn recall(log: Option<OwnedFd>) -> anyhow::Result<(Journal, Past)> {
    let mut past = Past::default();
    let Some(log) = log else {
        return Ok((Journal::new()?, past));
    };
    let (journal, entries) = Journal::adopt(log)?;
    for entry in entries {
        match postcard::from_bytes(&entry).context("an entry of the state log")? {
            Entry::Client { client, pid, start } => {
                past.clients.insert(client, (pid, start, false));
            }
            Entry::Execed { client } => {
                past.tickets.remove(&client);
                past.bells.remove(&client);
                if let Some(known) = past.clients.get_mut(&client) {
                    known.2 = true;
                }
            }
            Entry::Gone { client } => {
                past.clients.remove(&client);
                past.tickets.remove(&client);
                past.bells.remove(&client);
            }
            Entry::Session { session } => past.session = Some(session),
            Entry::Tickets { client, tickets } => past.tickets.entry(client).or_default().extend(tickets),
            Entry::Bell { client, bell } => past.bells.entry(client).or_default().push(bell),
        }
    }
    Ok((journal, past))
}

fn open_door(setup: &Setup, kept: Option<OwnedFd>, keeper: &Keeper) -> anyhow::Result<OwnedFd> {
    let config = SocketConfig {
        mode: 0o666,
        uid: None,
        gid: None,
    };
    let door = match kept {
        Some(door) => door,
        None => sockets::listen(&sockets::path(&setup.runtime_dir, None), &config)?,
    };
    keeper.keep(DOOR, door.as_fd());
    Ok(door)
}

impl Frontend {
    fn start(setup: Setup, handover: Handover) -> anyhow::Result<Self> {
        let Handover {
            restarts,
            mut kept,
            keeper,
            ..
        } = handover;
        let port = choose_port(&setup, &mut kept)?;
        let stream = open_stream(&*port, kept.remove(CONNECTION), &keeper)?;
        let time = kept.remove(TIME).map_or_else(TimePage::new, TimePage::adopt);
        let time = time.context("making the time page")?;
        let page = kept.remove(WAIT).map_or_else(WaitPage::new, WaitPage::adopt);
        let page = page.context("making the wait page")?;
        let (journal, past) = recall(kept.remove(LOG))?;
        let bells = open_bells(&*port, &mut kept, &keeper);
        let direct = open_direct(&*port, &mut kept, &keeper);
        let door = open_door(&setup, kept.remove(DOOR), &keeper)?;
        let mut frontend = Frontend {
            setup,
            reactor: Reactor::new().context("epoll")?,
            clients: Clients::new(CONNECTIONS),
            keeper,
            port,
            stream,
            stream_watched_for_writing: false,
            domain: None,
            session: past.session,
            greeting: true,
            heard: true,
            silent: 0,
            connecting: BTreeMap::new(),
            // Above every number a former life may have used: answers to it may still come.
            next_tag: pages::now() << 20,
            requests: BTreeMap::new(),
            held: Vec::new(),
            forks: BTreeMap::new(),
            next_fork: pages::now() << 20,
            windows: BTreeMap::new(),
            sleepers: Sleepers::new(page),
            bells,
            direct,
            looks: clock::Ticker::new(LOOK).context("making a timer")?,
            time,
            journal,
            clock: clock::Seconds::new().context("making the clock")?,
            signals: signals::stop_signals().context("preparing for signals")?,
            lines: Limit::new(),
            restarts,
            pulled_for: None,
            end: None,
        };
        frontend.set_up(door)?;
        frontend.resume(past, kept);
        Ok(frontend)
    }

    fn set_up(&mut self, door: OwnedFd) -> anyhow::Result<()> {
        if self.time.seconds() == 0 {
            // Until the back-end says what time it is.
            self.time.tick(pages::now());
        }
        self.time.set_restarts(self.restarts);
        self.keeper.keep(TIME, self.time.file());
        self.keeper.keep(WAIT, self.sleepers.file());
        self.keeper.keep(LOG, self.journal.file());
        self.reactor.watch(self.clock.fd(), Token::Clock)?;
        self.reactor.watch(self.looks.fd(), Token::Look)?;
        self.reactor.watch(&self.signals, Token::Signal)?;
        self.reactor.watch(self.stream.fd(), Token::Stream(0))?;
        if let Some(door) = self.direct.as_ref().and_then(Doors::own) {
            self.reactor.watch(door, Token::Bells(0))?;
        }
        if let Some(socket) = self.keeper.socket() {
            self.reactor.watch(socket, Token::Keeper)?;
        }
        self.clients.add_door(&self.reactor, door)?;
        Ok(())
    }

    /// Clients that died meanwhile are not watched, so the hello does not list them, so the back-end cleans up after them.
    fn resume(&mut self, past: Past, kept: BTreeMap<String, OwnedFd>) {
        for (client, (pid, start, execed)) in past.clients {
            if self.clients.track(&self.reactor, client, pid, start, execed) {
                if let Some(tickets) = past.tickets.get(&client) {
                    self.sleepers.restore(client, tickets);
                }
                if let (Some(bells), Some(own)) = (&mut self.bells, past.bells.get(&client)) {
                    bells.restore(client, own);
                }
            } else {
                self.note(&Entry::Gone { client });
            }
        }
        let known = self.clients.known();
        if let Some(direct) = &mut self.direct {
            direct.keep_those(|client| known.contains(&client));
        }
        for (name, fd) in kept {
            let Some((fork, parent)) = name
                .strip_prefix(FORK)
                .and_then(|rest| rest.split_once('/'))
                .and_then(|(fork, parent)| Some((fork.parse().ok()?, parent.parse().ok()?)))
            else {
                continue;
            };
            if self.clients.add_fork(&self.reactor, fd, parent, fork).is_ok() {
                self.forks.insert(fork, parent);
                // A former life may have begun in this very second.
                self.next_fork = self.next_fork.max(fork.saturating_add(1));
            }
        }
        let mut events = Vec::new();
        self.clients.audit_all(&mut events);
        self.deal_with(events);
    }

    /// Writes the log anew when it has grown long.
    pub(super) fn shorten_log(&mut self) {
        if self.journal.bytes() < LOG_BYTES {
            return;
        }
        let entries = self
            .clients
            .processes()
            .flat_map(|(client, pid, start, execed)| {
                let known = Entry::Client { client, pid, start };
                std::iter::once(known).chain(execed.then_some(Entry::Execed { client }))
            })
            .chain(self.session.map(|session| Entry::Session { session }))
            .chain(self.sleepers.owned().map(|(client, tickets)| Entry::Tickets {
                client,
                tickets: tickets.to_vec(),
            }))
            .chain(
                self.bells
                    .iter()
                    .flat_map(|bells| bells.owned().map(|(client, bell)| Entry::Bell { client, bell })),
            );
        let written = Journal::new()
            .map_err(anyhow::Error::from)
            .and_then(|mut journal| {
                for entry in entries {
                    journal.append(&postcard::to_allocvec(&entry)?)?;
                }
                Ok(journal)
            });
        match written {
            Ok(journal) => {
                self.keeper.keep(LOG, journal.file());
                self.journal = journal;
            }
            Err(e) => tracing::error!("the state log cannot be shortened: {e:#}"),
        }
    }

    fn stop(&mut self) {
        let _ = self.stream.flush();
        sockets::remove(&sockets::path(&self.setup.runtime_dir, None));
        sockets::clear(&self.setup.runtime_dir, self.setup.made_dir);
    }
}
