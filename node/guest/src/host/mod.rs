//! The host's side: what to run, what can go wrong, and [`run`].

mod console;
mod session;
mod signals;
mod sink;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use vshmem_port::boot::{BootError, MachineSpec, Special};

use crate::frame::{Outcome, Start, StartService};

/// The word by which a program that is started as a guest's first process knows it, see [`crate::init::is_init`].
pub(crate) const INIT_WORD: &str = "guest-init";

/// Folders that are a guest's own, each a file system or the place of some.
const OWN: [&str; 5] = ["/", "/proc", "/sys", "/dev", "/run"];

/// Whose rights the program has in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// File mode creation mask.
    pub umask: u32,
}

impl User {
    /// The calling process's real ids, groups and mask.
    ///
    /// # Errors
    /// The system's, when the groups cannot be read.
    pub fn current() -> io::Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let umask = status
            .lines()
            .find_map(|line| line.strip_prefix("Umask:"))
            .and_then(|value| u32::from_str_radix(value.trim(), 8).ok())
            .unwrap_or_else(|| Mode::from_raw_mode(0o022).bits());
        Ok(Self {
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            groups: rustix::process::getgroups()?
                .into_iter()
                .map(rustix::fs::Gid::as_raw)
                .collect(),
            umask,
        })
    }
}

/// The program's standard streams on the host.
#[derive(Debug)]
pub struct Streams {
    /// Read for the program's standard input; `None` gives it end-of-file at once.
    pub stdin: Option<OwnedFd>,
    /// Gets the program's standard output.
    pub stdout: OwnedFd,
    /// Gets the program's standard error.
    pub stderr: OwnedFd,
}

impl Streams {
    /// Copies of this process's own.
    ///
    /// # Errors
    /// The system's, when no descriptor is left.
    pub fn inherited() -> io::Result<Self> {
        Ok(Self {
            stdin: io::stdin().as_fd().try_clone_to_owned().ok(),
            stdout: io::stdout().as_fd().try_clone_to_owned()?,
            stderr: io::stderr().as_fd().try_clone_to_owned()?,
        })
    }
}

/// A command that the guest starts before the program, as root, and ends after it.
#[derive(Debug, Clone)]
pub struct Service {
    /// Program and arguments.
    pub argv: Vec<OsString>,
    /// The service is ready when this path exists or, if it is a socket, when somebody listens on it.
    pub ready: Option<PathBuf>,
    /// How long it may take to become ready.
    pub patience: Duration,
}

/// A network card: a cable to one other guest.
#[derive(Debug)]
pub struct Network {
    /// The guest's end of a pair of datagram sockets; the other end is the other guest's.
    pub card: OwnedFd,
    /// The guest's address, in a network of 256.
    pub address: std::net::Ipv4Addr,
}

/// What to boot and what to run in it.
#[derive(Debug)]
pub struct GuestSpec {
    /// The port that starts the machine, by name.
    pub port: String,
    /// The domain's name, which becomes the guest's host name.
    pub domain: String,
    /// Host CPUs that the machine may use; empty for all.
    pub cpus: Vec<usize>,
    /// Guest memory in bytes.
    pub memory: u64,
    /// The program and its arguments.
    pub argv: Vec<OsString>,
    /// Where the program starts; `/` with a note if the guest has no such folder.
    pub cwd: PathBuf,
    /// The program's whole environment. Services get it too, without `LD_*`.
    pub env: Vec<(OsString, OsString)>,
    /// Whose rights the program has.
    pub user: User,
    /// The pools to show to the guest, open for reading and writing.
    pub pools: Vec<OwnedFd>,
    /// The guest's end of the control stream.
    pub control: Option<OwnedFd>,
    /// The guest's ends of the ring line and of the bells.
    pub bells: Vec<OwnedFd>,
    /// A network card.
    pub network: Option<Network>,
    /// Folders whose writes reach the host.
    pub binds: Vec<PathBuf>,
    /// What not every port can do.
    pub special: Special,
    /// How long the guest may take to start the program.
    pub boot_timeout: Duration,
    /// How long the program may run.
    pub timeout: Option<Duration>,
    /// The executable that becomes the guest's first process: one whose `main` asks [`crate::init::is_init`].
    pub init: PathBuf,
    /// What to start before the program.
    pub services: Vec<Service>,
    /// The program's standard streams on the host.
    pub streams: Streams,
    /// Whether SIGINT, SIGTERM and SIGHUP of this process go to the program. This process ignores them afterwards.
    pub forward_signals: bool,
}

