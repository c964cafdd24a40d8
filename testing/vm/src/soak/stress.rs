//! stress-ng's System V stressors, unchanged, in a local domain: steady ones that must end well, and victims whose processes are killed.

use crate::machine::{Machine, signal, wait};
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

/// What is run: until it is interrupted, when it takes away what it made.
pub const STRESS: [&str; 10] = [
    "stress-ng",
    "--shm-sysv",
    "1",
    "--sem-sysv",
    "1",
    "--msg",
    "1",
    "--verify",
    "-t",
    "0",
];

/// The same without queues.
pub const BRIEF: [&str; 8] = [
    "stress-ng",
    "--shm-sysv",
    "1",
    "--sem-sysv",
    "1",
    "--verify",
    "-t",
    "0",
];

/// Whether stress-ng is here.
pub fn available() -> bool {
    Path::new("/usr/bin/stress-ng").exists()
}

/// A running stress-ng in a process group of its own.
pub struct Stress {
    child: Child,
    said: PathBuf,
    name: String,
}

impl Stress {
    /// Starts one in a local domain: a steady one has number 0, victims the others.
    pub fn start(machine: &Machine, domain: &str, number: usize) -> Result<Stress> {
        let said = machine.runtime().join(format!("stress-{domain}-{number}"));
        let file = std::fs::File::create(&said)?;
        let mut command = machine.command(&["run", "--domain", domain, "--"]);
        let child = command
            .args(["env", super::parties::PATIENT])
            .args(STRESS)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()?;
        let name = format!("stress-ng in domain {domain}");
        Ok(Stress { child, said, name })
    }

    /// Its processes: those of its group.
    pub fn processes(&self) -> Vec<i32> {
        let group = self.child.id().to_string();
        let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid: &i32| {
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                let rest = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
                rest.split_whitespace().nth(2) == Some(group.as_str())
            })
            .collect()
    }

    /// Ends a steady one: it must have found nothing wrong.
    pub fn finish(mut self) -> Result<()> {
        signal(self.child.id() as i32, Signal::INT)?;
        let status =
            wait(&mut self.child, Duration::from_secs(60)).with_context(|| format!("{} hangs", self.name))?;
        let said = std::fs::read_to_string(&self.said)?;
        ensure!(status.success(), "{} ended with {status}: {said}", self.name);
        ensure!(!said.contains("fail:"), "{} found: {said}", self.name);
        Ok(())
    }

    /// Whether a victim has ended. What it says counts for nothing: it misses what the killed would have done.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }
}

impl Drop for Stress {
    fn drop(&mut self) {
        for pid in self.processes() {
            let _ = signal(pid, Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
