//! What `vshmem doctor` says of vsock, on a host and in a guest.

use super::socket::{self, Address, HOST};
use super::{PORT, front};
use crate::device;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use std::path::{Path, PathBuf};
use vshmem_port::arrivals::{BEGIN, LONGEST};

/// The program that is a machine's vsock device where the kernel has none for it.
pub const PROGRAM: &str = "vhost-device-vsock";
/// Names another one than that on the path.
pub const PROGRAM_VARIABLE: &str = "VSHMEM_VSOCK_DEVICE";
/// By which the kernel gives machines vsock.
pub const KERNEL: &str = "/dev/vhost-vsock";
/// What to do where neither is there.
pub const GET_ONE: &str = "load the kernel's (modprobe vhost_vsock), or install the program vhost-device-vsock (cargo install vhost-device-vsock)";
/// How long the back-end may take to say a line.
const ANSWER: Timespec = Timespec {
    tv_sec: 2,
    tv_nsec: 0,
};

/// The program, if it is installed.
#[must_use]
pub fn program() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os(PROGRAM_VARIABLE) {
        return Some(PathBuf::from(named)).filter(|named| named.is_file());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let cargo = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo/bin"));
    std::env::split_paths(&path)
        .chain(["/usr/bin".into(), "/usr/libexec".into(), "/usr/local/bin".into()])
        .chain(cargo)
        .map(|folder| folder.join(PROGRAM))
        .find(|candidate| candidate.is_file())
}

/// Whether machines of this host can be given a stream over vsock.
///
/// # Errors
/// What is missing and what to do.
pub fn host() -> Result<String, String> {
    let kernel = Path::new(KERNEL).exists();
    match (kernel, program()) {
        (true, _) => Ok(format!(
            "{KERNEL} is there: `vshmem vm flags qemu --stream vsock`"
        )),
        (false, Some(program)) => Ok(format!(
            "{KERNEL} is not there (modprobe vhost_vsock), {} is: `vshmem vm flags qemu --stream vsock-user`",
            program.display()
        )),
        (false, None) => Err(format!(
            "neither {KERNEL} nor {PROGRAM} is there, and virtio-serial needs neither; for vsock {GET_ONE}"
        )),
    }
}

/// Whether this machine can have its stream over vsock. Only what is a guest with a device for the pool calls its host. None for others.
#[must_use]
pub fn guest(sys: &Path, dev: &Path) -> Option<Result<String, String>> {
    if device::find(sys).map_or(true, |found| found.is_empty()) {
        return None;
    }
    let found = front::detect(dev).map_err(|why| format!("{why:#}"));
    Some(found.and_then(|cid| match answers() {
        Ok(()) => Ok(format!(
            "this machine has CID {cid}, and a back-end answers at port {PORT} of its host: `vshmem join --stream vsock`"
        )),
        Err(why) => Err(format!(
            "this machine has CID {cid}, and at port {PORT} of its host {why}: see that the back-end knows it (cid = {cid} in the configuration, or `vshmem vm \
             flags` with --stream vsock)"
        )),
    }))
}

/// Whether a back-end answers: it says a line to anybody, if only why it refuses.
fn answers() -> Result<(), String> {
    let host = Address {
        cid: HOST,
        port: PORT,
    };
    let stream: OwnedFd = socket::call(host).map_err(|e| format!("nobody answers ({e})"))?;
    let mut line = [0; LONGEST];
    let _ = poll(&mut [PollFd::new(&stream, PollFlags::IN)], Some(&ANSWER));
    rustix::io::ioctl_fionbio(&stream, true).map_err(|e| e.to_string())?;
    let n =
        rustix::io::read(&stream, &mut line).map_err(|_| "somebody listens and says nothing".to_owned())?;
    let said = String::from_utf8_lossy(&line[..n]).into_owned();
    if said.starts_with(BEGIN) {
        Ok(())
    } else if n == 0 {
        Err("nobody answers (the connection is closed at once)".to_owned())
    } else {
        Err("another program answers, or a back-end of another version".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_guest_of_this_port_calls_nobody() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(guest(root.path(), root.path()), None);
        device::tests::put(root.path(), "0000:00:04.0", ("0x1af4", "0x1110"), Some(8192));
        let why = guest(root.path(), root.path()).unwrap().unwrap_err();
        assert!(why.contains("modprobe vmw_vsock_virtio_transport"), "{why}");
    }
}