impl GuestSpec {
    /// The memory a guest gets by default.
    pub const MEMORY: u64 = 256 << 20;
    /// The time a guest may take to start the program by default.
    pub const BOOT_TIMEOUT: Duration = Duration::from_secs(120);

    /// `argv` in a guest of `port`, with everything else taken from the calling process or set to its default.
    ///
    /// # Errors
    /// The system's, when the calling process's state cannot be read.
    pub fn new(port: &str, domain: &str, argv: Vec<OsString>) -> io::Result<Self> {
        Ok(Self {
            port: port.to_owned(),
            domain: domain.to_owned(),
            cpus: Vec::new(),
            memory: Self::MEMORY,
            argv,
            cwd: std::env::current_dir().unwrap_or_else(|error| {
                tracing::warn!("the present folder: {error}; the program starts in /");
                PathBuf::from("/")
            }),
            env: std::env::vars_os().collect(),
            user: User::current()?,
            pools: Vec::new(),
            control: None,
            bells: Vec::new(),
            network: None,
            binds: Vec::new(),
            special: Special::default(),
            boot_timeout: Self::BOOT_TIMEOUT,
            timeout: None,
            init: std::env::current_exe()?,
            services: Vec::new(),
            streams: Streams::inherited()?,
            forward_signals: true,
        })
    }

    fn start(&self) -> Result<Start, RunError> {
        let bytes = |words: &[OsString]| words.iter().map(|w| w.as_bytes().to_vec()).collect::<Vec<_>>();
        let binds = self.binds.iter().map(|folder| {
            let whole = std::fs::canonicalize(folder).and_then(|whole| {
                if whole.is_dir() {
                    Ok(whole)
                } else {
                    Err(io::ErrorKind::NotADirectory.into())
                }
            });
            if let Ok(whole) = &whole
                && OWN.iter().any(|own| whole == Path::new(own))
            {
                let why = format!("--bind {}: a guest has one of its own", whole.display());
                return Err(RunError::Spec(why));
            }
            match whole {
                Ok(whole) => Ok(whole.as_os_str().as_bytes().to_vec()),
                Err(e) => Err(RunError::Spec(format!("--bind {}: {e}", folder.display()))),
            }
        });
        let services = self.services.iter().map(|service| StartService {
            argv: bytes(&service.argv),
            ready: service
                .ready
                .as_ref()
                .map(|path| path.as_os_str().as_bytes().to_vec()),
            patience_ms: u64::try_from(service.patience.as_millis()).unwrap_or(u64::MAX),
        });
        let start = Start {
            domain: self.domain.clone(),
            pools: u16::try_from(self.pools.len()).unwrap_or(u16::MAX),
            address: self.network.as_ref().map(|network| network.address.octets()),
            argv: bytes(&self.argv),
            env: self
                .env
                .iter()
                .map(|(k, v)| (k.as_bytes().to_vec(), v.as_bytes().to_vec()))
                .collect(),
            cwd: self.cwd.as_os_str().as_bytes().to_vec(),
            uid: self.user.uid,
            gid: self.user.gid,
            groups: self.user.groups.clone(),
            umask: self.user.umask,
            services: services.collect(),
            binds: binds.collect::<Result<_, _>>()?,
        };
        let size = start.argv.iter().map(Vec::len).sum::<usize>()
            + start.env.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>();
        if self.argv.is_empty() {
            return Err(RunError::Spec("no program was given".to_owned()));
        }
        if size > crate::frame::BODY_MAX / 2 {
            return Err(RunError::Spec(format!(
                "arguments and environment are too large ({size} bytes)"
            )));
        }
        Ok(start)
    }
}

