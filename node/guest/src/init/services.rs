//! Commands that must run before the program, such as the front-end: started as root, awaited until they are ready.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Pid, Signal, kill_process_group};

use super::program::service_environment;
use super::reaper;
use crate::frame::{Outcome, Start, StartService};

/// Between two looks at whether a service is ready.
const PAUSE: Duration = Duration::from_millis(5);
/// How long services may take to end.
const ENDING: Duration = Duration::from_millis(1500);

/// One that runs, with its name for messages.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) name: String,
    pub(super) pid: Pid,
}

/// Starts them one after another, each when the one before is ready.
pub(super) fn start_all(start: &Start) -> anyhow::Result<Vec<Running>> {
    start
        .services
        .iter()
        .map(|service| start_one(start, service))
        .collect()
}

fn start_one(start: &Start, service: &StartService) -> anyhow::Result<Running> {
    let words: Vec<_> = service.argv.iter().map(|word| OsStr::from_bytes(word)).collect();
    let (program, arguments) = words.split_first().context("a service without a program")?;
    let name = words
        .iter()
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ");
    // What it says goes to the console, and from there into messages about guests that failed.
    let console = || {
        File::options()
            .write(true)
            .open("/dev/console")
            .map_or_else(|_| Stdio::null(), Stdio::from)
    };
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(service_environment(start))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(console())
        .stderr(console())
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting {name}"))?;
    if let Some(path) = &service.ready {
        await_ready(
            &mut child,
            &name,
            Path::new(OsStr::from_bytes(path)),
            Duration::from_millis(service.patience_ms),
        )?;
    }
    Ok(Running {
        name,
        pid: Pid::from_child(&child),
    })
}

fn await_ready(child: &mut Child, name: &str, path: &Path, patience: Duration) -> anyhow::Result<()> {
    let started = Instant::now();
    while !is_ready(path) {
        if let Some(status) = child.try_wait()? {
            anyhow::bail!("{name} ended before it was ready ({status})");
        }
        if started.elapsed() > patience {
            anyhow::bail!(
                "{name} was not ready within {:.0} s ({} is not there)",
                patience.as_secs_f64(),
                path.display()
            );
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// A socket is ready when somebody listens on it: one of the host's may lie there, seen through the root.
fn is_ready(path: &Path) -> bool {
    let Ok(meta) = std::fs::metadata(path) else {
        return false;
    };
    if !meta.file_type().is_socket() {
        return true;
    }
    [SocketType::SEQPACKET, SocketType::STREAM]
        .into_iter()
        .any(|kind| listens(path, kind).unwrap_or(false))
}

fn listens(path: &Path, kind: SocketType) -> io::Result<bool> {
    let socket = socket_with(
        AddressFamily::UNIX,
        kind,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    match connect(&socket, &SocketAddrUnix::new(path)?) {
        // A full queue of callers has a listener, too.
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        Err(e) => Err(e.into()),
    }
}

/// What to tell the user when one of the dead was a service.
pub(super) fn obituary(services: &mut Vec<Running>, pid: Pid, outcome: Outcome) -> Option<String> {
    let at = services.iter().position(|service| service.pid == pid)?;
    let name = services.swap_remove(at).name;
    Some(match outcome {
        Outcome::Exited(code) => format!("{name} ended with status {code} while the program ran"),
        Outcome::Signaled(signal) => format!("{name} was killed by signal {signal} while the program ran"),
    })
}

/// Ends them: they are asked first, and then there is no time left.
pub(super) fn end_all(services: Vec<Running>) {
    for service in &services {
        let _ = kill_process_group(service.pid, Signal::TERM);
    }
    let mut left: Vec<_> = services.into_iter().map(|service| service.pid).collect();
    let started = Instant::now();
    while !left.is_empty() && started.elapsed() < ENDING {
        while let Ok(Some((pid, status))) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {
            if reaper::outcome(status).is_some() {
                left.retain(|&one| one != pid);
            }
        }
        if !left.is_empty() {
            std::thread::sleep(PAUSE);
        }
    }
}
