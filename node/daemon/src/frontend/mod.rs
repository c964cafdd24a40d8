//! The front-end daemon, inside a guest: the local authority on who a caller is, when it dies, and whom to wake.
//!
//! Its clients' requests go over the port's byte stream to the back-end; answers come back, and where one grants memory, the descriptor is added
//! here. It decides nothing about constructs.
//!
//! | module | what it holds |
//! |---|---|
//! | [`bells`] | lines for ringing and being rung past this daemon |
//! | [`pulled`] | memory that is taken out of the running machine |
//! | [`link`] | the stream: hello, requests under way, answers |
//! | [`local`] | local clients: their hellos, requests, forks, deaths |
//! | [`sleepers`] | the wait page: tickets, and waking those whose word has changed |
//! | [`start`] | a first life, or one that follows another; the end |

mod bells;
mod link;
mod local;
mod pulled;
mod sleepers;
mod start;

use crate::clients::{Clients, Event};
use crate::doors::Doors;
use crate::keeper::{ForGood, Journal, Keeper};
use crate::process::clock::{Seconds, Ticker};
use crate::process::limit::Limit;
use crate::process::pages::TimePage;
use crate::process::reactor::{Reactor, Ready, Token};
use crate::process::stream::Stream;
use anyhow::Context;
use bells::Bells;
use rustix::fd::OwnedFd;
use serde::{Deserialize, Serialize};
use sleepers::Sleepers;
use std::collections::BTreeMap;
use std::path::PathBuf;
use vshmem_port::guest::GuestPort;
use vshmem_wire::{Credentials, Request, Window};

pub(crate) use start::{POOLS, STREAM, given_bell, run};

/// What a front-end is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Setup {
    /// The port's name, or `auto`.
    pub(crate) port: String,
    /// By which way its stream goes, or `auto`.
    pub(crate) stream: String,
    /// The name the domain must have.
    pub(crate) domain: Option<String>,
    /// Where the socket is.
    pub(crate) runtime_dir: PathBuf,
    /// It was made for this daemon, and goes with it.
    pub(crate) made_dir: bool,
    /// What is logged.
    pub(crate) log: String,
}

/// An entry of the front-end's own state log.
#[derive(Debug, Serialize, Deserialize)]
enum Entry {
    /// A process is a client.
    Client { client: u32, pid: u32, start: u64 },
    /// Its program was replaced by exec.
    Execed { client: u32 },
    /// It is gone.
    Gone { client: u32 },
    /// What the back-end calls this stay.
    Session { session: u64 },
    /// It got these entries of the wait page.
    Tickets { client: u32, tickets: Vec<u32> },
    /// It got this bell.
    Bell { client: u32, bell: u16 },
}

/// What the back-end's welcome said.
#[derive(Debug, Clone)]
struct Domain {
    number: u16,
    name: String,
    space: u16,
    keys: Option<String>,
}

/// A pool's descriptors, and how they are mapped.
#[derive(Debug)]
struct Windows {
    /// For reading and writing.
    both: (OwnedFd, Window),
    reading: (OwnedFd, Window),
}

/// A hello that waits for the back-end.
#[derive(Debug)]
struct Connecting {
    link: u32,
    seq: u64,
    who: Credentials,
    resume: Option<u32>,
    fork: Option<u64>,
}

/// The front-end.
struct Frontend {
    setup: Setup,
    reactor: Reactor,
    clients: Clients,
    keeper: Keeper,
    port: Box<dyn GuestPort>,
    stream: Stream,
    stream_watched_for_writing: bool,
    /// None until the back-end's first welcome.
    domain: Option<Domain>,
    /// What it called this stay, before a restart of this daemon too.
    session: Option<u64>,
    /// The back-end owes an answer to a hello: ask again with each second.
    greeting: bool,
    /// Whether the back-end has spoken since the last second began, and for how many seconds it had not.
    heard: bool,
    silent: u32,
    connecting: BTreeMap<u64, Connecting>,
    next_tag: u64,
    requests: BTreeMap<(u32, u64), Request>,
    /// Those that were not told yet: they wait until a death that came before them can be told.
    held: Vec<(u32, u64)>,
    /// Forks under way, and their parents.
    forks: BTreeMap<u64, u32>,
    next_fork: u64,
    /// The pools by their groups' numbers.
    windows: BTreeMap<u16, Windows>,
    sleepers: Sleepers,
    /// None where the port has none.
    bells: Option<Bells>,
    /// Bells with nobody in between, where the port has such.
    direct: Option<Doors>,
    looks: Ticker,
    time: TimePage,
    journal: Journal,
    clock: Seconds,
    signals: OwnedFd,
    /// Bounds lines that clients can cause.
    lines: Limit,
    restarts: u32,
    /// Memory was pulled: for so many seconds processes that had mapped it have been seen.
    pulled_for: Option<u32>,
    /// Set when the daemon is to end: what to say.
    end: Option<Result<(), String>>,
}

impl Frontend {
    fn turn(&mut self) -> anyhow::Result<()> {
        // No look at a clock in here: in a guest it may cost as much as all the rest of handing on a bell.
        let ready = self.reactor.wait(None).context("waiting")?;
        for ready in self.clients.deaths_first(ready) {
            self.on_ready(ready);
        }
        self.release_held();
        self.looks
            .run(self.sleepers.are_any())
            .context("setting the timer")?;
        self.settle_stream();
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
            Token::Stream(_) => self.stream_ready(ready, &mut events),
            Token::Keeper => self.keeper_ended(),
            Token::Signal => {
                if crate::process::signals::came(&self.signals) {
                    self.end = Some(Ok(()));
                }
            }
            Token::Clock => self.second(&mut events),
            Token::Look => {
                self.looks.came();
                self.sleepers.look_around();
            }
            Token::Bells(_) => self.own_door_rang(),
            // Only a back-end has these.
            Token::Machine(_) | Token::Device(_) | Token::Streams => {}
        }
        self.deal_with(events);
    }

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
        self.clients.expire(&self.reactor, events);
        self.sign_of_life();
        self.shorten_log();
        self.look_for_memory();
    }

    fn keeper_ended(&mut self) {
        if let Some(socket) = self.keeper.socket() {
            self.reactor.forget(socket);
        }
        self.keeper.ended();
        tracing::error!("the keeper has ended: this daemon goes on, but will not be restarted");
    }

    fn note(&mut self, entry: &Entry) {
        match postcard::to_allocvec(entry) {
            Ok(bytes) => {
                if let Err(e) = self.journal.append(&bytes) {
                    tracing::error!("{e}");
                }
            }
            Err(e) => tracing::error!("an entry cannot be written to the log: {e}"),
        }
    }

    /// Runs until the end, and says why it came: one that it came to by itself is nothing that another life could mend.
    fn until_the_end(&mut self) -> anyhow::Result<()> {
        while self.end.is_none() {
            self.turn()?;
        }
        match self.end.take() {
            Some(Err(why)) => Err(ForGood(why).into()),
            _ => Ok(()),
        }
    }
}
