//! What a client asks of its daemon and what it is told.
//!
//! One [`Envelope`] a datagram on a SOCK_SEQPACKET socket, answered by one [`Answer`]. Descriptors travel beside the datagram
//! (SCM_RIGHTS). `seq` grows by one a request of a client; a request sent again with the same number after the daemon was restarted is
//! answered as the first time and not carried out twice.

use crate::types::*;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// A request with its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Number of the request: 1, 2, 3, …
    pub seq: u64,
    /// The request.
    pub body: Request,
}

/// An answer with the number of its request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Number of the request that is answered.
    pub seq: u64,
    /// What came of it.
    pub body: Verdict,
}

/// A reply or a failure.
pub type Verdict = Result<Reply, Failure>;

/// Why a request failed: Linux's errno, and words for the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// errno.
    pub errno: i32,
    /// For people: empty where the errno says it all.
    pub why: String,
}

impl Failure {
    /// A failure that the errno explains.
    pub fn errno(errno: i32) -> Self {
        Failure {
            errno,
            why: String::new(),
        }
    }
    /// A failure that needs words.
    pub fn because(errno: i32, why: impl Into<String>) -> Self {
        Failure {
            errno,
            why: why.into(),
        }
    }
}

/// Which construct `Stat` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Which {
    /// IPC_STAT: by id, read permission needed.
    Id(i32),
    /// SHM_STAT and its like: by index, read permission needed.
    Index(i32),
    /// SHM_STAT_ANY and its like: by index, no permission needed.
    AnyIndex(i32),
}

