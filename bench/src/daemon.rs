//! The daemon a benchmark runs against: its own, in a temporary directory.

use anyhow::{Context, Result};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long it may take to be there, on a machine that software emulates as well.
const COMES_UP: Duration = Duration::from_secs(60);

/// A running daemon; ended with this value.
pub(crate) struct Daemon(Child);

impl Daemon {
    /// Starts one with this configuration, in this folder; on this CPU alone, if one is named.
    pub(crate) fn start(program: &Path, runtime: &Path, toml: &str, cpu: Option<usize>) -> Result<Daemon> {
        let config = runtime.join("bench.toml");
        std::fs::write(&config, toml)?;
        let mut command = Command::new(program);
        command
            .args(["serve", "--runtime-dir"])
            .arg(runtime)
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if let Some(cpu) = cpu {
            crate::party::prepare(&mut command, cpu, None);
        }
        crate::interrupt::check()?;
        let child = command.spawn().context("cannot start the daemon")?;
        let mut daemon = Daemon(child);
        let until = Instant::now() + COMES_UP;
        while !runtime.join("vshmem.sock").exists() {
            crate::interrupt::check()?;
            if let Some(status) = daemon.0.try_wait()? {
                anyhow::bail!("the daemon did not come up: {status}; what it said is above");
            }
            anyhow::ensure!(
                Instant::now() < until,
                "the daemon did not come up within {} s",
                COMES_UP.as_secs()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(daemon)
    }

    /// Process id of the keeper, whose child the daemon proper is.
    pub(crate) fn keeper(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.0.id() as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        for _ in 0..200 {
            if matches!(self.0.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
