//! Runs Xen's toolstack, `xl`, to its end, for a bounded time: what it waits for (`xenstored`, a device model) may never come.
//!
//! Not for the `xl create` that stays with its guest: that is [`crate::boot`]'s.

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Where Debian keeps the tools of the version that runs, and what others have on the path.
const PLACES: [&str; 3] = ["/usr/sbin/xl", "/usr/local/sbin/xl", "/usr/bin/xl"];
/// The package that has it.
pub(crate) const PACKAGE: &str = "xen-utils";
/// How long what it said is waited for once it has ended: whatever it left running may have its pipes for ever.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The program, if it is here.
pub(crate) fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join("xl"))
        .chain(PLACES.iter().map(PathBuf::from))
        .find(|candidate| candidate.is_file())
}

/// Runs it; gives what it says.
///
/// # Errors
/// If it is not here, fails, or takes longer than `patience`.
pub(crate) fn run(arguments: &[&str], patience: Duration) -> anyhow::Result<String> {
    let program = find()
        .with_context(|| format!("xl is not installed; on Debian and Ubuntu: apt-get install {PACKAGE}"))?;
    run_as(program.as_os_str(), arguments, patience)
}

/// The same with a program that was found before.
pub(crate) fn run_as(program: &OsStr, arguments: &[&str], patience: Duration) -> anyhow::Result<String> {
    let words = arguments.join(" ");
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("{} cannot be run", program.display()))?;
    let said = child.stdout.take().map(heard);
    let complained = child.stderr.take().map(heard);
    let status = wait(&mut child, patience)?;
    let Some(status) = status else {
        bail!(
            "`xl {words}` took longer than {} s and was ended",
            patience.as_secs()
        );
    };
    let (said, complained) = (text(said), text(complained));
    if !status.success() {
        bail!("`xl {words}` failed: {}", complained.trim());
    }
    Ok(said)
}

/// All that comes out of a pipe, piece by piece.
fn heard(mut pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (pieces, heard) = channel();
    std::thread::spawn(move || {
        let mut piece = [0; 4096];
        loop {
            match pipe.read(&mut piece) {
                Ok(bytes @ 1..) if pieces.send(piece[..bytes].to_vec()).is_ok() => {}
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                _ => return,
            }
        }
    });
    heard
}

/// What was heard until the pipe's end, or until nothing more is worth waiting for.
fn text(heard: Option<Receiver<Vec<u8>>>) -> String {
    let until = Instant::now() + LAST_WORDS;
    let more = |heard: &Receiver<Vec<u8>>| {
        heard
            .recv_timeout(until.saturating_duration_since(Instant::now()))
            .ok()
    };
    let pieces = heard
        .iter()
        .flat_map(|heard| std::iter::from_fn(move || more(heard)));
    String::from_utf8_lossy(&pieces.collect::<Vec<_>>().concat()).into_owned()
}

/// Waits for a child that leads a group of processes; one that takes longer is killed, with its group, and None.
///
/// # Errors
/// The kernel's.
pub(crate) fn wait(child: &mut Child, patience: Duration) -> io::Result<Option<ExitStatus>> {
    let until = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() > until {
            let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn sh(script: &str, patience: Duration) -> anyhow::Result<String> {
        run_as(OsStr::new("/bin/sh"), &["-c", script], patience)
    }

    #[test]
    fn what_it_says_and_how_it_fails_is_told() {
        assert_eq!(sh("echo yes", MINUTE).unwrap(), "yes\n");
        let much = sh("head -c 300000 /dev/zero | tr '\\0' x", MINUTE).unwrap();
        assert_eq!(much.len(), 300_000);
        let why = sh("echo no >&2; exit 3", MINUTE).unwrap_err();
        assert!(why.to_string().ends_with("failed: no"), "{why}");
        assert!(run_as(OsStr::new("/nowhere/xl"), &[], MINUTE).is_err());
    }

    #[test]
    fn one_that_hangs_is_ended_with_whatever_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
        let why = sh(&script, Duration::from_secs(2)).unwrap_err();
        assert!(why.to_string().contains("took longer"), "{why}");
        let pid = std::fs::read_to_string(file).unwrap();
        let state = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).ok()?;
            stat.rsplit_once(") ")?.1.chars().next()
        };
        let until = Instant::now() + MINUTE;
        while state().is_some_and(|state| state != 'Z') {
            assert!(Instant::now() < until, "it runs on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn what_it_leaves_running_is_not_waited_for() {
        let begun = Instant::now();
        assert_eq!(sh("sleep 40 & echo yes", MINUTE).unwrap(), "yes\n");
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
}
