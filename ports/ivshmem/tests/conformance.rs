//! The port conformance suite, with QEMU guests as domains.
//!
//! The program is both sides: as the first process of a guest it is the agent, over the guest's own virtio-serial port and ivshmem device. Atomics are checked
//! like everything else: a machine of one possible virtual CPU under software emulation fails there.
//! Where QEMU or a kernel for guests is missing every check is skipped, by name, with the reason.

use libtest_mimic::{Arguments, Failed, Trial};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::mount::{MountFlags, mount};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::process::ExitCode;
use vshmem_port::boot::{Boot, Inside, Machine, MachineSpec, Special};
use vshmem_port::conformance::{CHECKS, Domain, Fixture, POOL_BYTES, serve};
use vshmem_port::store::{Serial, Store};
use vshmem_port_ivshmem::boot::QemuBoot;
use vshmem_port_ivshmem::guest::IvshmemGuest;
use vshmem_port_ivshmem::inside::QemuInside;
use vshmem_port_local::PoolStore;
use vshmem_wire::Window;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        in_guest();
    }
    let trials = CHECKS
        .iter()
        .map(|check| {
            Trial::test(format!("qemu::{}", check.name), move || {
                let boot = QemuBoot::new();
                if let Err(why) = boot.check().and_then(|()| boot.prepare()) {
                    eprintln!("skipped: {why}");
                    return Ok(());
                }
                check
                    .run(&Qemu { boot })
                    .map_err(|why| Failed::from(format!("{why:#}")))
            })
        })
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

// The host's side.

struct Qemu {
    boot: QemuBoot,
}

impl Fixture for Qemu {
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
        let machine = self.boot.start(MachineSpec {
            name: "conformance".to_owned(),
            memory: 128 << 20,
            cpus: Vec::new(),
            init: std::env::current_exe()?,
            init_args: vec!["domain".to_owned()],
            pools: vec![store.descriptor(Serial(0), true)?.0],
            control: Some(control),
            bells: Vec::new(),
            network: None,
            binds: Vec::new(),
            special: Special::default(),
            stdio: their_stdio,
            console: std::io::stderr().as_fd().try_clone_to_owned()?,
        })?;
        Ok(Box::new(Guest {
            machine,
            stream,
            _stdio: stdio,
        }))
    }
}

struct Guest {
    machine: Box<dyn Machine>,
    stream: OwnedFd,
    _stdio: OwnedFd,
}

impl Domain for Guest {
    fn stream(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
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
    let outcome = prepare().and_then(|()| serve(&IvshmemGuest::default()));
    if let Err(why) = outcome {
        let _ = std::fs::write("/dev/console", format!("agent: {why:#}\n"));
    }
    let _ = rustix::system::reboot(rustix::system::RebootCommand::PowerOff);
    std::process::exit(1)
}

fn prepare() -> anyhow::Result<()> {
    QemuInside::default().arrive()?;
    mount("proc", "/proc", "proc", MountFlags::empty(), None)?;
    match mount("dev", "/dev", "devtmpfs", MountFlags::empty(), None) {
        // Most kernels mount it themselves.
        Ok(()) | Err(rustix::io::Errno::BUSY) => Ok(()),
        Err(other) => Err(other.into()),
    }
}
