//! Being interrupted: SIGINT, SIGTERM or SIGHUP in the middle of a measurement ends everything that was started, and leaves nothing behind.
//!
//! A thread hears the signal and ends this process's children, again and again until the process itself ends; nobody starts new ones. So the measurement fails
//! where it stands, and what it made is taken away on its way out, as after any failure.

use anyhow::{Result, bail};
use rustix::process::{Pid, Signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

/// The signal that came, or 0.
static CAME: AtomicI32 = AtomicI32::new(0);

/// How long what was started may take to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// The signal that interrupted the measurement.
pub fn came() -> Option<i32> {
    Some(CAME.load(Ordering::Relaxed)).filter(|signal| *signal != 0)
}

/// Hears signals from now on.
///
/// # Errors
/// The system's.
pub fn watch() -> std::io::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    std::thread::Builder::new()
        .name("interrupt".into())
        .spawn(move || {
            if let Some(signal) = signals.forever().next() {
                CAME.store(signal, Ordering::Relaxed);
                end_children(Signal::TERM, PATIENCE);
                // Something does not end: better that than a measurement that cannot be stopped.
                end_children(Signal::KILL, Duration::ZERO);
                std::process::exit(128 + signal);
            }
        })?;
    Ok(())
}

/// An error if the measurement was interrupted: asked before anything is started.
pub(crate) fn check() -> Result<()> {
    if came().is_some() {
        bail!("interrupted");
    }
    Ok(())
}

fn end_children(by: Signal, patience: Duration) {
    let until = Instant::now() + patience;
    loop {
        for child in children() {
            let _ = rustix::process::kill_process(child, by);
        }
        if Instant::now() >= until {
            return;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// This process's children.
fn children() -> Vec<Pid> {
    let threads = std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let numbers = lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    numbers
        .filter_map(|number| Pid::from_raw(number.parse().ok()?))
        .collect()
}
