//! What a QEMU guest calls things, and how its first process comes from the root it was started in to the host's.
//!
//! The kernel starts the first process from a root in memory ([`first_root`]). There it loads the modules by which the host's tree is reached,
//! mounts that tree, lets go of the root in memory, and executes itself anew from the host's tree.

use crate::{channel, device};
use anyhow::{Context, anyhow};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use vshmem_port::boot::{Inside, open_device};
use vshmem_port::first_root;

/// The name of the virtio-serial port of the stdio stream.
pub(crate) const STDIO: &str = "vshmem.stdio";
/// The tag of the host's tree.
pub(crate) const TAG: &str = "vshmem-host";
/// How long a device may take to appear.
const APPEAR: Duration = Duration::from_secs(15);

/// The guest's side of the port.
#[derive(Debug, Default)]
pub struct QemuInside;

impl Inside for QemuInside {
    fn arrive(&self) -> anyhow::Result<()> {
        if first_root::is_here() {
            return first_root::leave(mount_host);
        }
        // What lies there is the host's.
        mount("sysfs", "/sys", "sysfs", MountFlags::empty(), None).context("mounting sysfs")
    }

    fn stdio(&self) -> anyhow::Result<OwnedFd> {
        let (sys, dev) = (Path::new("/sys"), Path::new("/dev"));
        let found = patiently(|| channel::find(sys, dev, STDIO).ok().filter(|path| path.exists()));
        open_device(&found.unwrap_or_else(|| dev.join("virtio-ports").join(STDIO)))
    }

    fn network_card(&self) -> &str {
        "eth0"
    }

    fn check_pools(&self, pools: usize) -> Result<(), String> {
        let found = device::find(Path::new("/sys")).map_err(|why| format!("{why:#}"))?;
        match found.len() {
            0 => Err("the machine has no ivshmem device: this QEMU was built without it".to_owned()),
            some if some < pools => Err(format!(
                "the machine has {some} ivshmem devices, and its domain's groups have {pools} pools"
            )),
            _ => Ok(()),
        }
    }

    fn module_folders(&self, release: &str) -> Vec<PathBuf> {
        vec![Path::new("/lib/modules").join(release)]
    }

    fn mount_host_folder(&self, folder: &Path, at: &Path) -> io::Result<()> {
        // The tree as the host shows it, where this folder may be written to; the root's own mount is read-only.
        let whole = Path::new("/run/vshmem-host");
        match std::fs::create_dir(whole) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        mount(TAG, whole, "virtiofs", MountFlags::empty(), None)?;
        let bound = mount_bind(whole.join(folder.strip_prefix("/").unwrap_or(folder)), at);
        unmount(whole, UnmountFlags::DETACH)?;
        Ok(bound?)
    }
}

/// Tries until something is found, for a bounded time.
fn patiently<T>(mut found: impl FnMut() -> Option<T>) -> Option<T> {
    let until = Instant::now() + APPEAR;
    loop {
        if let Some(it) = found() {
            return Some(it);
        }
        if Instant::now() > until {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn mount_host(at: &Path) -> anyhow::Result<()> {
    let mounted = patiently(|| match mount(TAG, at, "virtiofs", MountFlags::empty(), None) {
        // The device is not there yet.
        Err(Errno::INVAL) => None,
        other => Some(other),
    });
    mounted
        .ok_or_else(|| anyhow!("no virtiofs device shows the host's tree"))?
        .context("mounting the host's tree by virtiofs")?;
    mount_remount(at, MountFlags::BIND | MountFlags::RDONLY, "").context("making the host's tree read-only")
}
