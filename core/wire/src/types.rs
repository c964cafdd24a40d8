//! The nouns of the protocol: ids, permissions, memory, identity.

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Bit that the ids of Vshmem have set, but for those that somebody asked for (`shm_next_id` and its like). Ids are `sequence (16 bits) << 15 | slot (15 bits)`.
pub const ID_BIT: i32 = 1 << 30;
/// Bit that the sequence numbers of such ids have set.
pub const SEQUENCE_BIT: u16 = 1 << 15;
/// Number of slots: the most constructs of one kind in one group, and the range of `*_STAT` indices.
pub const SLOTS: u32 = 1 << 15;

/// What a construct is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// A V-shm segment.
    Shm,
    /// A V-sem set.
    Sem,
    /// A V-msgq queue.
    Msg,
}

/// The slot of an id, if it can be one of ours.
pub fn slot_of(id: i32) -> Option<u32> {
    (id >= 0).then_some(id as u32 & (SLOTS - 1))
}

/// Makes an id from a slot and a sequence number.
pub fn make_id(slot: u32, sequence: u16) -> i32 {
    i32::from(sequence) << 15 | (slot & (SLOTS - 1)) as i32
}

/// Who owns a construct and who may use it: `struct ipc_perm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Perm {
    /// Key, 0 (IPC_PRIVATE) if it has none.
    pub key: i32,
    /// Owner.
    pub uid: u32,
    /// Owner's group.
    pub gid: u32,
    /// Creator.
    pub cuid: u32,
    /// Creator's group.
    pub cgid: u32,
    /// Permission bits (0777), with SHM_DEST (01000) and SHM_LOCKED (02000) for segments.
    pub mode: u16,
    /// Sequence number of the id.
    pub seq: u16,
}

/// A process, named across domains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pid {
    /// Its domain's number.
    pub domain: u16,
    /// Its pid there; 0: none.
    pub pid: u32,
}

/// A caller's identity, as its front-end read it from the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Credentials {
    /// Process id in the front-end's pid namespace.
    pub pid: u32,
    /// Start time of the process (field 22 of /proc/PID/stat): tells a reused pid from the old one.
    pub start: u64,
    /// Effective uid.
    pub uid: u32,
    /// Effective gid.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Effective capabilities that System V IPC asks for: see [`caps`].
    pub caps: u8,
    /// Pid of the process that this one stands in for, which is the one that constructs show; 0: it stands in for nobody.
    pub stands_for: u32,
}

impl Credentials {
    /// The pid that constructs show.
    pub fn shown_pid(&self) -> u32 {
        if self.stands_for == 0 {
            self.pid
        } else {
            self.stands_for
        }
    }
}

/// Bits of [`Credentials::caps`].
pub mod caps {
    /// CAP_IPC_OWNER: permission bits do not apply.
    pub const IPC_OWNER: u8 = 1;
    /// CAP_IPC_LOCK: SHM_LOCK beyond the limit.
    pub const IPC_LOCK: u8 = 2;
    /// CAP_SYS_RESOURCE: raise msg_qbytes above the limit.
    pub const SYS_RESOURCE: u8 = 4;
    /// CAP_SYS_ADMIN: IPC_SET and IPC_RMID of others' constructs.
    pub const SYS_ADMIN: u8 = 8;
    /// SHM_HUGETLB: CAP_IPC_LOCK, or a group that the administrator named for it.
    pub const HUGE: u8 = 16;
}

/// A run of pages of a construct, by its place in the memory that backs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Bytes from the start of the backing file or device; a multiple of 4096.
    pub offset: u64,
    /// Length in bytes; a multiple of 4096.
    pub bytes: u64,
}

/// How the descriptor that comes with a [`Memory`] is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Window {
    /// At any offset: a file.
    Direct,
    /// Only whole, from offset 0 (`/dev/mmapper`): map all `bytes`, move the part wanted, unmap the rest.
    Whole {
        /// Size of the device's memory.
        bytes: u64,
    },
    /// Extent by extent, each whole and once, at offsets that follow one another in the order of the list: the descriptor was made for this mapping
    /// alone. Children of a process do not inherit the mapping.
    InOrder,
}

