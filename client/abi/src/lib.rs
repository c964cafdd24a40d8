//! The C edge: libc's structures, pointers and errno over the client runtime.
//!
//! The preload library and the C library are both thin over this: they differ in the names they export and in what they do with what
//! is not Vshmem's.
//!
//! | module | what it holds |
//! |---|---|
//! | [`edge`] | from `Result` to -1 and errno; panics stop here; pointers looked at |
//! | [`layouts`] | the kernel's structures: `shmid_ds` and its like |
//! | [`shm`], [`sem`], [`msg`] | the calls with C's arguments |
//! | [`proc_text`], [`settings`] | `/proc/sysvipc/*` and `/proc/sys/kernel/{shmmax,sem,…}`: what they say, what is written to them |

pub mod edge;
pub mod layouts;
pub mod msg;
pub mod proc_text;
pub mod sem;
pub mod settings;
pub mod shm;
