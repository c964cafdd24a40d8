//! The distribution's packages of which the laboratory is made: fetched once, unpacked into the cache, never installed.
//!
//! The cache holds one folder for each set of versions. Below its `tree` lies what the packages would install, laid out for a merged `/usr`, so that it can be laid
//! over the host's own tree; of the kernel's modules only those that a Xen machine needs.

use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Packages that name, in what they depend on, the ones of today.
const HYPERVISOR: &str = "xen-system-amd64";
const KERNEL: &str = "linux-image-amd64";
/// The device model, which also serves the host's files to guests; the shell of the first root; what loads modules.
const ALWAYS: [&str; 3] = ["qemu-system-xen", "busybox-static", "kmod"];
/// Of what these need: the rest is on every machine that has QEMU.
const FAMILIES: [&str; 5] = ["libxen", "xen-utils", "xenstore-utils", "libyajl", "libkmod"];

/// Modules that are kept, folders and single files below `kernel`.
const MODULES: [&str; 17] = [
    "crypto",
    "drivers/block",
    "drivers/char",
    "drivers/net/virtio_net.ko",
    "drivers/net/xen-netback",
    "drivers/net/xen-netfront.ko",
    "drivers/virtio",
    "drivers/xen",
    "fs/9p",
    "fs/erofs",
    "fs/fscache",
    "fs/netfs",
    "fs/overlayfs",
    "fs/squashfs",
    "lib",
    "net/9p",
    "net/core",
];

/// A cached set of packages.
pub(super) struct Packages {
    folder: PathBuf,
    /// The kernel's release.
    release: String,
}

impl Packages {
    /// What the packages would install.
    pub(super) fn tree(&self) -> PathBuf {
        self.folder.join("tree")
    }

    /// The kernel of dom0 and of guests.
    pub(super) fn kernel(&self) -> PathBuf {
        self.tree().join("boot").join(format!("vmlinuz-{}", self.release))
    }

    /// The hypervisor's image.
    pub(super) fn hypervisor(&self) -> PathBuf {
        self.folder.join("xen")
    }

    /// Where files made from the packages may be kept.
    pub(super) fn workshop(&self) -> &Path {
        &self.folder
    }

    pub(super) fn busybox(&self) -> PathBuf {
        self.tree().join("usr/bin/busybox")
    }

    /// A module's file.
    pub(super) fn module(&self, name: &str) -> Option<PathBuf> {
        let kernel = self
            .tree()
            .join("usr/lib/modules")
            .join(&self.release)
            .join("kernel");
        ["", ".xz", ".zst", ".gz"]
            .iter()
            .map(|ending| kernel.join(format!("{name}.ko{ending}")))
            .find(|file| file.is_file())
    }
}

/// The cached packages, or why there are none and none can be had.
pub(super) fn find_or_fetch() -> Result<Packages> {
    let cache = cache().context("neither XDG_CACHE_HOME nor HOME is set")?;
    if let Some(found) = find(&cache) {
        return Ok(found);
    }
    can_be_had()?;
    fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
    let workshop = cache.join(format!(".new.{}", std::process::id()));
    let _ = fs::remove_dir_all(&workshop);
    fs::create_dir(&workshop)?;
    let made = fetch(&cache, &workshop);
    let _ = fs::remove_dir_all(&workshop);
    made?;
    find(&cache).context("the packages hold neither a hypervisor nor a kernel")
}

/// Whether the packages are in the cache, or could be fetched into it.
pub(super) fn can_be_had() -> Result<()> {
    if cache().is_some_and(|cache| find(&cache).is_some()) {
        return Ok(());
    }
    for program in ["/usr/bin/apt-get", "/usr/bin/apt-cache", "/usr/bin/dpkg-deb"] {
        ensure!(
            Path::new(program).exists(),
            "{program} is not here: the laboratory is made of Debian's packages"
        );
    }
    for (of, beginning) in [(HYPERVISOR, "xen-hypervisor-4"), (KERNEL, "linux-image-")] {
        needs(of, beginning)?;
    }
    Ok(())
}

fn cache() -> Option<PathBuf> {
    let above = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    Some(above.join("vshmem/xen"))
}

/// The newest complete folder, as far as names tell.
fn find(cache: &Path) -> Option<Packages> {
    let entries = fs::read_dir(cache).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = entries
        .filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'))
        .map(|entry| entry.path())
        .collect();
    folders.sort();
    folders.into_iter().rev().find_map(|folder| {
        let boot = fs::read_dir(folder.join("tree/boot")).ok()?;
        let release = boot.flatten().find_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.strip_prefix("vmlinuz-").map(str::to_owned)
        })?;
        let found = Packages { folder, release };
        (found.hypervisor().is_file() && found.kernel().is_file()).then_some(found)
    })
}

