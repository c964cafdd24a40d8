//! What goes into the registry and what comes out.
//!
//! **Order and repetition.** The daemon writes a command to its log (unless [`Command::changes`] says it changes nothing), then applies it, then
//! carries out the effects in the order given, then answers. If it is killed in between, its successor replays the log, carries out the effects of
//! the *last* command once more, and then those of [`crate::Registry::restarted`]. So each effect must bear repetition; each says how. Only where the last command had
//! memory made, and the log says that this was done, nothing is carried out once more: whoever was answered uses that memory. Effects that may
//! lead to further commands (Sweep, SetQbytes, Inspect, CheckLock) come after all others: when such a command has become the last one, nothing of the
//! first one's is lost that would not be begun again anyway, and no older control word is stored over a newer.

use serde::{Deserialize, Serialize};
use vshmem_wire::stream::Connected;
use vshmem_wire::{Credentials, Extent, Failure, Kind, Limits, Reply, Request, Stat, Verdict};

/// What happened, or what is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// A domain is there. Answered by [`Done::Domain`]. Said again of a domain that is up (after a restart, say), it changes nothing.
    DomainUp {
        /// Its name; its number is the same every time.
        name: String,
        /// The port it came through.
        port: String,
        /// It is a futex space of its own (a guest kernel), not one of the host's.
        own_space: bool,
    },
    /// A domain is gone, and with it all its processes.
    DomainDown {
        /// Its number.
        domain: u16,
    },
    /// All clients of the domain but these are dead (a front-end that was restarted says so).
    Alive {
        /// The domain.
        domain: u16,
        /// Its living clients, those included whose process lives on after exec without having connected again.
        clients: Vec<u32>,
    },
    /// A process has connected. Answered by [`Done::Connected`].
    Connect {
        /// Its domain.
        domain: u16,
        /// Who it is.
        who: Credentials,
        /// The number it had, on reconnecting (also after its uid changed). ESTALE if that is not this very process's any more.
        resume: Option<u32>,
        /// It is the child of this fork, and takes over what was counted for it, whatever `resume` says. ESTALE if the fork is not known (any
        /// more). Where it fails the fork is abandoned.
        fork: Option<u64>,
    },
    /// A client is about to fork: what it has attached and open counts once more, for the child.
    ForkPrepare {
        /// The parent.
        client: u32,
        /// A number that is unique among the domain's forks under way.
        fork: u64,
    },
    /// The child of a fork will not connect: what was counted for it counts no more. (In the child nothing ran that could have left traces in a set
    /// or queue: it would have needed a client number.)
    ForkAbandoned {
        /// The domain.
        domain: u16,
        /// The fork.
        fork: u64,
    },
    /// A client's image is gone. With `exec`, the process lives on, and its undo list; when it dies later without having connected again, this
    /// is said again of the same client, without `exec`.
    Gone {
        /// The client.
        client: u32,
        /// Replaced by exec rather than dead.
        exec: bool,
    },
    /// A client's request. Repeated with the number of the client's last one it gets that one's answer and no effects; with an older number, an error.
    /// Numbers may leave gaps.
    Request {
        /// The client.
        client: u32,
        /// Number of the request.
        seq: u64,
        /// The request.
        body: Request,
    },
    /// What the daemon answered, where that differs from what the registry said (OnBehalf, a failed effect): a repetition gets this.
    Answered {
        /// The client.
        client: u32,
        /// Number of the request.
        seq: u64,
        /// The answer.
        verdict: Verdict,
    },
    /// The memory that [`Done::WithMemory`] promised could not be handed out: what the request counted counts no more, and a repetition gets this
    /// failure.
    NotHandedOut {
        /// The client.
        client: u32,
        /// Number of the request.
        seq: u64,
        /// The answer.
        failure: Failure,
    },
    /// An [`Effect::Sweep`] is done. Echo it.
    Swept(Sweep),
    /// The memory of a set or queue holds rubbish: it is retired like a removed one.
    DeclareCorrupt {
        /// The construct.
        serial: u64,
        /// What was found.
        what: String,
    },
    /// The memory that [`Effect::Provide`] asked for cannot be had: takes a construct just made back, or an extent just appended. To be
    /// followed by [`Command::Answered`].
    NotProvided {
        /// The construct.
        serial: u64,
    },
    /// An operation that the daemon does on somebody's behalf needs room: append an extent to the set or queue.
    Extend {
        /// The construct.
        serial: u64,
        /// Bytes wanted in one piece; 0 for a slot or record.
        wanted: u64,
    },
    /// What a client really has mapped of a segment, where the daemon found out (a partial munmap, say): lowers the count of its attachments.
    Audited {
        /// The client.
        client: u32,
        /// The segment.
        serial: u64,
        /// Its attachments.
        attachments: u32,
    },
    /// The administrator changed the limits.
    SetLimits(Limits),
}