/// Why a program was not run to its end. The last lines of the guest's console are part of the message.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The specification makes no sense.
    #[error("{0}")]
    Spec(String),
    /// The port cannot start a machine.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The port has no machines, or the host refused something.
    #[error("{0}")]
    Host(String),
    /// The guest could not prepare what the program needs.
    #[error("guest {domain}: {said}{console}")]
    Prepare {
        /// Its name.
        domain: String,
        /// What it said.
        said: String,
        /// The last lines of its console.
        console: String,
    },
    /// The guest did not start the program in time.
    #[error("guest {domain} did not come up within {seconds:.0} s; it was ended{console}")]
    BootTimeout {
        /// Its name.
        domain: String,
        /// The limit.
        seconds: f64,
        /// The last lines of its console.
        console: String,
    },
    /// The program ran for too long.
    #[error("guest {domain}: the program ran for more than {seconds:.0} s; the guest was ended{console}")]
    Timeout {
        /// Its name.
        domain: String,
        /// The limit.
        seconds: f64,
        /// The last lines of its console.
        console: String,
    },
    /// The guest did not pass on a signal that was meant for the program.
    #[error("guest {domain} does not answer for {seconds:.0} s; it was ended{console}")]
    Silent {
        /// Its name.
        domain: String,
        /// The limit.
        seconds: f64,
        /// The last lines of its console.
        console: String,
    },
    /// The machine ended by itself before the program did.
    #[error("guest {domain} ended before its program did{console}")]
    Died {
        /// Its name.
        domain: String,
        /// The last lines of its console.
        console: String,
    },
    /// The guest said something that it should not say.
    #[error("guest {domain}: {said}; it was ended{console}")]
    Nonsense {
        /// Its name.
        domain: String,
        /// What was wrong.
        said: String,
        /// The last lines of its console.
        console: String,
    },
    /// The user interrupted twice, or before the program ran.
    #[error("guest {domain} was ended by signal {signal}")]
    Interrupted {
        /// Its name.
        domain: String,
        /// The signal.
        signal: u8,
    },
}

impl RunError {
    /// The exit status for a command line: 124 for a time-out, 128 and the signal's number for an interruption, 125 else.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::BootTimeout { .. } | Self::Timeout { .. } => 124,
            Self::Interrupted { signal, .. } => signal.saturating_add(128),
            _ => 125,
        }
    }
}

/// Boots a guest, runs the program in it, passes its standard streams and signals through, and shuts the guest down.
///
/// The guest ends at the latest with the calling thread, however that ends.
///
/// # Errors
/// [`RunError`]; the guest is gone then, too.
pub fn run(spec: GuestSpec) -> Result<Outcome, RunError> {
    let start = spec.start()?;
    let port = vshmem_port_select::boot(&spec.port).map_err(|e| RunError::Host(e.to_string()))?;
    port.check()?;
    port.prepare()?;
    let host = |e: rustix::io::Errno| RunError::Host(format!("opening the guest's streams: {e}"));
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(host)?;
    let (console, console_in) = pipe_with(PipeFlags::CLOEXEC).map_err(host)?;
    // Before the machine starts, so that no signal of the user falls between.
    let signals = if spec.forward_signals {
        signals::Signals::new()
    } else {
        Ok(signals::Signals::none())
    };
    let signals = signals.map_err(|e| RunError::Host(format!("listening to signals: {e}")))?;
    let machine = port.start(MachineSpec {
        name: spec.domain.clone(),
        memory: spec.memory,
        cpus: spec.cpus,
        init: spec.init,
        init_args: vec![INIT_WORD.to_owned(), spec.port],
        pools: spec.pools,
        control: spec.control,
        bells: spec.bells,
        network: spec.network.map(|network| network.card),
        binds: start
            .binds
            .iter()
            .map(|bytes| OsStr::from_bytes(bytes).into())
            .collect(),
        special: spec.special,
        stdio: theirs,
        console: console_in,
    })?;
    for note in machine.notes() {
        tracing::warn!("guest {}: {note}", spec.domain);
    }
    let limits = session::Limits {
        boot: spec.boot_timeout,
        run: spec.timeout,
    };
    session::Session::new(spec.domain, machine, ours, console, spec.streams, signals, limits).run(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_that_a_machine_has_itself_are_not_bound_from_the_host() {
        let bound = |folder: &str| {
            let mut spec = GuestSpec::new("any", "a", vec!["true".into()]).expect("a specification");
            spec.binds.push(folder.into());
            spec.start()
                .map(|start| start.binds.len())
                .map_err(|error| error.to_string())
        };
        for own in ["/", "/proc", "/dev/", "/sys", "/proc/../run"] {
            let said = bound(own).expect_err(own);
            assert!(said.contains("one of its own"), "{own}: {said}");
        }
        assert_eq!(bound("/usr"), Ok(1));
    }
}
