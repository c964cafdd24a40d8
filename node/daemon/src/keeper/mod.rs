//! The keeper: a small process that holds a daemon's descriptors and starts the daemon again when it dies.
//!
//! It and the daemon talk over a SOCK_SEQPACKET socket pair: [`ToKeeper`] and [`FromKeeper`], each with at most one descriptor beside it. What was
//! sent before the daemon died still arrives, so that handing a descriptor over is one step: it has happened or it has not.
//!
//! The keeper knows nothing of what it keeps.

mod held;
mod inherited;
mod journal;
mod notify;

pub(crate) use held::{Handover, Keeper, handover};
pub(crate) use inherited::take as take_inherited;
pub(crate) use journal::Journal;

use crate::process::{identity, signals, socket};
use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::process::{Resource, Rlimit, Signal};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// Names the descriptor of the socket to the keeper, in a daemon's environment.
const KEEPER_FD: &str = "VSHMEM_KEEPER_FD";
/// What the daemon is called in lists of processes and in /proc/interrupts.
const NAME: &CStr = c"vshmem-daemon";
/// So many deaths within [`QUICK`] are too many.
const MOST_DEATHS: usize = 6;
/// Open files that the daemon should be allowed: for as many constructs of each kind as Linux has by default, and 16,000 clients.
const FILES: u64 = 100_000;
const QUICK: Duration = Duration::from_secs(20);
/// How long a daemon may take to stop.
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// Daemon to keeper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToKeeper {
    /// Hold the descriptor beside this message under this name, instead of what had the name.
    Keep {
        /// The name.
        name: String,
    },
    /// Let go of what has this name.
    Drop {
        /// The name.
        name: String,
    },
    /// The daemon is at work.
    Ready,
}

/// Keeper to daemon, at its start.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromKeeper {
    /// First.
    Start {
        /// What to be and how: a `Role`, encoded.
        role: Vec<u8>,
        /// How often there was a daemon before.
        restarts: u32,
        /// When the first one was started, in seconds since the epoch.
        since: u64,
    },
    /// The descriptor beside this message was kept under this name.
    Kept {
        /// The name.
        name: String,
    },
    /// That was all.
    Go,
}

/// An end that a daemon came to by itself, and that starting it again would not mend.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ForGood(pub(crate) String);

/// The exit status of a daemon that ended so.
pub(crate) const FOR_GOOD: u8 = 3;

/// How what was kept came to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Somebody told it to stop.
    Told,
    /// By itself.
    Itself,
}

/// Runs a daemon until it ends cleanly or for good; starts it again when it dies. `kept` is what the first one gets.
pub(crate) fn keep(role: Vec<u8>, kept: Vec<(String, OwnedFd)>) -> anyhow::Result<Ended> {
    raise_descriptor_limit();
    let signals = signals::stop_signals().context("preparing for signals")?;
    let mut keeping = Keeping {
        role,
        since: crate::process::pages::now(),
        kept: kept.into_iter().collect(),
        ready: false,
        stopping: None,
        buffer: vec![0; vshmem_wire::MAX_MESSAGE],
    };
    let mut deaths: Vec<Instant> = Vec::new();
    let mut restarts = 0;
    loop {
        let status = keeping.one_life(restarts, &signals)?;
        if keeping.stopping.is_some() {
            return Ok(Ended::Told);
        }
        if status.success() {
            return Ok(Ended::Itself);
        }
        if status.code() == Some(i32::from(FOR_GOOD)) {
            bail!("the daemon has ended for good, see above");
        }
        if !keeping.ready {
            bail!("the daemon did not come up: {}", end_of(status));
        }
        deaths.retain(|at| at.elapsed() < QUICK);
        deaths.push(Instant::now());
        tracing::error!("the daemon died: {}", end_of(status));
        if deaths.len() >= MOST_DEATHS {
            bail!(
                "the daemon died {} times in quick succession, last: {}; giving up, its constructs are lost",
                deaths.len(),
                end_of(status)
            );
        }
        // The first restart comes at once, later ones are spaced out.
        let pause = Duration::from_millis(50) * (1 << (deaths.len() - 1)) / 2;
        if deaths.len() > 1 && keeping.pause(pause, &signals) {
            return Ok(Ended::Told);
        }
        restarts += 1;
        tracing::warn!(restarts, kept = keeping.kept.len(), "starting the daemon again");
    }
}

fn end_of(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("signal {signal}"),
        (None, Some(code)) => format!("exit status {code}"),
        (None, None) => "unknown end".into(),
    }
}

/// As many open files as are allowed, and [`FILES`] even where fewer are, if this process may: the daemon has one for each construct in groups with a
/// file each, and two for each client.
fn raise_descriptor_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let more = limit.maximum.map(|most| most.max(FILES));
    for maximum in [more, limit.maximum] {
        let current = maximum;
        match rustix::process::setrlimit(Resource::Nofile, Rlimit { current, maximum }) {
            Ok(()) => return,
            Err(e) => tracing::info!(?maximum, "the limit of open files cannot be raised: {e}"),
        }
    }
}

