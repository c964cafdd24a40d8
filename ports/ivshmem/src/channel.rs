//! The virtio-serial port that leads to the back-end, found by its name.
//!
//! Facts this rests on, of Linux' virtio_console: a port is open once at a time (EBUSY); while nobody holds the host's end a read gives end-of-file; bytes
//! are carried as they are, so nothing has to be made raw.

use anyhow::{Context, anyhow, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The port's name on the host's command line: `-device virtserialport,chardev=…,name=vshmem.0`.
pub const CONTROL: &str = "vshmem.0";

/// How long the host's end may take.
const CONNECT: Duration = Duration::from_secs(5);

/// The device of the port called `name`. `sys` and `dev` are where sysfs and the devices are.
///
/// # Errors
/// If there is none: the text says what to do.
pub fn find(sys: &Path, dev: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let ports = sys.join("class/virtio-ports");
    let Ok(entries) = std::fs::read_dir(&ports) else {
        bail!(
            "{} is missing: load the driver of virtio-serial (modprobe virtio_console), and give this virtual machine a virtio-serial port called \
             {name}: on the host, `vshmem vm flags qemu --domain NAME` prints what to add",
            ports.display()
        );
    };
    let mut others = Vec::new();
    for entry in entries.flatten() {
        let found = std::fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if found.trim() == name {
            return Ok(dev.join(entry.file_name()));
        }
        others.push(found.trim().to_owned());
    }
    bail!(
        "this virtual machine has no virtio-serial port called {name} (it has: {}): on the host, `vshmem vm flags qemu --domain NAME` prints what to add",
        if others.is_empty() {
            "none".to_owned()
        } else {
            others.join(", ")
        }
    )
}

/// Opens a port, raw and non-blocking.
///
/// # Errors
/// The kernel's, with what to do.
pub fn open(device: &Path) -> anyhow::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match rustix::fs::open(device, flags, Mode::empty()) {
        Ok(port) => {
            connected(&port).with_context(|| device.display().to_string())?;
            Ok(port)
        }
        Err(Errno::BUSY) => Err(anyhow!(
            "{} is in use: another front-end (`vshmem join`) runs in this machine; end it first",
            device.display()
        )),
        Err(errno) => {
            Err(errno).with_context(|| format!("opening {}, the stream to the back-end", device.display()))
        }
    }
}

/// Waits until the host's end is there: before that the port reads as if it had ended.
fn connected(port: &OwnedFd) -> anyhow::Result<()> {
    let until = Instant::now() + CONNECT;
    loop {
        let mut found = [PollFd::new(port, PollFlags::OUT)];
        poll(&mut found, Some(&Timespec::default()))?;
        if !found[0].revents().contains(PollFlags::HUP) {
            return Ok(());
        }
        if Instant::now() > until {
            bail!(
                "nobody is at the host's end of the stream: see that the back-end (`vshmem serve`) runs there, and that the port's chardev leads to it"
            );
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn put(sys: &Path, device: &str, name: &str) {
        let folder = sys.join("class/virtio-ports").join(device);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("name"), format!("{name}\n")).unwrap();
    }

    #[test]
    fn a_port_is_found_by_its_name_and_else_the_names_there_are_are_told() {
        let sys = tempfile::tempdir().unwrap();
        let dev = Path::new("/dev");
        let why = find(sys.path(), dev, CONTROL).unwrap_err().to_string();
        assert!(why.contains("modprobe virtio_console"), "{why}");
        put(sys.path(), "vport0p1", "org.qemu.guest_agent.0");
        let why = find(sys.path(), dev, CONTROL).unwrap_err().to_string();
        assert!(why.contains("it has: org.qemu.guest_agent.0"), "{why}");
        put(sys.path(), "vport0p2", CONTROL);
        assert_eq!(
            find(sys.path(), dev, CONTROL).unwrap(),
            Path::new("/dev/vport0p2")
        );
    }
}
