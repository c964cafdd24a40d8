//! System V shared memory, semaphores and message queues between processes in different virtual machines, for Rust programs.
//!
//! The same constructs that unmodified programs reach through `shmget`, `semop` and `msgsnd` under `vshmem run`; no preload library is needed
//! here. A daemon (`vshmem serve` on the host, `vshmem join` in a guest) must run; see [`connect`].
//!
//! | type | what it is | manual pages |
//! |---|---|---|
//! | [`Segment`] | an attached V-shm segment, with sound typed views | shmget(2), shmop(2), shmctl(2) |
//! | [`SemaphoreSet`] | a V-sem set | semget(2), semop(2), semctl(2) |
//! | [`Queue`] | a V-msgq queue | msgget(2), msgop(2), msgctl(2) |
//! | [`Team`] | a fixed number of processes that meet in barrier, broadcast, reduce and allreduce | |
//!
//! ```no_run
//! use vshmem::{Key, Queue, Segment, SemaphoreSet};
//! use std::sync::atomic::{AtomicU64, Ordering};
//!
//! # fn main() -> Result<(), vshmem::Error> {
//! let segment = Segment::options().key(Key::new(0x1234)).create(true).size(4096).open()?;
//! segment.view::<AtomicU64>(0)?.fetch_add(1, Ordering::Relaxed);
//!
//! let set = SemaphoreSet::options().key(Key::new(0x1234)).create(true).semaphores(1).open()?;
//! set.post(0)?;              // V
//! set.wait(0)?;              // P, blocks while the semaphore is 0
//!
//! let queue = Queue::options().key(Key::new(0x1234)).create(true).open()?;
//! queue.send(1, b"hello")?;
//! let message = queue.receive(8192)?;
//! assert_eq!(message.text, b"hello");
//! # Ok(()) }
//! ```
//!
//! Not async-signal-safe: do not call it from a signal handler.

mod error;
mod options;
mod queue;
mod segment;
mod semaphores;
mod team;
mod views;

pub use error::Error;
pub use options::{Key, QueueOptions, SegmentOptions, SemaphoreOptions};
pub use queue::{Message, Queue, QueueStatus, Receive};
pub use segment::Segment;
pub use semaphores::{Held, Operation, SemaphoreSet};
pub use team::{CollectiveError, Team, TeamOptions};
pub use views::{Cells, Plain, Shareable};
pub use vshmem_collective::{Element, Operation as Reduction};

/// What the daemon said of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Name of the domain this process is in.
    pub domain: String,
    /// Its number.
    pub domain_number: u16,
    /// This process's client number.
    pub client: u32,
}

/// Connects to this domain's daemon, which every other call does by itself when needed.
///
/// # Errors
/// `ENOSYS` when no daemon answers in `$VSHMEM_RUNTIME_DIR` (default `/run/vshmem`).
pub fn connect() -> Result<Identity, Error> {
    let welcome = vshmem_runtime::Runtime::global().connect()?;
    Ok(Identity {
        domain: welcome.name,
        domain_number: welcome.domain,
        client: welcome.client,
    })
}
