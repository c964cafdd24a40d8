//! V-sem: a semaphore set in construct memory.
//!
//! What it is for: semop(2) and the parts of semctl(2) that touch construct memory, and the back-end's repair after a
//! death. What it is not for: keys, ids, permission, errno: those are the registry's and the edges'.
//!
//! | module | what it holds |
//! |---|---|
//! | `layout` | where everything lies |
//! | `fast` | one operation, one compare-and-swap |
//! | `locked` | everything else that semop does |
//! | `plan` | working out a list of operations |
//! | `journal` | storing the outcome so that a death leaves all or nothing |
//! | `undo` | undo records |
//! | `arena` | the units that slots and records are made of |
//! | `slot` | sleepers and their queues |
//! | `update` | letting sleepers go on |
//! | `wait` | sleeping |
//! | `ctl` | semctl |
//! | `recover` | deaths and removal |

mod arena;
mod ctl;
mod fast;
mod journal;
mod layout;
mod locked;
mod plan;
mod recover;
mod slot;
#[cfg(test)]
mod tests;
mod undo;
mod update;
mod wait;

use crate::sysv::{SEM_UNDO, SemBuf};
use crate::{Control, Corrupt, Kind, Me, State, World, header};
use fast::Fast;
use vshmem_words::{Ordering, Words};

pub use crate::Sweep;
pub use layout::{bytes, extent_bytes};
pub use recover::Dead;

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

impl SemError {
    /// What a control word other than the expected one means.
    #[cold]
    fn of(control: Control) -> Self {
        if control.state() == State::Live {
            SemError::Stale
        } else {
            SemError::Removed
        }
    }
}

/// A semaphore set: a borrow of its memory and its trusted size. Cheap to make for one operation.
///
/// ```
/// use vshmem_ipc::sem::SemSet;
/// assert_eq!(SemSet::<vshmem_words::Heap>::bytes(1), 4096);
/// ```
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
        words.store32(layout::NSEMS_AT, nsems, Ordering::Relaxed);
        for num in 0..nsems {
            let nobody = layout::place_bits(Me::NOWHERE);
            words.store64(layout::word_at(num), nobody, Ordering::Release);
        }
    }

    /// Checks header and sizes, once per attachment.
    ///
    /// # Errors
    /// [`Corrupt`] if this is no set of `nsems` semaphores, or if the memory is too small for one.
    pub fn open(words: &'a W, nsems: u32) -> Result<Self, Corrupt> {
        header::check(words, Kind::Sem)?;
        let found = words.load32(layout::NSEMS_AT, Ordering::Relaxed);
        if found != nsems || nsems == 0 {
            return Err(Corrupt {
                what: "number of semaphores",
                found: found.into(),
                allowed: nsems.into(),
            });
        }
        Corrupt::check("bytes of a set", layout::bytes(nsems) as u64, words.len() as u64)?;
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

    /// semop(2) and semtimedop(2). `control` is the value the attachment was checked under; the world knows the time-out.
    ///
    /// Whether there are operations at all, and not more than SEMOPM, is the caller's to check.
    ///
    /// # Errors
    /// See [`SemError`]. Whatever the error, none of the operations has happened.
    #[inline]
    pub fn op(&self, world: &impl World, control: Control, ops: &[SemBuf]) -> Result<(), SemError> {
        if let &[one] = ops
            && one.flags & SEM_UNDO == 0
        {
            match self.fast(world, control, one) {
                Fast::Done(result) => return result,
                Fast::Locked(turn) => return self.locked(world, control, ops, turn),
            }
        }
        self.locked(world, control, ops, 0)
    }
}