/// By which a domain maps pages that the back-end's machine grants it one by one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grants {
    /// Who grants them, as the port numbers it.
    pub from: u32,
    /// References of the extents' pages in order, as runs: the first, and how many follow one another from there.
    pub runs: Vec<(u32, u32)>,
}

impl Grants {
    /// Appends a reference.
    pub fn push(&mut self, reference: u32) {
        match self.runs.last_mut() {
            Some((first, count)) if first.checked_add(*count) == Some(reference) => *count += 1,
            _ => self.runs.push((reference, 1)),
        }
    }

    /// How many references there are.
    pub fn len(&self) -> u64 {
        self.runs.iter().map(|(_, count)| u64::from(*count)).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All references, in order.
    pub fn references(&self) -> impl Iterator<Item = u32> + '_ {
        let one = |&(first, count): &(u32, u32)| (0..count).map(move |at| first.wrapping_add(at));
        self.runs.iter().flat_map(one)
    }
}

/// Where a construct's pages are. One descriptor travels with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Number of the group: says which pool the extents are in, where there are several.
    pub group: u16,
    /// How to map.
    pub window: Window,
    /// What to map, in order, one after another.
    pub extents: Vec<Extent>,
    /// Whether the descriptor is open for writing.
    pub writable: bool,
    /// Between back-end and front-end, where pages are granted one by one.
    pub grants: Option<Grants>,
    /// Of huge pages of so many bytes, as a power of two: it is mapped in whole ones, at multiples of them. 0: of ordinary pages.
    pub huge: u8,
}

impl Memory {
    /// Bytes of the pages it is of.
    pub fn page(&self) -> u64 {
        match self.huge {
            0 => 4096,
            shift => 1u64.checked_shl(shift.into()).unwrap_or(1 << 63),
        }
    }

    /// Bytes of all extents.
    pub fn bytes(&self) -> u64 {
        self.extents.iter().fold(0, |sum, e| sum.saturating_add(e.bytes))
    }
}

/// What IPC_STAT tells of a construct.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// Its id.
    pub id: i32,
    /// Its owner and mode.
    pub perm: Perm,
    /// Seconds of the last change (creation, IPC_SET; SETVAL and SETALL too).
    pub ctime: i64,
    /// Number of the domain it was created in.
    pub domain: u16,
    /// The rest, by kind.
    pub body: StatBody,
}

/// The part of [`Stat`] that depends on the kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StatBody {
    /// `struct shmid_ds`.
    Shm {
        /// Size asked for, in bytes.
        segsz: u64,
        /// Last attach.
        atime: i64,
        /// Last detach.
        dtime: i64,
        /// Creator.
        cpid: Pid,
        /// Last to attach or detach.
        lpid: Pid,
        /// Attachments, over all domains.
        nattch: u64,
        /// Bytes in pages that hold something; in lists only.
        rss: u64,
    },
    /// `struct semid_ds`.
    Sem {
        /// Semaphores in the set.
        nsems: u32,
        /// Last semop.
        otime: i64,
    },
    /// `struct msqid_ds`.
    Msg {
        /// Bytes in the queue.
        cbytes: u64,
        /// Messages in the queue.
        qnum: u64,
        /// Most bytes allowed.
        qbytes: u64,
        /// Last msgsnd.
        stime: i64,
        /// Last msgrcv.
        rtime: i64,
        /// Last sender.
        lspid: Pid,
        /// Last receiver.
        lrpid: Pid,
    },
}

impl StatBody {
    /// The kind it belongs to.
    pub fn kind(&self) -> Kind {
        match self {
            StatBody::Shm { .. } => Kind::Shm,
            StatBody::Sem { .. } => Kind::Sem,
            StatBody::Msg { .. } => Kind::Msg,
        }
    }
}

