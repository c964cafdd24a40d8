//! The guest's kernel: named by the user, the one that dom0 runs, or the newest in /boot; with the modules that a guest needs.

use anyhow::{Context, bail, ensure};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Names another kernel than the one that is found.
pub const KERNEL_VARIABLE: &str = "VSHMEM_KERNEL";

/// Modules in the order in which they can be loaded, and whether a guest cannot do without.
const MODULES: &[(&str, bool)] = &[
    ("net/9p/9pnet", false),
    ("net/9p/9pnet_xen", true),
    ("fs/netfs/netfs", false),
    ("fs/fscache/fscache", false),
    ("fs/9p/9p", true),
    ("fs/overlayfs/overlay", false),
    ("drivers/xen/xen-evtchn", true),
    ("drivers/xen/xen-gntdev", true),
    ("drivers/xen/xen-gntalloc", true),
];
const ENDINGS: [&str; 4] = ["", ".xz", ".zst", ".gz"];

/// A kernel that can be booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kernel {
    pub(crate) image: PathBuf,
    /// To be loaded in this order.
    pub(crate) modules: Vec<PathBuf>,
}

/// The kernel to boot.
pub(crate) fn find(named: Option<&Path>) -> anyhow::Result<Kernel> {
    let variable = std::env::var_os(KERNEL_VARIABLE).map(PathBuf::from);
    if let Some(image) = named.or(variable.as_deref()) {
        return at(image).with_context(|| format!("kernel {}", image.display()));
    }
    let uname = rustix::system::uname();
    let own = Path::new("/boot").join(format!("vmlinuz-{}", uname.release().to_string_lossy()));
    let mut reasons = String::new();
    for image in std::iter::once(own).chain(images(Path::new("/boot"))) {
        match at(&image) {
            Ok(kernel) => return Ok(kernel),
            Err(why) => reasons.push_str(&format!("; {}: {why:#}", image.display())),
        }
    }
    bail!(
        "no kernel for guests of Xen was found{reasons}; name one with --kernel (with its modules in /lib/modules)"
    )
}

/// A kernel image with its modules in the system's folder.
fn at(image: &Path) -> anyhow::Result<Kernel> {
    let release = release(image)?;
    let folder = ["/lib/modules", "/usr/lib/modules"]
        .iter()
        .map(|root| Path::new(root).join(&release))
        .find(|folder| folder.is_dir())
        .with_context(|| format!("no modules of release {release} in /lib/modules"))?;
    Ok(Kernel {
        image: unpacked(image, &release),
        modules: modules(&folder)?,
    })
}

/// The same kernel unpacked, if it lies beside the image: xl has less to do.
fn unpacked(image: &Path, release: &str) -> PathBuf {
    let beside = image.with_file_name(format!("vmlinux-{release}"));
    if beside.is_file() {
        beside
    } else {
        image.to_owned()
    }
}

fn modules(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let builtin = fs::read_to_string(folder.join("modules.builtin")).unwrap_or_default();
    let mut found = Vec::new();
    for (name, needed) in MODULES {
        let file = ENDINGS
            .iter()
            .map(|ending| folder.join(format!("kernel/{name}.ko{ending}")))
            .find(|file| file.is_file());
        match file {
            Some(file) => found.push(file),
            None => ensure!(
                !needed || builtin.lines().any(|line| line == format!("kernel/{name}.ko")),
                "it has no {name}, neither built in nor in {} (Debian's cloud kernels have no 9p)",
                folder.display()
            ),
        }
    }
    Ok(found)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_that_a_guest_needs_are_there_or_built_in() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("kernel");
        for name in ["net/9p/9pnet_xen.ko.xz", "fs/9p/9p.ko", "fs/overlayfs/overlay.ko"] {
            let path = below.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let why = modules(folder.path()).unwrap_err().to_string();
        assert!(why.contains("no drivers/xen/xen-evtchn"), "{why}");
        let builtin =
            ["evtchn", "gntdev", "gntalloc"].map(|name| format!("kernel/drivers/xen/xen-{name}.ko\n"));
        fs::write(folder.path().join("modules.builtin"), builtin.concat()).unwrap();
        let found = modules(folder.path()).unwrap();
        let names: Vec<_> = found.iter().filter_map(|path| path.file_name()).collect();
        assert_eq!(names, ["9pnet_xen.ko.xz", "9p.ko", "overlay.ko"]);
    }

    #[test]
    fn an_unpacked_kernel_beside_the_image_is_preferred() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("vmlinuz-1");
        assert_eq!(unpacked(&image, "1"), image);
        let beside = folder.path().join("vmlinux-1");
        fs::write(&beside, "").unwrap();
        assert_eq!(unpacked(&image, "1"), beside);
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("vmlinuz-1");
        fs::write(&file, [0; 4096]).unwrap();
        assert!(
            find(Some(&file))
                .unwrap_err()
                .chain()
                .any(|why| why.to_string().contains("no kernel image"))
        );
        assert!(find(Some(&folder.path().join("none"))).is_err());
    }
}
