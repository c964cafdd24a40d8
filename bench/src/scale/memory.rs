//! What processes use, by /proc: memory of their own and descriptors.

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit};

/// Lets this process open as many files as it may at most.
pub(super) fn raise_descriptor_limit() {
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    // If that fails the start of some process will, too, and say so.
    let current = maximum;
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current, maximum });
}

/// Bytes of memory of its own that a process uses: not shared, not of files.
fn own(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = text.lines().find_map(|l| l.strip_prefix("RssAnon:"));
    let kib = line
        .and_then(|l| l.split_whitespace().next())
        .context("no RssAnon")?;
    Ok(kib.parse::<u64>()? * 1024)
}

fn processes() -> impl Iterator<Item = u32> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The parent of a process.
fn parent(pid: u32) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    text.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// What a daemon and its keeper use together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Used {
    pub(super) bytes: u64,
    pub(super) descriptors: u64,
}

/// A keeper and its children.
pub(super) fn daemon(keeper: u32) -> Result<Used> {
    let mut used = Used {
        bytes: 0,
        descriptors: 0,
    };
    for pid in processes().filter(|&pid| pid == keeper || parent(pid) == Some(keeper)) {
        used.bytes += own(pid)?;
        used.descriptors += std::fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64;
    }
    Ok(used)
}

/// Kills the daemon; its keeper starts it again.
pub(super) fn kill_daemon(keeper: u32) -> Result<()> {
    let daemon = processes().find(|&pid| parent(pid) == Some(keeper));
    let pid = rustix::process::Pid::from_raw(daemon.context("no daemon")? as i32).context("no daemon")?;
    Ok(rustix::process::kill_process(pid, rustix::process::Signal::KILL)?)
}

/// Bytes of memory of their own of the daemons here and their keepers, as a guest's worker sees its front-end.
pub(super) fn of_daemons_here() -> Result<u64> {
    // Started by its keeper under this name.
    let is_one = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|&b| b == 0).next() == Some(b"vshmem-daemon")
    };
    let mut bytes = 0;
    for pid in processes().filter(is_one) {
        bytes += own(pid)?;
        if let Some(keeper) = parent(pid) {
            bytes += own(keeper)?;
        }
    }
    Ok(bytes)
}
