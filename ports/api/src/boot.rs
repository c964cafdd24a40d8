//! How a port starts a machine of its own, and what the first process inside that machine must know about it.
//!
//! | trait | where it runs | what it says |
//! |---|---|---|
//! | [`Boot`] | on the host | whether the hypervisor is there; how to start a machine |
//! | [`Machine`] | on the host | one machine that was started: when it ends, and how to end it |
//! | [`Inside`] | in the guest | which devices carry the streams, where modules lie, how a host folder is mounted |
//!
//! Not for what travels over the streams (`vshmem-guest` for standard input and output, `vshmem-wire` for the
//! control stream) and not for a machine that somebody else started.

use anyhow::Context;
use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What to boot. Descriptors are the machine's ends; the port passes them on and closes its own copies.
#[derive(Debug)]
pub struct MachineSpec {
    /// The domain's name, for messages and process titles.
    pub name: String,
    /// Guest memory in bytes, the pool not included.
    pub memory: u64,
    /// Host CPUs that the machine may use; empty for all.
    pub cpus: Vec<usize>,
    /// The host's path of the guest's first process.
    pub init: PathBuf,
    /// Its arguments: words of letters, digits, `-`, `_`, `.` and `/` only, since they travel on a kernel command line.
    pub init_args: Vec<String>,
    /// The pools to show to the guest.
    pub pools: Vec<OwnedFd>,
    /// Byte stream to the back-end.
    pub control: Option<OwnedFd>,
    /// Byte streams to the back-end: the ring line's, then each bell's. As many as [`Boot::bells`] says, or none.
    pub bells: Vec<OwnedFd>,
    /// Datagram socket whose other end is another machine's: both become network cards, joined by a cable.
    pub network: Option<OwnedFd>,
    /// Byte stream that carries the program's standard input and output.
    pub stdio: OwnedFd,
    /// Host folders, by their full names, that the guest may write to: see [`Inside::mount_host_folder`].
    pub binds: Vec<PathBuf>,
    /// What not every port can do.
    pub special: Special,
    /// Where the kernel console and the hypervisor's own messages go: write end.
    pub console: OwnedFd,
}

/// What not every port can do; a port refuses what it cannot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Special {
    /// The kernel to boot, instead of the one that the port finds.
    pub kernel: Option<PathBuf>,
    /// Guest memory from huge pages.
    pub hugepages: bool,
    /// The host's NUMA node for guest memory and pool.
    pub numa_node: Option<u32>,
    /// A vsock device, over which the machine's stream goes instead of [`MachineSpec::control`].
    pub vsock: Option<Vsock>,
}

/// A machine's vsock device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vsock {
    /// The machine's address.
    pub cid: u32,
    /// Where its hypervisor listens, if it turns vsock into unix sockets; the back-end's are beside it.
    pub place: PathBuf,
}

impl Special {
    /// For a port that can do none of it.
    ///
    /// # Errors
    /// [`BootError::Unsupported`] if something was asked for.
    pub fn refuse(&self, port: &str) -> Result<(), BootError> {
        let asked = [
            (self.kernel.is_some(), "a kernel of your choice"),
            (self.hugepages, "huge pages"),
            (self.numa_node.is_some(), "a NUMA node"),
            (self.vsock.is_some(), "a stream over vsock"),
        ];
        match asked.iter().find(|(asked, _)| *asked) {
            Some((_, what)) => Err(BootError::Unsupported(format!(
                "port {port} cannot give a guest {what}; leave the option out, or use another port"
            ))),
            None => Ok(()),
        }
    }
}

/// Why a machine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The hypervisor is not installed.
    #[error("{what} is not installed; on Debian and Ubuntu: apt-get install {package}")]
    NotInstalled {
        /// The program that was looked for.
        what: String,
        /// The package that has it.
        package: String,
    },
    /// This port cannot do what was asked for.
    #[error("{0}")]
    Unsupported(String),
    /// The host refused a step.
    #[error("{what}: {source}")]
    Host {
        /// The step.
        what: String,
        /// The host's answer.
        source: io::Error,
    },
}

/// Whether the host has these processors, and they are online.
///
/// # Errors
/// The first that is not, and which there are.
pub fn check_cpus(cpus: &[usize]) -> Result<(), BootError> {
    match std::fs::read_to_string("/sys/devices/system/cpu/online") {
        Ok(online) => check_against(cpus, online.trim()).map_err(BootError::Unsupported),
        // A host that does not say it.
        Err(_) => Ok(()),
    }
}

fn check_against(cpus: &[usize], online: &str) -> Result<(), String> {
    let mut ranges = Vec::new();
    for part in online.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (first.parse::<usize>(), last.parse::<usize>()) {
            (Ok(first), Ok(last)) => ranges.push(first..=last),
            _ => return Ok(()),
        }
    }
    let missing = cpus
        .iter()
        .find(|cpu| !ranges.iter().any(|range| range.contains(cpu)));
    match missing {
        Some(cpu) => Err(format!(
            "this host has no CPU {cpu} that is online: it has {online}; name others with --cpus"
        )),
        None => Ok(()),
    }
}

