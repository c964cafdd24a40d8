//! Micro-benchmarks, each against its baseline in the same run.
//!
//! The measured program is one and the same for the kernel and for Vshmem: a [`worker`] that calls libc's `semop`, `msgsnd`, `shmat`
//! and knows nothing of Vshmem. Run bare it measures the kernel; run under `vshmem run` or `vshmem vm run` it measures Vshmem.
//! The two sides of every comparison take turns in short rounds, and what is reported is the median of the rounds' ratios: on a shared
//! machine nothing else holds still.
//!
//! | module | what it holds |
//! |---|---|
//! | [`micro`] | which rows there are and who plays in them |
//! | [`party`] | a worker somewhere: here, under `vshmem run`, in a guest |
//! | [`worker`] | the measured loops |
//! | `flow` | loops in which many things are under way at once |
//! | [`stream`] | the bare stream to a guest and back |
//! | [`scale`] | how operations and daemons fare as constructs, clients, domains and waiters become many |
//! | [`paper`] | the paper's programs in its programming models, and the peers of today |
//! | [`interrupt`] | Ctrl-C in the middle leaves nothing behind |
//! | [`row`] | a result, as JSON and as a table line |

mod daemon;
mod flow;
mod guests;
pub mod interrupt;
pub mod micro;
pub mod paper;
pub mod party;
pub mod row;
pub mod scale;
pub mod stream;
mod sysv;
pub mod worker;

pub use micro::{MicroOptions, micro};
pub use row::Row;