/// Limits of a group, as `/proc/sys/kernel` would show them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Largest segment, bytes.
    pub shmmax: u64,
    /// All segments together, pages.
    pub shmall: u64,
    /// Most segments.
    pub shmmni: u32,
    /// Most semaphores in a set.
    pub semmsl: u32,
    /// Most semaphores in all.
    pub semmns: u32,
    /// Most operations a call.
    pub semopm: u32,
    /// Most sets.
    pub semmni: u32,
    /// Largest message, bytes.
    pub msgmax: u32,
    /// Bytes a new queue may hold.
    pub msgmnb: u32,
    /// Most queues.
    pub msgmni: u32,
    /// `shm_rmid_forced`: a segment goes with its last attachment, and with its creator if nobody has it attached.
    pub shm_rmid_forced: bool,
    /// The ids that the next construct of each kind shall have, by [`Kind`] (`shm_next_id` and its like); -1 for none.
    pub next_ids: [i32; 3],
}

/// What can be written below `/proc/sys/kernel`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Setting {
    /// Bytes of the largest segment.
    Shmmax,
    /// Pages of all segments.
    Shmall,
    /// Most segments.
    Shmmni,
    /// SEMMSL, SEMMNS, SEMOPM, SEMMNI.
    Sem,
    /// Bytes of the longest message.
    Msgmax,
    /// Bytes of a new queue.
    Msgmnb,
    /// Most queues.
    Msgmni,
    /// As [`Limits::shm_rmid_forced`].
    ShmRmidForced,
    /// As [`Limits::next_ids`].
    NextId(Kind),
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            shmmax: 18_446_744_073_692_774_399,
            shmall: 18_446_744_073_692_774_399,
            shmmni: 4096,
            semmsl: 32_000,
            semmns: 1_024_000_000,
            semopm: 500,
            semmni: 32_000,
            msgmax: 8192,
            msgmnb: 16_384,
            msgmni: 32_000,
            shm_rmid_forced: false,
            next_ids: [-1; 3],
        }
    }
}

/// What `*_INFO` and `IPC_INFO` tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// The group's limits.
    pub limits: Limits,
    /// Highest slot in use, 0 if none is.
    pub highest: u32,
    /// Constructs of the kind.
    pub used: u32,
    /// Segments: pages; sets: semaphores; queues: messages.
    pub units: u64,
    /// Queues: bytes of text.
    pub bytes: u64,
}

/// A domain, as `vshmem` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainInfo {
    /// Its number.
    pub number: u16,
    /// Its name.
    pub name: String,
    /// The port it came through.
    pub port: String,
    /// Whether it is there now.
    pub up: bool,
    /// Clients in it.
    pub clients: u32,
}

/// A group, as `vshmem` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupInfo {
    /// Its name.
    pub name: String,
    /// Size of its pool in bytes, 0 without one.
    pub pool_bytes: u64,
    /// Bytes that its constructs take.
    pub used: u64,
    /// Where its pool is to lie in huge pages: how much does.
    pub huge: Option<HugeBytes>,
}

/// How much of the memory in use lies in huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugeBytes {
    /// Bytes in huge pages.
    pub huge: u64,
    /// Bytes in ordinary ones, since the kernel had no huge page for them, or has not come to it yet.
    pub ordinary: u64,
}

/// What the back-end says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Program version.
    pub version: String,
    /// Process id of the back-end.
    pub pid: u32,
    /// How often it was restarted by its keeper.
    pub restarts: u32,
    /// Seconds it has been up, restarts included.
    pub uptime: u64,
    /// Its groups; the first is the one of domains that the configuration does not name.
    pub groups: Vec<GroupInfo>,
    /// Bytes waiting for the last user to unmap.
    pub quarantine: u64,
    /// The domains.
    pub domains: Vec<DomainInfo>,
}
