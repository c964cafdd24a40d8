//! The root that dom0's kernel begins with: a shell and the modules by which the host's tree is reached.

use super::packages::Packages;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What runs first.
const INIT: &str = include_str!("init.sh");
/// In the order in which they can be loaded; those that a kernel has built in are not there.
const MODULES: [&str; 12] = [
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci",
    "drivers/char/virtio_console",
    "net/9p/9pnet",
    "net/9p/9pnet_virtio",
    "fs/netfs/netfs",
    "fs/fscache/fscache",
    "fs/9p/9p",
    "fs/overlayfs/overlay",
];

/// The archive, made anew if it is not there or was made by another version of this file.
pub(super) fn find_or_make(packages: &Packages) -> Result<PathBuf> {
    let archive = packages.workshop().join("first-root.cpio");
    let recipe = packages.workshop().join("first-root.recipe");
    let wanted = format!("{INIT}\n{MODULES:?}");
    if archive.is_file() && fs::read_to_string(&recipe).is_ok_and(|made| made == wanted) {
        return Ok(archive);
    }
    let folder = packages
        .workshop()
        .join(format!(".first-root.{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    let made = lay_out(packages, &folder).and_then(|()| pack(packages, &folder, &archive));
    let _ = fs::remove_dir_all(&folder);
    made?;
    fs::write(recipe, wanted)?;
    Ok(archive)
}

fn lay_out(packages: &Packages, folder: &Path) -> Result<()> {
    for name in [
        "bin", "dev", "proc", "sys", "host", "packages", "changes", "root", "modules",
    ] {
        fs::create_dir_all(folder.join(name))?;
    }
    fs::copy(packages.busybox(), folder.join("bin/busybox")).context("busybox")?;
    let init = folder.join("init");
    fs::write(&init, INIT)?;
    fs::set_permissions(&init, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let mut order = String::new();
    for name in MODULES {
        let Some(file) = packages.module(name) else {
            continue;
        };
        let plain = format!("{}.ko", name.rsplit('/').next().unwrap_or(name));
        let bytes = unpacked(&file)?;
        fs::write(folder.join("modules").join(&plain), bytes)?;
        order.push_str(&plain);
        order.push('\n');
    }
    Ok(fs::write(folder.join("modules/order"), order)?)
}

/// A module as the first shell can load it.
fn unpacked(file: &Path) -> Result<Vec<u8>> {
    let program = match file.extension().and_then(|ending| ending.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return Ok(fs::read(file)?),
    };
    let out = Command::new(program)
        .arg("-dc")
        .arg(file)
        .stdin(Stdio::null())
        .output();
    let out = out.with_context(|| format!("{program}, which unpacks modules"))?;
    ensure!(out.status.success(), "{program}: {}", file.display());
    Ok(out.stdout)
}

fn pack(packages: &Packages, folder: &Path, archive: &Path) -> Result<()> {
    let beside = archive.with_extension(format!("new.{}", std::process::id()));
    let status = Command::new("sh")
        .args([
            "-c",
            "\"$0\" find . | \"$0\" cpio -o -H newc > \"$1\" 2>/dev/null",
        ])
        .arg(packages.busybox())
        .arg(&beside)
        .current_dir(folder)
        .stdin(Stdio::null())
        .status()?;
    ensure!(status.success(), "packing the first root: {status}");
    Ok(fs::rename(beside, archive)?)
}
