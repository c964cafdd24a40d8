//! Starts a guest on the host's own root by `xl`, inside a Xen host, and ends it with all that belongs to it.
//!
//! | module | what it holds |
//! |---|---|
//! | `kernel` | finds the guest's kernel and modules |
//! | `configuration` | what `xl` is told |
//! | `view` | the host's tree, read-only, for the device model |
//!
//! A machine is a domain, the `xl` that waits for its end, and the device model, which `xl` starts and ends. If this process is killed, a *guard* destroys the
//! domain: a shell that waits for the end of a pipe that only this process holds.

mod configuration;
mod kernel;
mod view;

pub use configuration::TYPE_VARIABLE;
pub use vshmem_port::kernel::KERNEL_VARIABLE;

use crate::here::Here;
use crate::line;
use crate::xenstore::Xenstore;
use configuration::Files;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vshmem_port::boot::{Boot, BootError, Machine, MachineSpec};
use vshmem_port::first_root;

/// Below this the kernel does not come up with what it begins with, an overlay and one program.
const MEMORY_MIN: u64 = 128 << 20;
/// How long `xl` may take to start the device model.
const CREATE: Duration = Duration::from_secs(120);
/// How long `xl` may take for anything else.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where Debian keeps the tools of the version that runs, and what others have on the path.
const PLACES: [&str; 3] = ["/usr/sbin/xl", "/usr/local/sbin/xl", "/usr/bin/xl"];
/// Where the device model is, by distribution.
const DEVICE_MODELS: [&str; 5] = [
    "/usr/libexec/xen-qemu-system-i386",
    "/usr/lib/xen/bin/qemu-system-i386",
    "/usr/libexec/xen/bin/qemu-system-i386",
    "/usr/local/lib/xen/bin/qemu-system-i386",
    "/usr/bin/qemu-system-i386",
];

/// The host's side of the port.
#[derive(Debug, Default)]
pub struct XenBoot {
    _private: (),
}

impl XenBoot {
    /// Nothing is looked for yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Boot for XenBoot {
    fn has_network(&self) -> bool {
        false
    }

    fn needs_grants(&self) -> bool {
        true
    }

    fn check(&self) -> Result<(), BootError> {
        Here::default().is_dom0().map_err(|why| unsupported(&why))?;
        xl()?;
        if !DEVICE_MODELS.iter().any(|path| Path::new(path).exists()) {
            return Err(BootError::NotInstalled {
                what: "Xen's device model, which serves the host's tree to guests,".to_owned(),
                package: "qemu-system-xen".to_owned(),
            });
        }
        if !rustix::process::geteuid().is_root() {
            return Err(BootError::Unsupported(
                "xl needs root: run this as root".to_owned(),
            ));
        }
        kernel::find(None).map(drop).map_err(|why| unsupported(&why))
    }

    fn start(&self, spec: MachineSpec) -> Result<Box<dyn Machine>, BootError> {
        let xl = xl()?;
        check_spec(&spec)?;
        if run(&xl, &["domid", &spec.name]).is_ok() {
            return Err(BootError::Unsupported(format!(
                "a guest of Xen called {} runs already (xl list); choose another name",
                spec.name
            )));
        }
        let kernel = kernel::find(spec.special.kernel.as_deref()).map_err(|why| unsupported(&why))?;
        let folder = Folder::new().map_err(host("a folder for the machine's files"))?;
        let at = |name: &str| folder.path.join(name);
        let archive = first_root::make(&kernel.modules, &spec.init).map_err(|why| unsupported(&why))?;
        let files = Files {
            kernel: &kernel,
            first_root: &at("root"),
            tree: &at("tree"),
            stdio: &at("stdio"),
        };
        let kind = std::env::var(TYPE_VARIABLE).unwrap_or_else(|_| "pv".to_owned());
        let text = configuration::text(&spec, &files, &kind)?;
        std::fs::create_dir(files.tree)
            .and_then(|()| write_out(archive, files.first_root))
            .and_then(|()| std::fs::write(at("guest.cfg"), text))
            .map_err(host("the machine's files"))?;
        let mut machine = XenMachine::create(&xl, &spec, folder).map_err(host("starting xl"))?;
        let stream = machine.connect().map_err(|why| unsupported(&why))?;
        machine
            .relay(stream, spec.stdio)
            .map_err(host("the guest's streams"))?;
        if let Some(control) = spec.control {
            machine.offer_line(control).map_err(|why| unsupported(&why))?;
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

fn xl() -> Result<PathBuf, BootError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join("xl"))
        .chain(PLACES.iter().map(PathBuf::from))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| BootError::NotInstalled {
            what: "Xen's toolstack (xl)".to_owned(),
            package: "xen-utils".to_owned(),
        })
}