/// A client's request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// First on every connection. Answered by [`Reply::Welcome`] with two descriptors: the time page (read-only) and the wait page
    /// (the latter only where `space` is not 0). With a pidfd beside it, the caller stands in for that process: constructs show that one's pid,
    /// while the client lives as long as the caller. The other process must be of the same user, or the caller be root, who then counts as that user.
    Hello {
        /// [`crate::VERSION`].
        version: u32,
        /// `vshmem_ipc::header::LAYOUT`.
        layout: u32,
        /// On reconnecting after the daemon was restarted: the client number this process image had.
        resume: Option<u32>,
        /// On a local socket: the local domain the client wants to be in (the daemon decides); the socket's own one if None.
        domain: Option<String>,
    },
    /// shmget(2).
    ShmGet {
        /// Key.
        key: i32,
        /// Size in bytes.
        size: u64,
        /// IPC_CREAT, IPC_EXCL, SHM_HUGETLB, SHM_NORESERVE, mode.
        flags: i32,
    },
    /// semget(2).
    SemGet {
        /// Key.
        key: i32,
        /// Number of semaphores.
        nsems: i32,
        /// IPC_CREAT, IPC_EXCL, mode.
        flags: i32,
    },
    /// msgget(2).
    MsgGet {
        /// Key.
        key: i32,
        /// IPC_CREAT, IPC_EXCL, mode.
        flags: i32,
    },
    /// shmat(2): counts an attachment and gives the memory. Answered by [`Reply::Attached`] and a descriptor.
    ShmAttach {
        /// Segment.
        id: i32,
        /// SHM_RDONLY.
        read_only: bool,
        /// SHM_EXEC.
        exec: bool,
    },
    /// shmdt(2): one attachment of the segment has ended (the client has unmapped it).
    ShmDetach {
        /// Segment.
        id: i32,
    },
    /// The client has cut a mapping of the segment in two (munmap of its middle, say): one attachment more.
    ShmSplit {
        /// Segment.
        id: i32,
    },
    /// Another descriptor of a segment that the client has attached, for a child that does not inherit the mapping; counts nothing. Answered by
    /// [`Reply::Attached`] and a descriptor.
    ShmAgain {
        /// Segment.
        id: i32,
        /// For writing, too.
        writable: bool,
    },
    /// The administrator writes to a file below `/proc/sys/kernel`. Answered by [`Reply::Done`].
    SetLimit {
        /// Which.
        setting: Setting,
        /// The numbers, one or (for sets) up to four.
        values: Vec<u64>,
    },
    /// Gives a set's or queue's memory for the data path, to a caller with read and write permission; or asks again after the control
    /// word changed. Answered by [`Reply::Opened`] and, where it may be mapped, a descriptor.
    Open {
        /// Set or queue.
        kind: Kind,
        /// Its id.
        id: i32,
    },
    /// The client has unmapped a set or queue (it was removed, say).
    Close {
        /// Set or queue.
        kind: Kind,
        /// Its id.
        id: i32,
    },
    /// The construct has no room for another slot, undo record or message: append an extent. Answered by [`Reply::Opened`].
    Grow {
        /// Set or queue.
        kind: Kind,
        /// Its id.
        id: i32,
        /// Bytes wanted in one piece; 0 for a slot or record.
        wanted: u64,
        /// Extents the client knows of: if there are more already, nothing is appended.
        have: u16,
    },
    /// IPC_STAT, `*_STAT`, `*_STAT_ANY`.
    Stat {
        /// Kind.
        kind: Kind,
        /// Which.
        which: Which,
    },
    /// IPC_SET.
    Set {
        /// Kind.
        kind: Kind,
        /// Id.
        id: i32,
        /// New owner.
        uid: u32,
        /// New group.
        gid: u32,
        /// New mode, low nine bits.
        mode: u16,
        /// Queues: new msg_qbytes.
        qbytes: Option<u64>,
    },
    /// IPC_RMID.
    Remove {
        /// Kind.
        kind: Kind,
        /// Id.
        id: i32,
    },
    /// SHM_LOCK, SHM_UNLOCK.
    Lock {
        /// Segment.
        id: i32,
        /// Lock or unlock.
        on: bool,
        /// The caller's RLIMIT_MEMLOCK: bytes that its user's locked segments may have together. None: any.
        most: Option<u64>,
    },
    /// IPC_INFO, SHM_INFO and its like.
    Info {
        /// Kind.
        kind: Kind,
    },
    /// The lock of a set or queue was held for long: sweep it if its owner is dead. Answered by [`Reply::Done`].
    LockStuck {
        /// Set or queue.
        kind: Kind,
        /// Id.
        id: i32,
        /// The lock word as found.
        owner: u64,
    },
    /// Memory of a set or queue holds rubbish: the back-end looks at it and, if so, retires the construct.
    Corrupt {
        /// Set or queue.
        kind: Kind,
        /// Id.
        id: i32,
        /// What was found.
        what: String,
    },
    /// Wake sleepers of another futex space: a hint. Not answered and not counted: its `seq` is 0.
    Ring {
        /// The space.
        space: u16,
        /// Place ([`crate::pool`]) of the 32-bit word that the sleeper watches. Space 0 is woken through it (the back-end wakes the futex there,
        /// whoever sleeps on it); other spaces look at all of their sleepers.
        at: u64,
        /// The bell that the sleeper waits on; 0: none.
        bell: u16,
    },
    /// Words of the wait page for `count` more threads. Answered by [`Reply::Tickets`].
    Tickets {
        /// How many.
        count: u32,
    },
    /// In a guest whose port has bells: the line to ring others by, past the front-end, and for `wait` a bell that one thread may wait on. Answered by
    /// [`Reply::Bell`], with the line's descriptor, and with that of the bell, an epoll instance that is readable once or more after each ring and holds
    /// the bell's number as its data. Where domains ring each other with nobody in between (`Reply::Bell::call` is not 0) the bell's device comes after that: it is
    /// readable after a ring until it was read, and what was read is to be written back. ENOSYS: this domain has none. ENOSPC: all are taken.
    Bell {
        /// Not only to ring.
        wait: bool,
    },
    /// This process is about to fork, with one end of a socket pair beside the message: its attachments count for the child as well from
    /// now on, until that socket says who the child is ([`Request::Hello`] there with SCM_CREDENTIALS) or ends.
    ForkPrepare,
    /// The next fork that this process prepares makes a child that shares its undo list (clone(2) with CLONE_SYSVSEM). Answered by [`Reply::Done`].
    ShareUndo,
    /// Somebody uses an undo list no more (unshare(2) with CLONE_SYSVSEM, the end of a thread that had one of its own). The last one of all has it
    /// applied. Answered by [`Reply::Undo`] with the list that is used from now on.
    LeaveUndo {
        /// The list: the process's, or one of its threads'.
        list: u64,
        /// The caller is the process's only thread; else the other threads go on with the process's list.
        alone: bool,
        /// A new list is wanted: nobody ends here.
        begin: bool,
    },
    /// An operation for a caller who may not map the construct, since it has read or write permission only. Never waits.
    OnBehalf {
        /// Id.
        id: i32,
        /// The operation.
        operation: Behalf,
    },
    /// All constructs of a kind from a slot on, as many as fit one answer (`vshmem ipcs`).
    List {
        /// Kind.
        kind: Kind,
        /// First slot.
        from: u32,
    },
    /// Lets more domains see a construct (only they and the owner's then see it), or all of the group again.
    Share {
        /// Kind.
        kind: Kind,
        /// Id.
        id: i32,
        /// Domain names. Empty: all of the group.
        domains: Vec<String>,
    },
    /// Takes domains off the list of those who see a construct.
    Unshare {
        /// Kind.
        kind: Kind,
        /// Id.
        id: i32,
        /// Domain names. Empty: all but the owner's.
        domains: Vec<String>,
    },
    /// A guest is about to be started: makes its domain, with the host's end of its byte stream beside the message, and behind it, if the port has
    /// bells, the host's ends of the ring line and of each bell. For root and the daemon's own user. Answered by [`Reply::DomainReady`] and the descriptors of its
    /// groups' pools.
    AttachDomain {
        /// Domain name.
        name: String,
        /// Port name.
        port: String,
    },
    /// Somebody else is about to start a machine: makes the sockets that its hypervisor connects to, unless they are there. For root and the daemon's own
    /// user. Answered by [`Reply::DomainOpen`].
    OpenDomain {
        /// Domain name.
        name: String,
        /// Port name.
        port: String,
        /// Its machine has a vsock device, by which its stream may come, with this CID; 0: with one that the back-end chooses.
        vsock: Option<u32>,
    },
    /// What the back-end says of itself.
    Status,
    /// Nothing: measures a round trip.
    Ping,
    /// Has the pools of a domain's groups lie in huge pages from now on. For root and the daemon's own user.
    UseHugePages {
        /// Domain name.
        domain: String,
    },
}

