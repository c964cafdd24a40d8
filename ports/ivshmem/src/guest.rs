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
use crate::peek::look;
use crate::vsock::front;
use anyhow::{Context, bail};
use rustix::fd::OwnedFd;
use std::fmt::Write as _;
use std::path::PathBuf;
use vshmem_port::guest::{GuestPort, Pulled};
use vshmem_wire::Window;
use vshmem_wire::pool::PoolHeader;

/// By which way the stream goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The virtio-serial port if there is one, else vsock.
    Whichever,
    /// The virtio-serial port.
    Serial,
    /// vsock.
    Vsock,
}

/// The guest's side of the port.
#[derive(Debug, Clone)]
pub struct IvshmemGuest {
    sys: PathBuf,
    dev: PathBuf,
    way: Way,
    /// The devices of the pools that the back-end told, in that order.
    chosen: Vec<Device>,
}

impl Default for IvshmemGuest {
    fn default() -> Self {
        Self {
            sys: "/sys".into(),
            dev: "/dev".into(),
            way: Way::Whichever,
            chosen: Vec::new(),
        }
    }
}

impl IvshmemGuest {
    /// With a stream by this way.
    #[must_use]
    pub fn by(way: Way) -> Self {
        Self {
            way,
            ..Self::default()
        }
    }

    /// The virtio-serial port of the stream, or None for vsock.
    fn serial(&self) -> anyhow::Result<Option<PathBuf>> {
        if self.way == Way::Vsock {
            return front::detect(&self.dev).map(|_| None);
        }
        let why = match channel::find(&self.sys, &self.dev, CONTROL) {
            Ok(port) => return Ok(Some(port)),
            Err(why) if self.way == Way::Serial => return Err(why),
            Err(why) => why,
        };
        match front::detect(&self.dev) {
            Ok(_) => Ok(None),
            Err(neither) => bail!("no stream to the back-end: {why}; and {neither}"),
        }
    }

    fn devices(&self) -> anyhow::Result<Vec<Device>> {
        let found = device::find(&self.sys)?;
        if found.is_empty() {
            bail!("this machine has no ivshmem device (PCI 1af4:1110): {ADD_ONE}");
        }
        Ok(found)
    }

    /// The device that was chosen for a pool or, before the back-end has said which pools there are, the only one there is.
    fn device(&self, pool: usize) -> anyhow::Result<Device> {
        if let Some(device) = self.chosen.get(pool) {
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

/// The one device among those found that shows a pool whole. The error says what each of the others is, a line each.
fn pick<'a>(
    found: &'a [(Device, Result<PoolHeader, String>)],
    wanted: &PoolHeader,
) -> Result<&'a Device, String> {
    let mut fitting = Vec::new();
    let mut said = String::new();
    for (device, header) in found {
        let why = match header {
            Err(why) => why.clone(),
            Ok(header) if header.id != wanted.id => {
                format!(
                    "it is the pool of group {:?}, of this back-end or one that has ended",
                    header.group
                )
            }
            Ok(_) if device.bytes < wanted.bytes => format!(
                "its BAR2 shows {} MiB of the pool's {} MiB: give the device's memory backend the pool's whole size (size={})",
                device.bytes >> 20,
                wanted.bytes >> 20,
                wanted.bytes
            ),
            Ok(_) => {
                fitting.push(device);
                "it calls itself the pool".to_owned()
            }
        };
        let _ = write!(said, "\n  ivshmem device {}: {why}", device.address);
    }
    match fitting[..] {
        [device] => Ok(device),
        [] => Err(format!(
            "no ivshmem device of this machine shows the pool of group {:?}; {ADD_ONE}{said}",
            wanted.group
        )),
        _ => Err(format!(
            "several ivshmem devices of this machine call themselves the pool of group {:?}: take away all but one, or, if each is another group's, end who \
             writes there{said}",
            wanted.group
        )),
    }
}

/// What stands in the paths of mappings of a device's memory.
fn mapped(device: &Device) -> String {
    format!("{}/resource2", device.address)
}

impl GuestPort for IvshmemGuest {
    fn name(&self) -> &'static str {
        "ivshmem"
    }

    fn detect(&self) -> anyhow::Result<()> {
        self.devices()?;
        self.serial().map(drop)
    }

    fn stream(&self) -> anyhow::Result<OwnedFd> {
        match self.serial()? {
            Some(port) => channel::open(&port),
            None => front::open(),
        }
    }

    fn stream_ends_with_its_holder(&self) -> bool {
        self.serial().is_ok_and(|port| port.is_none())
    }

    fn choose(&mut self, pools: &[PoolHeader]) -> anyhow::Result<()> {
        let found: Vec<_> = self
            .devices()?
            .into_iter()
            .map(|device| {
                let header = look(&device);
                (device, header)
            })
            .collect();
        let chosen = pools.iter().map(|pool| pick(&found, pool).cloned());
        self.chosen = chosen.collect::<Result<_, _>>().map_err(anyhow::Error::msg)?;
        Ok(())
    }

    fn pulled(&self) -> Option<Pulled> {
        let device = self.chosen.iter().find(|device| !device.is_there())?;
        Some(Pulled {
            why: format!(
                "ivshmem device {} was pulled out of this machine, and with it a pool: who had mapped it was killed; plug it in again (on the host, `vshmem vm flags \
                 qemu-monitor --domain NAME` prints how), then join again, unless `vshmem join --wait` does it by itself",
                device.address
            ),
            mapped: mapped(device),
        })
    }

