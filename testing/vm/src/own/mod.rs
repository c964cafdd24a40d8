//! A virtual machine of somebody's own, with nothing of Vshmem's in its making but what `vshmem vm flags` prints: a distribution's kernel, an initial root of a few
//! programs, QEMU's monitor, and a shell in the machine.
//!
//! | module | what it holds |
//! |---|---|
//! | `root` | the root in memory, and its first process |
//! | `monitor` | QEMU's monitor |
//!
//! Not for guests that `vshmem vm run` starts: those are [`crate::actor`]'s.

mod monitor;
mod root;

pub use monitor::Monitor;

use crate::actor::Answer;
use crate::machine::{Machine, qemu_missing};
use anyhow::{Context, Result, bail, ensure};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const QEMU: &str = "qemu-system-x86_64";
/// How long the machine may take to come up, or to carry out a line.
const PATIENCE: Duration = Duration::from_secs(120);
/// Begins the line that a status is in.
const STATUS: char = '~';

/// Why there can be no such machine here, if there cannot.
pub fn missing_here() -> Option<String> {
    qemu_missing().or_else(|| {
        kernel()
            .is_none()
            .then(|| "no kernel in the cache (`vshmem vm run --port qemu` fetches one)".to_owned())
    })
}

/// Why such a machine cannot have vsock here, if it cannot.
pub fn vsock_missing_here() -> Option<String> {
    let has_it = |kernel: PathBuf| {
        let modules = only(&kernel.join("lib/modules"), "").ok()?;
        only(
            &modules.join("kernel/net/vmw_vsock"),
            "vmw_vsock_virtio_transport.ko",
        )
        .ok()
    };
    missing_here().or_else(crate::vsock_missing).or_else(|| {
        let why =
            "the cached kernel has no vsock (`vshmem vm run --port qemu --stream vsock` fetches it anew)";
        kernel().and_then(has_it).is_none().then(|| why.to_owned())
    })
}

/// A cached kernel's folder, which has `boot` and `lib`.
fn kernel() -> Option<PathBuf> {
    let home = std::env::var_os("HOME")?;
    let cache =
        std::env::var_os("XDG_CACHE_HOME").map_or_else(|| Path::new(&home).join(".cache"), PathBuf::from);
    let found = std::fs::read_dir(cache.join("vshmem/kernels")).ok()?;
    let mut all = found.flatten().map(|entry| entry.path());
    all.find(|path| path.join("boot").is_dir())
}

/// The only entry of a folder whose name begins so.
fn only(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let all = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut all = all.flatten().map(|entry| entry.path());
    let found = all.find(|path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    });
    found.with_context(|| format!("no {prefix}… in {}", folder.display()))
}

/// What `vshmem vm flags` prints for a domain, word by word.
pub fn flags(machine: &Machine, domain: &str, more: &[&str]) -> Result<Vec<String>> {
    let out = machine.vshmem(&[&["vm", "flags", "qemu", "--domain", domain], more].concat())?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout)?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

/// Options for ports of a machine that PCI devices can be plugged into: the second has room for a pool of 64 MiB.
pub const PORTS: [&str; 4] = [
    "-device",
    "pcie-root-port,id=slot1,chassis=1",
    "-device",
    "pcie-root-port,id=slot2,chassis=2,pref64-reserve=128M",
];

/// What `vshmem vm flags qemu-monitor` prints for domain `own`, each PCI device in one of [`PORTS`].
pub fn monitor_commands(machine: &Machine) -> Result<Vec<String>> {
    let words = [
        "vm",
        "flags",
        "qemu-monitor",
        "--domain",
        "own",
        "--device",
        "plain",
    ];
    let out = machine.vshmem(&words)?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(out.status.success() && said.contains("pcie-root-port"), "{said}");
    let text = String::from_utf8(out.stdout)?;
    let slots = [("virtio-serial-pci", "slot1"), ("ivshmem-plain", "slot2")];
    let placed = text.lines().map(|line| {
        let slot = slots.iter().find(|(device, _)| line.contains(device));
        slot.map_or_else(|| line.to_owned(), |(_, slot)| format!("{line},bus={slot}"))
    });
    Ok(placed.collect())
}

/// What machines are made of: made once, for any number of them.
pub struct Maker {
    folder: tempfile::TempDir,
    kernel: PathBuf,
    root: PathBuf,
    count: usize,
}

