//! A stream over vsock: sockets between a machine and its host that need no device of their own on a command line, where the host has vsock anyway.
//!
//! | module | where it runs | what it holds |
//! |---|---|---|
//! | `socket` | both | the address family |
//! | [`front`] | guest | opens the stream, from a privileged port, and proves where that is not seen |
//! | [`server`] | host | takes streams: from the kernel's vhost-vsock, and from hypervisors that turn them into unix sockets |
//!
//! Two kinds of hosts, which a guest cannot and need not tell apart:
//!
//! | kind | a guest's connection to port P of the host arrives | what is seen of it |
//! |---|---|---|
//! | the kernel's vhost-vsock | at an AF_VSOCK listener on port P | the machine's CID and the program's port |
//! | "hybrid" (vhost-device-vsock, Cloud Hypervisor, Firecracker) | at the unix socket `PLACE_P` of that machine | nothing. A connection to `PLACE` that begins with `CONNECT N` goes to port N in the guest |
//!
//! Any program of a guest can connect to its host, so the stream is given to privileged ones alone: see `docs/decisions/0027-vsock-streams-prove-privilege.md`.

pub mod front;
pub mod report;
pub mod server;
mod socket;

/// The port of the back-end on the host, and of a front-end that proves itself in a guest. Privileged, so that no unprivileged program can be in its place on either side.
pub const PORT: u32 = 1007;
