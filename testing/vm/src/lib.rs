//! End-to-end scenarios: real programs, real second kernels.
//!
//! | module | what it holds |
//! |---|---|
//! | [`machine`] | a Vshmem of its own for a test: daemon, runtime directory, what is installed here |
//! | [`scenario`] | bodies that more than one test runs |
//! | [`own`] | virtual machines that somebody else starts, with what `vshmem vm flags` prints |
//! | [`huge`] | huge pages for tests that need some |
//! | [`soak`] | everything at once for a long time, with random kills and models |
//! | [`actor`] | a System V program under remote control, anywhere: `programs/actor.c` |
//!
//! One body per scenario, one row per pair of places. A row that cannot run here is skipped by name and reason.

pub mod actor;
pub mod alone;
pub mod huge;
pub mod machine;
pub mod own;
pub mod scenario;
pub mod soak;

pub use actor::{Actor, Answer};
pub use machine::{
    Machine, Place, containers_available, missing, qemu_missing, uml_available, vsock_missing, xen_missing,
};
