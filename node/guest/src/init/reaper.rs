//! Every dead process of the guest ends up as a child of its first process; here they are taken off the list.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::process::{Pid, WaitOptions, WaitStatus};

use crate::frame::Outcome;

/// Polls readable when somebody died.
#[derive(Debug)]
pub(super) struct Reaper {
    died: UnixStream,
}

impl Reaper {
    pub(super) fn new() -> io::Result<Self> {
        let (died, mark) = UnixStream::pair()?;
        died.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(signal_hook::consts::SIGCHLD, mark)?;
        Ok(Self { died })
    }

    /// The dead since the last call.
    pub(super) fn take(&mut self) -> Vec<(Pid, Outcome)> {
        let mut marks = [0_u8; 64];
        while let Ok(1..) = io::Read::read(&mut &self.died, &mut marks) {}
        let mut dead = Vec::new();
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if let Some(outcome) = outcome(status) {
                dead.push((pid, outcome));
            }
        }
        dead
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.died.as_fd()
    }
}

/// `None` for one that is only stopped or goes on.
pub(super) fn outcome(status: WaitStatus) -> Option<Outcome> {
    let small = |n: i32| u8::try_from(n & 0xff).unwrap_or_default();
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Some(Outcome::Exited(small(code))),
        (_, Some(signal)) => Some(Outcome::Signaled(small(signal))),
        _ => None,
    }
}
