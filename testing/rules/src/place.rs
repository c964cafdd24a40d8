//! The two parties at a place.

use crate::rule::{Need, Party};
use anyhow::Result;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use vshmem_testing_vm::actor::{actor_program, static_actor};
use vshmem_testing_vm::{Actor, Machine, Place, qemu_missing, uml_available};

/// A column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// The kernel's own IPC, in an IPC namespace of the test's own where that can be had.
    Kernel,
    /// Two processes of the host under Vshmem.
    Host,
    /// The same as static programs, under `run --strict`.
    Strict,
    /// Two local domains, as containers are.
    Containers,
    /// Two UML guests.
    Uml,
    /// Two QEMU guests.
    Qemu,
}

impl Column {
    /// All, the reference first.
    pub const ALL: [Column; 6] = [
        Column::Kernel,
        Column::Host,
        Column::Strict,
        Column::Containers,
        Column::Uml,
        Column::Qemu,
    ];

    /// Whether the two parties are in different domains.
    pub fn crosses(self) -> bool {
        matches!(self, Column::Containers | Column::Uml | Column::Qemu)
    }

    /// Why there is no such thing, where there cannot be any.
    pub fn lacks(self, need: Need) -> Option<&'static str> {
        match (self, need) {
            (Column::Uml, Need::HugePages) => Some("User-mode Linux has no huge pages"),
            (Column::Qemu, Need::HugePages) => {
                Some("a guest reaches its group's pool, and segments of huge pages lie beside it")
            }
            (Column::Qemu, Need::ExecutableMemory) => Some(
                "the device's memory is reached through sysfs, and Linux lets nobody execute what lies there",
            ),
            _ => None,
        }
    }

    /// Why nobody can be there, on a machine that lacks what it takes.
    pub fn missing(self) -> Option<String> {
        match self {
            Column::Uml if !uml_available() => {
                Some("no UML kernel here (`apt-get install user-mode-linux`)".to_owned())
            }
            Column::Qemu => qemu_missing(),
            Column::Strict => strict_missing(),
            _ => None,
        }
    }

    /// Its name in the table and in the list of differences.
    pub fn name(self) -> &'static str {
        match self {
            Column::Kernel => "kernel",
            Column::Host => "host",
            Column::Strict => "strict",
            Column::Containers => "containers",
            Column::Uml => "uml",
            Column::Qemu => "qemu",
        }
    }
}

/// Why nothing can be served strictly here, if it cannot.
fn strict_missing() -> Option<String> {
    #[cfg(target_arch = "x86_64")]
    return vshmem_strict::possible()
        .err()
        .map(|(why, remedy)| format!("{why}: {remedy}"));
    #[cfg(not(target_arch = "x86_64"))]
    Some("run --strict is for x86-64".to_string())
}

/// Two domains of the host's kernel, each with a socket of its own, as containers get one.
const CONTAINERS: &str = "[[domain]]\nname = \"a\"\n[[domain]]\nname = \"b\"\n";

/// Two running parties.
pub struct Parties {
    column: Column,
    actors: Option<(Actor, Actor)>,
    machine: Option<Machine>,
    /// Their process ids, as they see themselves.
    pub pids: (i64, i64),
}

impl Parties {
    /// Starts them; Vshmem's daemon with them.
    pub fn start(column: Column) -> Result<Parties> {
        let machine = match column {
            Column::Kernel => None,
            Column::Containers => Some(Machine::configured(CONTAINERS)?),
            _ => Some(Machine::start()?),
        };
        if let Some(machine) = &machine {
            // Some rules change the user.
            std::fs::set_permissions(machine.runtime(), std::fs::Permissions::from_mode(0o755))?;
        }
        let mut parties = Parties {
            column,
            actors: None,
            machine,
            pids: (0, 0),
        };
        parties.restart()?;
        Ok(parties)
    }

    /// Ends both and starts two new ones.
    pub fn restart(&mut self) -> Result<()> {
        if let Some((mut a, mut b)) = self.actors.take() {
            let _ = a.kill();
            let _ = b.kill();
        }
        let (mut a, mut b) = match (&self.machine, self.column) {
            (Some(machine), Column::Host) => (
                Actor::start(machine, Place::Host)?,
                Actor::start(machine, Place::Host)?,
            ),
            (Some(machine), Column::Strict) => (strictly(machine)?, strictly(machine)?),
            (Some(machine), Column::Containers) => {
                (in_a_container(machine, "a")?, in_a_container(machine, "b")?)
            }
            (Some(machine), Column::Uml) => (
                Actor::start(machine, Place::Uml("a"))?,
                Actor::start(machine, Place::Uml("b"))?,
            ),
            (Some(machine), Column::Qemu) => (
                Actor::start(machine, Place::Qemu("a"))?,
                Actor::start(machine, Place::Qemu("b"))?,
            ),
            _ => under_the_kernel()?,
        };
        self.pids = (a.number("pid")?, b.number("pid")?);
        self.actors = Some((a, b));
        Ok(())
    }

    /// Whether a limit that a party has written counts for others when that party asks for something, or a little later.
    pub fn limits_count_when_next_asked(&self) -> bool {
        self.column == Column::Strict
    }

    /// One of them.
    pub fn get(&mut self, party: Party) -> Result<&mut Actor> {
        match (&mut self.actors, party) {
            (Some((a, _)), Party::A) => Ok(a),
            (Some((_, b)), Party::B) => Ok(b),
            (None, _) => anyhow::bail!("the parties did not start"),
        }
    }
}

/// A party that comes by a domain's own socket, which is where it looks for the daemon's.
fn in_a_container(machine: &Machine, domain: &'static str) -> Result<Actor> {
    let folder = machine.runtime().join(format!("in-{domain}"));
    let socket = folder.join("vshmem.sock");
    if !socket.exists() {
        std::fs::create_dir(&folder)?;
        std::os::unix::fs::symlink(format!("../domains/{domain}.sock"), &socket)?;
    }
    let mut command = machine.command(&["run", "--"]);
    command.env("VSHMEM_RUNTIME_DIR", &folder).arg(actor_program()?);
    Actor::from_command(command, Place::Local(domain))
}

/// A static party, whose system calls are what is served.
fn strictly(machine: &Machine) -> Result<Actor> {
    let mut command = machine.command(&["run", "--strict", "--"]);
    command.arg(static_actor()?);
    Actor::from_command(command, Place::Host)
}

/// Two parties on the kernel's own IPC: in a namespace of their own if the caller may make one.
fn under_the_kernel() -> Result<(Actor, Actor)> {
    let program = actor_program()?;
    let mut command = Command::new("unshare");
    command.args(["--ipc", "--"]).arg(&program);
    let Ok(a) = Actor::from_command(command, Place::Kernel) else {
        let start = || Actor::from_command(Command::new(&program), Place::Kernel);
        return Ok((start()?, start()?));
    };
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--ipc=/proc/{}/ns/ipc", a.host_pid()))
        .arg("--")
        .arg(&program);
    let b = Actor::from_command(command, Place::Kernel)?;
    Ok((a, b))
}