fn fetch(cache: &Path, workshop: &Path) -> Result<()> {
    let hypervisor = needs(HYPERVISOR, "xen-hypervisor-4")?;
    let kernel = needs(KERNEL, "linux-image-")?;
    let tools = needs(HYPERVISOR, "xen-utils-4")?;
    let mut names = closure(&tools)?;
    names.extend(
        [hypervisor, kernel.clone(), tools]
            .into_iter()
            .chain(ALWAYS.map(str::to_owned)),
    );
    names.sort();
    names.dedup();
    eprintln!(
        "xen-lab: fetching {} packages into {} (once; nothing is installed)",
        names.len(),
        cache.display()
    );
    let archives = workshop.join("archives");
    fs::create_dir(&archives)?;
    run(Command::new("apt-get")
        .args(["download", "-qq"])
        .args(&names)
        .current_dir(&archives))?;
    let kept = workshop.join("kept");
    let tree = kept.join("tree");
    fs::create_dir_all(&tree)?;
    let mut set = String::new();
    for entry in fs::read_dir(&archives)?.flatten() {
        let archive = entry.path();
        run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&tree))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("xen-hypervisor") {
            set = name.split('_').nth(1).unwrap_or_default().to_owned();
        }
    }
    merge_usr(&tree)?;
    let release = kernel.strip_prefix("linux-image-").unwrap_or(&kernel);
    keep_modules(&tree, release)?;
    let boot = tree.join("boot");
    super::image::unpack_kernel(
        &boot.join(format!("vmlinuz-{release}")),
        &boot.join(format!("vmlinux-{release}")),
    )?;
    let image = hypervisor_image(&boot)?;
    fs::write(kept.join("xen"), image)?;
    match fs::rename(&kept, cache.join(format!("{release}_{set}"))) {
        // Somebody else fetched it at the same time.
        Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty => Ok(()),
        other => Ok(other?),
    }
}

/// The package that `of` depends on and whose name begins so.
fn needs(of: &str, beginning: &str) -> Result<String> {
    let said = run(Command::new("apt-cache").args(["depends", of]))?;
    said.lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with(beginning) && *name != of)
        .map(str::to_owned)
        .with_context(|| format!("the archive's index knows no {beginning}… of {of} (apt-get update)"))
}

/// What the toolstack needs and a machine with QEMU does not have already.
fn closure(of: &str) -> Result<Vec<String>> {
    let said = run(Command::new("apt-cache").args([
        "depends",
        "--recurse",
        "--no-recommends",
        "--no-suggests",
        "--no-conflicts",
        "--no-breaks",
        "--no-replaces",
        "--no-enhances",
        of,
        ALWAYS[0],
        ALWAYS[2],
    ]))?;
    let names = said
        .lines()
        .filter(|line| !line.starts_with([' ', '<']))
        .filter(|name| FAMILIES.iter().any(|family| name.starts_with(family)))
        .filter(|name| !name.contains(':'));
    Ok(names.map(str::to_owned).collect())
}

/// Puts `/bin`, `/sbin` and `/lib` below `/usr`, where the host has them: else they would cover its symbolic links.
fn merge_usr(tree: &Path) -> Result<()> {
    for name in ["bin", "sbin", "lib", "lib64"] {
        let from = tree.join(name);
        if from.is_dir() {
            run(Command::new("cp")
                .args(["-al", "--"])
                .arg(&from)
                .arg(tree.join("usr")))?;
            fs::remove_dir_all(&from)?;
        }
    }
    Ok(())
}

/// Leaves out modules that no Xen machine needs, and makes the index of the others.
fn keep_modules(tree: &Path, release: &str) -> Result<()> {
    let folder = tree.join("usr/lib/modules").join(release);
    let (all, kept) = (folder.join("all"), folder.join("kernel"));
    fs::rename(&kept, &all).with_context(|| format!("modules of {release}"))?;
    for name in MODULES {
        let single = all.join(name).parent().map(|above| (above.to_owned(), name));
        let Some((above, _)) = single else { continue };
        let last = Path::new(name).file_name().unwrap_or_default();
        // A single module may be compressed.
        let found = fs::read_dir(&above)
            .into_iter()
            .flatten()
            .flatten()
            .find(|entry| {
                let there = entry.file_name();
                there == last
                    || (name.ends_with(".ko")
                        && there.to_string_lossy().starts_with(&*last.to_string_lossy()))
            });
        let Some(found) = found else { continue };
        let to = kept.join(Path::new(name).with_file_name(found.file_name()));
        fs::create_dir_all(to.parent().context("no folder")?)?;
        fs::rename(found.path(), to)?;
    }
    fs::remove_dir_all(&all)?;
    let libraries = fs::read_dir(tree.join("usr/lib"))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().ends_with("-linux-gnu"));
    let libraries: Vec<String> = libraries.map(|path| path.display().to_string()).collect();
    // The program is what it is called.
    let depmod = folder.join("depmod");
    std::os::unix::fs::symlink(std::path::absolute(tree.join("usr/bin/kmod"))?, &depmod)?;
    run(Command::new(&depmod)
        .arg("-b")
        .arg(tree.join("usr"))
        .arg(release)
        .env("LD_LIBRARY_PATH", libraries.join(":")))?;
    Ok(fs::remove_file(depmod)?)
}

/// The hypervisor, as QEMU loads it: not compressed.
fn hypervisor_image(boot: &Path) -> Result<Vec<u8>> {
    let found = fs::read_dir(boot)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("xen-") && name.ends_with(".gz")
        });
    let packed = found.context("the hypervisor's package has no image")?;
    let out = Command::new("gzip").arg("-dc").arg(&packed).output()?;
    ensure!(out.status.success(), "gzip: {}", packed.display());
    Ok(out.stdout)
}

/// Runs a command to its end, for at most five minutes; gives what it said.
fn run(command: &Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut bounded = Command::new("timeout");
    bounded
        .arg("300")
        .arg(command.get_program())
        .args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        bounded.current_dir(folder);
    }
    bounded.envs(
        command
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let out = bounded
        .stdin(Stdio::null())
        .output()
        .with_context(|| name.clone())?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr).trim().replace('\n', "; ");
        bail!("{name}: {}: {said}", out.status);
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