/// The program that a variable of the environment names, if it is set.
///
/// # Errors
/// If there is no such file.
pub fn named_program(variable: &str) -> Result<Option<PathBuf>, BootError> {
    let Some(named) = std::env::var_os(variable).map(PathBuf::from) else {
        return Ok(None);
    };
    if named.is_file() {
        return Ok(Some(named));
    }
    Err(BootError::Unsupported(format!(
        "{variable} names {named:?}, and there is no such file: correct it, or take it out of the environment"
    )))
}

/// The host's side of a port that can start machines.
pub trait Boot: Send + Sync {
    /// Whether a machine could be started here.
    ///
    /// # Errors
    /// [`BootError::NotInstalled`] and [`BootError::Unsupported`], with what to do about it.
    fn check(&self) -> Result<(), BootError>;

    /// Whether software runs the guests' instructions here instead of the processor: what is measured in them says little of the hardware.
    fn emulates(&self) -> bool {
        false
    }

    /// Whether a machine can be given a network card.
    fn has_network(&self) -> bool {
        true
    }

    /// Whether a machine reaches only what is granted to it: its groups' memory must be of that kind, and it is shown no pool.
    fn needs_grants(&self) -> bool {
        false
    }

    /// How many streams a machine can take for bells: one for the ring line and one for each bell, or 0 if the port has none.
    fn bells(&self) -> usize {
        0
    }

    /// Gets what is missing and can be had without installing anything, such as a kernel from the distribution's archive. May take a while.
    ///
    /// # Errors
    /// [`BootError`], if it cannot be had.
    fn prepare(&self) -> Result<(), BootError> {
        Ok(())
    }

    /// Starts a machine, after [`Boot::prepare`]. It ends at the latest with the calling thread.
    ///
    /// # Errors
    /// [`BootError`].
    fn start(&self, spec: MachineSpec) -> Result<Box<dyn Machine>, BootError>;
}

/// A machine that was started. Dropping it ends it.
pub trait Machine: Send {
    /// Readable when the machine is over.
    fn over(&self) -> BorrowedFd<'_>;

    /// Told once, when the first process in the guest speaks: what was needed only to boot can go.
    fn booted(&mut self);

    /// What the user should know of how it was started.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// How many bytes the host may have on their way to the guest on the stdio stream that the guest has not confirmed to
    /// have read.
    fn burst(&self) -> usize {
        usize::MAX
    }

    /// Ends the machine now, with every process that belongs to it, and waits until they are gone.
    fn stop(&mut self);
}

/// The guest's side, as its first process needs it.
pub trait Inside: Send + Sync {
    /// Called before anything else. Where the kernel started this process from a root made only to find the host's, it makes the host's tree the root,
    /// read-only, and executes this program anew from there.
    ///
    /// # Errors
    /// What is missing: the machine cannot go on.
    fn arrive(&self) -> anyhow::Result<()> {
        Ok(())
    }

    /// The stdio stream, open for reading and writing; it makes its reader wait.
    ///
    /// # Errors
    /// What is missing: the machine cannot go on.
    fn stdio(&self) -> anyhow::Result<OwnedFd>;

    /// The name of the network card.
    fn network_card(&self) -> &str;

    /// Whether so many pools are there.
    ///
    /// # Errors
    /// A sentence for the user when they are not.
    fn check_pools(&self, pools: usize) -> Result<(), String>;

    /// Folders that may hold the modules of the running kernel (`kernel/fs/...` below them), best first.
    fn module_folders(&self, release: &str) -> Vec<PathBuf>;

    /// Mounts the host's `folder` for reading and writing at `at`.
    ///
    /// # Errors
    /// The kernel's.
    fn mount_host_folder(&self, folder: &Path, at: &Path) -> io::Result<()>;
}

/// Opens the device of a stdio stream, for [`Inside::stdio`].
///
/// # Errors
/// The kernel's, with the device's name.
pub fn open_device(device: &Path) -> anyhow::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(device, flags, Mode::empty()).with_context(|| device.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_that_is_not_online_is_named_with_those_that_are() {
        assert_eq!(check_against(&[0, 3, 5], "0,2-3,5"), Ok(()));
        assert_eq!(check_against(&[], "0"), Ok(()));
        for (cpus, missing) in [([0, 1], 1), ([5, 77], 77)] {
            let why = check_against(&cpus, "0,2-3,5").unwrap_err();
            assert!(
                why.contains(&format!("no CPU {missing} ")) && why.contains("0,2-3,5"),
                "{why}"
            );
        }
        assert_eq!(check_against(&[9], "who knows"), Ok(()));
    }

    #[test]
    fn a_variable_that_names_no_program_is_named() {
        assert_eq!(named_program("VSHMEM_NAMES_NOTHING").unwrap(), None);
        // Cargo sets it for tests: a folder is no program.
        let why = named_program("CARGO_MANIFEST_DIR").unwrap_err().to_string();
        assert!(
            why.contains("CARGO_MANIFEST_DIR names") && why.contains("environment"),
            "{why}"
        );
    }
}
