//! What a QEMU guest calls things, and how its first process comes from the root it was started in to the host's.
//!
//! The kernel starts the first process from a root in memory ([`crate::boot`] makes it). There it loads the modules by which the host's tree is reached,
//! mounts that tree, lets go of the root in memory, and executes itself anew from the host's tree.

use crate::boot::{FOLDER, HOST, INIT, MODULES};
use crate::{channel, device};
use anyhow::{Context, anyhow, bail};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_move, mount_remount, unmount};
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use vshmem_port::boot::Inside;

/// The name of the virtio-serial port of the stdio stream.
pub(crate) const STDIO: &str = "vshmem.stdio";
/// The tag of the host's tree.
pub(crate) const TAG: &str = "vshmem-host";
/// How long a device may take to appear.
const APPEAR: Duration = Duration::from_secs(15);
/// `MODULE_INIT_COMPRESSED_FILE`.
const COMPRESSED: i32 = 4;

/// The guest's side of the port.
#[derive(Debug, Default)]
pub struct QemuInside {
    stdio: OnceLock<PathBuf>,
}

impl Inside for QemuInside {
    fn arrive(&self) -> anyhow::Result<()> {
        let boot = Path::new("/").join(FOLDER);
        if boot.is_dir() {
            return leave_first_root(&boot);
        }
        // What lies there is the host's.
        mount("sysfs", "/sys", "sysfs", MountFlags::empty(), None).context("mounting sysfs")
    }

    fn stdio_device(&self) -> &Path {
        self.stdio.get_or_init(|| {
            let (sys, dev) = (Path::new("/sys"), Path::new("/dev"));
            let found = patiently(|| channel::find(sys, dev, STDIO).ok().filter(|path| path.exists()));
            found.unwrap_or_else(|| dev.join("virtio-ports").join(STDIO))
        })
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

/// From the root in memory to the host's. Returns only when it fails.
fn leave_first_root(boot: &Path) -> anyhow::Result<()> {
    load_modules(&boot.join(MODULES))?;
    let init = OsString::from_vec(std::fs::read(boot.join(INIT)).context("the path of the first process")?);
    let host = Path::new("/").join(HOST);
    mount_host(&host)?;
    // The files' memory is given back; this process keeps its own until it is executed anew.
    for file in files_below(Path::new("/"), &host) {
        let _ = std::fs::remove_file(file);
    }
    std::env::set_current_dir(&host)?;
    mount_move(".", "/").context("moving the host's tree to the root")?;
    rustix::process::chroot(".").context("changing the root")?;
    std::env::set_current_dir("/")?;
    let failed = Command::new(&init).args(std::env::args_os().skip(1)).exec();
    Err(failed).with_context(|| format!("executing {} from the host's tree", init.display()))
}

fn load_modules(folder: &Path) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.sort();
    for path in files {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let flags = if name.ends_with(".ko") { 0 } else { COMPRESSED };
        let file = std::fs::File::open(&path).with_context(|| name.clone())?;
        match rustix::system::finit_module(&file, c"", flags) {
            // Built in, too.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => bail!("module {name}: {errno}"),
        }
    }
    Ok(())
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

/// Every file below a folder of the first root, but for what is mounted there.
fn files_below(folder: &Path, host: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && path != host => folders.push(path),
                Ok(kind) if kind.is_file() => found.push(path),
                _ => {}
            }
        }
    }
    found
}
