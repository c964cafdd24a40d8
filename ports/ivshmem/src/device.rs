//! The ivshmem devices of this machine, as `/sys/bus/pci` shows them.
//!
//! BAR2 of PCI device 1af4:1110 is the shared memory. It is reached as the file `resource2` without any driver, once the device is enabled.
//! Not for what lies in the memory: that is `peek`'s.

use crate::peek::look;
use anyhow::{Context, bail};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Vendor and device, as sysfs writes them.
const VENDOR: &str = "0x1af4";
const DEVICE: &str = "0x1110";

/// What to do when there is no device.
pub const ADD_ONE: &str = "start this virtual machine with an ivshmem device for the group's pool (on the host, `vshmem vm flags qemu --domain NAME` prints what to \
                           add), or plug one in while it runs (`vshmem vm flags qemu-monitor --domain NAME`)";

/// One ivshmem device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its PCI address, such as `0000:00:03.0`.
    pub address: String,
    /// Size of BAR2; 0 without one.
    pub bytes: u64,
    folder: PathBuf,
    /// Tells one that was plugged in again from the one that was pulled.
    inode: u64,
}

/// The machine's ivshmem devices, in the order of their addresses. `sys` is where sysfs is mounted.
///
/// # Errors
/// If the PCI devices cannot be listed.
pub fn find(sys: &Path) -> anyhow::Result<Vec<Device>> {
    let all = sys.join("bus/pci/devices");
    let entries = match std::fs::read_dir(&all) {
        Ok(entries) => entries,
        // A machine without PCI, or without sysfs; what is missing is told where a device is needed.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).with_context(|| format!("listing {}", all.display())),
    };
    let mut found: Vec<Device> = entries
        .flatten()
        .filter_map(|entry| device(&entry.path()))
        .collect();
    found.sort_by(|a, b| a.address.cmp(&b.address));
    Ok(found)
}

fn device(folder: &Path) -> Option<Device> {
    let is = |file: &str, wanted: &str| {
        std::fs::read_to_string(folder.join(file)).is_ok_and(|text| text.trim() == wanted)
    };
    if !is("vendor", VENDOR) || !is("device", DEVICE) {
        return None;
    }
    let (bytes, inode) =
        std::fs::metadata(folder.join("resource2")).map_or((0, 0), |found| (found.len(), found.ino()));
    Some(Device {
        address: folder.file_name()?.to_string_lossy().into_owned(),
        bytes,
        folder: folder.to_owned(),
        inode,
    })
}

/// Where BAR2 lies, as the machine's firmware or kernel has placed it.
fn place(device: &Device) -> Option<u64> {
    let all = std::fs::read_to_string(device.folder.join("resource")).ok()?;
    let start = all.lines().nth(2)?.split_whitespace().next()?;
    u64::from_str_radix(start.trim_start_matches("0x"), 16).ok()
}

/// What is to be said of each device of this machine.
pub fn report(sys: &Path) -> Vec<Result<String, String>> {
    let Ok(devices) = find(sys) else {
        return Vec::new();
    };
    let told = devices.iter().map(|device| {
        if device.bytes == 0 {
            return Err(format!(
                "{} has no memory: its ivshmem server gave it none (is the back-end running, and is it its device.sock?), or it was plugged into a port without room for it",
                device.address
            ));
        }
        let holds = match (device.open(true), look(device)) {
            (Err(_), _) => "; only root may open it".to_owned(),
            (_, Ok(header)) => format!(", the pool of group {}", header.group),
            (_, Err(why)) => format!("; {why}"),
        };
        let at = place(device).map_or_else(String::new, |at| format!(" at {at:#x}"));
        Ok(format!("{}: BAR2 of {} MiB{at}{holds}", device.address, device.bytes >> 20))
    });
    told.collect()
}

/// Why the memory of this machine's devices is slow, and what to do about it; None if it has no device.
pub fn slow(sys: &Path) -> Option<(String, String)> {
    let devices = find(sys).ok()?;
    let device = devices.first()?;
    let told = match place(device) {
        Some(at) if at < 1 << 32 => (
            format!("this BAR is mapped uncached, because it lies at {at:#x}, below 4 GiB, in a range that the firmware made uncached"),
            "have it placed above 4 GiB: machine type q35, UEFI firmware (OVMF) or a pool of 2G and more, and no 32-bit option in the firmware".to_owned(),
        ),
        _ => (
            "this BAR is mapped uncached, because without a driver the kernel maps a device's memory so, and this processor (AMD's do, most of Intel's do not) heeds it in a guest"
                .to_owned(),
            "nothing helps from within the guest but a driver for the device that maps it cached; on the host, `vshmem run` and containers have no such limit".to_owned(),
        ),
    };
    Some(told)
}

