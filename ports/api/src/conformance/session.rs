//! A check's own view: a store, the domains it started, and what it asks of them.

use super::line::{Line, Lost};
use super::region;
use super::script::{Ask, Told};
use super::{Domain, Fixture};
use crate::direct::DirectBells;
use crate::store::{Mapped, PAGE, Reach, Serial, Store};
use anyhow::{Context, bail, ensure};
use std::time::Duration;
use vshmem_wire::{Extent, Kind, Link, Memory, Window};
use vshmem_words::Mapping;

/// How long a domain may take to come up, a virtual machine included.
const START: Duration = Duration::from_secs(120);
/// How long an agent may take to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(200);

/// A construct: its serial and where its pages are.
#[derive(Debug, Clone)]
pub(super) struct Construct {
    pub(super) serial: Serial,
    pub(super) extents: Vec<Extent>,
}

pub(super) struct Session<'a> {
    fixture: &'a dyn Fixture,
    pub(super) store: Box<dyn Store>,
    serial: u64,
    free: u64,
    /// Domains so far: they are numbered from 1 on.
    domains: u16,
}

impl<'a> Session<'a> {
    pub(super) fn new(fixture: &'a dyn Fixture) -> anyhow::Result<Self> {
        Ok(Session {
            fixture,
            store: fixture.new_store()?,
            serial: 0,
            free: 0,
            domains: 0,
        })
    }

    /// Another group's memory, which no domain of this session is given.
    pub(super) fn other(&self) -> anyhow::Result<Session<'a>> {
        Session::new(self.fixture)
    }

    /// The host's bells with nobody in between.
    pub(super) fn direct_bells(&self) -> anyhow::Result<Option<Box<dyn DirectBells>>> {
        self.fixture.direct_bells()
    }

    /// The port's number of a domain's machine.
    pub(super) fn machine(&self, peer: &Peer) -> anyhow::Result<u32> {
        self.fixture.machine(peer.domain.name())
    }

    /// Starts a domain.
    pub(super) fn domain(&mut self) -> anyhow::Result<Peer> {
        let domain = self.fixture.start(&*self.store).context("starting a domain")?;
        rustix::io::ioctl_fionbio(domain.stream(), true)?;
        self.domains += 1;
        self.store
            .introduce(self.domains, Some(domain.name()))
            .context("introducing a domain to the store")?;
        let mut peer = Peer {
            domain,
            as_numbered: self.domains,
            line: Line::new(Link::paced(std::process::id())),
            number: 0,
            rings: Vec::new(),
        };
        let first = peer
            .line
            .wait(peer.domain.stream(), START)
            .context("waiting for the agent")?;
        ensure!(first == (0, Told::Ready), "the agent began with {first:?}");
        Ok(peer)
    }

    /// Makes a construct whose extents have these numbers of pages, with gaps between them.
    pub(super) fn construct(&mut self, pages: &[u64]) -> anyhow::Result<Construct> {
        self.serial += 1;
        if self.store.reach() == Reach::PerConstruct {
            self.free = 0;
        }
        let mut made = Construct {
            serial: Serial(self.serial),
            extents: Vec::new(),
        };
        for &pages in pages {
            self.grow(&mut made, pages)?;
        }
        Ok(made)
    }

    /// Appends an extent to a construct.
    pub(super) fn grow(&mut self, construct: &mut Construct, pages: u64) -> anyhow::Result<Extent> {
        let extent = Extent {
            offset: self.free,
            bytes: pages * PAGE,
        };
        self.free += (pages + 1) * PAGE;
        self.store.provide((Kind::Sem, construct.serial), extent)?;
        construct.extents.push(extent);
        Ok(extent)
    }

    /// Maps a construct into the back-end, here.
    pub(super) fn map(&mut self, construct: &Construct, room: u64) -> anyhow::Result<(Mapped, Mapping)> {
        let mapped = self.store.map(construct.serial, &construct.extents, room)?;
        let words = region::host_words(&mapped);
        Ok((mapped, words))
    }

    /// Maps a construct into a domain.
    pub(super) fn attach(
        &mut self,
        peer: &mut Peer,
        construct: &Construct,
        writable: bool,
    ) -> anyhow::Result<usize> {
        self.attach_extents(peer, construct.serial, construct.extents.clone(), writable)
    }

    /// Maps extents, whatever lies there, into a domain.
    pub(super) fn attach_extents(
        &mut self,
        peer: &mut Peer,
        serial: Serial,
        extents: Vec<Extent>,
        writable: bool,
    ) -> anyhow::Result<usize> {
        let mut memory = Memory {
            window: Window::Direct,
            group: 0,
            extents,
            writable,
            huge: 0,
            grants: None,
        };
        if let Reach::Granted { .. } = self.store.reach() {
            let number = peer.as_numbered;
            self.store.admit(serial, number, writable)?;
            memory.grants = self.store.grants(serial, number, &memory.extents, writable)?;
        } else {
            let (descriptor, window) = self.store.descriptor(serial, writable)?;
            peer.domain.hand(descriptor, window)?;
        }
        match peer.ask(Ask::Map(memory))? {
            Told::Region(region) => Ok(region),
            other => bail!("mapping gave {other:?}"),
        }
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.store.retire();
    }
}

/// A domain with an agent in it.
pub(super) struct Peer {
    pub(super) domain: Box<dyn Domain>,
    /// Its number.
    pub(super) as_numbered: u16,
    pub(super) line: Line<(u64, Told)>,
    number: u64,
    /// Rings that came in while something else was awaited.
    pub(super) rings: Vec<u32>,
}

impl Peer {
    /// Asks without waiting for the answer; gives the number of the ask.
    pub(super) fn send(&mut self, ask: Ask) -> anyhow::Result<u64> {
        self.number += 1;
        self.line
            .send(self.domain.stream(), &(self.number, ask), PATIENCE)?;
        Ok(self.number)
    }

    /// Waits for the answer to an ask.
    pub(super) fn answer(&mut self, number: u64) -> anyhow::Result<Told> {
        loop {
            let (found, told) = self.line.wait(self.domain.stream(), PATIENCE)?;
            match told {
                Told::Ring(ring) => self.rings.push(ring),
                Told::Failed(why) => bail!("the agent failed: {why}"),
                told if found == number => return Ok(told),
                other => bail!("an answer to ask {found}, not {number}: {other:?}"),
            }
        }
    }

    pub(super) fn ask(&mut self, ask: Ask) -> anyhow::Result<Told> {
        let number = self.send(ask)?;
        self.answer(number)
    }

    pub(super) fn done(&mut self, ask: Ask) -> anyhow::Result<()> {
        match self.ask(ask)? {
            Told::Done => Ok(()),
            other => bail!("expected Done, got {other:?}"),
        }
    }

    pub(super) fn value(&mut self, ask: Ask) -> anyhow::Result<u64> {
        match self.ask(ask)? {
            Told::Value(value) => Ok(value),
            other => bail!("expected a value, got {other:?}"),
        }
    }

    /// Waits until the stream ends.
    pub(super) fn end(&mut self, patience: Duration) -> anyhow::Result<()> {
        loop {
            match self.line.wait(self.domain.stream(), patience) {
                Ok(_) => {}
                Err(Lost::Ended) => return Ok(()),
                Err(other) => bail!("the domain is gone and its stream goes on: {other}"),
            }
        }
    }
}
