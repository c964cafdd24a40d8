//! V-sem: a semaphore set in construct memory.
//!
//! What it is for: semop(2) and the parts of semctl(2) that touch construct memory, and the back-end's repair after a
//! death. What it is not for: keys, ids, permission, errno: those are the registry's and the edges'.

mod layout;

use crate::sysv::SemBuf;
use crate::{Control, Corrupt, Kind, World, header};
use vshmem_words::{Ordering, Words};

pub use crate::Sweep;
pub use layout::{bytes, extent_bytes};

/// Why an operation on a set did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SemError {
    /// It would have to wait and must not, or the time is up (EAGAIN).
    Again,
    /// A signal handler ran while it waited (EINTR).
    Interrupted,
    /// A value would leave 0..=SEMVMX, or an adjustment its range (ERANGE).
    Range,
    /// A semaphore number beyond the set (EFBIG).
    TooBig,
    /// The set is removed (EIDRM).
    Removed,
    /// The control word is not the one the attachment was checked under: refresh the attachment and try again.
    Stale,
    /// No slot or undo record is free: ask the daemon to grow the set and try again. Nothing has happened yet.
    NeedExtent,
    /// Construct memory holds rubbish (EIDRM).
    Corrupt(Corrupt),
    /// The lock is held and the caller does not wait for it.
    LockBusy,
}

impl From<Corrupt> for SemError {
    fn from(corrupt: Corrupt) -> Self {
        SemError::Corrupt(corrupt)
    }
}

/// Who is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dead {
    /// The client number: a process image that died or was replaced by exec.
    pub client: u32,
    /// Its undo list, if the process is gone; `None` after an exec.
    pub undo: Option<u64>,
}

/// A semaphore set: a borrow of its memory and its trusted size. Cheap to make for one operation.
#[derive(Debug)]
pub struct SemSet<'a, W: Words> {
    words: &'a W,
    nsems: u32,
}

impl<'a, W: Words> SemSet<'a, W> {
    /// Bytes of a new set: a multiple of 4096, at most 8192 for up to 32 semaphores.
    pub const fn bytes(nsems: u32) -> usize {
        layout::bytes(nsems)
    }
    /// By how much to grow a set when an operation gives [`SemError::NeedExtent`].
    pub const fn extent_bytes(nsems: u32) -> usize {
        layout::extent_bytes(nsems)
    }
    /// Makes a set in zeroed memory (back-end only). The caller stores the control word afterwards.
    pub fn format(words: &'a W, nsems: u32) {
        header::format(words, Kind::Sem);
        let _ = nsems;
    }
    /// Checks header and sizes, once per attachment.
    pub fn open(words: &'a W, nsems: u32) -> Result<Self, Corrupt> {
        header::check(words, Kind::Sem)?;
        Ok(Self::at(words, nsems))
    }
    /// The set in memory that was checked before.
    #[inline(always)]
    pub fn at(words: &'a W, nsems: u32) -> Self {
        SemSet { words, nsems }
    }
    /// Number of semaphores.
    pub fn nsems(&self) -> u32 {
        self.nsems
    }

    /// semop(2) and semtimedop(2). `control` is the value the attachment was checked under.
    pub fn op(&self, world: &impl World, control: Control, ops: &[SemBuf]) -> Result<(), SemError> {
        let _ = (world, control, ops);
        Err(SemError::LockBusy)
    }
    /// GETVAL; 0 for a number beyond the set.
    pub fn value(&self, i: u32) -> u16 {
        let _ = i;
        0
    }
    /// GETPID: domain and pid of the last operation; (0, 0) if there was none.
    pub fn pid(&self, _world: &impl World, i: u32) -> (u16, u32) {
        let _ = i;
        (0, 0)
    }
    /// GETNCNT.
    pub fn ncnt(&self, i: u32) -> u32 {
        let _ = i;
        0
    }
    /// GETZCNT.
    pub fn zcnt(&self, i: u32) -> u32 {
        let _ = i;
        0
    }
    /// GETALL: as many values as `into` has room for, of one moment.
    pub fn values(&self, into: &mut [u16]) {
        into.fill(0);
    }
    /// SETVAL: clears this semaphore's adjustment in all undo records and wakes whoever can go on.
    pub fn set_value(
        &self,
        world: &impl World,
        control: Control,
        i: u32,
        value: u16,
    ) -> Result<(), SemError> {
        let _ = (world, control, i, value);
        Err(SemError::LockBusy)
    }
    /// SETALL: `values` holds one value per semaphore.
    pub fn set_all(&self, world: &impl World, control: Control, values: &[u16]) -> Result<(), SemError> {
        let _ = (world, control, values);
        Err(SemError::LockBusy)
    }
    /// sem_otime and sem_ctime, in seconds since the epoch.
    pub fn times(&self) -> (u64, u64) {
        (
            self.words.load64(24, Ordering::Relaxed),
            self.words.load64(32, Ordering::Relaxed),
        )
    }
    /// Sets sem_ctime (back-end only: creation and IPC_SET).
    pub fn set_ctime(&self, seconds: u64) {
        self.words.store64(32, seconds, Ordering::Relaxed);
    }
    /// Wakes every sleeper with EIDRM (back-end only); the caller has stored a control word that says so. Never blocks.
    pub fn remove(&self, world: &impl World) {
        let _ = world;
    }
    /// Clears away what a dead client left (back-end only): takes over its lock and repairs, drops its slots, applies its undo list
    /// once, lets others go on, and rings again those who may not have heard that they were let go on. May be repeated.
    pub fn sweep(&self, world: &impl World, dead: Dead) -> Result<Sweep, Corrupt> {
        let _ = (world, dead);
        Ok(Sweep::Done)
    }
    /// Whether the undo list has a record here.
    pub fn has_undo(&self, undo: u64) -> bool {
        let _ = undo;
        false
    }
    /// Number of queued sleepers.
    pub fn sleepers(&self) -> u32 {
        0
    }
    /// Wakes again everybody who was let go on and has not yet noticed (a waker may die before it rings). Takes no lock.
    pub fn ring(&self, world: &impl World) {
        let _ = world;
    }
}