impl Maker {
    /// Makes the root.
    pub fn new() -> Result<Maker> {
        let folder = tempfile::tempdir()?;
        let of = kernel().context("no kernel")?;
        let modules = only(&of.join("lib/modules"), "")?;
        let root = folder.path().join("root");
        std::fs::write(&root, root::make(&modules, folder.path())?)?;
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o600))?;
        Ok(Maker {
            kernel: only(&of.join("boot"), "vmlinuz")?,
            root,
            folder,
            count: 0,
        })
    }

    /// A folder that lives as long as this.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts a machine of a type (`q35`, `pc`) with these options more, and waits until its shell answers.
    pub fn start(&mut self, kind: &str, options: &[String]) -> Result<Own> {
        let mut own = self.launch(kind, options)?;
        own.listen().context("the machine does not come up")?;
        Ok(own)
    }

    /// The same without waiting.
    pub fn launch(&mut self, kind: &str, options: &[String]) -> Result<Own> {
        self.count += 1;
        let file = |what: &str| self.folder.path().join(format!("{what}{}", self.count));
        let (console, door) = (file("console"), file("monitor"));
        // Ends with the test, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", QEMU]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        command.args([
            "-machine",
            kind,
            "-cpu",
            "max",
            "-smp",
            "1,maxcpus=2",
            "-m",
            "384M",
        ]);
        command.arg("-kernel").arg(&self.kernel);
        command.arg("-initrd").arg(&self.root);
        command.args(["-append", "console=ttyS0 quiet panic=-1 no_timer_check"]);
        command.args(["-serial", &format!("file:{}", console.display())]);
        command.args(["-serial", "stdio"]);
        command.args(["-qmp", &format!("unix:{},server=on,wait=off", door.display())]);
        let mut child = command
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("setpriv")?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("stdout")?;
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(std::result::Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Own {
            child,
            input,
            lines,
            console,
            door,
        })
    }
}

/// A running machine. Dropping it pulls its plug.
pub struct Own {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    console: PathBuf,
    door: PathBuf,
}

impl Own {
    /// What its kernel and its daemons have said.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    /// QEMU's monitor.
    pub fn monitor(&self) -> Result<Monitor> {
        Monitor::connect(&self.door)
    }

    /// Output and status of what its shell does now.
    fn listen(&mut self) -> Result<(i32, String)> {
        let until = Instant::now() + PATIENCE;
        let mut said = String::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                bail!(
                    "no answer from the machine; so far: {said}; its console: {}",
                    self.console()
                );
            };
            if let Some(status) = line.strip_prefix(STATUS) {
                return Ok((status.trim().parse()?, said));
            }
            said += line.trim_end();
            said.push('\n');
        }
    }

    /// Carries a line out in its shell: status and output.
    pub fn try_sh(&mut self, line: &str) -> Result<(i32, String)> {
        writeln!(self.input.as_mut().context("closed")?, "{line}")?;
        self.listen().with_context(|| format!("after {line:?}"))
    }

    /// Carries a line out, which must succeed: its output.
    pub fn sh(&mut self, line: &str) -> Result<String> {
        let (status, said) = self.try_sh(line)?;
        ensure!(status == 0, "{line:?} gives {status}: {said}{}", self.console());
        Ok(said)
    }

    /// Carries a line out again and again until it succeeds.
    pub fn until(&mut self, line: &str) -> Result<String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let (status, said) = self.try_sh(line)?;
            if status == 0 {
                return Ok(said);
            }
            ensure!(
                Instant::now() < until,
                "{line:?} still gives {status}: {said}{}",
                self.console()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Waits until its kernel or a daemon of it has said this.
    pub fn await_word(&self, word: &str) -> Result<()> {
        self.await_any(&[word])
    }

    /// Waits until its kernel or a daemon of it has said one of these.
    pub fn await_any(&self, words: &[&str]) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let said = self.console();
            if words.iter().any(|word| said.contains(word)) {
                return Ok(());
            }
            ensure!(Instant::now() < until, "none of {words:?} is said: {said}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Starts its front-end, with these options, and waits until it serves.
    pub fn join(&mut self, options: &str) -> Result<()> {
        self.sh(&format!("vshmem join {options} >/dev/console 2>&1 &"))?;
        self.until("test -S /run/vshmem/vshmem.sock")?;
        Ok(())
    }

    /// Starts an actor (`programs/actor.c`) in it.
    pub fn actor(&mut self) -> Result<()> {
        self.sh("test -p /tmp/in || mkfifo /tmp/in /tmp/out")?;
        self.sh("vshmem run -- actor </tmp/in >/tmp/out 2>/dev/console &")?;
        self.sh("exec 3>/tmp/in 4</tmp/out && read -r ready <&4 && test \"$ready\" = ready")?;
        Ok(())
    }

    /// A command to the actor, without waiting.
    pub fn tell(&mut self, command: &str) -> Result<()> {
        self.sh(&format!("echo '{command}' >&3")).map(drop)
    }

    /// A command to the actor, and its answer.
    pub fn ask(&mut self, command: &str) -> Result<Answer> {
        let line = self.sh(&format!(
            "echo '{command}' >&3 && read -r line <&4 && echo \"$line\""
        ))?;
        match line.trim().split_once(' ') {
            Some(("=", rest)) => Ok(Ok(rest.split(' ').map(str::to_owned).collect())),
            Some(("!", name)) => Ok(Err(name.to_owned())),
            _ => bail!("the actor says {line:?}"),
        }
    }

    /// A command to the actor that gives a number.
    pub fn number(&mut self, command: &str) -> Result<i64> {
        match self.ask(command)? {
            Ok(words) => Ok(words[0].parse()?),
            Err(errno) => bail!("{command:?} failed with {errno}"),
        }
    }

    /// kill -9 of QEMU, as if a plug were pulled.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Has its shell do what is the machine's end, and waits until QEMU has ended.
    pub fn last_words(&mut self, line: &str) -> Result<()> {
        writeln!(self.input.as_mut().context("closed")?, "{line}")?;
        crate::machine::wait(&mut self.child, PATIENCE).map(drop)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.kill();
    }
}