struct Keeping {
    role: Vec<u8>,
    since: u64,
    kept: BTreeMap<String, OwnedFd>,
    ready: bool,
    stopping: Option<Instant>,
    buffer: Vec<u8>,
}

impl Keeping {
    fn one_life(&mut self, restarts: u32, signals: &OwnedFd) -> anyhow::Result<ExitStatus> {
        let (ours, theirs) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )?;
        // The child inherits this one; nothing else is started meanwhile.
        rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty())?;
        let mut child = Command::new("/proc/self/exe")
            .arg0(OsStr::from_bytes(NAME.to_bytes()))
            .env(KEEPER_FD, theirs.as_raw_fd().to_string())
            .spawn()
            .context("starting the daemon")?;
        drop(theirs);
        let pidfd = identity::open_pid(child.id()).context("watching the daemon")?;
        if let Err(e) = self.hand_over(&ours, restarts) {
            tracing::warn!("the daemon does not take over: {e}");
        }
        let mut open = true;
        loop {
            let ended = self.wait(&ours, open, signals, &pidfd, &mut child)?;
            open = open && self.listen(&ours);
            if ended {
                // Whatever it still said before it died counts.
                while open && self.listen_once(&ours).is_some() {}
                return child.wait().context("waiting for the daemon");
            }
        }
    }

    fn hand_over(&self, socket: &OwnedFd, restarts: u32) -> std::io::Result<()> {
        let start = FromKeeper::Start {
            role: self.role.clone(),
            restarts,
            since: self.since,
        };
        socket::send_waiting(socket, &vshmem_wire::encode(&start), &[])?;
        for (name, fd) in &self.kept {
            let message = FromKeeper::Kept { name: name.clone() };
            socket::send_waiting(socket, &vshmem_wire::encode(&message), &[fd.as_fd()])?;
        }
        socket::send_waiting(socket, &vshmem_wire::encode(&FromKeeper::Go), &[])
    }

    /// Waits for something to happen; `true` when the daemon has ended.
    fn wait(
        &mut self,
        socket: &OwnedFd,
        open: bool,
        signals: &OwnedFd,
        pidfd: &OwnedFd,
        child: &mut Child,
    ) -> anyhow::Result<bool> {
        let mut fds = vec![
            PollFd::new(pidfd, PollFlags::IN),
            PollFd::new(signals, PollFlags::IN),
        ];
        if open {
            fds.push(PollFd::new(socket, PollFlags::IN));
        }
        let second = Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        match poll(&mut fds, Some(&second)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let (ended, signalled) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        if signalled && signals::came(signals) && self.stopping.is_none() {
            self.stopping = Some(Instant::now());
            let _ = rustix::process::pidfd_send_signal(pidfd, Signal::TERM);
        }
        if self.stopping.is_some_and(|since| since.elapsed() > STOP_WITHIN) && !ended {
            tracing::error!("the daemon does not stop: killing it");
            child.kill().context("killing the daemon")?;
        }
        Ok(ended)
    }

    /// Takes in all that the daemon has said so far; `false` when it will say no more.
    fn listen(&mut self, socket: &OwnedFd) -> bool {
        loop {
            match self.listen_once(socket) {
                Some(true) => {}
                Some(false) => return true,
                None => return false,
            }
        }
    }

    /// One message: `Some(true)`; none there now: `Some(false)`; the end: None.
    fn listen_once(&mut self, socket: &OwnedFd) -> Option<bool> {
        let mut got = match socket::receive(socket, &mut self.buffer) {
            Ok(Some(got)) => got,
            Ok(None) => return None,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Some(false),
            Err(_) => return None,
        };
        match vshmem_wire::decode(&self.buffer[..got.bytes]) {
            Ok(ToKeeper::Keep { name }) => {
                if let Some(fd) = got.descriptors.pop() {
                    self.kept.insert(name, fd);
                }
            }
            Ok(ToKeeper::Drop { name }) => {
                self.kept.remove(&name);
            }
            Ok(ToKeeper::Ready) => {
                if !self.ready {
                    notify::ready();
                }
                self.ready = true;
            }
            Err(e) => tracing::warn!("the daemon says something odd: {e}"),
        }
        Some(true)
    }

    /// Waits before a restart; `true` if a signal came meanwhile.
    fn pause(&self, how_long: Duration, signals: &OwnedFd) -> bool {
        let mut fds = [PollFd::new(signals, PollFlags::IN)];
        let time = Timespec {
            tv_sec: how_long.as_secs() as _,
            tv_nsec: how_long.subsec_nanos().into(),
        };
        matches!(poll(&mut fds, Some(&time)), Ok(n) if n > 0) && signals::came(signals)
    }
}
