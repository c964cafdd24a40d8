//! Destroys a guest when the process that started it is gone, however that happened.
//!
//! A shell that waits for the end of a pipe that only that process holds. Its words tell others whose guest it is for: see [`is_ending`]. It has the guest's line
//! as well, so that the back-end hears of the guest's end not before the guest has stopped: what it does in its last moments is cleaned up after it.

use crate::devices::DomId;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// What the shell is called.
const NAME: &str = "vshmem-xen-guard";

/// The shell.
#[derive(Debug)]
pub(super) struct Guard {
    shell: Child,
}

impl Guard {
    /// `xl`, the domain's name, the process that creates it, the folder of its files; and this process. The line is its standard output, put aside. It is told the domain's number as soon as there is one: by
    /// then another domain may have the name. What `xl` was about to make is ended by name, once it is killed.
    const SCRIPT: &'static str = "exec 3>&1 >/dev/null; trap '' HUP INT TERM; read -r number; read -r _; kill -s KILL \"$3\"; \"$1\" destroy \"${number:-$2}\"; rm -rf -- \"$4\"";

    pub(super) fn new(
        xl: &Path,
        name: &str,
        creator: u32,
        folder: &Path,
        line: Option<OwnedFd>,
    ) -> io::Result<Self> {
        let shell = Command::new("/bin/sh")
            .args(["-c", Self::SCRIPT, NAME])
            .arg(xl)
            .args([name, &creator.to_string()])
            .arg(folder)
            .arg(std::process::id().to_string())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(line.map_or_else(Stdio::null, Stdio::from))
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self { shell })
    }

    /// Which domain it is.
    pub(super) fn learn(&mut self, number: DomId) -> io::Result<()> {
        match &mut self.shell.stdin {
            Some(pipe) => writeln!(pipe, "{number}"),
            None => Ok(()),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// Whether a guest of that name is being destroyed because the process that started it is gone.
pub(super) fn is_ending(name: &str) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return false;
    };
    processes
        .flatten()
        .any(|entry| is_orphan_for(&entry.path(), name).unwrap_or(false))
}

/// Whether the process with this folder below /proc is a guard of such a guest, and not its starter's child any more.
fn is_orphan_for(process: &Path, name: &str) -> Option<bool> {
    let line = std::fs::read(process.join("cmdline")).ok()?;
    let words: Vec<&[u8]> = line.split(|&byte| byte == 0).collect();
    // sh -c SCRIPT NAME xl DOMAIN creator folder STARTER
    let (called, domain, starter) = (words.get(3)?, words.get(5)?, words.get(8)?);
    if *called != NAME.as_bytes() || *domain != name.as_bytes() {
        return Some(false);
    }
    let status = std::fs::read_to_string(process.join("status")).ok()?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    Some(parent.trim().as_bytes() != *starter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    #[test]
    fn a_guard_whose_starter_lives_ends_nothing_and_one_whose_starter_is_gone_does() {
        let folder = tempfile::tempdir().unwrap();
        let files = folder.path().join("files");
        std::fs::create_dir(&files).unwrap();
        // In the place of `xl`: says what it was told, and takes its time.
        let xl = folder.path().join("xl");
        let said = folder.path().join("said");
        let script = format!(
            "#!/bin/sh\nuntil [ -e {0}/go ]; do sleep 0.01; done\necho \"$@\" >{0}/said\n",
            folder.path().display()
        );
        std::fs::write(&xl, script).unwrap();
        std::fs::set_permissions(&xl, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let name = format!("guarded-{}", std::process::id());
        let mut creator = Command::new("sleep").arg("1000").spawn().unwrap();
        let (mut back_end, line) = UnixStream::pair().unwrap();
        back_end.set_nonblocking(true).unwrap();
        let mut guard = Guard::new(&xl, &name, creator.id(), &files, Some(line.into())).unwrap();
        guard.learn(17).unwrap();
        assert!(!is_ending(&name));
        // As if this process had been killed: the pipe ends, and the shell is somebody else's child.
        let pid = guard.shell.id();
        let process = Path::new("/proc").join(pid.to_string());
        // The kernel lets the spawner go on a moment before it shows the words of what was executed.
        let until = Instant::now() + Duration::from_secs(60);
        let line = loop {
            let line = std::fs::read_to_string(process.join("cmdline")).unwrap();
            if line.ends_with(&format!("\0{}\0", std::process::id())) {
                break line;
            }
            assert!(Instant::now() < until, "{line:?}");
        };
        let elsewhere = folder.path().join("process");
        std::fs::create_dir(&elsewhere).unwrap();
        std::fs::write(elsewhere.join("cmdline"), &line).unwrap();
        std::fs::write(elsewhere.join("status"), "Name:\tsh\nPPid:\t1\n").unwrap();
        assert_eq!(is_orphan_for(&elsewhere, &name), Some(true));
        assert_eq!(is_orphan_for(&elsewhere, "another"), Some(false));
        drop(guard.shell.stdin.take());
        creator.wait().unwrap();
        // As long as the guest may live its line does, and nobody says anything there.
        std::thread::sleep(Duration::from_millis(50));
        let heard = |back_end: &mut UnixStream| back_end.read(&mut [0]).map_err(|why| why.kind());
        assert_eq!(heard(&mut back_end), Err(io::ErrorKind::WouldBlock));
        std::fs::write(folder.path().join("go"), "").unwrap();
        guard.shell.wait().unwrap();
        assert_eq!(heard(&mut back_end), Ok(0));
        let until = Instant::now() + Duration::from_secs(60);
        while files.exists() {
            assert!(Instant::now() < until);
        }
        assert_eq!(std::fs::read_to_string(said).unwrap(), "destroy 17\n");
    }
}
