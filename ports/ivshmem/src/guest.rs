//! The port as a front-end inside a guest sees it: a virtio-serial port is the stream, BAR2 of an ivshmem device is the memory.
//!
//! Facts this rests on, measured with QEMU 7.2 and Linux 6.1:
//! - `resource2` maps at any offset, like a file, and only as far as BAR2 reaches.
//! - Opened read-only it refuses writable mappings, and a later mprotect too. Its node is mode 0600, so that clients get descriptors from the
//!   front-end, which runs as root.
//! - QEMU shows another program's shared memory by the very same device: only what lies in it tells whose it is. So the back-end writes a header into the
//!   pool's first page, and says in its welcome which one it is.
//!
//! What it is not for: booting the guest (`boot`), and what the first process in it needs (`inside`).

use crate::channel::{self, CONTROL};
use crate::device::{self, ADD_ONE, Device};
use crate::peek;
use anyhow::{Context, bail};
use rustix::fd::{AsFd, OwnedFd};
use std::fmt::Write as _;
use std::path::PathBuf;
use vshmem_port::guest::GuestPort;
use vshmem_wire::Window;
use vshmem_wire::pool::{NoHeader, PoolHeader};

/// The guest's side of the port.
#[derive(Debug, Clone)]
pub struct IvshmemGuest {
    sys: PathBuf,
    dev: PathBuf,
    chosen: Option<Device>,
}

impl Default for IvshmemGuest {
    fn default() -> Self {
        Self {
            sys: "/sys".into(),
            dev: "/dev".into(),
            chosen: None,
        }
    }
}

impl IvshmemGuest {
    fn devices(&self) -> anyhow::Result<Vec<Device>> {
        let found = device::find(&self.sys)?;
        if found.is_empty() {
            bail!("this machine has no ivshmem device (PCI 1af4:1110): {ADD_ONE}");
        }
        Ok(found)
    }

    /// The device that was chosen or, before the back-end has said which pool it is, the only one there is.
    fn device(&self) -> anyhow::Result<Device> {
        if let Some(device) = &self.chosen {
            return Ok(device.clone());
        }
        let mut found = self.devices()?;
        if found.len() > 1 {
            let all: Vec<_> = found.iter().map(|device| device.address.as_str()).collect();
            bail!(
                "there are {} ivshmem devices ({}), and the back-end has not said yet which is the group's",
                all.len(),
                all.join(", ")
            );
        }
        Ok(found.remove(0))
    }
}

/// What a device holds, judged against the pool that the back-end serves.
fn judge(device: &Device, wanted: &PoolHeader) -> Result<(), String> {
    let memory = device.open(false).map_err(|why| format!("{why:#}"))?;
    let bytes =
        peek::header(memory.as_fd()).map_err(|errno| format!("its memory cannot be mapped: {errno}"))?;
    let found = PoolHeader::read(&bytes).map_err(|why| match why {
        NoHeader::Empty => "it is empty: no back-end has shown this memory to a guest".to_owned(),
        NoHeader::Foreign => "it holds another program's data".to_owned(),
        NoHeader::Version(version) => {
            format!("it is a pool of layout {version}, of another version of Vshmem")
        }
    })?;
    if found.id != wanted.id {
        return Err("it is a pool of another group, or of a back-end that has ended".to_owned());
    }
    if device.bytes < wanted.bytes {
        return Err(format!(
            "its BAR2 shows {} MiB of the pool's {} MiB: give the device's memory backend the pool's whole size (size={})",
            device.bytes >> 20,
            wanted.bytes >> 20,
            wanted.bytes
        ));
    }
    Ok(())
}

