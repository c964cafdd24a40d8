//! One side of the demonstration: a shell script somewhere, whose lines arrive as they are printed.

use crate::trouble::Trouble;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// What a party did.
pub(crate) enum Event {
    /// It printed a line.
    Line(usize, String),
    /// It printed a line on standard error.
    Complaint(usize, String),
    /// All its output has arrived.
    Silent(usize),
}

/// A running script. Dropping it ends it, with the guest it may be in.
pub(crate) struct Party {
    name: &'static str,
    child: Child,
}

/// How long a guest may take to go.
const END: Duration = Duration::from_secs(10);

impl Party {
    /// Starts it; `number` is how its events are told apart.
    pub(crate) fn start(
        name: &'static str,
        number: usize,
        mut command: Command,
        events: &Sender<Event>,
    ) -> Result<Party, Trouble> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| Trouble::new(format!("domain {name}"), error))?;
        if let Some(stream) = child.stdout.take() {
            forward(
                stream,
                events.clone(),
                move |line| Event::Line(number, line),
                Some(Event::Silent(number)),
            );
        }
        if let Some(stream) = child.stderr.take() {
            forward(
                stream,
                events.clone(),
                move |line| Event::Complaint(number, line),
                None,
            );
        }
        Ok(Party { name, child })
    }

    /// Waits for its end, which must be a success.
    pub(crate) fn ended_well(&mut self) -> Result<(), Trouble> {
        let why = match self.end() {
            Some(status) if status.success() => return Ok(()),
            Some(status) => format!("its programs ended with {status}"),
            None => "it does not end".to_owned(),
        };
        Err(Trouble::new(format!("domain {}", self.name), why))
    }

    fn end(&mut self) -> Option<ExitStatus> {
        let until = Instant::now() + END;
        while Instant::now() < until {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) => std::thread::sleep(Duration::from_millis(5)),
                Err(_) => return None,
            }
        }
        None
    }
}

impl Drop for Party {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let pid = rustix::process::Pid::from_child(&self.child);
            // Twice: the first goes to the program in the guest, the second ends the guest.
            for _ in 0..2 {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
                std::thread::sleep(Duration::from_millis(200));
            }
            if self.end().is_none() {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
    }
}

/// Hands a stream's lines on, from a thread of its own, and `last` after them.
fn forward(
    stream: impl Read + Send + 'static,
    events: Sender<Event>,
    event: impl Fn(String) -> Event + Send + 'static,
    last: Option<Event>,
) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if events.send(event(line)).is_err() {
                return;
            }
        }
        if let Some(last) = last {
            let _ = events.send(last);
        }
    });
}