    fn mapped(&self) -> Vec<String> {
        if self.chosen.is_empty() {
            // A former life may have handed any of them out.
            return self.devices().unwrap_or_default().iter().map(mapped).collect();
        }
        self.chosen.iter().map(mapped).collect()
    }

    fn window(&self, pool: usize, writable: bool) -> anyhow::Result<(OwnedFd, Window)> {
        let device = self.device(pool)?;
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
            way: Way::Whichever,
            chosen: Vec::new(),
        }
    }

    fn pool(bytes: u64) -> PoolHeader {
        named(bytes, 7)
    }

    fn named(bytes: u64, id: u64) -> PoolHeader {
        let group = format!("group{id}");
        PoolHeader { bytes, id, group }
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
        assert!(
            why.contains(CONTROL) && why.contains("vmw_vsock_virtio_transport"),
            "{why}"
        );
        for (way, word, other) in [(Way::Serial, CONTROL, "vsock"), (Way::Vsock, "vsock", CONTROL)] {
            let port = IvshmemGuest {
                way,
                ..port(root.path())
            };
            let why = port.detect().unwrap_err().to_string();
            assert!(why.contains(word) && !why.contains(other), "{way:?}: {why}");
        }
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
        let why = port.window(0, false).unwrap_err().to_string();
        assert!(why.contains("2 ivshmem devices"), "{why}");
        fill(root.path(), "0000:00:05.0", &pool(8192).write());
        port.choose(&[pool(8192)]).unwrap();
        assert_eq!(port.chosen[0].address, "0000:00:05.0");
    }

    #[test]
    fn each_pool_is_found_by_its_mark_whatever_the_order_and_beside_others() {
        let root = tempfile::tempdir().unwrap();
        for (address, bytes) in [("04", 8192), ("05", 8192), ("06", 16384), ("07", 8192)] {
            device::tests::put(root.path(), &format!("0000:00:{address}.0"), IVSHMEM, Some(bytes));
        }
        let mut port = port(root.path());
        let wanted = [named(8192, 7), named(16384, 9)];
        fill(root.path(), "0000:00:04.0", b"another program's data");
        fill(root.path(), "0000:00:05.0", &named(8192, 8).write());
        fill(root.path(), "0000:00:06.0", &wanted[1].write());
        let why = port.choose(&wanted).unwrap_err().to_string();
        for word in [
            "group \"group7\"",
            "another program's data",
            "group \"group8\"",
            "07.0: it is empty",
        ] {
            assert!(why.contains(word), "{word}: {why}");
        }
        fill(root.path(), "0000:00:07.0", &wanted[0].write());
        port.choose(&wanted).unwrap();
        let chosen: Vec<_> = port.chosen.iter().map(|d| d.address.as_str()).collect();
        assert_eq!(chosen, ["0000:00:07.0", "0000:00:06.0"]);
        // Two that say the same: neither is believed.
        fill(root.path(), "0000:00:05.0", &wanted[0].write());
        let why = port.choose(&wanted).unwrap_err().to_string();
        assert!(why.contains("several") && why.contains("05.0"), "{why}");
    }

    #[test]
    fn a_device_that_was_pulled_is_missed_even_if_one_was_plugged_in_since() {
        let root = tempfile::tempdir().unwrap();
        let address = "0000:00:04.0";
        device::tests::put(root.path(), address, IVSHMEM, Some(8192));
        fill(root.path(), address, &pool(8192).write());
        let mut port = port(root.path());
        assert_eq!(port.pulled(), None, "nothing was chosen yet");
        port.choose(&[pool(8192)]).unwrap();
        assert_eq!(port.pulled(), None);
        let folder = root.path().join("bus/pci/devices").join(address);
        std::fs::rename(&folder, root.path().join("gone")).unwrap();
        let pulled = port.pulled().unwrap();
        assert!(
            pulled.why.contains("was pulled") && pulled.why.contains("join"),
            "{}",
            pulled.why
        );
        assert_eq!(pulled.mapped, "0000:00:04.0/resource2");
        device::tests::put(root.path(), address, IVSHMEM, Some(8192));
        assert_eq!(port.pulled(), Some(pulled), "another one is not that one");
    }

    #[test]
    fn memory_that_is_not_the_groups_pool_is_refused_with_what_it_is() {
        let root = tempfile::tempdir().unwrap();
        let address = "0000:00:04.0";
        device::tests::put(root.path(), address, IVSHMEM, Some(8192));
        let mut port = port(root.path());
        let mut refusal = |wanted: PoolHeader| port.choose(&[wanted]).unwrap_err().to_string();
        assert!(refusal(pool(8192)).contains("it is empty"));
        fill(
            root.path(),
            address,
            b"somebody else's ring buffer, by all appearances",
        );
        assert!(refusal(pool(8192)).contains("another program's data"));
        fill(root.path(), address, &pool(8192).write());
        assert!(refusal(named(8192, 8)).contains("pool of group \"group7\""));
        fill(root.path(), address, &pool(1 << 20).write());
        let why = refusal(pool(1 << 20));
        assert!(why.contains("size=1048576"), "{why}");
    }
}