impl Device {
    /// Its memory, for reading or for reading and writing; the device is enabled first if nobody has done so.
    ///
    /// # Errors
    /// If it has no memory, or the kernel refuses: the text says what to do.
    pub fn open(&self, writable: bool) -> anyhow::Result<OwnedFd> {
        if self.bytes == 0 {
            bail!(
                "ivshmem device {} has no memory (no BAR2): its ivshmem server gave it none (see to the server, or use ivshmem-plain), or the port that it was plugged into had \
                 no room for it (start the machine with -device pcie-root-port,…,pref64-reserve=N, N being twice the pool's size)",
                self.address
            );
        }
        self.enable()?;
        let memory = self.folder.join("resource2");
        let access = if writable { OFlags::RDWR } else { OFlags::RDONLY };
        rustix::fs::open(&memory, access | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| {
            let remedy = match errno {
                Errno::ACCESS => "; only root may open it: start `vshmem join` as root",
                Errno::PERM => {
                    "; the kernel is locked down (Secure Boot): see /sys/kernel/security/lockdown, and turn Secure Boot off for this machine"
                }
                _ => "",
            };
            anyhow::anyhow!("opening {}: {errno}{remedy}", memory.display())
        })
    }

    /// Whether this very device is in the machine still.
    pub fn is_there(&self) -> bool {
        std::fs::metadata(self.folder.join("resource2")).is_ok_and(|found| found.ino() == self.inode)
    }

    /// Without this its memory reads all ones.
    fn enable(&self) -> anyhow::Result<()> {
        let file = self.folder.join("enable");
        let now = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        // The file counts: who writes 1 twice would have to write 0 twice.
        if now.trim() != "0" {
            return Ok(());
        }
        std::fs::write(&file, "1").with_context(|| {
            format!(
                "enabling ivshmem device {} through {} (start `vshmem join` as root)",
                self.address,
                file.display()
            )
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A sysfs folder of a PCI device.
    pub(crate) fn put(sys: &Path, address: &str, (vendor, device): (&str, &str), bar: Option<u64>) {
        let folder = sys.join("bus/pci/devices").join(address);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("vendor"), format!("{vendor}\n")).unwrap();
        std::fs::write(folder.join("device"), format!("{device}\n")).unwrap();
        std::fs::write(folder.join("enable"), "0\n").unwrap();
        if let Some(bytes) = bar {
            let file = std::fs::File::create(folder.join("resource2")).unwrap();
            file.set_len(bytes).unwrap();
        }
    }

    #[test]
    fn reports_say_where_the_memory_lies_and_why_it_is_slow() {
        let sys = tempfile::tempdir().unwrap();
        assert_eq!(slow(sys.path()), None);
        put(sys.path(), "0000:00:04.0", ("0x1af4", "0x1110"), Some(1 << 20));
        let file = sys.path().join("bus/pci/devices/0000:00:04.0/resource");
        for (at, word) in [
            ("0x00000000fd000000", "below 4 GiB"),
            ("0x0000000800000000", "driver"),
        ] {
            let line = |start: &str| format!("{start} 0x0000000000000000 0x0000000000000000\n");
            std::fs::write(&file, [line("0x0"), line("0x0"), line(at)].concat()).unwrap();
            let (why, remedy) = slow(sys.path()).unwrap();
            assert!(
                why.contains(word) && why.contains("uncached, because") && !remedy.is_empty(),
                "{why}"
            );
        }
        let told = report(sys.path()).remove(0).unwrap();
        assert!(told.contains("1 MiB at 0x800000000; it is empty"), "{told}");
        let group = "jobs".into();
        let header = vshmem_wire::pool::PoolHeader {
            bytes: 1,
            id: 2,
            group,
        };
        let bar = sys.path().join("bus/pci/devices/0000:00:04.0/resource2");
        std::fs::write(&bar, [&header.write()[..], &[0; 4096]].concat()).unwrap();
        let told = report(sys.path()).remove(0).unwrap();
        assert!(told.contains("the pool of group jobs"), "{told}");
    }

    #[test]
    fn only_ivshmem_devices_are_found_and_in_order() {
        let sys = tempfile::tempdir().unwrap();
        assert_eq!(find(sys.path()).unwrap(), []);
        put(sys.path(), "0000:00:05.0", (VENDOR, DEVICE), Some(1 << 20));
        put(sys.path(), "0000:00:01.0", (VENDOR, "0x1000"), None);
        put(sys.path(), "0000:00:03.0", (VENDOR, DEVICE), None);
        let found = find(sys.path()).unwrap();
        let shown: Vec<_> = found.iter().map(|d| (d.address.as_str(), d.bytes)).collect();
        assert_eq!(shown, [("0000:00:03.0", 0), ("0000:00:05.0", 1 << 20)]);
    }

    #[test]
    fn a_device_is_enabled_once() {
        let sys = tempfile::tempdir().unwrap();
        put(sys.path(), "0000:00:05.0", (VENDOR, DEVICE), Some(4096));
        let device = find(sys.path()).unwrap().remove(0);
        device.open(false).unwrap();
        let enable = sys.path().join("bus/pci/devices/0000:00:05.0/enable");
        assert_eq!(std::fs::read_to_string(&enable).unwrap(), "1");
        std::fs::write(&enable, "2").unwrap();
        device.open(true).unwrap();
        assert_eq!(std::fs::read_to_string(&enable).unwrap(), "2");
    }

    #[test]
    fn a_device_without_memory_is_refused_with_what_to_do() {
        let sys = tempfile::tempdir().unwrap();
        put(sys.path(), "0000:00:05.0", (VENDOR, DEVICE), None);
        let why = find(sys.path()).unwrap()[0].open(true).unwrap_err().to_string();
        assert!(why.contains("server"), "{why}");
    }
}
