//! The nouns of the registry's state: constructs, clients, processes, domains, forks.
//!
//! Plain data with small questions about itself; what changes it stands in the modules named after the requests.

use crate::Done;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use vshmem_ipc::{Control, State};
use vshmem_wire::{Credentials, Extent, Failure, Kind, Perm, Pid};

/// Where a construct is in its life.
///
/// | state | key and slot | who moves it | to |
/// |---|---|---|---|
/// | Live | its own | IPC_RMID | Doomed (segments), Removed (others), or away if nobody holds it |
/// | Live | its own | rubbish found | Corrupt |
/// | Doomed | slot only (SHM_DEST) | the last detach | away |
/// | Removed, Corrupt | none | the last holder's Close or end | away |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Life {
    /// In use.
    Live,
    /// A segment removed while attached: SHM_DEST.
    Doomed,
    /// A set or queue removed; its memory waits in quarantine for those who map it.
    Removed,
    /// As Removed, since its memory held rubbish.
    Corrupt,
}

/// Which domains see a construct, besides the one it was made in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Sight {
    /// All of the group but these.
    AllBut(BTreeSet<String>),
    /// These.
    Only(BTreeSet<String>),
}

impl Sight {
    pub(crate) fn allows(&self, domain: &str) -> bool {
        match self {
            Sight::AllBut(names) => !names.contains(domain),
            Sight::Only(names) => names.contains(domain),
        }
    }
}

/// The part of a construct that depends on its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Body {
    Shm {
        segsz: u64,
        atime: i64,
        dtime: i64,
        cpid: Pid,
        lpid: Pid,
    },
    Sem {
        nsems: u32,
    },
    Msg {
        qbytes: u64,
    },
}

/// How a domain's processes hold a construct.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Presence {
    /// Attachments and openings.
    pub(crate) count: u64,
    /// Whether the domain was ever admitted for writing.
    pub(crate) writable: bool,
    /// The construct was unshared from it meanwhile: whoever has it has it still, and nobody new before the domain is admitted again.
    pub(crate) revoked: bool,
}

/// A construct.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Construct {
    pub(crate) kind: Kind,
    pub(crate) slot: u32,
    pub(crate) id: i32,
    pub(crate) perm: Perm,
    /// Number of the group it is of: its key is one of that group's, its memory in that group's store.
    pub(crate) group: u16,
    /// Its huge pages, as in [`vshmem_wire::Memory::huge`].
    pub(crate) huge: u8,
    /// Number of the domain it was made in, whose quota it counts against.
    pub(crate) domain: u16,
    pub(crate) life: Life,
    pub(crate) sight: Sight,
    pub(crate) ctime: i64,
    pub(crate) body: Body,
    pub(crate) extents: Vec<Extent>,
    /// Bytes of the extents.
    pub(crate) bytes: u64,
    /// Bumped by IPC_SET, share and unshare.
    pub(crate) permission: u16,
    /// Bumped when qbytes changes.
    pub(crate) limits: u32,
    /// Clients that have it attached or open, and how often. Their provisional children are not among them.
    pub(crate) holders: BTreeMap<u32, u32>,
    /// Attachments and openings by domain, those of children about to be included: the sum is nattch.
    pub(crate) present: BTreeMap<u16, Presence>,
    /// The sum of `present`.
    pub(crate) nattch: u64,
}

impl Construct {
    /// The control word; 0 for a segment.
    pub(crate) fn control(&self) -> u64 {
        let state = match (self.kind, self.life) {
            (Kind::Shm, _) => return 0,
            (_, Life::Live | Life::Doomed) => State::Live,
            (_, Life::Removed) => State::Removed,
            (_, Life::Corrupt) => State::Corrupt,
        };
        Control::new(state, self.permission, self.extents.len() as u16, self.limits).0
    }

    /// Whether it can still be named by its id.
    pub(crate) fn named(&self) -> bool {
        matches!(self.life, Life::Live | Life::Doomed)
    }