fn check_spec(spec: &MachineSpec) -> Result<(), BootError> {
    let asked = [
        (spec.special.hugepages, "gives a guest no huge pages"),
        (spec.special.numa_node.is_some(), "gives a guest no NUMA node"),
        (spec.network.is_some(), "gives a guest no network card"),
        (
            !spec.pools.is_empty(),
            "shows a guest no pool, and this back-end's group has one: its constructs would have to be granted one by one",
        ),
    ];
    if let Some((_, what)) = asked.iter().find(|(asked, _)| *asked) {
        return Err(BootError::Unsupported(format!("port xen {what}")));
    }
    if spec.memory < MEMORY_MIN {
        return Err(BootError::Unsupported(format!(
            "a guest needs at least {} MiB of memory",
            MEMORY_MIN >> 20
        )));
    }
    Ok(())
}

fn write_out(archive: OwnedFd, to: &Path) -> io::Result<()> {
    use std::io::Seek;
    let mut archive = std::fs::File::from(archive);
    archive.rewind()?;
    io::copy(&mut archive, &mut std::fs::File::create(to)?).map(drop)
}

/// Runs `xl` to its end, at most so long.
fn run(xl: &Path, words: &[&str]) -> io::Result<()> {
    let mut child = Command::new(xl)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()?;
    match wait(&mut child, PATIENCE)? {
        status if status.success() => Ok(()),
        status => Err(io::Error::other(status.to_string())),
    }
}

