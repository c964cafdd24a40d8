//! The local port: processes and containers under one kernel, and the memory that the back-end divides.
//!
//! | module | what it holds |
//! |---|---|
//! | [`pool`] | [`PoolStore`]: one sparse file of fixed size that holds every construct of a group |
//! | [`memfds`] | [`MemfdStore`]: a sealed file per construct |
//! | `file` | making, sealing, punching and reopening those files |
//! | `room` | mapping extents one after another into reserved address room: the only unsafe code |
//!
//! Containers and other processes of the host's kernel need no front-end: they share the back-end's socket (bind-mount the runtime
//! directory into the container) and get construct memory as descriptors. So this port has no [`vshmem_port::guest::GuestPort`].
//!
//! What it is not for: other kernels. Their ports use [`PoolStore`] for the host's side of the pool.

mod file;
pub mod memfds;
pub mod pool;
mod room;

pub use memfds::MemfdStore;
pub use pool::PoolStore;
