//! The daemon's side of its keeper.

use super::{FromKeeper, KEEPER_FD, NAME, ToKeeper};
use crate::process::socket;
use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, OwnedFd};
use std::collections::BTreeMap;

/// What a daemon gets at its start.
#[derive(Debug)]
pub(crate) struct Handover {
    /// What to be and how: a `Role`, encoded.
    pub(crate) role: Vec<u8>,
    /// How often there was a daemon before.
    pub(crate) restarts: u32,
    /// When the first one was started.
    pub(crate) since: u64,
    /// What earlier ones had the keeper hold.
    pub(crate) kept: BTreeMap<String, OwnedFd>,
    /// The keeper.
    pub(crate) keeper: Keeper,
}

/// The keeper, as its daemon sees it.
#[derive(Debug)]
pub(crate) struct Keeper {
    socket: Option<OwnedFd>,
}

/// Takes over from the keeper that started this process. `None` if none did.
pub(crate) fn handover() -> anyhow::Result<Option<Handover>> {
    let Ok(fd) = std::env::var(KEEPER_FD) else {
        return Ok(None);
    };
    // The kernel has called it after the file by which it was started, `exe`.
    if let Err(e) = rustix::thread::set_name(NAME) {
        tracing::debug!("the process keeps its name: {e}");
    }
    let number: i32 = fd
        .parse()
        .with_context(|| format!("{KEEPER_FD} is not a number: {fd:?}"))?;
    let socket = super::inherited::take(number)
        .with_context(|| format!("{KEEPER_FD} names no usable descriptor: {number}"))?;
    let mut buffer = vec![0; vshmem_wire::MAX_MESSAGE];
    let (mut start, mut kept) = (None, BTreeMap::new());
    loop {
        let mut wait = [PollFd::new(&socket, PollFlags::IN)];
        poll(&mut wait, None)?;
        let Some(mut got) = socket::receive(&socket, &mut buffer)? else {
            bail!("the keeper has ended");
        };
        match vshmem_wire::decode(&buffer[..got.bytes])? {
            FromKeeper::Start {
                role,
                restarts,
                since,
            } => start = Some((role, restarts, since)),
            FromKeeper::Kept { name } => {
                let fd = got
                    .descriptors
                    .pop()
                    .with_context(|| format!("no descriptor came as {name}"))?;
                kept.insert(name, fd);
            }
            FromKeeper::Go => break,
        }
    }
    let (role, restarts, since) = start.context("the keeper did not say what to be")?;
    Ok(Some(Handover {
        role,
        restarts,
        since,
        kept,
        keeper: Keeper { socket: Some(socket) },
    }))
}

impl Keeper {
    /// None, which keeps nothing.
    #[cfg(test)]
    pub(crate) const fn none() -> Self {
        Keeper { socket: None }
    }

    /// The socket to it, to be watched for its end.
    pub(crate) fn socket(&self) -> Option<&OwnedFd> {
        self.socket.as_ref()
    }

    /// It has ended: nothing is kept any more.
    pub(crate) fn ended(&mut self) {
        self.socket = None;
    }

    /// Has it hold a descriptor.
    pub(crate) fn keep(&self, name: impl Into<String>, fd: impl AsFd) {
        self.say(&ToKeeper::Keep { name: name.into() }, Some(fd.as_fd()));
    }

    /// Has it let go of one.
    pub(crate) fn drop_kept(&self, name: impl Into<String>) {
        self.say(&ToKeeper::Drop { name: name.into() }, None);
    }

    /// Tells it that the daemon is at work.
    pub(crate) fn ready(&self) {
        self.say(&ToKeeper::Ready, None);
    }

    fn say(&self, message: &ToKeeper, fd: Option<rustix::fd::BorrowedFd<'_>>) {
        let Some(socket) = &self.socket else {
            return;
        };
        let fds: Vec<_> = fd.into_iter().collect();
        if let Err(e) = socket::send_waiting(socket, &vshmem_wire::encode(message), &fds) {
            tracing::error!("the keeper does not take {message:?}: {e}");
        }
    }
}
