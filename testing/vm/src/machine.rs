//! A Vshmem of its own for a test: a daemon in a temporary runtime directory, ended with the test.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Where a party of a scenario runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The kernel's own IPC on this host: the reference.
    Kernel,
    /// On this host, in the domain `host`.
    Host,
    /// On this host, in the domain `host`, by the C library instead of the preload library.
    Library,
    /// On this host, in a local domain of its own.
    Local(&'static str),
    /// On this host, in a local domain of its own, in IPC, process id and mount namespaces of its own.
    Container(&'static str),
    /// In a UML guest.
    Uml(&'static str),
    /// In a QEMU guest.
    Qemu(&'static str),
    /// In a QEMU guest whose stream goes over vsock.
    QemuVsock(&'static str),
    /// In a guest of Xen.
    Xen(&'static str),
}

/// Prints why a row is skipped; the test then returns.
pub fn missing(row: &str, why: &str) {
    println!("skipped: {row}: {why}");
}

/// Whether UML guests can be booted here.
pub fn uml_available() -> bool {
    Path::new("/usr/bin/linux.uml").exists()
}

/// Why QEMU guests cannot be booted here, if they cannot: QEMU is missing, or no kernel for guests is here or can be fetched.
pub fn qemu_missing() -> Option<String> {
    static FOUND: OnceLock<Option<String>> = OnceLock::new();
    let look = || -> Result<()> {
        let boot = vshmem_port_select::boot("qemu")?;
        boot.check()?;
        Ok(boot.prepare()?)
    };
    FOUND
        .get_or_init(|| look().err().map(|why| format!("{why:#}")))
        .clone()
}

/// Why QEMU guests cannot have a stream over vsock here, if they cannot: besides QEMU the kernel's vhost-vsock or the program vhost-device-vsock is missing.
pub fn vsock_missing() -> Option<String> {
    qemu_missing().or_else(|| vshmem_port_select::vsock_for_machines().err())
}

/// Why guests of Xen cannot be booted here, if they cannot: most often because this is not dom0. `cargo xtask xen-lab --test` runs these tests in one.
pub fn xen_missing() -> Option<String> {
    static FOUND: OnceLock<Option<String>> = OnceLock::new();
    let look = || vshmem_port_select::boot("xen").and_then(|boot| Ok(boot.check()?));
    FOUND
        .get_or_init(|| look().err().map(|why| format!("{why:#}")))
        .clone()
}

/// What starts a program in namespaces of its own; the arguments follow. It is not process 1 there, which no signal from within would kill.
pub const CONTAINER: [&str; 9] = [
    "unshare",
    "--ipc",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "sh",
    "-c",
    "\"$0\" \"$@\"; exit $?",
];

/// Whether containers can be made here: asks for root and unshare.
pub fn containers_available() -> bool {
    let mut command = Command::new(CONTAINER[0]);
    let made = finish(command.args(&CONTAINER[1..]).arg("true"), Duration::from_secs(10));
    made.is_ok_and(|out| out.status.success())
}

/// The folder with the built command and libraries.
pub fn built() -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    // target/debug/deps/name-hash
    test.ancestors().nth(2).map(Path::to_path_buf).unwrap_or_default()
}

/// A daemon and the commands that use it.
pub struct Machine {
    folder: tempfile::TempDir,
    keeper: Child,
}

impl Machine {
    /// Starts a back-end with the default configuration.
    pub fn start() -> Result<Machine> {
        Machine::configured("")
    }

    /// Starts a back-end that parties at these places can use.
    pub fn start_for(places: &[Place]) -> Result<Machine> {
        let granted = places.iter().any(|place| matches!(place, Place::Xen(_)));
        Machine::configured(if granted {
            "[group]\nmemory = \"grants\"\npool = \"64M\"\n"
        } else {
            ""
        })
    }

    /// Starts a back-end with this configuration.
    pub fn configured(toml: &str) -> Result<Machine> {
        Machine::started_by(Command::new(program()), toml)
    }

    /// Starts a back-end by a command that ends in the program's name: `setpriv … vshmem`, say.
    pub fn started_by(mut command: Command, toml: &str) -> Result<Machine> {
        let folder = tempfile::tempdir()?;
        command
            .args(["serve", "--runtime-dir"])
            .arg(folder.path())
            .stdin(Stdio::null());
        if !toml.is_empty() {
            let file = folder.path().join("vshmem.toml");
            std::fs::write(&file, toml)?;
            command.arg("--config").arg(file);
        }
        let keeper = command
            .spawn()
            .with_context(|| format!("{}: build the workspace first", program().display()))?;
        let machine = Machine { folder, keeper };
        let until = Instant::now() + Duration::from_secs(60);
        while !machine.runtime().join("vshmem.sock").exists() {
            ensure!(
                Instant::now() < until,
                "the daemon did not come up within a minute"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(machine)
    }

    /// The runtime directory.
    pub fn runtime(&self) -> &Path {
        self.folder.path()
    }

    /// `vshmem` with the runtime directory set.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(args).env("VSHMEM_RUNTIME_DIR", self.runtime());
        command
    }

    /// `vshmem` in a container, with the runtime directory set.
    pub fn contained(&self, args: &[&str]) -> Command {
        let mut command = Command::new(CONTAINER[0]);
        command.args(&CONTAINER[1..]).arg(program()).args(args);
        command.env("VSHMEM_RUNTIME_DIR", self.runtime());
        command
    }

    /// Runs `vshmem` to its end, within a minute.
    pub fn vshmem(&self, args: &[&str]) -> Result<Output> {
        finish(&mut self.command(args), Duration::from_secs(60))
    }

    /// Runs a program of this host under `vshmem run`.
    pub fn run(&self, argv: &[&str], limit: Duration) -> Result<Output> {
        let mut command = self.command(&["run", "--"]);
        finish(command.args(argv), limit)
    }

    /// Process id of the daemon proper (the keeper's child).
    pub fn daemon_pid(&self) -> Result<i32> {
        let out = self.vshmem(&["status", "--json"])?;
        let json: serde_json::Value = serde_json::from_slice(&out.stdout)
            .with_context(|| format!("status says {}", String::from_utf8_lossy(&out.stderr)))?;
        let pid = json["pid"].as_i64().context("status names no pid")?;
        Ok(i32::try_from(pid)?)
    }

    /// Process id of the keeper.
    pub fn keeper_pid(&self) -> i32 {
        self.keeper.id() as i32
    }

    /// Stops the daemon as Ctrl-C would, and waits for its end.
    pub fn stop(&mut self) -> Result<std::process::ExitStatus> {
        signal(self.keeper_pid(), rustix::process::Signal::TERM)?;
        wait(&mut self.keeper, Duration::from_secs(60))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.stop().is_err() {
            let _ = self.keeper.kill();
            let _ = self.keeper.wait();
        }
    }
}

/// The built command.
pub fn program() -> PathBuf {
    built().join("vshmem")
}

/// The process that is the machine, below the one that started it.
pub fn hypervisor(runner: i32) -> Result<i32> {
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        let Some((name, rest)) = stat.rsplit_once(')') else {
            continue;
        };
        let parent = rest.split_whitespace().nth(1).and_then(|word| word.parse().ok());
        if parent == Some(runner) && name.contains("(qemu-system") {
            return Ok(name.split(' ').next().unwrap_or_default().parse()?);
        }
    }
    anyhow::bail!("{runner} has no machine")
}

/// Sends a signal to a process.
pub fn signal(pid: i32, signal: rustix::process::Signal) -> Result<()> {
    let pid = rustix::process::Pid::from_raw(pid).context("no such pid")?;
    Ok(rustix::process::kill_process(pid, signal)?)
}

/// Waits for a child, at most so long.
pub fn wait(child: &mut Child, limit: Duration) -> Result<std::process::ExitStatus> {
    let until = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > until {
            let _ = child.kill();
            let _ = child.wait();
            anyhow::bail!("did not end within {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a command to its end, at most so long, and gives what it printed.
pub fn finish(command: &mut Command, limit: Duration) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{command:?}"))?;
    let (mut out, mut err) = (
        child.stdout.take().context("stdout")?,
        child.stderr.take().context("stderr")?,
    );
    let read_out = std::thread::spawn(move || read_all(&mut out));
    let read_err = std::thread::spawn(move || read_all(&mut err));
    let status = wait(&mut child, limit).with_context(|| format!("{command:?}"));
    let stdout = read_out.join().unwrap_or_default();
    let stderr = read_err.join().unwrap_or_default();
    let status = status.with_context(|| {
        format!(
            "stdout: {}\nstderr: {}",
            String::from_utf8_lossy(&stdout),
            String::from_utf8_lossy(&stderr)
        )
    })?;
    Ok(Output {
        status,
        stdout,
        stderr,
    })
}

fn read_all(from: &mut impl std::io::Read) -> Vec<u8> {
    let mut all = Vec::new();
    let _ = from.read_to_end(&mut all);
    all
}
