//! The guest's kernel: named by the user, the one that dom0 runs, or the newest in /boot; with the modules that a guest needs.

use anyhow::{Context, bail};
use std::path::{Path, PathBuf};
use vshmem_port::kernel::{self, Kernel};

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

/// What a kernel for guests must have, for people.
const WHAT: &str = "9p and Xen's devices (Debian's cloud kernels have no 9p)";

/// The kernel to boot.
pub(crate) fn find(named: Option<&Path>) -> anyhow::Result<Kernel> {
    if let Some(image) = kernel::asked_for(named) {
        return at(&image).with_context(|| format!("kernel {}, which must have {WHAT}", image.display()));
    }
    let uname = rustix::system::uname();
    let own = Path::new("/boot").join(format!("vmlinuz-{}", uname.release().to_string_lossy()));
    let mut reasons = String::new();
    for image in std::iter::once(own).chain(kernel::images(Path::new("/boot"))) {
        match at(&image) {
            Ok(kernel) => return Ok(kernel),
            Err(why) => reasons.push_str(&format!("; {}: {why:#}", image.display())),
        }
    }
    bail!(
        "no kernel for guests of Xen was found{reasons}; name one with {WHAT} by --kernel (with its modules in /lib/modules)"
    )
}

/// A kernel image with its modules.
fn at(image: &Path) -> anyhow::Result<Kernel> {
    let found = kernel::at(image, MODULES)?;
    let release = kernel::release(image)?;
    Ok(Kernel {
        image: unpacked(image, &release),
        ..found
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

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
