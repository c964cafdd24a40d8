//! A worker somewhere: on this host bare, under `vshmem run`, or in a guest.
//!
//! Not for what the workers measure.

use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// How to start workers.
#[derive(Debug, Clone)]
pub struct Place<'a> {
    /// The `vshmem` command.
    pub program: &'a Path,
    /// The daemon's runtime directory.
    pub runtime: &'a Path,
}

/// Where a worker runs.
#[derive(Debug, Clone)]
pub enum Where {
    /// On this host, by the kernel's own IPC.
    Kernel,
    /// On this host, under `vshmem run`.
    Local,
    /// In a guest.
    Guest(Guest),
}

/// A guest to run a worker in.
#[derive(Debug, Clone)]
pub struct Guest {
    /// Its port.
    pub port: &'static str,
    /// Its domain.
    pub domain: &'static str,
    /// Its network card, if it has one: one end of a datagram socket pair.
    pub card: Option<Arc<OwnedFd>>,
    /// Its address.
    pub address: &'static str,
}

/// How long a worker may take to get ready, a machine in a machine that software emulates included.
pub(crate) const READY: Duration = Duration::from_secs(300);

/// How long it may take for one command, emulated as well.
const ANSWERS: Duration = Duration::from_secs(180);

/// A running worker.
pub struct Party {
    child: Child,
    input: Option<ChildStdin>,
    answers: Receiver<String>,
    name: String,
}

impl Party {
    /// Starts a worker pinned to a CPU, with extra environment.
    pub fn start(place: &Place<'_>, at: &Where, cpu: usize, env: &[(&str, &str)]) -> Result<Party> {
        let mut command = Command::new(place.program);
        let worker = ["bench", "worker"];
        let own: PathBuf = place.program.into();
        match at {
            Where::Kernel => command.args(worker),
            Where::Local => command
                .args(["run", "--runtime-dir"])
                .arg(place.runtime)
                .arg("--")
                .arg(own)
                .args(worker),
            Where::Guest(guest) => command
                .args([
                    "vm",
                    "run",
                    "--port",
                    guest.port,
                    "--domain",
                    guest.domain,
                    "--cpus",
                    &cpu.to_string(),
                    "--boot-timeout",
                    &READY.as_secs().to_string(),
                ])
                .args(guest.card.iter().flat_map(|_| {
                    let address = format!("{CARD},{}", guest.address);
                    ["--network".to_owned(), address]
                }))
                .arg("--runtime-dir")
                .arg(place.runtime)
                .arg("--")
                .arg(own)
                .args(worker),
        };
        command
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let card = match at {
            Where::Guest(guest) => guest.card.clone(),
            _ => None,
        };
        prepare(&mut command, cpu, card);
        crate::interrupt::check()?;
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let input = child.stdin.take().context("no standard input")?;
        let output = child.stdout.take().context("no standard output")?;
        let (send, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        let party = Party {
            child,
            input: Some(input),
            answers,
            name: format!("{at:?}"),
        };
        let first = party.answers.recv_timeout(READY);
        match first.as_deref() {
            Ok("ready") => Ok(party),
            other => bail!("the worker at {} did not get ready: {other:?}", party.name),
        }
    }

    /// Sends a command without waiting for the answer.
    pub fn tell(&mut self, test: &str, role: u32, key: i32, iterations: u64) -> Result<()> {
        let input = self.input.as_mut().context("the worker's input is closed")?;
        writeln!(input, "{test} {role} {key} {iterations}")
            .with_context(|| format!("the worker at {} is gone", self.name))
    }

    /// Waits for the answer: nanoseconds of the whole loop.
    pub fn answer(&mut self) -> Result<f64> {
        let line = self.answers.recv_timeout(ANSWERS).with_context(|| {
            let seconds = ANSWERS.as_secs();
            format!("no answer from the worker at {} within {seconds} s", self.name)
        })?;
        match line.split_once(' ') {
            Some(("ok", nanos)) => Ok(nanos.trim().parse()?),
            _ => bail!("the worker at {} says: {line}", self.name),
        }
    }

    /// A command and its answer.
    pub fn ask(&mut self, test: &str, role: u32, key: i32, iterations: u64) -> Result<f64> {
        self.tell(test, role, key, iterations)?;
        self.answer()
    }
}

impl Drop for Party {
    fn drop(&mut self) {
        // A worker ends when its input does; one that is stuck is killed.
        self.input = None;
        for _ in 0..100 {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Number that a guest's network card has in the process that starts the guest.
const CARD: i32 = 60;

/// Pins the child to a CPU and hands it the network card.
#[allow(unsafe_code)]
pub(crate) fn prepare(command: &mut Command, cpu: usize, card: Option<Arc<OwnedFd>>) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    // SAFETY: sched_setaffinity and dup2 are plain system calls: async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            // A machine with one CPU still runs the benchmark, unpinned.
            let _ = rustix::thread::sched_setaffinity(None, &set);
            if let Some(card) = &card
                && libc::dup2(card.as_raw_fd(), CARD) < 0
            {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
}
