//! A back-end of a test's own, programs compiled for it, and waiting with a limit.
#![allow(dead_code)] // Each test file uses a part.

use rustix::process::{Pid, Signal};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};
use tempfile::TempDir;

/// The folder of what was built.
fn built() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().to_owned()
}

/// The preload library, built by the run of this test.
pub(crate) fn preload() -> PathBuf {
    let here = built();
    let candidates = [
        here.join("libvshmem_preload.so"),
        here.join("deps/libvshmem_preload.so"),
    ];
    candidates
        .into_iter()
        .find(|path| path.exists())
        .expect("the preload library is not built")
}

/// The daemon's program, built if need be.
fn daemon_program() -> PathBuf {
    let program = built().join("vshmem-daemon");
    if !program.exists() {
        let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
        let status = Command::new(cargo)
            .args(["build", "-q", "-p", "vshmem-daemon"])
            .status()
            .unwrap();
        assert!(status.success());
    }
    program
}

/// A back-end that serves a folder of its own and ends with the test.
pub(crate) struct Daemon {
    child: Child,
    folder: TempDir,
}

impl Daemon {
    pub(crate) fn start() -> Daemon {
        let folder = tempfile::tempdir().unwrap();
        // Programs that change their user must reach the socket.
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let child = Self::serve(folder.path());
        Daemon { child, folder }
    }

    fn serve(folder: &Path) -> Child {
        let mut command = Command::new(daemon_program());
        command.arg("serve").arg("--runtime-dir").arg(folder.join("run"));
        command.stdin(Stdio::null()).env("VSHMEM_LOG", "warn");
        let child = command.spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while !folder.join("run/vshmem.sock").exists() {
            assert!(Instant::now() < until, "the daemon does not start");
            thread::sleep(Duration::from_millis(5));
        }
        child
    }

    /// A new one in the same place, after [`Daemon::stop`].
    pub(crate) fn start_another(&mut self) {
        self.child = Self::serve(self.folder.path());
    }

    /// Stops it cleanly.
    pub(crate) fn stop(&mut self) {
        signal(self.child.id(), Signal::TERM);
        let until = Instant::now() + Duration::from_secs(10);
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > until {
                let _ = self.child.kill();
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills the process that serves, and not its keeper, which starts another.
    pub(crate) fn kill_the_back_end(&self) {
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        let children = fs::read_to_string(children).unwrap();
        let mut victims = children.split_whitespace().peekable();
        assert!(victims.peek().is_some(), "the keeper has no children");
        for victim in victims {
            signal(victim.parse().unwrap(), Signal::KILL);
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A program that is served by this daemon.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env("LD_PRELOAD", preload())
            .env("VSHMEM_RUNTIME_DIR", self.folder.path().join("run"))
            .env_remove("VSHMEM_KEYS")
            .env_remove("VSHMEM_DOMAIN");
        command
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.stop();
        }
    }
}

/// Compiles a C program of this folder.
pub(crate) fn compile(name: &str, into: &Path) -> PathBuf {
    compile_as(name, &into.join(name), &[])
}

/// Compiles a C program of this folder, with options of its own.
pub(crate) fn compile_as(name: &str, to: &Path, options: &[&str]) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/programs")
        .join(format!("{name}.c"));
    let status = Command::new("gcc")
        .args(["-Wall", "-Wextra", "-Werror", "-O1", "-g", "-pthread", "-o"])
        .arg(to)
        .args(options)
        .arg(source)
        .status()
        .expect("gcc is needed for this test");
    assert!(status.success());
    to.to_owned()
}

/// What a program that ended, or was ended, left.
pub(crate) struct Finished(pub(crate) Output, pub(crate) bool);

impl Finished {
    pub(crate) fn expect_success(&self, how: &str) -> String {
        let error = String::from_utf8_lossy(&self.0.stderr);
        assert!(!self.1, "{how}: took too long\n{error}");
        assert!(self.0.status.success(), "{how}: {}\n{error}", self.0.status);
        String::from_utf8_lossy(&self.0.stdout).into_owned()
    }
}

/// Runs a program to its end, or ends it when its time is up.
pub(crate) fn finish(command: &mut Command, patience: Duration) -> Finished {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let until = Instant::now() + patience;
    let mut late = false;
    // What these programs print fits into a pipe.
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > until {
            late = true;
            child.kill().unwrap();
        }
        thread::sleep(Duration::from_millis(5));
    }
    Finished(child.wait_with_output().unwrap(), late)
}

fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}
