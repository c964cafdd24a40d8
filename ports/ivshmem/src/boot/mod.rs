//! Starts QEMU on the host's own root, and ends it with all that belongs to it.
//!
//! | module | what it holds |
//! |---|---|
//! | `kernel` | finds the guest's kernel, or fetches one into the cache |
//! | `files` | the host's tree for the guest |
//! | `accelerator` | whether KVM runs guests here |
//! | `arguments` | QEMU's command line |
//! | `placement` | whether guest memory can be where it is asked to be |
//! | `monitor` | which threads are virtual CPUs |
//! | `vsock` | its vsock device |
//! | `spawn` | processes that do not outlive whoever started them |
//!
//! A machine is two or three processes: QEMU, virtiofsd, and what serves its vsock device if the kernel does not. All get SIGKILL when the thread that started them ends.

mod accelerator;
mod arguments;
mod files;
mod kernel;
mod monitor;
mod placement;
mod spawn;
mod vsock;

pub use arguments::OPTIONS_VARIABLE;
pub(crate) use arguments::aligned;
pub use vshmem_port::kernel::KERNEL_VARIABLE;

use accelerator::Accelerator;
use arguments::{Parts, arguments};
use monitor::Monitor;
use rustix::event::epoll;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use vshmem_port::boot::{self, Boot, BootError, Machine, MachineSpec};
use vshmem_port::first_root;

/// Names another QEMU than the one on the path.
pub const PROGRAM_VARIABLE: &str = "VSHMEM_QEMU";
const PROGRAM: &str = "qemu-system-x86_64";
/// Below this the kernel does not come up with what it begins with, an overlay and one program.
const MEMORY_MIN: u64 = 128 << 20;
/// A BAR is no smaller.
const POOL_MIN: u64 = 1 << 20;

/// The host's side of the port.
#[derive(Debug, Default)]
pub struct QemuBoot {
    _private: (),
}

impl QemuBoot {
    /// Nothing is looked for yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Boot for QemuBoot {
    fn check(&self) -> Result<(), BootError> {
        if !cfg!(target_arch = "x86_64") {
            return Err(BootError::Unsupported(
                "guests of this port are started on x86-64 only; start one yourself and run `vshmem join` in it".to_owned(),
            ));
        }
        qemu()?;
        virtiofsd()?;
        if !rustix::process::geteuid().is_root() {
            return Err(BootError::Unsupported(
                "the host's tree is shown to the guest by virtiofsd, which needs root: run this as root"
                    .to_owned(),
            ));
        }
        match kernel::find(None, false) {
            Err(why) if !kernel::can_fetch() => Err(BootError::Unsupported(format!(
                "{why:#}; name one with --kernel (with its modules in /lib/modules)"
            ))),
            _ => Ok(()),
        }
    }

    fn emulates(&self) -> bool {
        qemu().is_ok_and(|qemu| accelerator::find(&qemu) != Accelerator::Kvm)
    }

    fn prepare(&self) -> Result<(), BootError> {
        kernel::find_or_fetch(None, false)
            .map(drop)
            .map_err(|why| unsupported(&why))
    }

    fn start(&self, spec: MachineSpec) -> Result<Box<dyn Machine>, BootError> {
        let (qemu, virtiofsd) = (qemu()?, virtiofsd()?);
        let pools = check_sizes(&spec)?;
        placement::check(&spec.special, spec.memory)?;
        let kernel = kernel::find_or_fetch(spec.special.kernel.as_deref(), spec.special.vsock.is_some())
            .map_err(|why| unsupported(&why))?;
        let initramfs = first_root::make(&kernel.modules, &spec.init).map_err(|why| unsupported(&why))?;
        let accelerator = accelerator::find(&qemu);
        let (files, connection) = files::start(&virtiofsd, &spec.binds, &spec.cpus, &spec.console)
            .map_err(host("starting virtiofsd"))?;
        let mut beside = vec![Process(files)];
        let vsock = vsock::start(&spec)?.map(|(device, process)| {
            beside.extend(process);
            device
        });
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|e| host("a socket for QEMU's monitor")(e.into()))?;
        let parts = Parts {
            accelerator: &accelerator,
            kernel: &kernel.image,
            initramfs: &initramfs,
            files: &connection,
            monitor: &theirs,
            vsock: vsock.as_ref(),
            pools,
        };
        let line = arguments(&spec, &parts)?;
        let child =
            start_qemu(&qemu, line, &spec, &parts).map_err(host(&format!("starting {}", qemu.display())))?;
        let mut machine = QemuMachine::new(child, beside).map_err(host("watching QEMU"))?;
        drop(theirs);
        if !spec.cpus.is_empty()
            && let Err(why) = pin(ours, &spec.cpus)
        {
            machine.notes.push(format!(
                "its virtual CPUs could not be pinned each to one of the host's: {why:#}"
            ));
        }
        if let Accelerator::Emulation(why) = accelerator {
            machine.notes.push(format!(
                "software emulation, many times slower than the processor: {why}"
            ));
        }
        Ok(Box::new(machine))
    }
}

fn host(what: &str) -> impl FnOnce(io::Error) -> BootError + use<> {
    let what = what.to_owned();
    move |source| BootError::Host { what, source }
}

fn unsupported(why: &anyhow::Error) -> BootError {
    BootError::Unsupported(format!("{why:#}"))
}

