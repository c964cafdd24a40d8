//! The local port: processes and containers under one kernel, and the memory that the back-end divides.
//!
//! | module | what it holds |
//! |---|---|
//! | [`pool`] | [`PoolStore`]: one sparse file of fixed size that holds every construct of a group |
//! | [`memfds`] | [`MemfdStore`]: a sealed file per construct |
//! | [`guest`] | [`LocalGuest`]: a front-end in a process of the same kernel, over descriptors it was given |
//! | [`huge`] | which huge pages this kernel has |
//! | `blocks` | which pages of a pool hold something, by blocks as large as a huge page |
//! | `file` | making, sealing, punching and reopening those files |
//! | `room` | mapping extents one after another into reserved address room, and what the kernel does to files through mappings: the only unsafe code |
//!
//! Containers and other processes of the host's kernel need no front-end: they share the back-end's socket (bind-mount the runtime
//! directory into the container) and get construct memory as descriptors.
//!
//! What it is not for: other kernels. Their ports use [`PoolStore`] for the host's side of the pool.

mod blocks;
mod file;
pub mod guest;
pub mod huge;
pub mod memfds;
pub mod pool;
mod room;

pub use guest::LocalGuest;
pub use memfds::MemfdStore;
pub use pool::PoolStore;
