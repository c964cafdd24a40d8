//! Which ports work here, and what to do about those that do not: what `vshmem doctor` prints.

use crate::guest;
use std::path::Path;
use vshmem_port_ivshmem::vsock::report as vsock;
use vshmem_port_local::PoolStore;

/// One port's part here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The port.
    pub port: &'static str,
    /// What it would do on this machine.
    pub part: &'static str,
    /// Whether it works.
    pub works: bool,
    /// What was found; where it does not work, what is missing and what to do about it.
    pub detail: String,
}

impl Finding {
    fn of(port: &'static str, part: &'static str, found: Result<String, String>) -> Self {
        let works = found.is_ok();
        let detail = found.unwrap_or_else(|why| why);
        Finding {
            port,
            part,
            works,
            detail,
        }
    }
}

/// Looks at every port.
pub fn survey() -> Vec<Finding> {
    vec![
        Finding::of("local", "processes and containers of this kernel", local()),
        Finding::of("uml", "start guests", starts("uml")),
        Finding::of("uml", "join as a guest", inside("uml")),
        Finding::of("qemu", "start guests", starts("qemu")),
        Finding::of("ivshmem", "join as a guest", inside("ivshmem")),
        Finding::of("ivshmem", "give machines a stream over vsock", vsock::host()),
        Finding::of("xen", "serve memory in grants", granting()),
        Finding::of("xen", "start guests", starts("xen")),
        Finding::of("xen", "join as a guest", inside("xen")),
    ]
}

/// The devices through which this machine, if it is a guest, is shown memory, and its vsock.
pub fn devices() -> Vec<Finding> {
    let (sys, dev) = (Path::new("/sys"), Path::new("/dev"));
    let devices = vshmem_port_ivshmem::device::report(sys);
    let part = "the device with the group's memory";
    let finding = |found| Finding::of("ivshmem", part, found);
    let stream = vsock::guest(sys, dev).map(|found| Finding::of("ivshmem", "a stream over vsock", found));
    devices.into_iter().map(finding).chain(stream).collect()
}

/// Whether machines of this host can be given a stream over vsock: how, or what is missing and what to do.
///
/// # Errors
/// What is missing.
pub fn vsock_for_machines() -> Result<String, String> {
    vsock::host()
}

/// The program that gives machines vsock where the kernel does not.
#[must_use]
pub fn vsock_program() -> Option<std::path::PathBuf> {
    vsock::program()
}

/// Why the group's memory may be slow here, and what to do about it.
pub fn slow_memory() -> (String, String) {
    match vshmem_port_ivshmem::device::slow(std::path::Path::new("/sys")) {
        Some(told) => told,
        None => (
            "this is slower than it should be, as if it were mapped uncached".to_owned(),
            "run it again while the machine is idle; if it stays so, tell what `vshmem doctor --json` says"
                .to_owned(),
        ),
    }
}

fn local() -> Result<String, String> {
    PoolStore::new(4096)
        .map(|_| "sealed memory files work; containers need only the daemon's runtime directory".to_owned())
        .map_err(|why| {
            format!(
                "a sealed memory file cannot be made ({why}): Linux 3.17 or later with memfd_create is needed"
            )
        })
}

fn starts(port: &str) -> Result<String, String> {
    crate::boot(port)
        .map_err(|why| format!("{why:#}"))?
        .check()
        .map(|()| format!("a guest can be started: `vshmem vm run --port {port}`"))
        .map_err(|why| why.to_string())
}

fn granting() -> Result<String, String> {
    vshmem_port_xen::holder::check()
        .map(|()| "this is dom0, with all that is needed: `vshmem serve --group-memory grants`".to_owned())
        .map_err(|why| format!("{why:#}"))
}

fn inside(port: &str) -> Result<String, String> {
    guest(port, "auto")
        .map(|_| match vshmem_port_xen::directory::read() {
            Ok(found) if port == "xen" => format!(
                "this machine is a guest: `vshmem join --port {port}`; dom0 shows it {} constructs",
                found.len()
            ),
            _ => format!("this machine is a guest: `vshmem join --port {port}`"),
        })
        .map_err(|why| format!("{why:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_is_surveyed_and_the_local_one_works() {
        let found = survey();
        assert!(found.iter().any(|f| f.port == "local" && f.works));
        assert!(found.iter().all(|f| !f.detail.is_empty()));
    }
}
