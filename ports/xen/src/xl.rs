//! Runs Xen's toolstack, `xl`, to its end, for a bounded time: what it waits for (`xenstored`, a device model) may never come.
//!
//! Not for the `xl create` that stays with its guest: that is [`crate::boot`]'s.

use anyhow::{Context, bail};
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Where Debian keeps the tools of the version that runs, and what others have on the path.
const PLACES: [&str; 3] = ["/usr/sbin/xl", "/usr/local/sbin/xl", "/usr/bin/xl"];
/// The package that has it.
pub(crate) const PACKAGE: &str = "xen-utils";

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

fn run_as(program: &OsStr, arguments: &[&str], patience: Duration) -> anyhow::Result<String> {
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
    let text = |heard: Option<std::thread::JoinHandle<Vec<u8>>>| {
        let bytes = heard.and_then(|thread| thread.join().ok()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let (said, complained) = (text(said), text(complained));
    if !status.success() {
        bail!("`xl {words}` failed: {}", complained.trim());
    }
    Ok(said)
}

/// All that comes out of a pipe.
fn heard(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        let _ = pipe.read_to_end(&mut all);
        all
    })
}

/// Waits for a child; one that takes longer is killed, and None.
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

    #[test]
    fn what_it_says_and_how_it_fails_is_told() {
        let sh = OsStr::new("/bin/sh");
        let minute = Duration::from_secs(60);
        assert_eq!(run_as(sh, &["-c", "echo yes"], minute).unwrap(), "yes\n");
        let why = run_as(sh, &["-c", "echo no >&2; exit 3"], minute).unwrap_err();
        assert!(why.to_string().ends_with("failed: no"), "{why}");
        assert!(run_as(OsStr::new("/nowhere/xl"), &[], minute).is_err());
    }

    #[test]
    fn one_that_hangs_is_ended() {
        let why = run_as(OsStr::new("/bin/sleep"), &["1000"], Duration::from_millis(20)).unwrap_err();
        assert!(why.to_string().contains("took longer"), "{why}");
    }
}
