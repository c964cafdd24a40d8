//! The back-end's registry: keys, ids, owners, modes, attachments, quotas and memory, as a deterministic state machine without I/O.
//!
//! A [`Command`] goes in; an [`Outcome`] comes out: what to answer, and the [`Effect`]s to carry out, in order. The state is plain data: its
//! postcard bytes are the snapshot, the commands applied since are the log, and replaying the log over the snapshot gives the same state. No
//! clock, no randomness, no hash order.
//!
//! | module | what it holds |
//! |---|---|
//! | [`command`] | what goes in and what comes out |
//! | [`config`] | what the administrator says of a group |
//! | [`registry`] | the state, which command goes where, what the daemon may ask |
//! | `life` | domains, clients, forks: how they come and go, and what they leave behind |
//! | `lists` | undo lists that are shared, left and begun anew |
//! | `get`, `attach`, `control`, `share` | what requests do |
//! | `limits` | limits changed while the daemon runs |
//! | `groups` | which group a construct, a key or a domain belongs to |
//! | `permission` | who may do what |
//! | `holding` | who has what, and when nobody has it any more |
//! | `slots`, `pool`, `sizes` | ids, pages, how many of them |
//! | `invariants` | what must hold after every command |
//!
//! What it is not for: sockets, descriptors, construct memory. What stands in construct memory (otime, messages, values) the daemon fills into
//! the answers it is given here.
#![forbid(unsafe_code)]

mod attach;
pub mod command;
pub mod config;
mod control;
mod errno;
mod get;
mod groups;
mod holding;
mod invariants;
mod life;
mod limits;
mod listing;
mod lists;
mod permission;
mod pool;
pub mod registry;
mod share;
mod sizes;
mod slots;
mod state;

pub use attach::OUT_OF_REACH;
pub use command::{Command, Done, Effect, Outcome, Sweep};
pub use config::{GroupConfig, Membership, MoreGroup, Quota, Route, Store, Uids};
pub use listing::Listed;
pub use registry::{ClientView, ConstructView, Registry};

/// Size of a page: extents are multiples of it.
pub const PAGE: u64 = 4096;
/// The pool's first page belongs to no construct: tests and measurements of the daemon may write there.
pub const RESERVED: u64 = PAGE;
/// The first client number given out; 1 is the back-end.
pub const FIRST_CLIENT: u32 = 16;
