//! The guest's kernel: named by the user, in the cache, installed here, or fetched from the distribution's archive into the cache.
//!
//! A distribution's kernel has its virtio drivers and file systems as modules; this file knows which are needed and where they lie. Nothing is ever installed:
//! a package is unpacked into the cache, and only the kernel and these modules are kept.

use crate::boot::spawn::bounded;
use anyhow::{Context, bail, ensure};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Names another kernel than the one that is found.
pub const KERNEL_VARIABLE: &str = "VSHMEM_KERNEL";

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
const ENDINGS: [&str; 4] = ["", ".xz", ".zst", ".gz"];

/// The archive's package that always needs the newest small kernel.
const PACKAGE: &str = "linux-image-cloud-amd64";
/// How long the archive may take.
const FETCH: Duration = Duration::from_secs(300);

/// A kernel that can be booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kernel {
    pub(crate) image: PathBuf,
    /// To be loaded in this order.
    pub(crate) modules: Vec<PathBuf>,
}

/// The kernel to boot, if one is here: `named`, or the best there is.
pub(crate) fn find(named: Option<&Path>) -> anyhow::Result<Kernel> {
    let variable = std::env::var_os(KERNEL_VARIABLE).map(PathBuf::from);
    if let Some(image) = named.or(variable.as_deref()) {
        return at(image).with_context(|| format!("kernel {}", image.display()));
    }
    let cached = cache().map(|cache| below(&cache, "boot")).unwrap_or_default();
    let installed = images(Path::new("/boot"));
    let mut reasons = String::new();
    for image in cached.into_iter().chain(installed) {
        match at(&image) {
            Ok(kernel) => return Ok(kernel),
            Err(why) => reasons.push_str(&format!("; {}: {why:#}", image.display())),
        }
    }
    bail!("no kernel for guests was found in the cache or in /boot{reasons}")
}

/// The kernel to boot, fetched into the cache if none is here.
pub(crate) fn find_or_fetch(named: Option<&Path>) -> anyhow::Result<Kernel> {
    let missing = match find(named) {
        Ok(kernel) => return Ok(kernel),
        Err(why) if named.is_some() || std::env::var_os(KERNEL_VARIABLE).is_some() => return Err(why),
        Err(why) => why,
    };
    let remedy = "name one with --kernel (with its modules in /lib/modules)";
    fetch().map_err(|why| anyhow::anyhow!("{missing}; {PACKAGE} could not be fetched: {why:#}; {remedy}"))?;
    find(None)
}

/// Whether a kernel could be fetched: not whether the archive answers.
pub(crate) fn can_fetch() -> bool {
    ["/usr/bin/apt-get", "/usr/bin/apt-cache", "/usr/bin/dpkg-deb"]
        .iter()
        .all(|program| Path::new(program).exists())
}

/// A kernel image with its modules beside it as in a package, or in the system's folder.
fn at(image: &Path) -> anyhow::Result<Kernel> {
    let release = release(image)?;
    let package = image
        .parent()
        .and_then(Path::parent)
        .map(|root| root.join("lib/modules"));
    let folder = [
        package,
        Some("/lib/modules".into()),
        Some("/usr/lib/modules".into()),
    ]
    .into_iter()
    .flatten()
    .map(|root| root.join(&release))
    .find(|folder| folder.is_dir())
    .with_context(|| format!("no modules of release {release} in /lib/modules"))?;
    let builtin = fs::read_to_string(folder.join("modules.builtin")).unwrap_or_default();
    let mut modules = Vec::new();
    for (name, needed) in MODULES {
        match module(&folder, name) {
            Some(file) => modules.push(file),
            None => ensure!(
                !needed || builtin.lines().any(|line| line == format!("kernel/{name}.ko")),
                "it has no {name}, neither built in nor in {}",
                folder.display()
            ),
        }
    }
    Ok(Kernel {
        image: image.to_owned(),
        modules,
    })
}

fn module(folder: &Path, name: &str) -> Option<PathBuf> {
    ENDINGS
        .iter()
        .map(|ending| folder.join(format!("kernel/{name}.ko{ending}")))
        .find(|file| file.is_file())
}

