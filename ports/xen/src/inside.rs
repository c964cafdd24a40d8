//! What a guest of Xen that [`crate::boot`] started calls things.
//!
//! The host's tree comes by Xen's own 9p, read-only; so does each folder that may be written to, by a device of its own. The program's streams are a [line](crate::line).

use crate::here::Here;
use crate::line::{self, Use};
use anyhow::{Context, anyhow};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use std::ffi::CString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use vshmem_port::boot::Inside;
use vshmem_port::first_root;

/// The tag of the host's tree.
pub(crate) const TAG: &str = "vshmem-host";
/// How long a device may take to appear.
const APPEAR: Duration = Duration::from_secs(15);
/// Bytes of a 9p message.
const MESSAGE: u32 = 256 << 10;

/// The guest's side of the port.
#[derive(Debug, Default)]
pub struct XenInside;

impl Inside for XenInside {
    fn arrive(&self) -> anyhow::Result<()> {
        if first_root::is_here() {
            return first_root::leave(mount_host);
        }
        // What lies there is the host's.
        mount("sysfs", "/sys", "sysfs", MountFlags::empty(), None).context("mounting sysfs")
    }

    fn stdio(&self) -> anyhow::Result<OwnedFd> {
        let stream = line::take(&Here::default(), Use::Program)?;
        rustix::io::ioctl_fionbio(&stream, false).context("the program's streams")?;
        Ok(stream)
    }

    fn network_card(&self) -> &str {
        "eth0"
    }

    fn check_pools(&self, _: usize) -> Result<(), String> {
        Err("a guest of Xen sees no pool: its constructs are granted to it one by one".to_owned())
    }

    fn module_folders(&self, release: &str) -> Vec<PathBuf> {
        ["/lib/modules", "/usr/lib/modules"]
            .iter()
            .map(|root| Path::new(root).join(release))
            .collect()
    }

    fn mount_host_folder(&self, folder: &Path, at: &Path) -> io::Result<()> {
        Ok(mount_9p(&tag(folder), at, MountFlags::empty())?)
    }
}

/// The tag of a folder that may be written to.
pub(crate) fn tag(folder: &Path) -> String {
    let mut hasher = DefaultHasher::new();
    folder.as_os_str().as_bytes().hash(&mut hasher);
    format!("vshmem-{:016x}", hasher.finish())
}

/// Nothing of files and names is kept in the guest's memory but what is mapped. That is slower, and right: the host's tree holds several file systems, whose
/// files may have the same number, and a cache by number takes one for the other (`/proc` for `/sys`).
fn mount_9p(tag: &str, at: &Path, flags: MountFlags) -> rustix::io::Result<()> {
    let options = CString::new(format!(
        "trans=xen,version=9p2000.L,msize={MESSAGE},cache=mmap,access=client"
    ))
    .map_err(|_| Errno::INVAL)?;
    mount(tag, at, "9p", flags, options.as_c_str())
}

fn mount_host(at: &Path) -> anyhow::Result<()> {
    let mounted = patiently(|| match mount_9p(TAG, at, MountFlags::RDONLY) {
        // The device is not there yet.
        Err(Errno::NOENT | Errno::INVAL | Errno::NODEV) => None,
        other => Some(other),
    });
    mounted
        .ok_or_else(|| anyhow!("no 9p device shows the host's tree"))?
        .context("mounting the host's tree by 9p")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_have_tags_of_their_own_that_are_short_enough() {
        let (a, b) = (tag(Path::new("/a")), tag(Path::new("/b")));
        assert!(a != b && a.len() < 32, "{a} {b}");
    }
}