/// Operations done on behalf of callers who may not map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Behalf {
    /// semop(2), with IPC_NOWAIT on every operation: (num, op, flags).
    SemOp(Vec<(u16, i16, i16)>),
    /// GETVAL.
    GetValue(u32),
    /// GETPID.
    GetPid(u32),
    /// GETNCNT.
    GetNcnt(u32),
    /// GETZCNT.
    GetZcnt(u32),
    /// GETALL.
    GetAll,
    /// SETVAL.
    SetValue(u32, i32),
    /// SETALL.
    SetAll(Vec<u16>),
    /// msgsnd(2).
    Send {
        /// mtype.
        mtype: i64,
        /// mtext.
        text: Vec<u8>,
    },
    /// msgrcv(2).
    Receive {
        /// msgsz.
        size: u64,
        /// msgtyp.
        msgtyp: i64,
        /// MSG_NOERROR, MSG_EXCEPT, MSG_COPY.
        flags: i32,
    },
}

/// What a client is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// To Hello.
    Welcome(Welcome),
    /// An id: to the `*get` calls.
    Id(i32),
    /// To ShmAttach, with a descriptor.
    Attached {
        /// Where the pages are.
        memory: Memory,
        /// Size asked for at creation, in bytes.
        segsz: u64,
    },
    /// To Open and Grow, with a descriptor where `memory` is given.
    Opened {
        /// The control word this answer was given under.
        control: u64,
        /// Semaphores; 0 for a queue.
        nsems: u32,
        /// Where the pages are; None: the caller lacks read or write permission, use [`Request::OnBehalf`].
        memory: Option<Memory>,
        /// May read (msgrcv, GETVAL, …).
        read: bool,
        /// May alter (semop with op ≠ 0, msgsnd, …).
        write: bool,
        /// Bytes of address space to keep free for growth.
        room: u64,
    },
    /// To Stat.
    Stat(Stat),
    /// To List: constructs, and the slot to go on from, None at the end.
    List(Vec<Stat>, Option<u32>),
    /// To Info.
    Info(Info),
    /// To Tickets: indices into the wait page.
    Tickets(Vec<u32>),
    /// To Bell, with one to three descriptors.
    Bell {
        /// The bell's number; 0 if none was asked for.
        bell: u16,
        /// 0: rings are written to the line. Else the ioctl on it that rings, with the address of the number that the time page has for the space and the bell
        /// ([`crate::pages::door`]).
        call: u32,
    },
    /// To AttachDomain, with a descriptor for each pool, in this order.
    DomainReady {
        /// Its number.
        domain: u16,
        /// The pools of its groups.
        pools: Vec<ShownPool>,
    },
    /// To OpenDomain.
    DomainOpen(Doors),
    /// To OnBehalf: a value.
    Value(i64),
    /// To OnBehalf GETALL.
    Values(Vec<u16>),
    /// To OnBehalf msgrcv.
    Message {
        /// mtype.
        mtype: i64,
        /// mtext.
        text: Vec<u8>,
    },
    /// To Status.
    Status(Status),
    /// It is done.
    Done,
    /// An undo list; 0 if none was wanted.
    Undo(u64),
}

