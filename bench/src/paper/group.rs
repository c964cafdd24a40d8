//! The processes of one program: started together, ended together. One that fails or a time that is up ends all of them, and the program has failed.
#![allow(unsafe_code)] // What a child does between fork and exec.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Number that a guest's network card has in the process that starts the guest.
pub(crate) const CARD: i32 = 60;

/// A process to start.
pub(crate) struct Member {
    pub(crate) command: Command,
    /// The CPU it stays on; None: the program places itself.
    pub(crate) cpu: Option<usize>,
    /// A guest's network card.
    pub(crate) card: Option<Arc<OwnedFd>>,
}

struct Running {
    child: Child,
    out: JoinHandle<String>,
    err: JoinHandle<String>,
    status: Option<ExitStatus>,
}

/// Runs all to their end; gives what each wrote.
pub(crate) fn together(members: Vec<Member>, limit: Duration) -> Result<Vec<String>> {
    let mut all = Vec::new();
    let mut trouble = None;
    for member in members {
        match start(member) {
            Ok(running) => all.push(running),
            Err(error) => {
                trouble = Some(error);
                break;
            }
        }
    }
    let until = Instant::now() + limit;
    while trouble.is_none() && all.iter().any(|r| r.status.is_none()) {
        for running in &mut all {
            running.status = running.status.or(running.child.try_wait()?);
        }
        if all.iter().any(|r| r.status.is_some_and(|s| !s.success())) {
            break;
        }
        if Instant::now() > until {
            trouble = Some(anyhow::anyhow!("not done within {} s", limit.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    // One failed: the others wait for it in vain.
    let failed = all.iter().position(|r| r.status.is_some_and(|s| !s.success()));
    if trouble.is_some() || failed.is_some() {
        // What the others have to say of it may explain it.
        std::thread::sleep(Duration::from_millis(100));
        for running in &mut all {
            end(running);
        }
    }
    let said: Vec<(String, String)> = all
        .into_iter()
        .map(|r| (r.out.join().unwrap_or_default(), r.err.join().unwrap_or_default()))
        .collect();
    let words = || -> String {
        let lines = said.iter().flat_map(|(_, err)| err.lines());
        lines
            .filter(|l| !l.trim().is_empty())
            .take(4)
            .collect::<Vec<_>>()
            .join("; ")
    };
    match (trouble, failed) {
        (Some(error), _) => Err(error.context(words())),
        (None, Some(which)) => bail!("party {which} failed: {}", words()),
        (None, None) => Ok(said.into_iter().map(|(out, _)| out).collect()),
    }
}

fn start(member: Member) -> Result<Running> {
    crate::interrupt::check()?;
    let mut command = member.command;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    prepare(&mut command, member.cpu, member.card);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
    let out = read(child.stdout.take());
    let err = read(child.stderr.take());
    Ok(Running {
        child,
        out,
        err,
        status: None,
    })
}

fn read(from: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut from) = from {
            let _ = from.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Ends a process and what it has started: asked first, since a launcher passes that on.
fn end(running: &mut Running) {
    let Some(group) = Pid::from_raw(running.child.id() as i32) else {
        return;
    };
    if running.status.is_none() {
        let _ = kill_process_group(group, Signal::TERM);
        for _ in 0..100 {
            if matches!(running.child.try_wait(), Ok(Some(_)) | Err(_)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let _ = kill_process_group(group, Signal::KILL);
    let _ = running.child.wait();
}

/// Pins the child, hands it the network card, and has it end with this process.
fn prepare(command: &mut Command, cpu: Option<usize>, card: Option<Arc<OwnedFd>>) {
    let set = cpu.map(|cpu| {
        let mut set = rustix::thread::CpuSet::new();
        set.set(cpu);
        set
    });
    // SAFETY: sched_setaffinity, dup2 and prctl are plain system calls: async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            if let Some(set) = &set {
                rustix::thread::sched_setaffinity(None, set)?;
            }
            if let Some(card) = &card
                && libc::dup2(card.as_raw_fd(), CARD) < 0
            {
                return Err(std::io::Error::last_os_error());
            }
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Member {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Member {
            command,
            cpu: None,
            card: None,
        }
    }

    #[test]
    fn all_say_what_they_have_to_say() {
        let said = together(vec![shell("echo a"), shell("echo b")], Duration::from_secs(20)).unwrap();
        assert_eq!(said, ["a\n", "b\n"]);
    }

    #[test]
    fn one_that_fails_ends_all_and_is_quoted() {
        let start = Instant::now();
        let all = vec![
            shell("sleep 60 & sleep 60"),
            shell("echo no such matrix >&2; exit 3"),
        ];
        let error = together(all, Duration::from_secs(30)).unwrap_err();
        assert!(format!("{error:#}").contains("no such matrix"), "{error:#}");
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_time_that_is_up_ends_all() {
        let error = together(vec![shell("sleep 60")], Duration::from_millis(300)).unwrap_err();
        assert!(format!("{error:#}").contains("not done within"), "{error:#}");
    }
}
