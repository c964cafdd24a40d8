//! What a guest's front-end and the back-end say to each other, framed on the port's byte stream.
//!
//! A stream may lose its state at either end (a daemon killed and restarted between two bytes): frames carry a checksum and a
//! start mark, and whoever restarted says so ([`Down::Restarted`], [`Up::Hello`] again), upon which the front-end sends unanswered requests again.

use crate::pool::GroupPool;
use crate::request::{Request, Verdict};
use crate::types::*;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Front-end to back-end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Up {
    /// First, and again after either side restarted.
    Hello {
        /// [`crate::VERSION`].
        version: u32,
        /// `vshmem_ipc::header::LAYOUT`.
        layout: u32,
        /// The name this front-end was told to check, if any.
        domain: Option<String>,
        /// Clients it knows to be alive (after its own restart; empty on the first hello).
        clients: Vec<u32>,
        /// The session of its first welcome; None before it.
        session: Option<u64>,
    },
    /// A process has connected: give it a client number. Answered by [`Down::Connected`].
    Connect {
        /// The front-end's number for this exchange.
        tag: u64,
        /// Who it is.
        who: Credentials,
        /// The client number it wants to go on with.
        resume: Option<u32>,
        /// For a forked child: the fork this connection was prepared by.
        fork: Option<u64>,
    },
    /// A client's request.
    Request {
        /// Client number.
        client: u32,
        /// The client's request number.
        seq: u64,
        /// The request.
        body: Request,
    },
    /// A client is about to fork; `fork` names the provisional attachments.
    ForkPrepare {
        /// The parent.
        client: u32,
        /// A number the front-end chose.
        fork: u64,
    },
    /// The prepared child ended before it said who it is, or never was.
    ForkAbandoned {
        /// As in ForkPrepare.
        fork: u64,
    },
    /// A client's image is gone: it died, or exec replaced it.
    Gone {
        /// Client number.
        client: u32,
        /// The process still lives (exec): its undo list stays.
        exec: bool,
    },
    /// Wake sleepers in this space.
    Ring {
        /// The space.
        space: u16,
        /// Place of the word that is watched, as in [`Request::Ring`].
        at: u64,
        /// The bell that the sleeper waits on; 0: none.
        bell: u16,
    },
    /// Bells 1 to `count` can be rung; what was in their lines has been read.
    Bells {
        /// How many.
        count: u16,
    },
    /// To [`Down::ReadBell`]: so many bytes were read.
    BellRead {
        /// Which.
        bell: u16,
        /// How many.
        bytes: u32,
    },
    /// To [`Down::Neighbour`]: what the neighbour binds to, one number for the front-end and one for each bell.
    Doors {
        /// The neighbour's space.
        space: u16,
        /// The numbers.
        doors: Vec<u32>,
    },
    /// Once a second.
    Heartbeat,
}

/// Back-end to front-end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Down {
    /// To Hello.
    Welcome {
        /// The domain's number.
        domain: u16,
        /// Its name.
        name: String,
        /// Its futex space.
        space: u16,
        /// Seconds since the epoch on the host.
        seconds: u64,
        /// The pools of its groups, at most [`crate::pool::MOST_POOLS`].
        pools: Vec<GroupPool>,
        /// Names this guest's stay. A machine that was restored from a snapshot comes back with another one's.
        session: u64,
        /// As in [`crate::request::Welcome::keys`].
        keys: Option<String>,
    },
    /// To Hello: no, and why.
    Refused {
        /// For people.
        why: String,
    },
    /// To Connect.
    Connected {
        /// As in Connect.
        tag: u64,
        /// The client number and what goes with it, or why not.
        outcome: Result<Connected, crate::Failure>,
    },
    /// To Request.
    Answer {
        /// Client number.
        client: u32,
        /// Request number.
        seq: u64,
        /// What came of it; a memory reply's descriptor is the front-end's to add.
        body: Verdict,
    },
    /// Somebody rang this space: look at your sleepers.
    Ring,
    /// A bell has been rung often: read its line, which nobody else does, and say how much was in it.
    ReadBell {
        /// Which.
        bell: u16,
    },
    /// Another domain that may ring this one with nobody in between, where the port can do that: offer it doors, by [`Up::Doors`]. Said again after each welcome.
    Neighbour {
        /// Its futex space; this domain's own is among those that are told.
        space: u16,
        /// The port's number of its machine.
        machine: u32,
    },
    /// What a neighbour offers to this domain, as in [`Up::Doors`].
    Doors {
        /// Its futex space.
        space: u16,
        /// The port's number of its machine.
        machine: u32,
        /// The numbers.
        doors: Vec<u32>,
    },
    /// A neighbour is gone.
    NeighbourGone {
        /// Its futex space.
        space: u16,
    },
    /// The back-end was restarted: say hello again and repeat what was not answered.
    Restarted,
    /// Once a second, and when the limits have changed.
    Heartbeat {
        /// Seconds since the epoch on the host.
        seconds: u64,
        /// The longest message.
        msgmax: u32,
        /// Most operations of a semop.
        semopm: u32,
        /// As [`crate::pages::LOW_IDS_AT`].
        low_ids: bool,
    },
    /// The back-end stops for good.
    Goodbye,
}

/// A new client's numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connected {
    /// Client number.
    pub client: u32,
    /// Undo list.
    pub undo: u64,
    /// Next request number expected.
    pub next_seq: u64,
    /// The group's limits.
    pub limits: Limits,
}
