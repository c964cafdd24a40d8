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

    /// A command in people's words: what the monitor says about it, which is nothing if it is done.
    pub fn say(&mut self, command: &str) -> Result<String> {
        let said = self.ask("human-monitor-command", json!({ "command-line": command }))?;
        Ok(said.as_str().unwrap_or_default().trim().to_owned())
    }

    /// The same again and again until it is done.
    pub fn insist(&mut self, command: &str) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let said = self.say(command)?;
            if said.is_empty() {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < until, "{command}: {said}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// A command in people's words again and again until the answer does not have this in it.
    pub fn until_silent_about(&mut self, command: &str, what: &str) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while self.say(command)?.contains(what) {
            anyhow::ensure!(Instant::now() < until, "{command} still tells of {what}");
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
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
