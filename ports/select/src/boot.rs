//! The ports that start machines of their own, by name: the host's side and the guest's.

use vshmem_port::boot::{Boot, Inside};

/// Ports that can start a machine of their own, by the names used with `--port`.
pub const BOOTABLE: &[&str] = &["uml"];

/// The host's side of a port that can start machines.
///
/// # Errors
/// For a name that is not in [`BOOTABLE`].
pub fn boot(port: &str) -> anyhow::Result<Box<dyn Boot>> {
    match port {
        "uml" => Ok(Box::new(vshmem_port_uml::boot::UmlBoot::new())),
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
        _ => Err(cannot_boot(port)),
    }
}

fn cannot_boot(port: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "port {port:?} starts no machines; these do: {}",
        BOOTABLE.join(", ")
    )
}