    /// Semaphores; 0 for others.
    pub(crate) fn nsems(&self) -> u32 {
        match self.body {
            Body::Sem { nsems } => nsems,
            _ => 0,
        }
    }

    /// Size asked for of a segment; 0 for others.
    pub(crate) fn segsz(&self) -> u64 {
        match self.body {
            Body::Shm { segsz, .. } => segsz,
            _ => 0,
        }
    }

    /// Bytes a queue may hold; 0 for others.
    pub(crate) fn qbytes(&self) -> u64 {
        match self.body {
            Body::Msg { qbytes } => qbytes,
            _ => 0,
        }
    }

    /// The most bytes it may grow to.
    pub(crate) fn cap(&self) -> u64 {
        match self.body {
            Body::Shm { .. } => self.bytes,
            Body::Sem { .. } => crate::sizes::set_cap().max(self.bytes),
            Body::Msg { qbytes } => crate::sizes::queue_cap(qbytes).max(self.bytes),
        }
    }
}

/// Where a client is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Image {
    /// It may send requests.
    Alive,
    /// Its process went on with another image.
    Replaced,
    /// Its process is dead; it is remembered until its traces are swept.
    Dead,
}

/// A process, told from a later one with its pid by the time it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct ProcessKey {
    pub(crate) domain: u16,
    pub(crate) pid: u32,
    pub(crate) start: u64,
}

/// A process that has or had a client, and lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    /// Its undo list.
    pub(crate) undo: u64,
    /// Lists that threads of its have for themselves.
    pub(crate) lists: BTreeSet<u64>,
    /// The child of its next fork shares its list.
    pub(crate) shares: bool,
    /// Its last client.
    pub(crate) client: u32,
    /// Sets that may hold undo records of its and that its last client need not have open: those of earlier images, closed ones, those
    /// operated on on its behalf. May name sets that are gone.
    pub(crate) sets: BTreeSet<u64>,
}

/// A process image that uses constructs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Client {
    pub(crate) domain: u16,
    pub(crate) who: Credentials,
    pub(crate) undo: u64,
    pub(crate) image: Image,
    /// The fork it came from.
    pub(crate) fork: Option<u64>,
    /// Number of the last request, and what came of it.
    pub(crate) seq: u64,
    pub(crate) last: Option<Result<Done, Failure>>,
    /// Serial numbers of what it has attached or open, by what it calls them.
    pub(crate) ids: BTreeMap<(Kind, i32), u64>,
    /// What it has attached or open, and how often.
    pub(crate) holds: BTreeMap<u64, u32>,
    /// The segments of these that it, or the process it was forked from, attached for writing.
    pub(crate) writes: BTreeSet<u64>,
    /// Sweeps under way.
    pub(crate) sweeps: u32,
}

impl Client {
    pub(crate) fn process(&self) -> ProcessKey {
        ProcessKey {
            domain: self.domain,
            pid: self.who.pid,
            start: self.who.start,
        }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid {
            domain: self.domain,
            pid: self.who.shown_pid(),
        }
    }
}

/// Who shares an undo list that more than one process has, or had.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Sharers {
    /// Processes, and forks under way.
    pub(crate) count: u32,
    /// Sets that may hold undo records of the list by those who are gone.
    pub(crate) sets: BTreeSet<u64>,
}

/// A fork under way: what counts for a child that has not said yet who it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Fork {
    pub(crate) holds: BTreeMap<u64, u32>,
    pub(crate) writes: BTreeSet<u64>,
    /// The parent's undo list, if the child shares it.
    pub(crate) undo: Option<u64>,
}

/// A domain that is or was there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Domain {
    pub(crate) name: String,
    pub(crate) port: String,
    pub(crate) space: u16,
    pub(crate) up: bool,
    /// Living clients.
    pub(crate) clients: u32,
    /// Forks under way.
    pub(crate) forks: u32,
    /// Constructs made there whose memory exists, and its bytes.
    pub(crate) constructs: u32,
    pub(crate) bytes: u64,
}
