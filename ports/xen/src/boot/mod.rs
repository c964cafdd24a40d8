//! Starts a guest on the host's own root by `xl`, inside a Xen host, and ends it with all that belongs to it.
//!
//! | module | what it holds |
//! |---|---|
//! | `kernel` | finds the guest's kernel and modules |
//! | `configuration` | what `xl` is told |
//! | `guard` | a shell that destroys the guest if this process is killed |
//! | `view` | the host's tree, read-only, for the device model |
//!
//! A machine is a domain, the `xl` that waits for its end, and the device model, which `xl` starts and ends. If this process is killed, a *guard* destroys the
//! domain.

mod configuration;
mod guard;
mod kernel;
mod view;

pub use configuration::TYPE_VARIABLE;
pub use vshmem_port::kernel::KERNEL_VARIABLE;

use crate::devices::DomId;
use crate::here::Here;
use crate::line::{Served, Use};
use crate::xenstore::Xenstore;
use configuration::Files;
use guard::Guard;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};
use vshmem_port::boot::{Boot, BootError, Machine, MachineSpec};
use vshmem_port::first_root;

/// Below this the kernel does not come up with what it begins with, an overlay and one program.
const MEMORY_MIN: u64 = 128 << 20;
/// How long `xl` may take to make a guest.
const CREATE: Duration = Duration::from_secs(120);
/// How long `xl` may take for anything else.
const PATIENCE: Duration = Duration::from_secs(30);
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

    fn emulates(&self) -> bool {
        crate::here::is_emulated()
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
        await_name(&spec.name)?;
        if !spec.cpus.is_empty() {
            let host = crate::xl::run(&["info"], PATIENCE).map_err(|why| unsupported(&why))?;
            check_cpus(&spec.cpus, &host)?;
        }
        let kernel = kernel::find(spec.special.kernel.as_deref()).map_err(|why| unsupported(&why))?;
        let folder = Folder::new().map_err(host("a folder for the machine's files"))?;
        let at = |name: &str| folder.path.join(name);
        let archive = first_root::make(&kernel.modules, &spec.init).map_err(|why| unsupported(&why))?;
        let files = Files {
            kernel: &kernel,
            first_root: &at("root"),
            tree: &at("tree"),
        };
        let kind = std::env::var(TYPE_VARIABLE).unwrap_or_else(|_| "pv".to_owned());
        let text = configuration::text(&spec, &files, &kind)?;
        std::fs::create_dir(files.tree)
            .and_then(|()| write_out(archive, files.first_root))
            .and_then(|()| std::fs::write(at("guest.cfg"), text))
            .map_err(host("the machine's files"))?;
        let mut machine = XenMachine::create(&xl, &spec, folder).map_err(host("starting xl"))?;
        let lines = std::iter::once((Use::Program, spec.stdio))
            .chain(spec.control.map(|control| (Use::BackEnd, control)));
        machine.offer(lines).map_err(|why| unsupported(&why))?;
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
    crate::xl::find().ok_or_else(|| BootError::NotInstalled {
        what: "Xen's toolstack (xl)".to_owned(),
        package: crate::xl::PACKAGE.to_owned(),
    })
}

