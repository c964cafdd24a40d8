//! A machine that the port itself boots on this host's tree, as a domain of the suite: the program that runs the checks is the machine's first process, too, and there
//! the agent.

use super::{Domain, serve};
use crate::boot::{Boot, Machine, MachineSpec, Special};
use crate::guest::GuestPort;
use anyhow::Context;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::mount::{MountFlags, mount};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use vshmem_wire::Window;

struct Booted {
    name: String,
    machine: Box<dyn Machine>,
    stream: OwnedFd,
    bells: Vec<OwnedFd>,
    _stdio: OwnedFd,
}

/// Boots a machine with the agent in it, which is shown these pools.
///
/// # Errors
/// Those of [`Boot::start`].
pub fn boot(
    port: &dyn Boot,
    name: String,
    memory: u64,
    pools: Vec<OwnedFd>,
) -> anyhow::Result<Box<dyn Domain>> {
    let (stream, control) = pair()?;
    let (stdio, their_stdio) = pair()?;
    let bells = (0..port.bells()).map(|_| pair());
    let (bells, their_bells) = bells.collect::<anyhow::Result<Vec<_>>>()?.into_iter().unzip();
    let machine = port.start(MachineSpec {
        name: name.clone(),
        memory,
        cpus: Vec::new(),
        init: std::env::current_exe()?,
        init_args: vec!["domain".to_owned()],
        pools,
        control: Some(control),
        bells: their_bells,
        network: None,
        binds: Vec::new(),
        special: Special::default(),
        stdio: their_stdio,
        console: std::io::stderr().as_fd().try_clone_to_owned()?,
    })?;
    Ok(Box::new(Booted {
        name,
        machine,
        stream,
        bells,
        _stdio: stdio,
    }))
}

fn pair() -> anyhow::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    Ok(socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

impl Domain for Booted {
    fn stream(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    fn bells(&self) -> &[OwnedFd] {
        &self.bells
    }

    fn hand(&mut self, _: OwnedFd, _: Window) -> anyhow::Result<()> {
        Ok(())
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn kill(&mut self) {
        self.machine.stop();
    }
}

/// What the program does as the first process of such a machine: the agent, then the end of the machine.
/// `arrive` comes before anything else: see [`Inside::arrive`](crate::boot::Inside::arrive).
pub fn in_guest(arrive: impl FnOnce() -> anyhow::Result<()>, port: &dyn GuestPort) -> ! {
    let outcome = arrive().and_then(|()| prepare()).and_then(|()| serve(port));
    if let Err(why) = outcome {
        let _ = std::fs::write("/dev/console", format!("agent: {why:#}\n"));
    }
    let _ = rustix::system::reboot(rustix::system::RebootCommand::PowerOff);
    std::process::exit(1)
}

fn prepare() -> anyhow::Result<()> {
    for (kind, at) in [("proc", "/proc"), ("devtmpfs", "/dev")] {
        match mount(kind, at, kind, MountFlags::empty(), None) {
            // Most kernels mount devices themselves.
            Ok(()) | Err(rustix::io::Errno::BUSY) => {}
            Err(other) => return Err(other).with_context(|| format!("mounting {at}")),
        }
    }
    Ok(())
}
