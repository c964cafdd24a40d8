//! Starts the program with the caller's rights, folder and environment, on pipes.
#![allow(unsafe_code)] // one `pre_exec`: the caller's groups and ids, in an order that `Command` does not offer

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context as _;
use rustix::fs::{Gid, Mode, Uid};
use rustix::process::Pid;

use super::line::Line;
use crate::frame::{Channel, Message, Outcome, Start};

/// A program that runs, or the reason why it does not.
#[derive(Debug)]
pub(super) enum Program {
    /// It runs, as leader of a session of its own.
    Running {
        /// Its number.
        pid: Pid,
        /// Write end of its standard input.
        stdin: OwnedFd,
        /// Read ends of its standard output and error.
        outputs: [OwnedFd; 2],
    },
    /// It could not be started; said on its standard error already.
    Missing(Outcome),
}

pub(super) fn spawn(start: &Start, line: &mut Line) -> anyhow::Result<Program> {
    let name = start
        .argv
        .first()
        .map(|word| OsStr::from_bytes(word))
        .context("no program was given")?;
    let mut command = Command::new(name);
    command
        .args(start.argv.iter().skip(1).map(|word| OsStr::from_bytes(word)))
        .env_clear()
        .envs(environment(start))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let cwd = OsStr::from_bytes(&start.cwd);
    if Path::new(cwd).is_dir() {
        command.current_dir(cwd);
    } else {
        line.say(&Message::Note(format!(
            "no folder {} in the guest; the program starts in /",
            cwd.display()
        )))?;
    }
    let groups: Vec<_> = start.groups.iter().map(|&gid| Gid::from_raw(gid)).collect();
    let (uid, gid, umask) = (
        Uid::from_raw(start.uid),
        Gid::from_raw(start.gid),
        Mode::from_raw_mode(start.umask),
    );
    let become_caller = move || {
        rustix::process::setsid()?;
        rustix::process::umask(umask);
        rustix::thread::set_thread_groups(&groups)?;
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes plain system calls only; it allocates and locks nothing. The child
    // has one thread, so ids of the thread are ids of the process.
    unsafe { command.pre_exec(become_caller) };
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let missing = error.kind() == io::ErrorKind::NotFound;
            let said = format!("vshmem: {}: {error}\n", name.display());
            line.say(&Message::Output(Channel::Stderr, said.into_bytes()))?;
            return Ok(Program::Missing(Outcome::Exited(if missing { 127 } else { 126 })));
        }
    };
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
        anyhow::bail!("the program has no pipes")
    };
    // The reaper waits for it, with everybody else.
    let pid = Pid::from_child(&child);
    Ok(Program::Running {
        pid,
        stdin: stdin.into(),
        outputs: [stdout.into(), stderr.into()],
    })
}

fn environment(start: &Start) -> impl Iterator<Item = (OsString, OsString)> + '_ {
    start
        .env
        .iter()
        .map(|(key, value)| (OsString::from_vec(key.clone()), OsString::from_vec(value.clone())))
}

/// The environment of services: the program's, without what would change how they are loaded, and with a terminal that has
/// no colours, since the console is one and is quoted in messages.
pub(super) fn service_environment(start: &Start) -> impl Iterator<Item = (OsString, OsString)> + '_ {
    environment(start)
        .filter(|(key, _)| !key.as_bytes().starts_with(b"LD_") && key != "TERM")
        .chain(std::iter::once(("TERM".into(), "dumb".into())))
}
