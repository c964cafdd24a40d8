//! A front-end in a process of the host's own kernel, over descriptors that whoever started it made.
//!
//! Containers and host processes need none: they use the back-end's socket. It exists so that front-ends can be run and tested without a
//! virtual machine, and for a container that must not see the back-end's socket.

use anyhow::Context;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use vshmem_port::guest::{Bells, GuestPort};
use vshmem_wire::Window;
use vshmem_wire::pool::{HEADER_BYTES, PoolHeader};

use crate::file;

/// The guest's side of the port: one end of a stream socket pair, and pools.
#[derive(Debug)]
pub struct LocalGuest {
    stream: OwnedFd,
    pools: Vec<OwnedFd>,
    bells: Vec<OwnedFd>,
}

impl LocalGuest {
    /// A front-end's port over `stream`, whose other end the back-end has, and the pools of its groups in any order, open for writing. `bells`: none, or stream
    /// sockets whose other ends the back-end has, the ring line first.
    pub fn new(stream: OwnedFd, pools: Vec<OwnedFd>, bells: Vec<OwnedFd>) -> Self {
        LocalGuest { stream, pools, bells }
    }
}

/// What the first page of a pool says.
fn header(pool: BorrowedFd<'_>) -> Option<PoolHeader> {
    let mut bytes = [0; HEADER_BYTES];
    let read = rustix::io::pread(pool, &mut bytes[..], 0).ok()?;
    PoolHeader::read(&bytes).ok().filter(|_| read == HEADER_BYTES)
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

    fn bells(&self) -> anyhow::Result<Option<Bells>> {
        let mut lines = Vec::new();
        for line in &self.bells {
            rustix::io::ioctl_fionbio(line, true).context("making a bell non-blocking")?;
            lines.push(line.try_clone()?);
        }
        if lines.len() < 2 {
            return Ok(None);
        }
        let ring = lines.remove(0);
        Ok(Some(Bells { ring, lines }))
    }

    fn choose(&mut self, pools: &[PoolHeader]) -> anyhow::Result<()> {
        if let ([_], [_]) = (pools, &self.pools[..]) {
            return Ok(());
        }
        let mut given = std::mem::take(&mut self.pools);
        for wanted in pools {
            let at = given
                .iter()
                .position(|pool| header(pool.as_fd()).is_some_and(|found| found.id == wanted.id));
            let at = at.with_context(|| format!("the pool of group {} was not given", wanted.group))?;
            self.pools.push(given.swap_remove(at));
        }
        Ok(())
    }

    fn window(&self, pool: usize, writable: bool) -> anyhow::Result<(OwnedFd, Window)> {
        let pool = self.pools.get(pool).context("no such pool was given")?;
        let pool = file::hand_out(pool.as_fd(), writable).context("opening the pool once more")?;
        Ok((pool, Window::Direct))
    }
}
