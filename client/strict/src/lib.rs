//! `vshmem run --strict`: System V system calls of programs that no library can be loaded into are served, or stopped, but never reach the kernel's own
//! System V IPC unnoticed.
//!
//! A seccomp filter has the kernel tell a *supervisor* of each such call ([`filter`], [`notice`]). The supervisor passes it to the process's *stand-in*
//! ([`stand_in`], [`calls`]), a process that is a client of the daemon as any other, except that constructs show the pid of the process it stands in
//! for. Segments must be mapped by the process itself: the supervisor holds the calling thread for a moment and has it call mmap(2) ([`trace`],
//! [`mapping`]). docs/decisions/0015 says why so.
//!
//! | module | what it holds |
//! |---|---|
//! | [`launch`] | starting a program and its supervisor |
//! | [`hearing`] | the thread that takes note of calls |
//! | [`supervisor`] | what becomes of each call, and of each process |
//! | [`files`], [`limits`] | files below /proc that say something about System V IPC |
//! | [`errand`] | what supervisor and stand-ins say to each other |
//! | [`memory`] | memory of other processes, what /proc says of them |
//!
//! What it is not for: meaning (that is the client runtime's), and keeping a hostile program from the kernel.

#[cfg(target_arch = "x86_64")]
mod calls;
#[cfg(target_arch = "x86_64")]
mod errand;
#[cfg(target_arch = "x86_64")]
mod files;
#[cfg(target_arch = "x86_64")]
mod filter;
#[cfg(target_arch = "x86_64")]
mod hearing;
#[cfg(target_arch = "x86_64")]
mod launch;
#[cfg(target_arch = "x86_64")]
mod limits;
#[cfg(target_arch = "x86_64")]
mod mapping;
#[cfg(target_arch = "x86_64")]
mod memory;
#[cfg(target_arch = "x86_64")]
mod notice;
#[cfg(target_arch = "x86_64")]
mod stand_in;
#[cfg(target_arch = "x86_64")]
mod supervisor;
#[cfg(target_arch = "x86_64")]
mod trace;

#[cfg(target_arch = "x86_64")]
pub use launch::{Failed, Running, possible, start, supervisor_main};