fn qemu() -> Result<PathBuf, BootError> {
    if let Some(named) = boot::named_program(PROGRAM_VARIABLE)? {
        return Ok(named);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut on_path = std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/bin"), PathBuf::from("/usr/local/bin")])
        .map(|folder| folder.join(PROGRAM));
    let found = on_path.find(|candidate| candidate.is_file());
    found.ok_or_else(|| BootError::NotInstalled {
        what: format!("QEMU ({PROGRAM})"),
        package: "qemu-system-x86".to_owned(),
    })
}

fn virtiofsd() -> Result<PathBuf, BootError> {
    files::program().ok_or_else(|| BootError::NotInstalled {
        what: "virtiofsd".to_owned(),
        package: "virtiofsd (Debian 13, Ubuntu 24.04 and later) or qemu-system-common (earlier)".to_owned(),
    })
}

/// Whether memory and pools can be had; gives the pools' sizes.
fn check_sizes(spec: &MachineSpec) -> Result<Vec<u64>, BootError> {
    let unsupported = |text: String| Err(BootError::Unsupported(text));
    if spec.memory < MEMORY_MIN {
        return unsupported(format!(
            "a guest needs at least {} MiB of memory",
            MEMORY_MIN >> 20
        ));
    }
    if let Some(cpu) = spec.cpus.iter().find(|&&cpu| cpu >= CpuSet::MAX_CPU) {
        return unsupported(format!("CPU {cpu} is out of range"));
    }
    boot::check_cpus(&spec.cpus)?;
    spec.pools.iter().map(pool_bytes).collect()
}

fn pool_bytes(pool: &OwnedFd) -> Result<u64, BootError> {
    let found = rustix::fs::fstat(pool).map_err(|e| host("reading a pool's size")(e.into()))?;
    let bytes = u64::try_from(found.st_size).unwrap_or(0);
    if bytes < POOL_MIN || !bytes.is_power_of_two() {
        return Err(BootError::Unsupported(format!(
            "a pool of the domain's groups has {bytes} bytes, and a PCI device shows memory of a power of two, 1 MiB at least: set pool = \"{}M\" for that group \
             in the back-end's configuration",
            bytes.max(POOL_MIN).next_power_of_two() >> 20
        )));
    }
    Ok(bytes)
}

fn start_qemu(
    qemu: &Path,
    line: Vec<std::ffi::OsString>,
    spec: &MachineSpec,
    parts: &Parts<'_>,
) -> io::Result<Child> {
    let mut command = Command::new(qemu);
    command
        .args(line)
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| name == "PATH" || name == "HOME" || name == "TMPDIR"))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(spec.console.try_clone()?)
        .stderr(spec.console.try_clone()?);
    let mut kept = vec![
        &spec.stdio,
        &spec.console,
        parts.initramfs,
        parts.files,
        parts.monitor,
    ];
    kept.extend([&spec.control, &spec.network].into_iter().flatten());
    kept.extend(&spec.pools);
    if let Some(vsock::Device::User(connection)) = parts.vsock {
        kept.push(connection);
    }
    spawn::spawn(&mut command, &kept, &spec.cpus)
}

/// Each virtual CPU to one of the host's, in order; everything else of the machine stays on any of them.
fn pin(monitor: OwnedFd, cpus: &[usize]) -> anyhow::Result<()> {
    let threads = Monitor::new(monitor)?.cpu_threads()?;
    for (thread, &cpu) in threads.into_iter().zip(cpus) {
        let mut set = CpuSet::new();
        set.set(cpu);
        sched_setaffinity(Pid::from_raw(thread), &set)?;
    }
    Ok(())
}

/// A process that is ended when dropped.
#[derive(Debug)]
struct Process(Child);

impl Process {
    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Tells when one of several processes has ended.
#[derive(Debug)]
struct Over {
    /// Readable then.
    any: OwnedFd,
    /// What is watched ends with its last descriptor.
    _each: Vec<OwnedFd>,
}

impl Over {
    fn of<'a>(processes: impl IntoIterator<Item = &'a Process>) -> io::Result<Self> {
        let any = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut each = Vec::new();
        for process in processes {
            let ended = pidfd_open(Pid::from_child(&process.0), PidfdFlags::empty())?;
            epoll::add(&any, &ended, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
            each.push(ended);
        }
        Ok(Self { any, _each: each })
    }
}

/// One running QEMU.
#[derive(Debug)]
struct QemuMachine {
    qemu: Process,
    /// What serves its devices.
    beside: Vec<Process>,
    /// Any of them has ended: without the host's tree the guest would wait for ever.
    over: Over,
    notes: Vec<String>,
}

impl QemuMachine {
    fn new(child: Child, beside: Vec<Process>) -> io::Result<Self> {
        let qemu = Process(child);
        let over = Over::of(std::iter::once(&qemu).chain(&beside))?;
        Ok(Self {
            qemu,
            beside,
            over,
            notes: Vec::new(),
        })
    }
}

impl Machine for QemuMachine {
    fn over(&self) -> BorrowedFd<'_> {
        self.over.any.as_fd()
    }

    fn booted(&mut self) {}

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn stop(&mut self) {
        self.qemu.end();
        self.beside.iter_mut().for_each(Process::end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    #[test]
    fn the_end_of_either_process_is_the_machines() {
        for which in 0..2 {
            let start = || Process(Command::new("sleep").arg("60").spawn().unwrap());
            let mut both = [start(), start()];
            let over = Over::of(&both).unwrap();
            let readable = |seconds: i64| {
                let limit = Timespec {
                    tv_sec: seconds,
                    tv_nsec: 0,
                };
                poll(&mut [PollFd::new(&over.any, PollFlags::IN)], Some(&limit)).unwrap() == 1
            };
            assert!(!readable(0));
            both[which].0.kill().unwrap();
            assert!(readable(60), "the end of {which}");
            assert!(readable(0), "it stays so");
        }
    }
}