/// Waits for a child; ends it if it takes too long.
fn wait(child: &mut Child, limit: Duration) -> io::Result<std::process::ExitStatus> {
    let until = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > until {
            child.kill()?;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A machine's files, for nobody else's eyes.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn new() -> io::Result<Self> {
        let above = std::env::temp_dir();
        for attempt in 0..1000_u32 {
            let path = above.join(format!("vshmem-xen.{}.{attempt}", std::process::id()));
            match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self { path }),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Destroys a domain when this process is gone, however that happened.
#[derive(Debug)]
struct Guard {
    shell: Child,
}

impl Guard {
    /// `xl`, the domain's name, the process that creates it, the folder of its files.
    const SCRIPT: &'static str =
        "trap '' HUP INT TERM; read _; kill -s KILL \"$3\"; \"$1\" destroy \"$2\"; rm -rf -- \"$4\"";

    fn new(xl: &Path, name: &str, creator: u32, folder: &Path) -> io::Result<Self> {
        let shell = Command::new("/bin/sh")
            .args(["-c", Self::SCRIPT, "vshmem-xen-guard"])
            .arg(xl)
            .args([name, &creator.to_string()])
            .arg(folder)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self { shell })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// One guest.
#[derive(Debug)]
struct XenMachine {
    xl: PathBuf,
    name: String,
    /// Waits for the domain's end.
    creator: Child,
    /// The console's input: nothing, but its end would end the console.
    _keys: Option<ChildStdin>,
    pidfd: OwnedFd,
    guard: Option<Guard>,
    folder: Folder,
    /// Both ends of what the relays carry, to end them by.
    ends: Vec<UnixStream>,
    relays: Vec<JoinHandle<()>>,
    stopped: bool,
}

impl XenMachine {
    fn create(xl: &Path, spec: &MachineSpec, folder: Folder) -> io::Result<Self> {
        let mut command = Command::new(xl);
        command
            .args(["create", "-q", "-F", "-c"])
            .arg(folder.path.join("guest.cfg"))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(spec.console.try_clone()?)
            .stderr(spec.console.try_clone()?)
            .process_group(0);
        view::read_only_tree(&mut command, &folder.path.join("tree"))?;
        let mut creator = command.spawn()?;
        let watched = pidfd_open(Pid::from_child(&creator), PidfdFlags::empty()).map_err(io::Error::from);
        let guarded = watched.and_then(|pidfd| {
            let guard = Guard::new(xl, &spec.name, creator.id(), &folder.path)?;
            Ok((pidfd, guard))
        });
        match guarded {
            Ok((pidfd, guard)) => Ok(Self {
                xl: xl.to_owned(),
                name: spec.name.clone(),
                _keys: creator.stdin.take(),
                creator,
                pidfd,
                guard: Some(guard),
                folder,
                ends: Vec::new(),
                relays: Vec::new(),
                stopped: false,
            }),
            Err(e) => {
                let _ = creator.kill();
                let _ = creator.wait();
                let _ = run(xl, &["destroy", &spec.name]);
                Err(e)
            }
        }
    }

    /// The device model's end of the program's streams, as soon as it is there. If `xl` ends before, its words are on the console.
    fn connect(&mut self) -> anyhow::Result<Option<UnixStream>> {
        let path = self.folder.path.join("stdio");
        let until = Instant::now() + CREATE;
        loop {
            if let Ok(stream) = UnixStream::connect(&path) {
                return Ok(Some(stream));
            }
            if self.creator.try_wait()?.is_some() {
                return Ok(None);
            }
            anyhow::ensure!(
                Instant::now() < until,
                "xl did not start the device model within {} s",
                CREATE.as_secs()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Offers the guest a line to the back-end, whose stream `control` is.
    fn offer_line(&mut self, control: OwnedFd) -> anyhow::Result<()> {
        let mut xenstore = Xenstore::open(&Here::default())?;
        let line = UnixStream::from(line::offer(xenstore.domain_named(&self.name)?)?);
        let control = UnixStream::from(control);
        control.set_nonblocking(true)?;
        self.ends.extend([line.try_clone()?, control.try_clone()?]);
        let (up, down) = ((line.try_clone()?, control.try_clone()?), (control, line));
        for (from, to) in [up, down] {
            self.relays
                .push(std::thread::spawn(move || carry_patiently(from, to)));
        }
        Ok(())
    }

    /// Carries bytes between the device model and the other end of `stdio`, which sees the end when there is nobody to carry from.
    fn relay(&mut self, stream: Option<UnixStream>, stdio: OwnedFd) -> io::Result<()> {
        let Some(stream) = stream else { return Ok(()) };
        let stdio = UnixStream::from(stdio);
        self.ends.extend([stream.try_clone()?, stdio.try_clone()?]);
        let (back, forth) = ((stdio.try_clone()?, stream.try_clone()?), (stream, stdio));
        for (from, to) in [back, forth] {
            self.relays.push(std::thread::spawn(move || carry(from, to)));
        }
        Ok(())
    }
}

/// Waits until a descriptor that does not wait is ready for reading or for writing.
fn wait_for(stream: &UnixStream, what: PollFlags) {
    let _ = poll(&mut [PollFd::new(stream, what)], None);
}

/// The same for streams that do not wait.
fn carry_patiently(mut from: UnixStream, mut to: UnixStream) {
    let mut piece = [0; 16 << 10];
    loop {
        let read = match from.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                wait_for(&from, PollFlags::IN);
                continue;
            }
            Err(_) => break,
        };
        let mut left = &piece[..read];
        while !left.is_empty() {
            match to.write(left) {
                Ok(written) => left = &left[written..],
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => wait_for(&to, PollFlags::OUT),
                Err(_) => left = &[],
            }
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// Until one of them is over; then both are.
fn carry(mut from: UnixStream, mut to: UnixStream) {
    let mut piece = [0; 16 << 10];
    while let Ok(n @ 1..) = from.read(&mut piece) {
        if to.write_all(&piece[..n]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Read);
    let _ = to.shutdown(Shutdown::Write);
}

impl Machine for XenMachine {
    fn over(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    fn booted(&mut self) {
        let _ = std::fs::remove_file(self.folder.path.join("root"));
    }

    fn stop(&mut self) {
        if self.stopped {
            return;
        }
        self.stopped = true;
        if !matches!(self.creator.try_wait(), Ok(Some(_))) {
            // It ends the device model, too; `xl create` sees it and ends.
            let _ = run(&self.xl, &["destroy", &self.name]);
            let _ = wait(&mut self.creator, PATIENCE);
        }
        self.guard = None;
        for end in self.ends.drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
        for relay in self.relays.drain(..) {
            let _ = relay.join();
        }
    }
}

impl Drop for XenMachine {
    fn drop(&mut self) {
        self.stop();
    }
}
