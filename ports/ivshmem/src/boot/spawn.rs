//! Starting the processes that make up a machine, so that none of them outlives whoever started it.
//!
//! Each is the leader of a session of its own (a terminal's Ctrl-C does not reach it) and gets SIGKILL when the thread that started it ends, however that happens.
//! Neither QEMU nor virtiofsd leaves children behind.
#![allow(unsafe_code)] // `pre_exec`: session, parent-death signal, CPU set, and a read-only view of the host's tree

use anyhow::{Context, bail};
use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use rustix::io::FdFlags;
use rustix::process::{Pid, Signal};
use rustix::thread::CpuSet;
use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Starts a process that keeps `kept` open and runs on `cpus` (empty: all).
pub(crate) fn spawn(command: &mut Command, kept: &[&OwnedFd], cpus: &[usize]) -> io::Result<Child> {
    let kept: Vec<_> = kept.iter().map(|fd| fd.as_raw_fd()).collect();
    let mut set = CpuSet::new();
    cpus.iter().for_each(|&cpu| set.set(cpu));
    let pin = !cpus.is_empty();
    let parent = rustix::process::getpid();
    let prepare = move || {
        rustix::process::setsid()?;
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if rustix::process::getppid() != Some(parent) {
            return Err(io::Error::from(rustix::io::Errno::SRCH));
        }
        if pin {
            rustix::thread::sched_setaffinity(None, &set)?;
        }
        for &fd in &kept {
            // SAFETY: the caller owns these descriptors and lends them until `spawn` below has returned.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes plain system calls only; it allocates and locks nothing.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}

/// Lets the command see the host's tree read-only but for `writable`, whatever the machine that it serves asks for.
pub(crate) fn read_only_tree(command: &mut Command, writable: &[PathBuf]) -> io::Result<()> {
    let mut exempt = Vec::new();
    for folder in writable {
        // What is read-only already stays so.
        let found = rustix::fs::statvfs(folder)?;
        if !found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
            exempt.push(CString::new(folder.as_os_str().as_bytes())?);
        }
    }
    let prepare = move || {
        // SAFETY: a mount namespace of the new process's own; it has one thread.
        check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
        mount(None, c"/", libc::MS_REC | libc::MS_PRIVATE)?;
        for folder in &exempt {
            mount(Some(folder), folder, libc::MS_BIND)?;
        }
        set_read_only(c"/", true)?;
        exempt.iter().try_for_each(|folder| set_read_only(folder, false))
    };
    // SAFETY: between fork and exec the closure makes plain system calls only, on strings made before.
    unsafe { command.pre_exec(prepare) };
    Ok(())
}

fn mount(from: Option<&CStr>, at: &CStr, flags: libc::c_ulong) -> io::Result<()> {
    let none = std::ptr::null();
    let from = from.map_or(none, CStr::as_ptr);
    // SAFETY: strings that end with a zero, or null where mount(2) ignores the argument.
    check(unsafe { libc::mount(from, at.as_ptr(), none, flags, none.cast()) })
}

/// Everything mounted at and below `/`, or the mount at a folder alone.
fn set_read_only(at: &CStr, on: bool) -> io::Result<()> {
    let mut wanted = libc::mount_attr {
        attr_set: 0,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    *(if on {
        &mut wanted.attr_set
    } else {
        &mut wanted.attr_clr
    }) = libc::MOUNT_ATTR_RDONLY;
    let how = if on { libc::AT_RECURSIVE } else { 0 };
    let bytes = size_of::<libc::mount_attr>();
    // SAFETY: reads a string that ends with a zero and a structure of the size that is given.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            at.as_ptr(),
            how,
            &raw const wanted,
            bytes,
        )
    };
    check(libc::c_int::from(answer != 0))
}

/// The answer of a system call that gives 0 when it worked.
fn check(answer: libc::c_int) -> io::Result<()> {
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Runs a command to its end, at most so long; gives its standard output.
pub(crate) fn bounded(command: &mut Command, limit: Duration) -> anyhow::Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = tempfile()?;
    let errors = tempfile()?;
    let mut child = spawn(
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(errors.try_clone()?),
        &[],
        &[],
    )
    .with_context(|| name.clone())?;
    let until = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > until {
            // It leads a session of its own: whoever it has started goes with it.
            let _ = rustix::process::kill_process_group(Pid::from_child(&child), Signal::KILL);
            let _ = child.kill();
            let _ = child.wait();
            bail!("{name} took longer than {} s", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    if !status.success() {
        let said = read(errors)?;
        let said = String::from_utf8_lossy(&said).trim().replace('\n', "; ");
        bail!("{name}: {status}: {said}");
    }
    read(output)
}

fn tempfile() -> io::Result<std::fs::File> {
    let file = rustix::fs::memfd_create("vshmem-output", rustix::fs::MemfdFlags::CLOEXEC)?;
    Ok(file.into())
}

fn read(mut file: std::fs::File) -> anyhow::Result<Vec<u8>> {
    use std::io::{Read, Seek};
    let mut all = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut all)?;
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_bounded_and_their_failures_told() {
        let mut fine = Command::new("sh");
        let said = bounded(fine.args(["-c", "echo fine"]), Duration::from_secs(10)).unwrap();
        assert_eq!(said, b"fine\n");
        let mut bad = Command::new("sh");
        let why = bounded(
            bad.args(["-c", "echo so bad >&2; exit 3"]),
            Duration::from_secs(10),
        )
        .unwrap_err();
        assert!(why.to_string().contains("so bad"), "{why}");
        let folder = tempfile::tempdir().unwrap();
        let noted = folder.path().join("child");
        // On a loaded host it may take a while to start its child.
        let child = [1, 5, 25].into_iter().find_map(|seconds| {
            let mut long = Command::new("sh");
            long.args(["-c", "sleep 600 & echo $! > \"$0\"; wait"])
                .arg(&noted);
            let why = bounded(&mut long, Duration::from_secs(seconds)).unwrap_err();
            assert!(why.to_string().contains("took longer"), "{why}");
            std::fs::read_to_string(&noted)
                .ok()
                .filter(|child| child.ends_with('\n'))
        });
        let child = child.unwrap();
        let maps = format!("/proc/{}/maps", child.trim());
        let until = Instant::now() + Duration::from_secs(30);
        // A process that has ended has no mappings, whoever is to reap it.
        while std::fs::read(&maps).is_ok_and(|maps| !maps.is_empty()) {
            assert!(Instant::now() < until, "its child goes on");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
