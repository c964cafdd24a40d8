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
//! What it is not for: meaning (that is `vshmem-ipc`'s) and authority (that is the daemon's).

pub mod errno;
pub mod msg;
pub mod runtime;
pub mod sem;
pub mod shm;

pub use errno::{Errno, Result};
pub use runtime::Runtime;
pub use vshmem_ipc::sysv;
pub use vshmem_ipc::sysv::SemBuf;
pub use vshmem_wire as wire;
