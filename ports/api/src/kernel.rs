//! A distribution's kernel on this machine's disk: its image, its release, and the modules that a guest of a port needs. Which modules, and where to look for
//! images, the port says.

use anyhow::{Context, ensure};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Names another kernel than the one that is found.
pub const KERNEL_VARIABLE: &str = "VSHMEM_KERNEL";

/// How a module's file may end after `.ko`.
const ENDINGS: [&str; 4] = ["", ".xz", ".zst", ".gz"];

/// A kernel that can be booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// The image, packed or not.
    pub image: PathBuf,
    /// To be loaded in this order.
    pub modules: Vec<PathBuf>,
}

/// The kernel that the user asks for: by an argument, else by [`KERNEL_VARIABLE`].
pub fn asked_for(argument: Option<&Path>) -> Option<PathBuf> {
    let argument = argument.map(Path::to_owned);
    argument.or_else(|| std::env::var_os(KERNEL_VARIABLE).map(PathBuf::from))
}

/// A kernel image with its modules beside it as in a package, or in the system's folder. `needed` has modules in the order in which they can be loaded, without
/// `.ko`, each with whether a guest cannot do without.
pub fn at(image: &Path, needed: &[(&str, bool)]) -> anyhow::Result<Kernel> {
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
    Ok(Kernel {
        image: image.to_owned(),
        modules: modules(&folder, needed)?,
    })
}

fn modules(folder: &Path, needed: &[(&str, bool)]) -> anyhow::Result<Vec<PathBuf>> {
    let builtin = fs::read_to_string(folder.join("modules.builtin")).unwrap_or_default();
    let mut found = Vec::new();
    for (name, must) in needed {
        let file = ENDINGS
            .iter()
            .map(|ending| folder.join(format!("kernel/{name}.ko{ending}")))
            .find(|file| file.is_file());
        match file {
            Some(file) => found.push(file),
            None => ensure!(
                !must || builtin.lines().any(|line| line == format!("kernel/{name}.ko")),
                "it has no {name}, neither built in nor in {}",
                folder.display()
            ),
        }
    }
    Ok(found)
}

/// The release that a kernel image of x86 says it is, as `uname -r` would.
pub fn release(image: &Path) -> anyhow::Result<String> {
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
pub fn images(folder: &Path) -> Vec<PathBuf> {
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

    const NEEDED: &[(&str, bool)] = &[
        ("drivers/virtio/virtio_pci", true),
        ("fs/fuse/fuse", false),
        ("fs/fuse/virtiofs", true),
    ];

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
        let why = at(&image, NEEDED).unwrap_err().to_string();
        assert!(why.contains("no modules of release 6.99-test"), "{why}");
        let modules = root.path().join("lib/modules/6.99-test");
        fs::create_dir_all(modules.join("kernel/fs/fuse")).unwrap();
        fs::write(modules.join("kernel/fs/fuse/virtiofs.ko.xz"), "").unwrap();
        let why = at(&image, NEEDED).unwrap_err().to_string();
        assert!(why.contains("no drivers/virtio/virtio_pci"), "{why}");
        fs::write(
            modules.join("modules.builtin"),
            "kernel/drivers/virtio/virtio_pci.ko\n",
        )
        .unwrap();
        assert_eq!(
            at(&image, NEEDED).unwrap().modules,
            [modules.join("kernel/fs/fuse/virtiofs.ko.xz")]
        );
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("vmlinuz-1");
        fs::write(&file, "short").unwrap();
        assert!(release(&file).unwrap_err().to_string().contains("too short"));
        fs::write(&file, [0; 4096]).unwrap();
        assert!(
            release(&file)
                .unwrap_err()
                .to_string()
                .contains("no kernel image")
        );
    }

    #[test]
    fn the_newest_image_comes_first() {
        let root = tempfile::tempdir().unwrap();
        let (old, new) = (put(root.path(), "6.1-a"), put(root.path(), "6.2-a"));
        fs::write(root.path().join("boot/System.map-6.3-a"), "").unwrap();
        assert_eq!(images(&root.path().join("boot")), [new, old]);
    }
}
