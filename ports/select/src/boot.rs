//! The ports that start machines of their own, by name: the host's side and the guest's.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use vshmem_port::boot::{Boot, Inside};

/// Ports that can start a machine of their own, by the names used with `--port`.
pub const BOOTABLE: &[&str] = &["uml", "qemu", "xen"];

/// The host's side of a port that can start machines.
///
/// # Errors
/// For a name that is not in [`BOOTABLE`].
pub fn boot(port: &str) -> anyhow::Result<Box<dyn Boot>> {
    match port {
        "uml" => Ok(Box::new(vshmem_port_uml::boot::UmlBoot::new())),
        "qemu" => Ok(Box::new(vshmem_port_ivshmem::boot::QemuBoot::new())),
        "xen" => Ok(Box::new(vshmem_port_xen::boot::XenBoot::new())),
        _ => Err(cannot_boot(port)),
    }
}

/// The guest's side of a port that can start machines.
///
/// # Errors
/// For a name that is not in [`BOOTABLE`].
pub fn inside(port: &str) -> anyhow::Result<Box<dyn Inside>> {
    match port {
        "uml" => Ok(Box::new(vshmem_port_uml::inside::UmlInside)),
        "qemu" => Ok(Box::new(vshmem_port_ivshmem::inside::QemuInside)),
        "xen" => Ok(Box::new(vshmem_port_xen::inside::XenInside)),
        _ => Err(cannot_boot(port)),
    }
}

/// Ports whose machines, when somebody else started them, are given a line by a process that serves it.
pub const LINED: &[&str] = &["xen"];

/// A line to a running machine that is not offered to it yet.
#[derive(Debug)]
pub struct Line(vshmem_port_xen::line::Prepared);

impl Line {
    /// The back-end's end.
    #[must_use]
    pub fn stream(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.stream.as_fd()
    }

    /// Offers it to the machine; gives the thread that serves it until either end is gone or `told` is set.
    ///
    /// # Errors
    /// What the port says.
    pub fn offer(self, told: &Arc<AtomicBool>) -> anyhow::Result<JoinHandle<()>> {
        self.0.offer(told)
    }
}

/// Prepares a line to the running machine of that name.
///
/// # Errors
/// For a port that is not in [`LINED`], and what the port says.
pub fn line(port: &str, machine: &str) -> anyhow::Result<Line> {
    match port {
        "xen" => vshmem_port_xen::line::prepare(machine).map(Line),
        _ => anyhow::bail!(
            "machines of port {port:?} get no line; those of these do: {}",
            LINED.join(", ")
        ),
    }
}

/// The port by which a guest of a bootable port joins (`vshmem join --port`).
#[must_use]
pub fn joins_by(port: &str) -> &str {
    match port {
        "qemu" => "ivshmem",
        same => same,
    }
}

/// Most pools that a guest that joins by this port is shown.
#[must_use]
pub fn most_pools(port: &str) -> usize {
    match joins_by(port) {
        "uml" => vshmem_port_uml::boot::MOST_POOLS,
        _ => vshmem_wire::pool::MOST_POOLS,
    }
}

fn cannot_boot(port: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "port {port:?} starts no machines; these do: {}",
        BOOTABLE.join(", ")
    )
}