impl Effect {
    /// Whether carrying it out may lead to a command.
    pub(crate) fn leads_on(&self) -> bool {
        matches!(
            self,
            Effect::Sweep(_) | Effect::SetQbytes { .. } | Effect::Inspect { .. } | Effect::CheckLock { .. }
        )
    }
}

impl Command {
    /// Whether the command may change the registry: one that does not need not be logged, and can be put to [`crate::Registry::ask`].
    pub fn changes(&self) -> bool {
        match self {
            Command::Request { body, .. } => !reads_only(body),
            _ => true,
        }
    }
}

/// Whether a request changes nothing in the registry, so that it needs neither log nor memory of its answer.
pub(crate) fn reads_only(body: &Request) -> bool {
    matches!(
        body,
        Request::Stat { .. }
            | Request::Info { .. }
            | Request::List { .. }
            | Request::ShmAgain { .. }
            | Request::Status
            | Request::Ping
    )
}

/// What comes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What to answer.
    pub reply: Result<Done, Failure>,
    /// What to carry out before answering, in order. Also failed commands may have some.
    pub effects: Vec<Effect>,
}

/// What a command gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Done {
    /// It is done, and nobody waits for an answer.
    Nothing,
    /// To DomainUp.
    Domain {
        /// The domain's number.
        number: u16,
        /// Its futex space; 0: the host's.
        space: u16,
    },
    /// To Connect.
    Connected(Connected),
    /// An answer that is complete.
    Reply(Reply),
    /// An answer ([`Reply::Attached`] or [`Reply::Opened`]) with which a descriptor of the construct goes. The window in it is
    /// [`vshmem_wire::Window::Direct`], to be replaced where the store says otherwise.
    WithMemory {
        /// What it is.
        kind: Kind,
        /// Its serial number.
        serial: u64,
        /// Whether the descriptor may be written.
        writable: bool,
        /// Whether the request counted one more attachment or opening.
        counted: bool,
        /// The answer.
        reply: Reply,
    },
    /// To Stat. For sets and queues the daemon fills in what stands in their memory: times, messages, pids.
    Stat {
        /// The construct.
        serial: u64,
        /// What the registry knows.
        stat: Stat,
    },
    /// To List; each to be filled in as with [`Done::Stat`].
    List {
        /// Serial numbers and what the registry knows.
        stats: Vec<(u64, Stat)>,
        /// The slot to go on from, None at the end.
        next: Option<u32>,
    },
    /// To Info. For queues the daemon adds messages and bytes of all.
    Info(vshmem_wire::Info),
    /// To OnBehalf: the caller may; the daemon carries it out and says what came of it by [`Command::Answered`].
    Behalf {
        /// Set or queue.
        kind: Kind,
        /// Its serial number.
        serial: u64,
        /// The control word this was permitted under.
        control: u64,
        /// Semaphores; 0 for a queue.
        nsems: u32,
        /// The caller's undo list.
        undo: u64,
        /// The caller's domain and pid.
        pid: vshmem_wire::Pid,
    },
}

/// Clean up after a dead client in a set or queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Sweep {
    /// Set or queue.
    pub kind: Kind,
    /// Its serial number.
    pub serial: u64,
    /// The dead client.
    pub client: u32,
    /// For sets, when the process died: the undo list to apply and drop.
    pub undo: Option<u64>,
}