/// A guest of that name whose starter was killed goes within a moment.
fn await_name(name: &str) -> Result<(), BootError> {
    let until = Instant::now() + PATIENCE;
    while crate::xl::run(&["domid", name], PATIENCE).is_ok() {
        if !guard::is_ending(name) || Instant::now() > until {
            return Err(BootError::Unsupported(format!(
                "a guest of Xen called {name} runs already (xl list); choose another name"
            )));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
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
    configuration::check_name(&spec.name)?;
    if spec.memory < MEMORY_MIN {
        return Err(BootError::Unsupported(format!(
            "a guest needs at least {} MiB of memory",
            MEMORY_MIN >> 20
        )));
    }
    Ok(())
}

/// Refuses processors that this host does not have; `xl` would say so only on a console of a guest that is gone.
fn check_cpus(asked: &[usize], host: &str) -> Result<(), BootError> {
    let there = host.lines().find_map(|line| line.strip_prefix("nr_cpus"));
    let there = there.and_then(|rest| rest.trim_start_matches([' ', ':']).trim().parse::<usize>().ok());
    match (there, asked.iter().max()) {
        (Some(there), Some(most)) if *most >= there => Err(BootError::Unsupported(format!(
            "there is no CPU {most} here: this host has {there}, the first is 0 (`xl info`: nr_cpus)"
        ))),
        _ => Ok(()),
    }
}

fn write_out(archive: OwnedFd, to: &Path) -> io::Result<()> {
    use std::io::Seek;
    let mut archive = std::fs::File::from(archive);
    archive.rewind()?;
    io::copy(&mut archive, &mut std::fs::File::create(to)?).map(drop)
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

/// One guest.
#[derive(Debug)]
struct XenMachine {
    xl: PathBuf,
    name: String,
    /// Once it is known. It may be called otherwise by now, and another domain as it was.
    number: Option<DomId>,
    /// Waits for the domain's end.
    creator: Child,
    /// The console's input: nothing, but its end would end the console.
    _keys: Option<ChildStdin>,
    pidfd: OwnedFd,
    guard: Option<Guard>,
    folder: Folder,
    lines: Vec<Served>,
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
            let line = spec.control.as_ref().map(OwnedFd::try_clone).transpose()?;
            let guard = Guard::new(xl, &spec.name, creator.id(), &folder.path, line)?;
            Ok((pidfd, guard))
        });
        match guarded {
            Ok((pidfd, guard)) => Ok(Self {
                xl: xl.to_owned(),
                name: spec.name.clone(),
                number: None,
                _keys: creator.stdin.take(),
                creator,
                pidfd,
                guard: Some(guard),
                folder,
                lines: Vec::new(),
                stopped: false,
            }),
            Err(e) => {
                let _ = creator.kill();
                let _ = creator.wait();
                let _ = crate::xl::run(&["destroy", &spec.name], PATIENCE);
                Err(e)
            }
        }
    }

    /// The guest's number, as soon as it has one; None if `xl` ended before, which says why on the console.
    fn number(&mut self) -> anyhow::Result<Option<DomId>> {
        let mut xenstore = Xenstore::open(&Here::default())?;
        let until = Instant::now() + CREATE;
        loop {
            if let Ok(number) = xenstore.domain_named(&self.name) {
                return Ok(Some(number));
            }
            if self.creator.try_wait()?.is_some() {
                return Ok(None);
            }
            anyhow::ensure!(
                Instant::now() < until,
                "xl did not make the guest within {} s",
                CREATE.as_secs()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Offers the guest its lines; the sockets are their ends here.
    fn offer(&mut self, lines: impl Iterator<Item = (Use, OwnedFd)>) -> anyhow::Result<()> {
        let Some(number) = self.number()? else {
            return Ok(());
        };
        self.number = Some(number);
        if let Some(guard) = &mut self.guard {
            guard.learn(number)?;
        }
        for (what, socket) in lines {
            self.lines.push(Served::start(number, what, socket)?);
        }
        Ok(())
    }
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
            let which = self
                .number
                .map_or_else(|| self.name.clone(), |number| number.to_string());
            let _ = crate::xl::run_as(self.xl.as_os_str(), &["destroy", &which], PATIENCE);
            let _ = crate::xl::wait(&mut self.creator, PATIENCE);
        }
        self.guard = None;
        self.lines.clear();
    }
}

impl Drop for XenMachine {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A machine of that name whose `xl` notes what it is asked for, and whose creator ends with that.
    fn machine(folder: &Path, number: Option<DomId>) -> XenMachine {
        let creator = Command::new("/bin/sleep")
            .arg("1000")
            .process_group(0)
            .spawn()
            .unwrap();
        let (xl, asked) = (folder.join("xl"), folder.join("asked"));
        let script = format!(
            "#!/bin/sh\necho \"$@\" >> {}\nkill {}\n",
            asked.display(),
            creator.id()
        );
        std::fs::write(&xl, script).unwrap();
        std::fs::set_permissions(&xl, std::fs::Permissions::from_mode(0o700)).unwrap();
        XenMachine {
            xl,
            name: "a".to_owned(),
            number,
            pidfd: pidfd_open(Pid::from_child(&creator), PidfdFlags::empty()).unwrap(),
            creator,
            _keys: None,
            guard: None,
            folder: Folder::new().unwrap(),
            lines: Vec::new(),
            stopped: false,
        }
    }

    #[test]
    fn a_machine_is_ended_by_its_number_whatever_it_is_called_by_now() {
        for (number, asked) in [(Some(17), "destroy 17\n"), (None, "destroy a\n")] {
            let folder = tempfile::tempdir().unwrap();
            machine(folder.path(), number).stop();
            assert_eq!(
                std::fs::read_to_string(folder.path().join("asked")).unwrap(),
                asked
            );
        }
    }

    #[test]
    fn processors_that_are_not_there_are_refused_by_number() {
        let host = "host                   : dom0\nnr_cpus                : 2\nmax_cpu_id             : 1\n";
        check_cpus(&[0, 1], host).unwrap();
        let why = check_cpus(&[0, 2], host).unwrap_err().to_string();
        assert!(why.contains("no CPU 2") && why.contains("has 2"), "{why}");
        // An `xl` that does not say it decides by itself.
        check_cpus(&[7], "").unwrap();
    }
}
