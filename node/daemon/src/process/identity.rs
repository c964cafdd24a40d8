//! Who a local process is, by what the kernel says of it, and what became of it.
//!
//! Not for permission: the registry decides what an identity may do.

use super::socket::{Peer, Sender};
use anyhow::{Context, bail};
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::{Pid, PidfdFlags};
use std::io;
use vshmem_wire::{Credentials, caps};

/// Bits of CapEff: the one that lets a process become another user, and those that System V IPC asks for.
const CAP_SETUID: u32 = 7;
const CAP_IPC_LOCK: u32 = 14;
const CAP_IPC_OWNER: u32 = 15;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_SYS_RESOURCE: u32 = 24;

/// A process opened for watching.
pub(crate) fn open_pid(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(io::ErrorKind::NotFound)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// Whether the process behind a pidfd has ended.
pub(crate) fn has_ended(pidfd: impl AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    matches!(poll(&mut fds, Some(&now)), Ok(n) if n > 0)
}

/// Start time of a process: field 22 of /proc/PID/stat.
pub(crate) fn start_time(pid: u32) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The command's name is in brackets and may hold anything, brackets too.
    stat.rfind(')')
        .and_then(|at| stat[at + 1..].split_ascii_whitespace().nth(19))
        .and_then(|word| word.parse().ok())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The part of /proc/PID/status that counts here.
#[derive(Debug, Default)]
struct Status {
    euid: u32,
    egid: u32,
    groups: Vec<u32>,
    /// Capabilities towards this daemon's user namespace.
    effective: u64,
}

/// Whether a process lives in this daemon's user namespace. Capabilities in another one are none here: anybody can make one and be almighty in it.
fn in_our_user_namespace(pid: u32) -> bool {
    use std::os::unix::fs::MetadataExt;
    let of = |who: &str| std::fs::metadata(format!("/proc/{who}/ns/user")).map(|ns| (ns.dev(), ns.ino()));
    match of("self") {
        Ok(ours) => of(&pid.to_string()).is_ok_and(|theirs| theirs == ours),
        // A kernel without user namespaces.
        Err(_) => true,
    }
}

fn status(pid: u32) -> io::Result<Status> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let mut status = Status::default();
    for line in text.lines() {
        let Some((name, rest)) = line.split_once(':') else {
            continue;
        };
        let mut words = rest.split_ascii_whitespace();
        match name {
            "Uid" => status.euid = words.nth(1).and_then(|w| w.parse().ok()).unwrap_or(u32::MAX),
            "Gid" => status.egid = words.nth(1).and_then(|w| w.parse().ok()).unwrap_or(u32::MAX),
            "Groups" => status.groups = words.filter_map(|w| w.parse().ok()).collect(),
            "CapEff" => {
                status.effective = words
                    .next()
                    .and_then(|w| u64::from_str_radix(w, 16).ok())
                    .unwrap_or(0);
            }
            _ => {}
        }
    }
    // Asked last: a process can leave for a new user namespace, but never come back, so one that is here now was here then.
    if !in_our_user_namespace(pid) {
        status.effective = 0;
    }
    Ok(status)
}

fn caps_of(effective: u64) -> u8 {
    [
        (CAP_IPC_OWNER, caps::IPC_OWNER),
        (CAP_IPC_LOCK, caps::IPC_LOCK),
        (CAP_SYS_RESOURCE, caps::SYS_RESOURCE),
        (CAP_SYS_ADMIN, caps::SYS_ADMIN),
    ]
    .into_iter()
    .filter(|(bit, _)| effective & (1 << bit) != 0)
    .fold(0, |all, (_, cap)| all | cap)
}