/// A pool that a guest is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownPool {
    /// The group's name.
    pub group: String,
    /// Size of the pool in bytes.
    pub bytes: u64,
}

/// Where the hypervisor of a machine that somebody else starts finds a group's pool: paths on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolDoor {
    /// Which it is.
    pub pool: ShownPool,
    /// Socket of the port's device server.
    pub device: String,
    /// The pool as a file, for hypervisors of root and of the daemon's own user.
    pub file: String,
}

/// Where a machine's stream may come by vsock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VsockDoor {
    /// The machine's CID.
    pub cid: u32,
    /// For hypervisors that turn vsock into unix sockets: where theirs is to be. The back-end's are beside it.
    pub place: String,
}

/// Where the hypervisor of a machine that somebody else starts finds what it needs: paths on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doors {
    /// Socket of the byte stream to the back-end.
    pub control: String,
    /// The pools of its groups: a device for each.
    pub pools: Vec<PoolDoor>,
    /// Where its stream may come by vsock.
    pub vsock: Option<VsockDoor>,
    /// Interrupt vectors of each device.
    pub vectors: u16,
    /// The configuration names the domain: its sockets are there after a restart of the host, too.
    pub configured: bool,
    /// Permission bits of the sockets.
    pub mode: u32,
    /// Owner of the sockets.
    pub uid: u32,
    /// Group of the sockets.
    pub gid: u32,
}

/// What a client is told first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The daemon's [`crate::VERSION`].
    pub version: u32,
    /// This process image's number.
    pub client: u32,
    /// Its domain's number.
    pub domain: u16,
    /// Its domain's name.
    pub name: String,
    /// Its futex space.
    pub space: u16,
    /// Its undo list.
    pub undo: u64,
    /// Its pid as the daemon sees it (the one that construct memory shows).
    pub pid: u32,
    /// Next request number the daemon expects (1 for a new client).
    pub next_seq: u64,
    /// The group's limits.
    pub limits: Limits,
    /// Which keys the domain's configuration sends to Vshmem, as `vshmem run --keys` writes them; None: all.
    pub keys: Option<String>,
}
