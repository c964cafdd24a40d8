//! Bells by which domains of a port ring each other with nobody in between: the host's side.

use std::os::fd::OwnedFd;
use vshmem_port::direct::DirectBells;
use vshmem_port_xen::bells::XenBells;
use vshmem_port_xen::here::Here;
use vshmem_port_xen::xenstore::Xenstore;

/// The host's own, for ports that have such; with `former`, those that a former life of the back-end had.
///
/// # Errors
/// If they cannot be had: what is missing and what to do.
pub fn direct_bells(port: &str, former: Vec<OwnedFd>) -> anyhow::Result<Option<Box<dyn DirectBells>>> {
    match port {
        "xen" => Ok(Some(Box::new(XenBells::open(&Here::default(), former)?))),
        _ => Ok(None),
    }
}

/// The port whose memory is granted, in which the host's own threads, too, can sleep by such bells alone.
pub const GRANTING: &str = "xen";

/// The host's machine, to such a port.
pub const HOST_MACHINE: u32 = 0;

/// The machine of a guest of such a port, by its name.
///
/// # Errors
/// If there is none.
pub fn machine_named(port: &str, name: &str) -> anyhow::Result<Option<u32>> {
    match port {
        "xen" => Ok(Some(Xenstore::open(&Here::default())?.domain_named(name)?.into())),
        _ => Ok(None),
    }
}