/// The group of those who may have huge pages without CAP_IPC_LOCK.
fn group_of_huge_pages() -> u32 {
    let text = std::fs::read_to_string("/proc/sys/vm/hugetlb_shm_group").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// What capabilities and groups permit.
fn caps_with_groups(effective: u64, gid: u32, groups: &[u32]) -> u8 {
    let caps = caps_of(effective);
    let named = || {
        let group = group_of_huge_pages();
        gid == group || groups.contains(&group)
    };
    if caps & caps::IPC_LOCK != 0 || named() {
        caps | caps::HUGE
    } else {
        caps
    }
}

/// The identity of a process that connected.
///
/// Uid and groups are those it had then (the socket remembers). Capabilities are those it has now, but only if its effective uid is still the
/// same: else it could connect, execute a set-uid program, and be taken for that.
pub(crate) fn connected(peer: Peer) -> anyhow::Result<(Credentials, OwnedFd)> {
    if peer.pid == 0 {
        bail!("the caller's process is not visible from here (another pid namespace)");
    }
    let pidfd = match peer.pidfd {
        Some(pidfd) => pidfd,
        None => open_pid(peer.pid).context("opening the caller's process")?,
    };
    let start = start_time(peer.pid).context("reading the caller's start time")?;
    let status = status(peer.pid).context("reading the caller's status")?;
    if has_ended(&pidfd) {
        bail!("the caller has ended");
    }
    let effective = if status.euid == peer.uid {
        status.effective
    } else {
        0
    };
    let caps = caps_with_groups(effective, peer.gid, &peer.groups);
    let who = Credentials {
        pid: peer.pid,
        start,
        uid: peer.uid,
        gid: peer.gid,
        groups: peer.groups,
        caps,
        stands_for: 0,
    };
    Ok((who, pidfd))
}

/// The identity of a forked child that wrote to a socket its parent had made.
///
/// Uid and gid are those it had when it wrote (the kernel vouched for them). The rest is what /proc says now, but only if uid and gid are still the
/// same: else it could write, execute a set-uid program, and be taken for that.
pub(crate) fn forked(sender: Sender) -> anyhow::Result<(Credentials, OwnedFd)> {
    let Sender { pid, uid, gid } = sender;
    if pid == 0 {
        bail!("the forked process is not visible from here (another pid namespace)");
    }
    let pidfd = open_pid(pid).context("opening the forked process")?;
    let start = start_time(pid).context("reading the forked process's start time")?;
    let status = status(pid).context("reading the forked process's status")?;
    if has_ended(&pidfd) {
        bail!("the forked process has ended");
    }
    let (groups, effective) = if (status.euid, status.egid) == (uid, gid) {
        (status.groups, status.effective)
    } else {
        (Vec::new(), 0)
    };
    let caps = caps_with_groups(effective, gid, &groups);
    let who = Credentials {
        pid,
        start,
        uid,
        gid,
        groups,
        caps,
        stands_for: 0,
    };
    Ok((who, pidfd))
}

/// The identity of a process that stands in for another one, which it names by a pidfd.
///
/// What it gains by that must be nothing that it could not have anyway. Another user's process can be named by root only (who could become that user),
/// and root then counts as that user; anybody else keeps its own identity, and shows the pid of a process of its own user.
pub(crate) fn standing_in(own: Credentials, other: &OwnedFd) -> anyhow::Result<Credentials> {
    let pid = pid_of(other).context("reading which process is stood in for")?;
    let status = status(pid).context("reading the status of the process stood in for")?;
    if has_ended(other) {
        bail!("the process stood in for has ended");
    }
    // Not uid 0 of some user namespace: this daemon sees that one's as another.
    if own.uid == 0 && may_become_anybody(own.pid) {
        return Ok(Credentials {
            stands_for: pid,
            uid: status.euid,
            gid: status.egid,
            caps: caps_with_groups(status.effective, status.egid, &status.groups) & own.caps,
            groups: status.groups,
            ..own
        });
    }
    if (status.euid, status.egid) != (own.uid, own.gid) {
        bail!("the process stood in for is another user's");
    }
    Ok(Credentials {
        stands_for: pid,
        caps: caps_with_groups(status.effective, own.gid, &own.groups) & own.caps,
        ..own
    })
}

fn may_become_anybody(pid: u32) -> bool {
    status(pid).is_ok_and(|status| status.euid == 0 && status.effective & (1 << CAP_SETUID) != 0)
}

/// The process that a pidfd is for, in this pid namespace.
fn pid_of(pidfd: &OwnedFd) -> anyhow::Result<u32> {
    use std::os::fd::AsRawFd;
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pid:"));
    let pid: i64 = line.context("not a pidfd")?.trim().parse()?;
    match u32::try_from(pid) {
        Ok(0) => bail!("it is not visible from here (another pid namespace)"),
        Ok(pid) => Ok(pid),
        Err(_) => bail!("it has ended"),
    }
}

/// What a living process whose socket ended still has mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Image {
    /// Memory of ours: the same program, which closed its descriptors.
    Same,
    /// Nothing of ours: another program was executed.
    Other,
    /// It has no memory any more, or it cannot be looked at: the pidfd will tell.
    Unknown,
}

