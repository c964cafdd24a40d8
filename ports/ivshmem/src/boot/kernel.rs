//! The guest's kernel: named by the user, in the cache, installed here, or fetched from the distribution's archive into the cache.
//!
//! A distribution's kernel has its virtio drivers and file systems as modules; this file knows which are needed and where they lie. Nothing is ever installed:
//! a package is unpacked into the cache, and only the kernel and these modules are kept.

use crate::boot::spawn::bounded;
use anyhow::{Context, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use vshmem_port::kernel::{self, KERNEL_VARIABLE, Kernel};

/// Modules in the order in which they can be loaded, and whether a guest cannot do without.
const MODULES: &[(&str, bool)] = &[
    ("drivers/virtio/virtio_ring", false),
    ("drivers/virtio/virtio", false),
    ("drivers/virtio/virtio_pci_modern_dev", false),
    ("drivers/virtio/virtio_pci_legacy_dev", false),
    ("drivers/virtio/virtio_pci", true),
    ("drivers/char/virtio_console", true),
    ("fs/fuse/fuse", false),
    ("fs/fuse/virtiofs", true),
    ("fs/overlayfs/overlay", false),
    ("net/core/failover", false),
    ("drivers/net/net_failover", false),
    ("drivers/net/virtio_net", false),
];

/// More of them, for a machine with a vsock device.
const VSOCK: [&str; 3] = [
    "net/vmw_vsock/vsock",
    "net/vmw_vsock/vmw_vsock_virtio_transport_common",
    "net/vmw_vsock/vmw_vsock_virtio_transport",
];

/// The modules of a guest with or without vsock; `must`: it cannot do without those for vsock.
fn modules(vsock: bool, must: bool) -> Vec<(&'static str, bool)> {
    let more = VSOCK.into_iter().filter(|_| vsock).map(|name| (name, must));
    MODULES.iter().copied().chain(more).collect()
}

/// The archive's package that always needs the newest small kernel.
const PACKAGE: &str = "linux-image-cloud-amd64";
/// Before the number of the process that fetches into a folder of the cache.
const NEW: &str = ".new.";
/// How long the archive may take.
const FETCH: Duration = Duration::from_secs(300);

/// The kernel to boot, if one is here: `named`, or the best there is.
pub(crate) fn find(named: Option<&Path>, vsock: bool) -> anyhow::Result<Kernel> {
    let modules = modules(vsock, true);
    if let Some(image) = kernel::asked_for(named) {
        return kernel::at(&image, &modules).with_context(|| format!("kernel {}", image.display()));
    }
    let cached = cache().map(|cache| below(&cache, "boot")).unwrap_or_default();
    let installed = kernel::images(Path::new("/boot"));
    let mut reasons = String::new();
    for image in cached.into_iter().chain(installed) {
        match kernel::at(&image, &modules) {
            Ok(kernel) => return Ok(kernel),
            Err(why) => reasons.push_str(&format!("; {}: {why:#}", image.display())),
        }
    }
    bail!("no kernel for guests was found in the cache or in /boot{reasons}")
}

/// The kernel to boot, fetched into the cache if none is here.
pub(crate) fn find_or_fetch(named: Option<&Path>, vsock: bool) -> anyhow::Result<Kernel> {
    let missing = match find(named, vsock) {
        Ok(kernel) => return Ok(kernel),
        Err(why) if named.is_some() || std::env::var_os(KERNEL_VARIABLE).is_some() => return Err(why),
        Err(why) => why,
    };
    let remedy = "name one with --kernel (with its modules in /lib/modules)";
    fetch().map_err(|why| anyhow::anyhow!("{missing}; {PACKAGE} could not be fetched: {why:#}; {remedy}"))?;
    find(None, vsock)
}

/// Whether a kernel could be fetched: not whether the archive answers.
pub(crate) fn can_fetch() -> bool {
    ["/usr/bin/apt-get", "/usr/bin/apt-cache", "/usr/bin/dpkg-deb"]
        .iter()
        .all(|program| Path::new(program).exists())
}

fn below(cache: &Path, folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(cache).into_iter().flatten().flatten();
    let mut packages: Vec<PathBuf> = entries
        .filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'))
        .map(|entry| entry.path().join(folder))
        .collect();
    packages.sort();
    packages.reverse();
    packages
        .iter()
        .flat_map(|package| kernel::images(package))
        .collect()
}

/// Where fetched kernels are kept.
fn cache() -> Option<PathBuf> {
    let above = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    Some(above.join("vshmem/kernels"))
}

/// Fetches the newest package and keeps what is needed of it.
fn fetch() -> anyhow::Result<()> {
    ensure!(can_fetch(), "apt-get and dpkg-deb are not here");
    let cache = cache().context("neither XDG_CACHE_HOME nor HOME is set")?;
    fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
    sweep(&cache);
    // In the very file system where it will stay.
    let workshop = cache.join(format!("{NEW}{}", std::process::id()));
    let _ = fs::remove_dir_all(&workshop);
    fs::create_dir(&workshop).with_context(|| workshop.display().to_string())?;
    let outcome = fetch_into(&cache, &workshop);
    let _ = fs::remove_dir_all(&workshop);
    outcome
}

/// Removes what fetches that were killed have left.
fn sweep(cache: &Path) {
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(NEW));
        let owner = owner.and_then(|owner| owner.parse::<u32>().ok());
        if owner.is_some_and(|owner| !Path::new(&format!("/proc/{owner}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn fetch_into(cache: &Path, workshop: &Path) -> anyhow::Result<()> {
    let needs = bounded(Command::new("apt-cache").args(["depends", PACKAGE]), FETCH)?;
    let needs = String::from_utf8_lossy(&needs).into_owned();
    let package = needs
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .context("the archive's index names no kernel (apt-get update)")?
        .to_owned();
    tracing::warn!("fetching {package} into {} (once)", cache.display());
    let mut download = Command::new("apt-get");
    bounded(
        download.args(["download", "-qq", &package]).current_dir(workshop),
        FETCH,
    )?;
    let archive = fs::read_dir(workshop)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|ending| ending == "deb"))
        .context("apt-get downloaded nothing")?;
    let all = workshop.join("all");
    bounded(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&all), FETCH)?;
    let image = kernel::images(&all.join("boot"))
        .pop()
        .context("the package has no kernel")?;
    let kernel = kernel::at(&image, &modules(true, false))?;
    let kept = workshop.join("kept");
    let folder = all.join("lib/modules").join(kernel::release(&image)?);
    for file in kernel
        .modules
        .iter()
        .chain([&image, &folder.join("modules.builtin")])
    {
        let to = kept.join(file.strip_prefix(&all)?);
        fs::create_dir_all(to.parent().context("no folder")?)?;
        fs::rename(file, &to).with_context(|| file.display().to_string())?;
    }
    let place = cache.join(&package);
    let is_whole = |image: &PathBuf| kernel::at(image, &modules(true, true)).is_ok();
    if place.exists() && !kernel::images(&place.join("boot")).iter().any(is_whole) {
        // Fetched by an earlier version, which needed less of it.
        fs::rename(&place, workshop.join("former"))?;
    }
    match fs::rename(&kept, place) {
        // Somebody else fetched it at the same time.
        Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_fetch_has_left_is_removed_and_nothing_else() {
        let cache = tempfile::tempdir().unwrap();
        let own = format!("{NEW}{}", std::process::id());
        // No process has a number so large.
        let dead = format!("{NEW}4194999");
        for name in [own.as_str(), &dead, "linux-image-1", ".new.other"] {
            fs::create_dir(cache.path().join(name)).unwrap();
        }
        fs::write(cache.path().join(&dead).join("half.deb"), "half").unwrap();
        sweep(cache.path());
        let there = |name: &str| cache.path().join(name).exists();
        assert!(there(&own) && there("linux-image-1") && there(".new.other") && !there(&dead));
    }
}
