//! A front-end in a process of the host's own kernel, over descriptors that whoever started it made.
//!
//! Containers and host processes need none: they use the back-end's socket. It exists so that front-ends can be run and tested without a
//! virtual machine, and for a container that must not see the back-end's socket.

use anyhow::Context;
use rustix::fd::{AsFd, OwnedFd};
use vshmem_port::guest::GuestPort;
use vshmem_wire::Window;

use crate::file;

/// The guest's side of the port: one end of a stream socket pair, and the pool.
#[derive(Debug)]
pub struct LocalGuest {
    stream: OwnedFd,
    pool: OwnedFd,
}

impl LocalGuest {
    /// A front-end's port over `stream`, whose other end the back-end has, and the group's pool, open for writing.
    pub fn new(stream: OwnedFd, pool: OwnedFd) -> Self {
        LocalGuest { stream, pool }
    }
}

impl GuestPort for LocalGuest {
    fn name(&self) -> &'static str {
        "local"
    }

    fn detect(&self) -> anyhow::Result<()> {
        Ok(())
    }

    fn stream(&self) -> anyhow::Result<OwnedFd> {
        rustix::io::ioctl_fionbio(&self.stream, true).context("making the stream non-blocking")?;
        Ok(self.stream.try_clone()?)
    }

    fn window(&self, writable: bool) -> anyhow::Result<(OwnedFd, Window)> {
        let pool = file::hand_out(self.pool.as_fd(), writable).context("opening the pool once more")?;
        Ok((pool, Window::Direct))
    }
}
