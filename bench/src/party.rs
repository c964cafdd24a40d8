//! A worker somewhere: on this host bare, under `vshmem run`, or in a guest.
//!
//! Not for what the workers measure.

use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
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
    /// In a guest of this port, in the domain of this name, with these extra arguments for `vm run`.
    Guest(&'static str, &'static str, Vec<String>),
}

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
            Where::Guest(port, domain, extra) => command
                .args([
                    "vm",
                    "run",
                    "--port",
                    port,
                    "--domain",
                    domain,
                    "--cpus",
                    &cpu.to_string(),
                ])
                .args(extra)
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
        pin(&mut command, cpu);
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
        let first = party.answers.recv_timeout(Duration::from_secs(90));
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
        let line = self
            .answers
            .recv_timeout(Duration::from_secs(60))
            .with_context(|| format!("no answer from the worker at {} within 60 s", self.name))?;
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

/// Pins the child to a CPU.
#[allow(unsafe_code)]
fn pin(command: &mut Command, cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    // SAFETY: sched_setaffinity is a plain system call: async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            // A machine with one CPU still runs the benchmark, unpinned.
            let _ = rustix::thread::sched_setaffinity(None, &set);
            Ok(())
        });
    }
}
