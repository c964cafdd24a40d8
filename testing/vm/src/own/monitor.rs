//! QEMU's monitor, as somebody who has a machine of his own uses it.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long QEMU may take to do something.
const PATIENCE: Duration = Duration::from_secs(60);

/// One conversation.
pub struct Monitor {
    lines: BufReader<UnixStream>,
}

impl Monitor {
    pub(super) fn connect(door: &Path) -> Result<Monitor> {
        let until = Instant::now() + PATIENCE;
        let socket = loop {
            match UnixStream::connect(door) {
                Ok(socket) => break socket,
                Err(why) if Instant::now() > until => return Err(why).context("QEMU's monitor"),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut monitor = Monitor {
            lines: BufReader::new(socket),
        };
        monitor.hear()?;
        monitor.ask("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    fn hear(&mut self) -> Result<Value> {
        let mut line = String::new();
        let bytes = self.lines.read_line(&mut line).context("QEMU says nothing")?;
        anyhow::ensure!(bytes > 0, "QEMU ended");
        Ok(serde_json::from_str(&line)?)
    }

    /// A command and what QEMU answers: the value, or why not.
    pub fn attempt(&mut self, command: &str, arguments: Value) -> Result<Result<Value, String>> {
        let line = json!({ "execute": command, "arguments": arguments });
        writeln!(self.lines.get_mut(), "{line}")?;
        loop {
            let mut answer = self.hear()?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(Ok(value.take()));
            }
            if let Some(error) = answer.get("error") {
                return Ok(Err(error["desc"].as_str().unwrap_or_default().to_owned()));
            }
        }
    }

    /// A command that QEMU carries out.
    pub fn ask(&mut self, command: &str, arguments: Value) -> Result<Value> {
        match self.attempt(command, arguments)? {
            Ok(value) => Ok(value),
            Err(why) => bail!("QEMU refuses {command}: {why}"),
        }
    }

    /// Asks until the answer is as wanted.
    pub fn until(&mut self, command: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let until = Instant::now() + PATIENCE;
        loop {
            let answer = self.ask(command, json!({}))?;
            if wanted(&answer) {
                return Ok(answer);
            }
            anyhow::ensure!(Instant::now() < until, "{command} still gives {answer}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
