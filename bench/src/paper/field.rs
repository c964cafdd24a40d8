//! Where programs run: this kernel, Vshmem's domain on it, guests.

use super::group::{CARD, Member, together};
use super::iceoryx2;
use super::workshop::Workshop;
use crate::daemon::Daemon;
use anyhow::{Context, Result, ensure};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Addresses of the two guests on the cable between them.
pub(crate) const ADDRESSES: [&str; 2] = ["10.99.0.1", "10.99.0.2"];
const DOMAINS: [&str; 4] = ["paper-a", "paper-b", "paper-c", "paper-d"];
/// The guests of a further port: another name, since a domain is of one kind.
const FURTHER: [&str; 2] = ["further-a", "further-b"];

/// Where the parties of a program are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ground {
    /// This kernel's own IPC.
    Kernel,
    /// Vshmem, in one domain.
    Vshmem,
    /// Vshmem, a guest each.
    Guests,
    /// Vshmem, a guest each of another port.
    Further,
}

/// A further port with guests.
struct Further {
    port: &'static str,
    emulated: bool,
    /// Its own programs, if its guests' processor is not this one.
    shop: Option<Workshop>,
}

/// CPUs that there are for parties.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// A daemon, compiled programs, and a port to start guests with.
pub struct Field {
    vshmem: PathBuf,
    runtime: tempfile::TempDir,
    _daemon: Daemon,
    /// The programs.
    pub shop: Workshop,
    guests: Result<&'static str, String>,
    further: Result<Further, String>,
    iceoryx2: Result<PathBuf, String>,
}

impl std::fmt::Debug for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Field")
            .field("guests", &self.guests)
            .finish_non_exhaustive()
    }
}

impl Field {
    /// Compiles the programs and starts a daemon of its own. `guests` is the port of guests, or why there are none; `further` that of others that run the
    /// small sizes.
    ///
    /// # Errors
    /// Without a C compiler, a daemon, or a core for each party.
    pub fn open(
        vshmem: &Path,
        guests: Result<&'static str, String>,
        further: Result<&'static str, String>,
    ) -> Result<Field> {
        let cores = cores();
        ensure!(
            cores >= super::PARTIES,
            "the programs have {} parties that wait for each other busily, each on a core of its own; here is {cores}",
            super::PARTIES
        );
        let shop = Workshop::open(vshmem)?;
        let runtime = tempfile::tempdir().context("a temporary directory")?;
        let daemon = Daemon::start(vshmem, runtime.path(), "log = \"warn\"\n", None)?;
        Ok(Field {
            vshmem: vshmem.to_owned(),
            runtime,
            _daemon: daemon,
            shop,
            guests,
            further: match further {
                Ok(port) => Ok(Further::open(port)?),
                Err(why) => Err(why),
            },
            iceoryx2: iceoryx2::built(),
        })
    }

    /// The guests' port, or why there are no guests.
    pub fn guests(&self) -> Result<&'static str, String> {
        self.guests.clone()
    }

    /// What the guests of a ground are called.
    pub(crate) fn machines(&self, ground: Ground) -> String {
        match (ground, &self.further) {
            (Ground::Further, Ok(further)) if further.emulated => {
                format!("VMs of {} (software emulation)", further.port)
            }
            (Ground::Further, Ok(further)) => format!("VMs of {}", further.port),
            (Ground::Further, Err(_)) => "VMs of another port".into(),
            _ => "VMs".into(),
        }
    }

    /// A program for a ground, or why there is none.
    pub(crate) fn program(&self, ground: Ground, name: &str) -> Result<PathBuf, String> {
        match ground {
            Ground::Guests => self.guests.clone().and_then(|_| self.shop.program(name)),
            Ground::Further => match &self.further {
                Ok(further) => further.shop.as_ref().unwrap_or(&self.shop).program(name),
                Err(why) => Err(why.clone()),
            },
            Ground::Kernel | Ground::Vshmem => self.shop.program(name),
        }
    }

    /// The program that measures iceoryx2, or why there is none.
    pub fn iceoryx2(&self) -> Result<PathBuf, String> {
        self.iceoryx2.clone()
    }

    /// The `vshmem` command.
    pub fn vshmem(&self) -> &Path {
        &self.vshmem
    }

    /// A key that nothing else here uses.
    pub(crate) fn key() -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed) & 0xfff;
        format!("{:#x}", 0x1a00_0000 | (std::process::id() & 0xfff) << 12 | number)
    }

    /// Runs a program once for each entry of `parties`, its arguments and environment, each on a CPU of its own; gives what the first party wrote.
    pub(crate) fn run(
        &self,
        ground: Ground,
        program: &Path,
        parties: &[Party],
        limit: Duration,
    ) -> Result<String> {
        let cards = match (ground, parties.len()) {
            (Ground::Guests | Ground::Further, 2) => {
                let (a, b) = socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
                vec![Some(Arc::new(a)), Some(Arc::new(b))]
            }
            _ => vec![None; parties.len()],
        };
        let mut members = Vec::new();
        for (i, (party, card)) in parties.iter().zip(cards).enumerate() {
            let mut command = self.command(ground, i, card.is_some())?;
            match ground {
                Ground::Kernel => command = Command::new(program),
                Ground::Vshmem | Ground::Guests | Ground::Further => drop(command.arg("--").arg(program)),
            }
            command.args(&party.arguments);
            command.envs(party.environment.iter().map(|(k, v)| (k, v)));
            members.push(Member {
                command,
                cpu: Some(i % cores()),
                card,
            });
        }
        let mut said = together(members, limit)?;
        Ok(said.swap_remove(0))
    }

    fn command(&self, ground: Ground, party: usize, card: bool) -> Result<Command> {
        let mut command = Command::new(&self.vshmem);
        match ground {
            Ground::Kernel => {}
            Ground::Vshmem => drop(command.arg("run")),
            Ground::Guests | Ground::Further => {
                let (port, domains) = match (ground, &self.further) {
                    (Ground::Further, Ok(further)) => (Ok(further.port), &FURTHER[..]),
                    (Ground::Further, Err(why)) => (Err(why.clone()), &FURTHER[..]),
                    _ => (self.guests.clone(), &DOMAINS[..]),
                };
                let port = port.map_err(anyhow::Error::msg)?;
                command.args(["vm", "run", "--port", port, "--domain", domains[party]]);
                command.args(["--cpus", &(party % cores()).to_string()]);
                if card {
                    command.args(["--network", &format!("{CARD},{}", ADDRESSES[party])]);
                }
            }
        }
        command.arg("--runtime-dir").arg(self.runtime.path());
        Ok(command)
    }
}

impl Further {
    fn open(port: &'static str) -> Result<Further> {
        let emulated = vshmem_port_select::boot(port)?.emulates();
        Ok(Further {
            port,
            emulated,
            shop: if emulated { Some(Workshop::plain()?) } else { None },
        })
    }
}

/// One party's arguments and environment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Party {
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
}
