//! The guest's file systems: a root that shows the host's whole tree and sends writes to memory, and the kernel's own.
//!
//! The machine comes up on the host's root, read-only. On top goes an overlay with that root as its lower layer and
//! memory as its upper one, or, where the kernel has no overlay, the bare root with memory over the folders that programs
//! write to. Then the process moves into it. Folders with `--bind` are mounted again, for writing, from the host.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::{Gid, Mode, Uid};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};
use vshmem_port::boot::Inside;

use crate::frame::Start;

/// Where the parts of the new root are put together: `/run`, under a file system in memory.
const WORKSHOP: &str = "/run";
const ROOT: &str = "/run/root";

/// Files with this flag are decompressed by the kernel (`MODULE_INIT_COMPRESSED_FILE`).
const COMPRESSED: i32 = 4;

/// What must be there before the host can be spoken to.
pub(super) fn devices() -> anyhow::Result<()> {
    kernel_file_system("proc", "/proc", "")?;
    match kernel_file_system("devtmpfs", "/dev", "mode=0755") {
        // The kernel has mounted it by itself.
        Err(e) if e.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) == Some(libc::EBUSY) => {
            Ok(())
        }
        other => other,
    }
}

/// Makes the new root and moves into it. Returns what the user should know.
pub(super) fn root(inside: &dyn Inside, start: &Start) -> anyhow::Result<Vec<String>> {
    let mut notes = Vec::new();
    kernel_file_system("tmpfs", WORKSHOP, "mode=0755")?;
    for folder in ["upper", "work", "root"] {
        std::fs::create_dir(Path::new(WORKSHOP).join(folder)).context(folder)?;
    }
    if let Err(error) = load_overlay(inside).and_then(|()| Ok(overlay()?)) {
        notes.push(format!(
            "no overlay ({error:#}): the host's tree is read-only here, and /tmp, /var/tmp and /root are empty"
        ));
        bare_root()?;
    }
    kernel_file_systems()?;
    for folder in &start.binds {
        let folder = Path::new(OsStr::from_bytes(folder));
        let at = Path::new(ROOT).join(folder.strip_prefix("/").unwrap_or(folder));
        inside
            .mount_host_folder(folder, &at)
            .with_context(|| format!("--bind {}", folder.display()))?;
    }
    private_folders(start)?;
    enter(Path::new(ROOT)).context("moving into the new root")?;
    Ok(notes)
}

fn kernel_file_system(kind: &str, at: impl AsRef<Path>, options: &str) -> anyhow::Result<()> {
    let data = CString::new(options)?;
    mount(kind, at.as_ref(), kind, MountFlags::empty(), data.as_c_str())
        .map_err(io::Error::from)
        .with_context(|| format!("mounting {kind} on {}", at.as_ref().display()))
}

fn load_overlay(inside: &dyn Inside) -> anyhow::Result<()> {
    if std::fs::read_to_string("/proc/filesystems")?
        .lines()
        .any(|line| line.ends_with("\toverlay"))
    {
        return Ok(());
    }
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let found = inside.module_folders(&release).into_iter().find_map(|folder| {
        let plain = folder.join("kernel/fs/overlayfs/overlay.ko");
        let packed = |ending: &str| PathBuf::from(format!("{}.{ending}", plain.display()));
        let packed = [packed("xz"), packed("zst"), packed("gz")];
        let plain = plain.is_file().then(|| (plain.clone(), 0));
        plain.or_else(|| {
            packed
                .into_iter()
                .find(|file| file.is_file())
                .map(|file| (file, COMPRESSED))
        })
    });
    let (module, flags) = found.with_context(|| format!("no overlay.ko for kernel {release}"))?;
    let file = std::fs::File::open(&module).with_context(|| module.display().to_string())?;
    rustix::system::finit_module(&file, c"", flags)
        .map_err(io::Error::from)
        .with_context(|| module.display().to_string())
}

fn overlay() -> io::Result<()> {
    let options = "lowerdir=/,upperdir=/run/upper,workdir=/run/work";
    // With redirects, folders of the host can be renamed in the guest.
    for more in [",redirect_dir=on", ""] {
        let data = CString::new(format!("{options}{more}"))?;
        match mount("overlay", ROOT, "overlay", MountFlags::empty(), data.as_c_str()) {
            Ok(()) => return Ok(()),
            Err(_) if !more.is_empty() => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn bare_root() -> anyhow::Result<()> {
    mount_bind("/", ROOT)
        .map_err(io::Error::from)
        .context("binding the root")?;
    for (folder, mode) in [
        ("tmp", "mode=1777"),
        ("var/tmp", "mode=1777"),
        ("root", "mode=0700"),
    ] {
        let at = Path::new(ROOT).join(folder);
        if at.is_dir() {
            kernel_file_system("tmpfs", at, mode)?;
        }
    }
    Ok(())
}

fn kernel_file_systems() -> anyhow::Result<()> {
    let below = |folder: &str| Path::new(ROOT).join(folder);
    kernel_file_system("proc", below("proc"), "")?;
    kernel_file_system("sysfs", below("sys"), "")?;
    kernel_file_system("devtmpfs", below("dev"), "mode=0755")?;
    for folder in ["dev/pts", "dev/shm", "dev/mqueue"] {
        let _ = std::fs::create_dir(below(folder));
    }
    kernel_file_system("devpts", below("dev/pts"), "gid=5,mode=0620,ptmxmode=0666")?;
    kernel_file_system("tmpfs", below("dev/shm"), "mode=1777")?;
    // Kernels without POSIX message queues exist.
    let _ = kernel_file_system("mqueue", below("dev/mqueue"), "");
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        let _ = std::os::unix::fs::symlink(target, below("dev").join(name));
    }
    kernel_file_system("tmpfs", below("run"), "mode=0755")
}

/// The parts of `/run` that programs expect; the host's own is hidden, since nobody listens on its sockets here.
fn private_folders(start: &Start) -> anyhow::Result<()> {
    let run = Path::new(ROOT).join("run");
    for (name, mode) in [("lock", 0o1777), ("user", 0o755), ("shm", 0o1777)] {
        std::fs::create_dir(run.join(name))?;
        rustix::fs::chmod(run.join(name), Mode::from_raw_mode(mode))?;
    }
    let own = run.join("user").join(start.uid.to_string());
    std::fs::create_dir(&own)?;
    rustix::fs::chmod(&own, Mode::from_raw_mode(0o700))?;
    rustix::fs::chown(
        &own,
        Some(Uid::from_raw(start.uid)),
        Some(Gid::from_raw(start.gid)),
    )?;
    Ok(())
}

/// Makes `root` the root of this process and lets go of the old one (the overlay keeps what it needs of it).
fn enter(root: &Path) -> io::Result<()> {
    std::env::set_current_dir(root)?;
    // The new root over the old one in the same place: `pivot_root(".", ".")` stacks them, and the upper one comes off.
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    std::env::set_current_dir("/")
}
