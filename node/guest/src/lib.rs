//! Boots a guest on the host's own root, and is its init: runs one program in it and passes its input and output through.
//!
//! | module | runs | what it holds |
//! |---|---|---|
//! | `host` | on the host | [`run`]: starts the machine, carries standard input, output and signals, brings the status back |
//! | [`init`] | in the guest | the first process: mounts, services, the program, power-off |
//! | `frame` | both | the messages between the two |
//!
//! Nothing here knows a hypervisor: `vshmem-port-select` finds the port, and the port starts the machine
//! ([`vshmem_port::boot`]). Not for System V IPC: the program's preload library and the front-end, one of the
//! [`Service`]s, see to that.

mod frame;
mod host;
pub mod init;

pub use frame::Outcome;
pub use host::{GuestSpec, Network, RunError, Service, Streams, User, run};
pub use vshmem_port::boot::{Special, Vsock};
