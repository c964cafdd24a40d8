//! A client's side of Vshmem: connection, attachments, fork, signals, waiting, errno.
//!
//! The preload library, the C library, the Rust crate and the `vshmem` command are thin layers over [`Runtime`], which has one method per
//! System V operation.
//!
//! | module | what it holds |
//! |---|---|
//! | [`errno`] | Linux's error numbers |
//! | [`runtime`] | [`Runtime`]: the way in, requests of every kind |
//! | [`shm`], [`sem`], [`msg`] | its methods by kind of construct |
//!
//! | [`signal`] | handlers wait until a thread is out of its section; faults on the program's pointers end in EFAULT |
//! | [`user`] | the program's own memory, which may not be there |
//! | [`mappings`], `pieces` | munmap and its like over attached segments; where those lie |
//! | [`inherit`] | segments that a forked child has to map anew |
//! | [`keys`] | which keys are Vshmem's |
//! | [`ward`] | standing in for another process |
//! | [`config`] | the environment variables obeyed |
//! | [`log`] | what is said on standard error |
//! | `process`, `thread` | fork noticed with one load, the control lock; thread numbers, hazards, sections |
//! | `control`, `connection`, `socket` | the state behind the control lock; hello, requests, reconnecting; datagrams |
//! | `attach`, `operate`, `map` | the table from id to mapped construct; one operation on it; mapping extents |
//! | `world`, `futex`, `pages`, `clock`, `place` | spinning, sleeping, waking; the shared pages; time; which CPU |
//! | `bell` | ringing and being rung past a guest's front-end |
//!
//! What it is not for: meaning (that is `vshmem-ipc`'s) and authority (that is the daemon's).

mod attach;
mod bell;
mod clock;
pub mod config;
mod connection;
mod control;
mod ending;
pub mod errno;
mod futex;
mod inherit;
pub mod keys;
pub mod log;
mod map;
pub mod mappings;
pub mod msg;
mod operate;
mod pages;
mod pieces;
mod place;
mod process;
pub mod raw;
pub mod runtime;
pub mod sem;
mod settle;
pub mod shm;
pub mod signal;
mod socket;
mod thread;
pub mod user;
pub mod ward;
mod world;
#[cfg(test)]
mod world_tests;

pub use errno::{Errno, Result};
pub use runtime::Runtime;
pub use vshmem_ipc::sysv;
pub use vshmem_ipc::sysv::SemBuf;
pub use vshmem_wire as wire;
pub use vshmem_words::Foreign;