/// The release that a kernel image of x86 says it is, as `uname -r` would.
fn release(image: &Path) -> anyhow::Result<String> {
    let file = fs::File::open(image)?;
    let mut head = [0; 0x210];
    file.read_exact_at(&mut head, 0)
        .context("it is too short for a kernel")?;
    ensure!(&head[0x202..0x206] == b"HdrS", "it is no kernel image (bzImage)");
    let at = u16::from_le_bytes([head[0x20e], head[0x20f]]);
    let mut text = [0; 128];
    let bytes = file.read_at(&mut text, u64::from(at) + 0x200)?;
    let text = String::from_utf8_lossy(&text[..bytes]).into_owned();
    let word = text
        .split(|c: char| c == '\0' || c.is_whitespace())
        .next()
        .unwrap_or_default();
    ensure!(
        !word.is_empty() && !word.contains('/'),
        "it does not say its release"
    );
    Ok(word.to_owned())
}

/// Kernel images in a folder, the newest first as far as names tell.
fn images(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"))
        })
        .collect();
    found.sort();
    found.reverse();
    found
}

fn below(cache: &Path, folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(cache).into_iter().flatten().flatten();
    let mut packages: Vec<PathBuf> = entries
        .filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'))
        .map(|entry| entry.path().join(folder))
        .collect();
    packages.sort();
    packages.reverse();
    packages.iter().flat_map(|package| images(package)).collect()
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
    // In the very file system where it will stay.
    let workshop = cache.join(format!(".new.{}", std::process::id()));
    let _ = fs::remove_dir_all(&workshop);
    fs::create_dir(&workshop).with_context(|| workshop.display().to_string())?;
    let outcome = fetch_into(&cache, &workshop);
    let _ = fs::remove_dir_all(&workshop);
    outcome
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
    let image = images(&all.join("boot"))
        .pop()
        .context("the package has no kernel")?;
    let kernel = at(&image)?;
    let kept = workshop.join("kept");
    let folder = all.join("lib/modules").join(release(&image)?);
    for file in kernel
        .modules
        .iter()
        .chain([&image, &folder.join("modules.builtin")])
    {
        let to = kept.join(file.strip_prefix(&all)?);
        fs::create_dir_all(to.parent().context("no folder")?)?;
        fs::rename(file, &to).with_context(|| file.display().to_string())?;
    }
    match fs::rename(&kept, cache.join(&package)) {
        // Somebody else fetched it at the same time.
        Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel image that says this release, below `root` as in a package.
    fn put(root: &Path, release: &str) -> PathBuf {
        let mut image = vec![0; 0x1000];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x300_u16.to_le_bytes());
        let text = format!("{release} (somebody@somewhere)\0");
        image[0x500..0x500 + text.len()].copy_from_slice(text.as_bytes());
        let path = root.join("boot").join(format!("vmlinuz-{release}"));
        fs::create_dir_all(root.join("boot")).unwrap();
        fs::write(&path, image).unwrap();
        path
    }

    #[test]
    fn a_kernel_is_taken_with_its_modules_and_without_those_that_are_built_in() {
        let root = tempfile::tempdir().unwrap();
        let image = put(root.path(), "6.99-test");
        assert!(
            at(&image)
                .unwrap_err()
                .to_string()
                .contains("no modules of release 6.99-test")
        );
        let modules = root.path().join("lib/modules/6.99-test");
        fs::create_dir_all(modules.join("kernel/fs/fuse")).unwrap();
        fs::write(modules.join("kernel/fs/fuse/virtiofs.ko.xz"), "").unwrap();
        assert!(
            at(&image)
                .unwrap_err()
                .to_string()
                .contains("no drivers/virtio/virtio_pci")
        );
        let builtin = "kernel/drivers/virtio/virtio_pci.ko\nkernel/drivers/char/virtio_console.ko\n";
        fs::write(modules.join("modules.builtin"), builtin).unwrap();
        assert_eq!(
            at(&image).unwrap().modules,
            [modules.join("kernel/fs/fuse/virtiofs.ko.xz")]
        );
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("vmlinuz-1");
        fs::write(&file, "short").unwrap();
        assert!(at(&file).unwrap_err().to_string().contains("too short"));
        fs::write(&file, [0; 4096]).unwrap();
        assert!(at(&file).unwrap_err().to_string().contains("no kernel image"));
    }
}
