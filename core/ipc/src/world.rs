//! What an algorithm over construct memory needs from the process it runs in.
//!
//! The client runtime, the back-end, loom models and simulations each implement [`World`]. A value is made for one operation: it knows
//! the operation's time-out and, in a client, the signals seen since it began.

use crate::{Corrupt, Owner};

/// Who is calling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Me {
    /// Client number: one process image; 0 is nobody, 1 is the back-end, others are leased by it and not reissued while in use.
    pub client: u32,
    /// Thread within the client, from 1.
    pub thread: u16,
    /// The caller's domain (10 bits).
    pub domain: u16,
    /// The caller's pid in its own domain (22 bits).
    pub pid: u32,
    /// Undo list: survives exec, shared by threads, not inherited by fork. 0: none.
    pub undo: u64,
    /// Futex space: 0 is the host's kernel (the futex is in the construct), others are guests with a wait page.
    pub space: u16,
    /// Index of this thread's word in its space's wait page; 0 in space 0.
    pub ticket: u32,
    /// Where this thread runs: a number that is equal for two callers only if they share a CPU (12 bits; see [`Me::NOWHERE`]).
    pub place: u16,
}

impl Me {
    /// A place that is not known: never equal to another's.
    pub const NOWHERE: u16 = 0xfff;
}

/// Whom to wake: copied out of a slot in construct memory, so a claim, not a fact. A wrong one wakes nobody or somebody too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sleeper {
    /// The sleeper's futex space.
    pub space: u16,
    /// The sleeper's word in that space's wait page.
    pub ticket: u32,
    /// Offset of the 32-bit word in the construct that the sleeper watches.
    pub at: usize,
}

/// What a step of spinning gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spin {
    /// Look again.
    Again,
    /// The bound is reached: go to sleep.
    Enough,
    /// A signal handler ran meanwhile: EINTR.
    Interrupted,
}

/// What a sleep gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slept {
    /// Woken, or not: look again.
    Look,
    /// The operation's time-out has passed: EAGAIN.
    TimedOut,
    /// A signal handler ran: EINTR.
    Interrupted,
}

/// What waiting for a lock gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockWait {
    /// Try again.
    Again,
    /// Do not wait (the back-end never does): give up for now.
    Busy,
    /// The owner is no client of this construct: the word is rubbish.
    Corrupt(Corrupt),
}

/// The process, as an algorithm sees it.
pub trait World {
    /// Who is calling.
    fn me(&self) -> Me;
    /// Who holds a lock that the caller takes: client number and thread.
    fn holder(&self) -> (u32, u16) {
        let me = self.me();
        (me.client, me.thread)
    }
    /// Seconds since the epoch, of the host's clock, without a system call.
    fn seconds(&self) -> u64;
    /// One step of a bounded spin, the `turn`th from 0. `last` is the place of whoever is awaited, as far as known: spinning for somebody
    /// on this very CPU is pointless.
    fn spin(&self, turn: u32, last: u16) -> Spin;
    /// The lock is held by `owner`; waits a little, the `turn`th time from 0: spins, then sleeps, then asks the daemon whether the owner lives.
    fn lock_wait(&self, owner: Owner, turn: u32) -> LockWait;
    /// Sleeps while the 32-bit word at `at` is `expected`, at most until the operation's time-out. May return at any time.
    fn sleep(&self, at: usize, expected: u32) -> Slept;
    /// Wakes a sleeper: directly in its own space, else by ringing the sleeper's domain.
    fn wake(&self, sleeper: Sleeper);
}
