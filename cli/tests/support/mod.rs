//! A built `vshmem`, run with a time limit, and a back-end of a test's own.
#![allow(dead_code)] // Each test file uses some of it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Longest run of any command here that boots no machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// The command.
pub(crate) fn vshmem(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vshmem"));
    command
        .args(args)
        .env_remove("VSHMEM_RUNTIME_DIR")
        .env_remove("VSHMEM_DOMAIN")
        .env_remove("LD_PRELOAD");
    command
}

/// Runs a command to its end; kills it after the limit.
pub(crate) fn finish(command: &mut Command, limit: Duration) -> Output {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    finish_child(child.expect("started"), limit)
}

/// Waits for a child's end; kills it after the limit.
pub(crate) fn finish_child(mut child: Child, limit: Duration) -> Output {
    let streams = [
        child.stdout.take().map(|stream| read_aside(Box::new(stream))),
        child.stderr.take().map(|stream| read_aside(Box::new(stream))),
    ];
    let until = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait().expect("waited") {
            break Some(status);
        }
        if Instant::now() > until {
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let [stdout, stderr] = streams.map(|s| s.and_then(|thread| thread.join().ok()).unwrap_or_default());
    match status {
        Some(status) => Output {
            status,
            stdout,
            stderr,
        },
        None => panic!(
            "no end within {limit:?}; so far: {} {}",
            String::from_utf8_lossy(&stdout),
            String::from_utf8_lossy(&stderr)
        ),
    }
}

fn read_aside(mut stream: Box<dyn std::io::Read + Send>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        bytes
    })
}

/// Standard output as text.
pub(crate) fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Standard error as text.
pub(crate) fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A back-end in a folder of its own. Dropping it stops it.
pub(crate) struct Daemon {
    folder: tempfile::TempDir,
    child: Child,
}

impl Daemon {
    /// Starts one and waits until it answers. Builds the preload library beside the command, which `cargo test` alone does not.
    pub(crate) fn start() -> Daemon {
        Daemon::start_with(&[])
    }

    /// Starts one with more options.
    pub(crate) fn start_with(options: &[&str]) -> Daemon {
        build_preload();
        let folder = tempfile::tempdir().expect("temporary folder");
        let child = vshmem(&["serve", "--runtime-dir"])
            .arg(folder.path())
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("vshmem serve");
        let daemon = Daemon { folder, child };
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let status = finish(&mut daemon.vshmem(&["status"]), LIMIT);
            if status.status.success() {
                return daemon;
            }
            assert!(Instant::now() < until, "no answer: {}", err(&status));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Its folder.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The command, for this back-end.
    pub(crate) fn vshmem(&self, args: &[&str]) -> Command {
        let mut command = vshmem(args);
        command.env("VSHMEM_RUNTIME_DIR", self.folder.path());
        command
    }

    /// Runs the command, which must succeed, and gives what it printed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = finish(&mut self.vshmem(args), LIMIT);
        assert!(
            output.status.success(),
            "vshmem {args:?}: {}{}",
            out(&output),
            err(&output)
        );
        out(&output)
    }

    /// Runs the command with `--json` and gives what it printed.
    pub(crate) fn json(&self, args: &[&str]) -> serde_json::Value {
        let mut all = args.to_vec();
        all.push("--json");
        serde_json::from_str(&self.ok(&all)).expect("JSON")
    }

    /// Stops it as `kill` does and gives its status.
    pub(crate) fn stop(&mut self) -> Option<std::process::ExitStatus> {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let until = Instant::now() + Duration::from_secs(15);
        while Instant::now() < until {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.stop().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Builds the preload library into the folder of the command, once for all tests.
pub(crate) fn build_preload() -> PathBuf {
    let library = Path::new(env!("CARGO_BIN_EXE_vshmem")).with_file_name("libvshmem_preload.so");
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command
            .args(["build", "--quiet", "--offline", "-p", "vshmem-preload"])
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        if !cfg!(debug_assertions) {
            command.arg("--release");
        }
        let output = finish(&mut command, Duration::from_secs(600));
        assert!(output.status.success(), "{}", err(&output));
    });
    library
}

/// Compiles a C program; None (and a line that says so) without a compiler.
pub(crate) fn cc(source: &Path, program: &Path, options: &[&str]) -> Option<()> {
    let mut command = Command::new("cc");
    command
        .args(["-Wall", "-Wextra", "-Werror", "-O2", "-o"])
        .arg(program)
        .arg(source)
        .args(options);
    if Command::new("cc").arg("--version").output().is_err() {
        println!("skipped: no C compiler (cc)");
        return None;
    }
    let output = finish(&mut command, LIMIT);
    assert!(output.status.success(), "{}: {}", source.display(), err(&output));
    Some(())
}
