//! The laboratory's machine: QEMU, with its streams on sockets.
//!
//! QEMU gets SIGKILL when the thread that started it ends, however that happens (`setpriv --pdeathsig`), and SIGINT from the terminal like this process itself.
//! Nothing of a machine lies in files.

use super::packages::Packages;
use super::{Processor, Setting};
use anyhow::{Context, Result};
use rustix::io::FdFlags;
use std::ffi::OsString;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The machine's memory and the part of it that dom0 has: the rest is for guests.
const MEMORY_MIB: u32 = 3072;
const DOM0_MIB: u32 = 1024;
/// What makes dom0, as the machine sees the host's tree.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/xen_lab/dom0.sh");
const CONSOLE_KEPT: usize = 64 << 10;

/// The host's ends of the machine's streams.
pub(super) struct Streams {
    pub(super) control: UnixStream,
    pub(super) input: UnixStream,
    pub(super) output: UnixStream,
    pub(super) error: UnixStream,
}

/// A machine that runs.
pub(super) struct Machine {
    qemu: Child,
    console: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Machine {
    /// Starts it. With a terminal, this process's own is a terminal of dom0's until the machine ends.
    pub(super) fn start(
        packages: &Packages,
        first_root: &Path,
        setting: &Setting,
    ) -> Result<(Self, Streams)> {
        let Setting {
            terminal, verbose, ..
        } = *setting;
        let mut words = arguments(packages, first_root, setting.processor);
        let mut theirs = Vec::new();
        let mut stream = |words: &mut Vec<OsString>, id: &str| -> Result<UnixStream> {
            let (ours, other) = UnixStream::pair()?;
            rustix::io::fcntl_setfd(&other, FdFlags::empty())?;
            pair(
                words,
                "-chardev",
                format!("socket,id={id},fd={}", other.as_raw_fd()),
            );
            theirs.push(other);
            Ok(ours)
        };
        let serial = stream(&mut words, "serial")?;
        pair(&mut words, "-serial", "chardev:serial");
        pair(&mut words, "-device", "virtio-serial-pci,id=ports,max_ports=8");
        let mut port = |words: &mut Vec<OsString>, number: u32, id: &str| {
            let ours = stream(words, id)?;
            pair(
                words,
                "-device",
                format!("virtserialport,bus=ports.0,nr={number},chardev={id},name=lab.{id}"),
            );
            Ok::<_, anyhow::Error>(ours)
        };
        let streams = Streams {
            control: port(&mut words, 1, "control")?,
            input: port(&mut words, 2, "input")?,
            output: port(&mut words, 3, "output")?,
            error: port(&mut words, 4, "error")?,
        };
        if terminal {
            pair(&mut words, "-chardev", "stdio,id=terminal,signal=off");
            pair(
                &mut words,
                "-device",
                "virtconsole,bus=ports.0,nr=5,chardev=terminal",
            );
        }
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"])
            .args(words);
        if !terminal {
            command.stdin(Stdio::null()).stdout(Stdio::null());
        }
        let qemu = command
            .spawn()
            .context("starting QEMU (by setpriv, of util-linux)")?;
        drop(theirs);
        let console = Arc::new(Mutex::new(Vec::new()));
        let reader = std::thread::spawn({
            let console = Arc::clone(&console);
            move || collect(serial, &console, verbose)
        });
        let machine = Self {
            qemu,
            console,
            reader: Some(reader),
        };
        Ok((machine, streams))
    }

    /// Whether it is over.
    pub(super) fn is_over(&mut self) -> bool {
        !matches!(self.qemu.try_wait(), Ok(None))
    }

    /// Waits until it has switched itself off, or ends it.
    pub(super) fn end(&mut self, patience: Duration) {
        let until = Instant::now() + patience;
        while !self.is_over() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        if !self.is_over() {
            // QEMU gives a terminal back as it was.
            let pid = rustix::process::Pid::from_child(&self.qemu);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let until = Instant::now() + Duration::from_secs(3);
            while !self.is_over() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }

    /// The last lines that hypervisor and dom0 said on the console.
    pub(super) fn console(&self, lines: usize) -> String {
        let bytes = self.console.lock().map(|bytes| bytes.clone()).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).replace('\r', "");
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}

fn pair(words: &mut Vec<OsString>, option: &str, value: impl Into<OsString>) {
    words.push(option.into());
    words.push(value.into());
}

fn arguments(packages: &Packages, first_root: &Path, processor: Processor) -> Vec<OsString> {
    let mut words: Vec<OsString> = ["-nodefaults", "-no-user-config", "-no-reboot"]
        .map(OsString::from)
        .to_vec();
    pair(&mut words, "-display", "none");
    // Two at least: with one, software emulation leaves out what makes atomics atomic.
    pair(&mut words, "-smp", "2");
    pair(&mut words, "-accel", "tcg,thread=multi");
    // Without what Xen cannot give a paravirtualised dom0.
    let model = if processor.hvm {
        "qemu64,+svm,+npt"
    } else {
        "qemu64"
    };
    pair(&mut words, "-cpu", model);
    pair(&mut words, "-m", format!("{MEMORY_MIB}"));
    for (tag, path) in [("host", Path::new("/")), ("packages", &packages.tree())] {
        pair(
            &mut words,
            "-fsdev",
            format!(
                "local,id={tag},path={},security_model=passthrough,readonly=on,multidevs=remap",
                path.display()
            ),
        );
        pair(
            &mut words,
            "-device",
            format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}"),
        );
    }
    pair(&mut words, "-kernel", packages.hypervisor());
    pair(
        &mut words,
        "-append",
        format!(
            "console=com1 com1=115200,8n1 loglvl=error guest_loglvl=error dom0_mem={DOM0_MIB}M,max:{DOM0_MIB}M dom0_max_vcpus={} \
             bootscrub=0 spec-ctrl=no xpti=no pv-l1tf=no ucode=no cpufreq=none",
            processor.dom0_cpus.unwrap_or(1)
        ),
    );
    pair(
        &mut words,
        "-initrd",
        format!(
            "{} console=hvc0 rdinit=/init mitigations=off quiet panic=-1 xen_lab={SCRIPT},{}",
            packages.kernel().display(),
            first_root.display()
        ),
    );
    words
}

/// Keeps the end of what the console says.
fn collect(mut serial: UnixStream, console: &Mutex<Vec<u8>>, verbose: bool) {
    let mut piece = [0; 4096];
    while let Ok(n @ 1..) = serial.read(&mut piece) {
        if verbose {
            eprint!("{}", String::from_utf8_lossy(&piece[..n]));
        }
        if let Ok(mut kept) = console.lock() {
            kept.extend_from_slice(&piece[..n]);
            let over = kept.len().saturating_sub(CONSOLE_KEPT);
            kept.drain(..over);
        }
    }
}
