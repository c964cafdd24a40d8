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
    /// The pool to show to the guest.
    pub pool: Option<OwnedFd>,
    /// Byte stream to the back-end.
    pub control: Option<OwnedFd>,
    /// Datagram socket whose other end is another machine's: both become network cards, joined by a cable.
    pub network: Option<OwnedFd>,
    /// Byte stream that carries the program's standard input and output.
    pub stdio: OwnedFd,
    /// Where the kernel console and the hypervisor's own messages go: write end.
    pub console: OwnedFd,
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

/// The host's side of a port that can start machines.
pub trait Boot: Send + Sync {
    /// Whether a machine could be started here.
    ///
    /// # Errors
    /// [`BootError::NotInstalled`] and [`BootError::Unsupported`], with what to do about it.
    fn check(&self) -> Result<(), BootError>;

    /// Starts a machine. It ends at the latest with the calling thread.
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
    /// The device of the stdio stream.
    fn stdio_device(&self) -> &Path;

    /// The device of the control stream.
    fn control_device(&self) -> &Path;

    /// The name of the network card.
    fn network_card(&self) -> &str;

    /// Whether the pool is there.
    ///
    /// # Errors
    /// A sentence for the user when it is not.
    fn check_pool(&self) -> Result<(), String>;

    /// Folders that may hold the modules of the running kernel (`kernel/fs/...` below them), best first.
    fn module_folders(&self, release: &str) -> Vec<PathBuf>;

    /// Mounts the host's `folder` for reading and writing at `at`.
    ///
    /// # Errors
    /// The kernel's.
    fn mount_host_folder(&self, folder: &Path, at: &Path) -> io::Result<()>;
}
