//! A back-end of our own, for as long as something needs it: `run --serve`, the demonstration.
//!
//! It is another process, `vshmem serve` on a folder, ended by SIGTERM. Not for a back-end that stays.

use crate::connection::Connection;
use crate::place::Place;
use crate::trouble::{OURS, Outcome, Trouble};
use rustix::process::{Pid, Signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use std::ffi::OsStr;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a back-end may take to answer.
const START: Duration = Duration::from_secs(15);
/// How long it may take to stop.
const STOP: Duration = Duration::from_secs(10);

/// A running back-end. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Backend {
    child: Child,
    place: Place,
}

impl Backend {
    /// Starts a back-end at `place`, unless one answers there already.
    pub(crate) fn for_a_while(place: &Place) -> Result<Option<Backend>, Trouble> {
        if Connection::open(place).is_ok() {
            return Ok(None);
        }
        Backend::start(place).map(Some)
    }

    /// Starts a back-end at `place` and waits until it answers.
    pub(crate) fn start(place: &Place) -> Result<Backend, Trouble> {
        let trouble = |why: String| Trouble::new("starting a back-end", why).with_status(OURS);
        let own = std::env::current_exe().map_err(|error| trouble(error.to_string()))?;
        let place = Place {
            runtime_dir: Some(place.folder()),
            domain: place.domain.clone(),
        };
        let child = Command::new(own)
            .arg("serve")
            .arg("--runtime-dir")
            .arg(place.folder())
            .env(
                "VSHMEM_LOG",
                std::env::var("VSHMEM_LOG").unwrap_or_else(|_| "warn".to_owned()),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // In a group of its own: Ctrl-C is for the program; the back-end ends after it.
            .process_group(0)
            .spawn()
            .map_err(|error| trouble(error.to_string()))?;
        let mut backend = Backend { child, place };
        let until = Instant::now() + START;
        loop {
            let why = match Connection::open(&backend.place) {
                Ok(_) => return Ok(backend),
                Err(why) => why,
            };
            if let Ok(Some(status)) = backend.child.try_wait() {
                return Err(
                    trouble(format!("it ended at once ({status})")).remedy("its own message stands above")
                );
            }
            if Instant::now() > until {
                return Err(trouble(format!(
                    "no answer within {} s ({})",
                    START.as_secs(),
                    why.why()
                )));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Where it is.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Runs a program to its end, passing signals to it, then ends the back-end.
    pub(crate) fn run(self, mut command: Command, name: &OsStr) -> Outcome {
        attend(name, || {
            let mut child = command
                .spawn()
                .map_err(|error| crate::commands::run::failed_to_run(name, &error))?;
            let pid = Pid::from_child(&child);
            Ok((Some(pid), move || child.wait()))
        })
    }
}

/// Starts a program, waits for its end and passes signals to it meanwhile. `start` gives its pid and how to wait.
pub(crate) fn attend<W: FnOnce() -> std::io::Result<ExitStatus>>(
    name: &OsStr,
    start: impl FnOnce() -> Result<(Option<Pid>, W), Trouble>,
) -> Outcome {
    let own = |error: std::io::Error| Trouble::new("signals", error).with_status(OURS);
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT]).map_err(own)?;
    let (pid, wait) = start()?;
    let handle = signals.handle();
    let forward = std::thread::spawn(move || {
        for number in signals.forever() {
            // The terminal has sent SIGINT and SIGQUIT to the program already.
            if matches!(number, SIGTERM | SIGHUP)
                && let (Some(pid), Some(signal)) = (pid, Signal::from_named_raw(number))
            {
                let _ = rustix::process::kill_process(pid, signal);
            }
        }
    });
    let status = wait();
    handle.close();
    let _ = forward.join();
    let status = status.map_err(|error| Trouble::new(name.to_string_lossy(), error).with_status(OURS))?;
    Ok(exit_status(status))
}

impl Drop for Backend {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, Signal::TERM);
        let until = Instant::now() + STOP;
        while Instant::now() < until {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The status a shell would show: 128 and the signal's number for a killed program.
pub(crate) fn exit_status(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code as u8,
        (None, Some(signal)) => 128 + signal as u8,
        _ => OURS,
    }
}
