//! QEMU's monitor, as far as a machine's start needs it: which host threads are its virtual CPUs.

use anyhow::{Context, bail};
use rustix::fd::OwnedFd;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How long QEMU may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// An answer is never as long as this.
const LONGEST: usize = 1 << 20;

/// One conversation.
pub(crate) struct Monitor {
    lines: BufReader<UnixStream>,
}

impl Monitor {
    /// Takes QEMU's greeting.
    pub(crate) fn new(socket: OwnedFd) -> anyhow::Result<Self> {
        let socket = UnixStream::from(socket);
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let mut monitor = Self {
            lines: BufReader::new(socket),
        };
        let greeting = monitor.hear()?;
        if greeting.get("QMP").is_none() {
            bail!("QEMU's monitor greets with {greeting}");
        }
        monitor.ask("qmp_capabilities")?;
        Ok(monitor)
    }

    /// Host threads of the virtual CPUs, in the order of these.
    pub(crate) fn cpu_threads(&mut self) -> anyhow::Result<Vec<i32>> {
        let answer = self.ask("query-cpus-fast")?;
        let cpus = answer.as_array().context("no list of virtual CPUs")?;
        let number = |cpu: &Value, name: &str| {
            cpu[name]
                .as_i64()
                .with_context(|| format!("a virtual CPU without {name}"))
        };
        let mut threads = cpus
            .iter()
            .map(|cpu| {
                Ok((
                    number(cpu, "cpu-index")?,
                    i32::try_from(number(cpu, "thread-id")?)?,
                ))
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        threads.sort_unstable();
        Ok(threads.into_iter().map(|(_, thread)| thread).collect())
    }

    fn ask(&mut self, command: &str) -> anyhow::Result<Value> {
        let line = format!("{}\n", json!({ "execute": command }));
        self.lines
            .get_mut()
            .write_all(line.as_bytes())
            .context("QEMU's monitor")?;
        loop {
            let mut answer = self.hear()?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                bail!("QEMU refuses {command}: {error}");
            }
            // Else an event.
        }
    }

    fn hear(&mut self) -> anyhow::Result<Value> {
        let mut line = Vec::new();
        loop {
            let piece = self.lines.fill_buf().context("QEMU's monitor")?;
            if piece.is_empty() {
                bail!("QEMU ended");
            }
            let end = piece.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(piece.len(), |at| at + 1);
            line.extend_from_slice(&piece[..taken]);
            self.lines.consume(taken);
            if end.is_some() {
                return serde_json::from_slice(&line).context("what QEMU's monitor says");
            }
            if line.len() > LONGEST {
                bail!("QEMU's monitor says too much");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_come_in_the_order_of_the_virtual_cpus_and_events_are_passed_over() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let player = std::thread::spawn(move || {
            let mut theirs = BufReader::new(theirs);
            let mut say = |text: &str, asked: bool| {
                let mut line = String::new();
                if asked {
                    theirs.read_line(&mut line).unwrap();
                }
                theirs
                    .get_mut()
                    .write_all(format!("{text}\r\n").as_bytes())
                    .unwrap();
                line
            };
            say(r#"{"QMP": {"version": {}}}"#, false);
            say(r#"{"return": {}}"#, true);
            say(r#"{"event": "RESUME"}"#, false);
            say(
                r#"{"return": [{"cpu-index": 1, "thread-id": 12}, {"cpu-index": 0, "thread-id": 11}]}"#,
                true,
            )
        });
        let mut monitor = Monitor::new(ours.into()).unwrap();
        assert_eq!(monitor.cpu_threads().unwrap(), [11, 12]);
        assert!(player.join().unwrap().contains("query-cpus-fast"));
    }
}