/// Looks at what a process has mapped. Every client maps at least its daemon's time page, a memfd whose name begins with `vshmem`.
pub(crate) fn image(pid: u32) -> Image {
    match std::fs::read(format!("/proc/{pid}/maps")) {
        Ok(maps) if maps.is_empty() => Image::Unknown,
        Ok(maps) => {
            let mark = b"/memfd:vshmem";
            if maps.windows(mark.len()).any(|w| w == mark) {
                Image::Same
            } else {
                Image::Other
            }
        }
        Err(_) => Image::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_who_it_is() {
        let sender = this_process();
        let (who, pidfd) = forked(sender).unwrap();
        assert_eq!((who.pid, who.uid, who.gid), (sender.pid, sender.uid, sender.gid));
        assert!(who.start > 0);
        assert!(!has_ended(&pidfd));
        // Another program: this one may have mapped memory of ours, for other tests.
        let mut other = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        assert_eq!(image(other.id()), Image::Other);
        drop(other.stdin.take());
        other.wait().unwrap();
    }

    #[test]
    fn a_forked_child_is_who_it_was_when_it_wrote() {
        // As if it had been another user's then, and executed a set-uid program since.
        let before = Sender {
            uid: 12_345,
            gid: 12_345,
            ..this_process()
        };
        let (who, _) = forked(before).unwrap();
        assert_eq!((who.uid, who.gid, who.caps), (12_345, 12_345, 0));
        assert!(who.groups.is_empty());
    }

    #[test]
    fn huge_pages_are_for_those_with_the_capability_or_in_the_group() {
        let group = group_of_huge_pages();
        let other = group.wrapping_add(1);
        let lock = 1 << CAP_IPC_LOCK;
        assert_eq!(caps_with_groups(lock, other, &[]), caps::IPC_LOCK | caps::HUGE);
        assert_eq!(caps_with_groups(0, group, &[]), caps::HUGE);
        assert_eq!(caps_with_groups(0, other, &[other, group]), caps::HUGE);
        assert_eq!(caps_with_groups(0, other, &[other]), 0);
    }

    fn this_process() -> Sender {
        Sender {
            pid: std::process::id(),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        }
    }

    #[test]
    fn only_root_counts_as_another_user_by_standing_in_for_it() {
        let init = open_pid(1).unwrap();
        let (own, _) = forked(this_process()).unwrap();
        if own.uid == 0 {
            let as_init = standing_in(own.clone(), &init).unwrap();
            assert_eq!(
                (as_init.pid, as_init.stands_for, as_init.shown_pid()),
                (own.pid, 1, 1)
            );
        }
        let stranger = Credentials {
            uid: 12_345,
            ..own.clone()
        };
        assert!(standing_in(stranger, &init).is_err());
        let itself = open_pid(own.pid).unwrap();
        let for_itself = standing_in(own.clone(), &itself).unwrap();
        assert_eq!((for_itself.uid, for_itself.stands_for), (own.uid, own.pid));
        let no_pidfd = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        assert!(standing_in(own, &no_pidfd).is_err());
    }

    #[test]
    fn capabilities_of_another_user_namespace_are_none() {
        let mut other = std::process::Command::new("unshare")
            .args(["--user", "--map-root-user", "cat"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let (mut to, mut from) = (other.stdin.take().unwrap(), other.stdout.take().unwrap());
        // Once it answers, it has moved; without an answer, this system lets nobody.
        use std::io::{Read, Write};
        let answered = to.write_all(b"x").is_ok() && from.read(&mut [0]).is_ok_and(|n| n == 1);
        let status = status(other.id());
        let raw = std::fs::read_to_string(format!("/proc/{}/status", other.id()));
        drop(to);
        other.wait().unwrap();
        if !answered {
            eprintln!("skipped: user namespaces cannot be made here");
            return;
        }
        let raw = raw.unwrap();
        let shown = raw.lines().find_map(|l| l.strip_prefix("CapEff:")).unwrap();
        assert_ne!(u64::from_str_radix(shown.trim(), 16), Ok(0));
        assert_eq!(status.unwrap().effective, 0);
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        for pid in [0, u32::MAX] {
            assert!(
                forked(Sender {
                    pid,
                    ..this_process()
                })
                .is_err()
            );
        }
    }
}
