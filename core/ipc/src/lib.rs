//! V-sem and V-msgq over construct memory: algorithms only.
//!
//! Everything here is generic over [`vshmem_words::Words`] (the memory, which a hostile peer may write at any time) and over
//! [`World`] (who is calling, how to wait, how to wake). No system call, no allocation on the data path, no unsafe code.
//!
//! | module | what it holds |
//! |---|---|
//! | [`header`] | the first 64 bytes of every set and queue: magic, control word, lock |
//! | [`world`] | what an algorithm needs from the process it runs in |
//! | [`lock`] | the robust lock |
//! | [`msgq`] | message queues |
//! | [`sem`] | V-sem: a semaphore set |
//! | [`sysv`] | System V's limits, flags and small types |
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod header;
pub mod lock;
pub mod msgq;
pub mod sem;
pub mod sysv;
pub mod world;

pub use header::{Control, Kind, State};
pub use lock::{Guard, Owner};
pub use sem::{SemError, SemSet};
pub use world::{LockWait, Me, Sleeper, Slept, Spin, World};

/// What cleaning up after a dead client gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sweep {
    /// Nothing of the dead client is left in the construct.
    Done,
    /// Somebody else holds the lock: try again later.
    Busy,
}

/// Construct memory held a value it must not hold: some peer wrote rubbish (or a bug did). The users of this construct get EIDRM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Corrupt {
    /// What was read.
    pub what: &'static str,
    /// The value found.
    pub found: u64,
    /// The largest value that would have been right (or the only one).
    pub allowed: u64,
}

impl Corrupt {
    /// Checks `found <= allowed`.
    pub fn check(what: &'static str, found: u64, allowed: u64) -> Result<u64, Corrupt> {
        if found <= allowed {
            Ok(found)
        } else {
            Err(Corrupt { what, found, allowed })
        }
    }
}
