//! The port conformance suite, with UML guests as domains.
//!
//! The program is both sides: as the first process of a guest it is the agent, over the guest's own serial line and `/dev/mmapper`.
//! Where `linux.uml` is missing every check is skipped, by name, with the reason.

use libtest_mimic::{Arguments, Failed, Trial};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::mount::{MountFlags, mount};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::process::ExitCode;
use vshmem_port::boot::{Boot, Machine, MachineSpec, Special};
use vshmem_port::conformance::{CHECKS, Domain, Fixture, POOL_BYTES, serve};
use vshmem_port::store::{Serial, Store};
use vshmem_port_local::PoolStore;
use vshmem_port_uml::boot::UmlBoot;
use vshmem_port_uml::guest::UmlGuest;
use vshmem_wire::Window;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        in_guest();
    }
    let trials = CHECKS
        .iter()
        .map(|check| {
            Trial::test(format!("uml::{}", check.name), move || {
                let boot = UmlBoot::new();
                if let Err(why) = boot.check() {
                    eprintln!("skipped: {why}");
                    return Ok(());
                }
                check
                    .run(&Uml { boot })
                    .map_err(|why| Failed::from(format!("{why:#}")))
            })
        })
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

// The host's side.

struct Uml {
    boot: UmlBoot,
}

impl Fixture for Uml {
    fn new_store(&self) -> anyhow::Result<Box<dyn Store>> {
        Ok(Box::new(PoolStore::new(POOL_BYTES)?))
    }

    fn start(&self, store: &dyn Store) -> anyhow::Result<Box<dyn Domain>> {
        let pair = || {
            rustix::net::socketpair(
                AddressFamily::UNIX,
                SocketType::STREAM,
                SocketFlags::CLOEXEC,
                None,
            )
        };
        let (stream, control) = pair()?;
        let (stdio, their_stdio) = pair()?;
        let (mut bells, mut their_bells) = (Vec::new(), Vec::new());
        for _ in 0..self.boot.bells() {
            let (bell, theirs) = pair()?;
            bells.push(bell);
            their_bells.push(theirs);
        }
        let machine = self.boot.start(MachineSpec {
            name: "conformance".to_owned(),
            memory: 64 << 20,
            cpus: Vec::new(),
            init: std::env::current_exe()?,
            init_args: vec!["domain".to_owned()],
            pools: vec![store.descriptor(Serial(0), true)?.0],
            control: Some(control),
            bells: their_bells,
            network: None,
            binds: Vec::new(),
            special: Special::default(),
            stdio: their_stdio,
            console: std::io::stderr().as_fd().try_clone_to_owned()?,
        })?;
        Ok(Box::new(Guest {
            machine,
            stream,
            bells,
            _stdio: stdio,
        }))
    }
}

struct Guest {
    machine: Box<dyn Machine>,
    stream: OwnedFd,
    bells: Vec<OwnedFd>,
    _stdio: OwnedFd,
}

impl Domain for Guest {
    fn stream(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    fn bells(&self) -> &[OwnedFd] {
        &self.bells
    }

    fn hand(&mut self, _: OwnedFd, _: Window) -> anyhow::Result<()> {
        Ok(())
    }

    fn kill(&mut self) {
        self.machine.stop();
    }
}

// The domain's side.

/// The guest's first process: the agent, then the end of the guest.
fn in_guest() -> ! {
    let outcome = prepare().and_then(|()| serve(&UmlGuest));
    if let Err(why) = outcome {
        let _ = std::fs::write("/dev/console", format!("agent: {why:#}\n"));
    }
    let _ = rustix::system::reboot(rustix::system::RebootCommand::PowerOff);
    std::process::exit(1)
}

fn prepare() -> anyhow::Result<()> {
    mount("proc", "/proc", "proc", MountFlags::empty(), None)?;
    match mount("dev", "/dev", "devtmpfs", MountFlags::empty(), None) {
        // Most kernels mount it themselves.
        Ok(()) | Err(rustix::io::Errno::BUSY) => Ok(()),
        Err(other) => Err(other.into()),
    }
}
