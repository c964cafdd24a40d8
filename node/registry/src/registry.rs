//! The state, and which command goes where.

use crate::{Command, Done, Effect, GroupConfig, Outcome};
use serde::{Deserialize, Serialize};
use vshmem_wire::{DomainInfo, Extent, Failure, Kind, Request};

/// A group's registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registry {
    group: GroupConfig,
}

/// What the daemon may know of a construct.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConstructView<'a> {
    /// Serial number: never reissued.
    pub serial: u64,
    /// What it is.
    pub kind: Kind,
    /// Its id.
    pub id: i32,
    /// Whether it is in use: not removed, not corrupt.
    pub live: bool,
    /// The control word, 0 for a segment.
    pub control: u64,
    /// Where its pages are.
    pub extents: &'a [Extent],
    /// The most bytes it may grow to.
    pub cap: u64,
    /// Semaphores of a set.
    pub nsems: u32,
    /// Size asked for of a segment.
    pub segsz: u64,
    /// Bytes a queue may hold.
    pub qbytes: u64,
    /// Number of the domain it was made in.
    pub domain: u16,
}

/// What the daemon may know of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientView {
    /// Its number.
    pub client: u32,
    /// Its domain.
    pub domain: u16,
    /// Its process id there.
    pub pid: u32,
    /// Start time of the process.
    pub start: u64,
    /// Its undo list.
    pub undo: u64,
    /// Neither dead nor replaced by exec.
    pub alive: bool,
}

impl Registry {
    /// An empty registry.
    pub fn new(group: GroupConfig) -> Self {
        Registry { group }
    }

    /// The group's configuration.
    pub fn group(&self) -> &GroupConfig {
        &self.group
    }

    /// Carries a command out. `now` is in seconds since the epoch.
    pub fn apply(&mut self, now: u64, command: Command) -> Outcome {
        let _ = (now, command);
        Outcome {
            reply: Err(Failure::errno(38)),
            effects: Vec::new(),
        }
    }

    /// Answers a request that changes nothing (Stat, Info, List).
    pub fn ask(&self, client: u32, body: &Request) -> Result<Done, Failure> {
        let _ = (client, body);
        Err(Failure::errno(38))
    }

    /// After the daemon was restarted, and the log replayed: what was under way and must be begun again.
    pub fn restarted(&self) -> Vec<Effect> {
        Vec::new()
    }

    /// A construct by its serial number.
    pub fn construct(&self, serial: u64) -> Option<ConstructView<'_>> {
        let _ = serial;
        None
    }

    /// A live construct by its id.
    pub fn construct_by_id(&self, kind: Kind, id: i32) -> Option<ConstructView<'_>> {
        let _ = (kind, id);
        None
    }

    /// All constructs whose memory exists, in order of serial numbers: also those removed that somebody still maps.
    pub fn constructs(&self) -> impl Iterator<Item = ConstructView<'_>> {
        core::iter::empty()
    }

    /// A client, as long as anything of it is remembered.
    pub fn client(&self, client: u32) -> Option<ClientView> {
        let _ = client;
        None
    }

    /// All clients that anything is remembered of.
    pub fn clients(&self) -> impl Iterator<Item = ClientView> {
        core::iter::empty()
    }

    /// What a client has attached or open: serial numbers and how often.
    pub fn holdings(&self, client: u32) -> impl Iterator<Item = (u64, u32)> {
        let _ = client;
        core::iter::empty()
    }

    /// Number of a domain.
    pub fn domain(&self, name: &str) -> Option<u16> {
        let _ = name;
        None
    }

    /// The domains ever seen.
    pub fn domains(&self) -> Vec<DomainInfo> {
        Vec::new()
    }

    /// Bytes of construct memory in use, those in quarantine included.
    pub fn bytes_used(&self) -> u64 {
        0
    }

    /// Bytes of removed constructs that wait for the last user to unmap.
    pub fn bytes_quarantined(&self) -> u64 {
        0
    }
}