impl GuestPort for IvshmemGuest {
    fn name(&self) -> &'static str {
        "ivshmem"
    }

    fn detect(&self) -> anyhow::Result<()> {
        self.devices()?;
        channel::find(&self.sys, &self.dev, CONTROL).map(drop)
    }

    fn stream(&self) -> anyhow::Result<OwnedFd> {
        channel::open(&channel::find(&self.sys, &self.dev, CONTROL)?)
    }

    fn choose(&mut self, pool: &PoolHeader) -> anyhow::Result<()> {
        let mut said = String::new();
        for device in self.devices()? {
            match judge(&device, pool) {
                Ok(()) => {
                    self.chosen = Some(device);
                    return Ok(());
                }
                Err(why) => {
                    let _ = write!(said, "\n  ivshmem device {}: {why}", device.address);
                }
            }
        }
        bail!("no ivshmem device of this machine shows the group's pool; {ADD_ONE}{said}")
    }

    fn window(&self, writable: bool) -> anyhow::Result<(OwnedFd, Window)> {
        let device = self.device()?;
        let memory = device
            .open(writable)
            .with_context(|| format!("the memory of ivshmem device {}", device.address))?;
        Ok((memory, Window::Direct))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const IVSHMEM: (&str, &str) = ("0x1af4", "0x1110");

    fn port(root: &Path) -> IvshmemGuest {
        IvshmemGuest {
            sys: root.to_owned(),
            dev: root.join("dev"),
            chosen: None,
        }
    }

    fn pool(bytes: u64) -> PoolHeader {
        PoolHeader { bytes, id: 7 }
    }

    fn fill(root: &Path, address: &str, bytes: &[u8]) {
        use std::os::unix::fs::FileExt;
        let bar = root.join("bus/pci/devices").join(address).join("resource2");
        let bar = std::fs::File::options().write(true).open(bar).unwrap();
        bar.write_all_at(bytes, 0).unwrap();
    }

    #[test]
    fn a_machine_that_is_no_guest_is_told_what_is_missing() {
        let root = tempfile::tempdir().unwrap();
        let why = port(root.path()).detect().unwrap_err().to_string();
        assert!(
            why.contains("no ivshmem device") && why.contains("vm flags"),
            "{why}"
        );
        device::tests::put(root.path(), "0000:00:04.0", IVSHMEM, Some(8192));
        let why = port(root.path()).detect().unwrap_err().to_string();
        assert!(why.contains(CONTROL), "{why}");
        channel::tests::put(root.path(), "vport1p1", CONTROL);
        port(root.path()).detect().unwrap();
    }

    #[test]
    fn of_two_devices_the_one_with_the_groups_pool_is_taken() {
        let root = tempfile::tempdir().unwrap();
        for address in ["0000:00:04.0", "0000:00:05.0"] {
            device::tests::put(root.path(), address, IVSHMEM, Some(8192));
        }
        let mut port = port(root.path());
        let why = port.window(false).unwrap_err().to_string();
        assert!(why.contains("2 ivshmem devices"), "{why}");
        fill(root.path(), "0000:00:05.0", &pool(8192).write());
        port.choose(&pool(8192)).unwrap();
        assert_eq!(port.chosen.unwrap().address, "0000:00:05.0");
    }

    #[test]
    fn memory_that_is_not_the_groups_pool_is_refused_with_what_it_is() {
        let root = tempfile::tempdir().unwrap();
        let address = "0000:00:04.0";
        device::tests::put(root.path(), address, IVSHMEM, Some(8192));
        let mut port = port(root.path());
        let mut refusal = |wanted: PoolHeader| port.choose(&wanted).unwrap_err().to_string();
        assert!(refusal(pool(8192)).contains("it is empty"));
        fill(
            root.path(),
            address,
            b"somebody else's ring buffer, by all appearances",
        );
        assert!(refusal(pool(8192)).contains("another program's data"));
        fill(root.path(), address, &pool(8192).write());
        assert!(refusal(PoolHeader { bytes: 8192, id: 8 }).contains("another group"));
        fill(root.path(), address, &pool(1 << 20).write());
        let why = refusal(pool(1 << 20));
        assert!(why.contains("size=1048576"), "{why}");
    }
}