/// What to carry out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Make an extent of a construct exist, zeroed. Repeated: anew, for nobody was answered (see above).
    Provide {
        /// The group it is of: says in which store its memory is.
        group: u16,
        /// Its huge pages, as in [`vshmem_wire::Memory::huge`]: these have a store of their own.
        huge: u8,
        /// What it is.
        kind: Kind,
        /// Its serial number.
        serial: u64,
        /// The extent.
        extent: Extent,
    },
    /// Zero and format a new set or queue. Repeated: leave it alone once its control word is not 0 ([`Effect::Control`] always follows); until then
    /// begin again from zeroes, for half a format is no memory to format.
    Format {
        /// Set or queue.
        kind: Kind,
        /// Its serial number.
        serial: u64,
        /// Semaphores; 0 for a queue.
        nsems: u32,
        /// Bytes a queue may hold; 0 for a set.
        qbytes: u64,
        /// Time of creation.
        ctime: u64,
        /// All its extents.
        extents: Vec<Extent>,
    },
    /// The construct got longer: map the extents, tell the set or queue its new length. Repeated: no harm. [`Effect::Control`] follows.
    Grown {
        /// Set or queue.
        kind: Kind,
        /// Its serial number.
        serial: u64,
        /// All its extents, the new ones last.
        extents: Vec<Extent>,
    },
    /// Store the control word. Repeated: no harm.
    Control {
        /// Set or queue.
        kind: Kind,
        /// Its serial number.
        serial: u64,
        /// The word: `vshmem_ipc::Control`.
        control: u64,
    },
    /// The control word says removed: wake everybody who sleeps there. Sweeps still to be done there are void. Repeated: no harm.
    Retire {
        /// Set or queue.
        kind: Kind,
        /// Its serial number.
        serial: u64,
    },
    /// Clean up after a dead client; then say [`Command::Swept`]. Tried until done. Repeated: no harm.
    Sweep(Sweep),
    /// Change a queue's limit and let senders go on that fit now. Tried until done. Repeated: no harm.
    SetQbytes {
        /// The queue.
        serial: u64,
        /// Most bytes.
        qbytes: u64,
    },
    /// Store the time of change. Repeated: no harm.
    SetCtime {
        /// Set or queue.
        kind: Kind,
        /// Its serial number.
        serial: u64,
        /// Seconds.
        seconds: u64,
    },
    /// Let a domain map the construct. Repeated: no harm.
    Admit {
        /// The group it is of: says in which store its memory is.
        group: u16,
        /// Its huge pages, as in [`vshmem_wire::Memory::huge`]: these have a store of their own.
        huge: u8,
        /// The construct.
        serial: u64,
        /// The domain.
        domain: u16,
        /// Also for writing.
        writable: bool,
    },
    /// No process of the domain uses the construct any more (or it may not any more): no new mappings. Repeated: no harm.
    Revoke {
        /// The group it is of: says in which store its memory is.
        group: u16,
        /// Its huge pages, as in [`vshmem_wire::Memory::huge`]: these have a store of their own.
        huge: u8,
        /// The construct.
        serial: u64,
        /// The domain.
        domain: u16,
    },
    /// Nobody uses the construct any more: drop what the daemon itself mapped and remembers of it, and give its memory back, zeroed.
    /// Repeated: nothing, it is gone.
    Release {
        /// The group it is of: says in which store its memory is.
        group: u16,
        /// Its huge pages, as in [`vshmem_wire::Memory::huge`]: these have a store of their own.
        huge: u8,
        /// What it was.
        kind: Kind,
        /// Its serial number.
        serial: u64,
        /// Its extents.
        extents: Vec<Extent>,
    },
    /// A client says that the memory of a construct is rubbish: look, and if so say [`Command::DeclareCorrupt`].
    Inspect {
        /// Set or queue.
        kind: Kind,
        /// Its serial number.
        serial: u64,
        /// What the client found.
        what: String,
    },
    /// The lock is said to be held by nobody who could: if its word still is this one, say [`Command::DeclareCorrupt`].
    CheckLock {
        /// Set or queue.
        kind: Kind,
        /// Its serial number.
        serial: u64,
        /// The lock word.
        owner: u64,
    },
}
