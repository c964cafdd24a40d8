//! The port of a front-end, by name or by looking around.

use anyhow::bail;
use std::os::fd::OwnedFd;
use vshmem_port::guest::GuestPort;
use vshmem_port_ivshmem::guest::{IvshmemGuest, Way};
use vshmem_port_local::LocalGuest;
use vshmem_port_uml::guest::UmlGuest;
use vshmem_port_xen::guest::XenGuest;

/// What `vshmem join --port` takes.
pub const GUESTS: &[&str] = &["auto", "local", "uml", "ivshmem", "xen"];

/// What `vshmem join --stream` takes.
pub const STREAMS: &[&str] = &["auto", "serial", "vsock"];

const LOCAL_NEEDS_NONE: &str = "containers and processes of the host need no front-end: give the container the daemon's runtime directory \
     (bind-mount it, and set VSHMEM_RUNTIME_DIR where its path differs), then `vshmem run` works there as on the host";

/// Ports with a front-end of their own, in the order in which `auto` tries them.
fn candidates(stream: &str) -> anyhow::Result<Vec<Box<dyn GuestPort>>> {
    let by = |way| Box::new(IvshmemGuest::by(way)) as Box<dyn GuestPort>;
    Ok(match stream {
        "auto" => vec![Box::new(UmlGuest), by(Way::Whichever), Box::<XenGuest>::default()],
        // The other ports' machines have one way.
        "serial" => vec![by(Way::Serial)],
        "vsock" => vec![by(Way::Vsock)],
        _ => bail!(
            "there is no stream {stream:?}; these there are: {}",
            STREAMS.join(", ")
        ),
    })
}

/// The port called `name`, or with `auto` the first whose guest this machine is; its stream goes by the way called `stream`, or with `auto` by whichever there is.
///
/// # Errors
/// If there is no such port, or this machine is no domain of it: the text says what is missing and what to do.
pub fn guest(name: &str, stream: &str) -> anyhow::Result<Box<dyn GuestPort>> {
    if name == "local" {
        bail!("{LOCAL_NEEDS_NONE}");
    }
    let mut reasons = Vec::new();
    for port in candidates(stream)? {
        if name != "auto" && name != port.name() {
            continue;
        }
        match port.detect() {
            Ok(()) => return Ok(port),
            Err(why) => reasons.push(format!("{}: {why:#}", port.name())),
        }
    }
    if reasons.is_empty() && stream != "auto" && GUESTS.contains(&name) {
        bail!("a guest of port {name} has one stream alone: leave --stream out");
    }
    if reasons.is_empty() {
        bail!(
            "there is no port {name:?}; these there are: {}",
            GUESTS.join(", ")
        );
    }
    if name == "auto" {
        reasons.push(format!("local: {LOCAL_NEEDS_NONE}"));
    }
    bail!(
        "this machine is no guest that can join:\n  {}",
        reasons.join("\n  ")
    )
}

/// A front-end's port in a process of this very kernel: `stream` leads to the back-end, `pools` are its groups' pools, `bells` are the ring line and the bells,
/// if there are any. For tests of front-ends without a virtual machine.
pub fn local_guest(stream: OwnedFd, pools: Vec<OwnedFd>, bells: Vec<OwnedFd>) -> Box<dyn GuestPort> {
    Box::new(LocalGuest::new(stream, pools, bells))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(name: &str) -> String {
        match guest(name, "auto") {
            Ok(port) => panic!("{} detected on the build machine", port.name()),
            Err(why) => format!("{why:#}"),
        }
    }

    #[test]
    fn refusals_say_what_to_do() {
        assert!(refusal("local").contains("need no front-end"));
        assert!(refusal("carrier-pigeon").contains("auto, local, uml, ivshmem, xen"));
        assert!(refusal("uml").contains("no UML guest"));
        assert!(refusal("ivshmem").contains("no ivshmem device"));
        assert!(refusal("xen").contains("does not run on Xen"));
        let of = |name, stream| guest(name, stream).err().map(|why| why.to_string());
        assert!(of("uml", "vsock").is_some_and(|why| why.contains("leave --stream out")));
        assert!(of("ivshmem", "pigeon").is_some_and(|why| why.contains("auto, serial, vsock")));
        let all = refusal("auto");
        assert!(
            all.contains("uml:") && all.contains("ivshmem:") && all.contains("local:"),
            "{all}"
        );
    }
}
