//! What of Xen this machine has: whether it runs on Xen, as dom0 or as a guest, and which devices and modules are missing.
//!
//! Every refusal says what to do. Not for talking to Xen: it looks at files only.

use anyhow::{Context, bail};
use std::path::{Path, PathBuf};

const NOT_DOM0: &str =
    "this machine is a guest of Xen, not dom0: run `vshmem serve` in dom0 and `vshmem join --port xen` here";

/// Where this machine shows itself.
#[derive(Debug, Clone)]
pub struct Here {
    sys: PathBuf,
    proc: PathBuf,
    dev: PathBuf,
}

impl Default for Here {
    fn default() -> Self {
        Self::below(Path::new("/"))
    }
}

impl Here {
    /// A machine whose root is elsewhere.
    pub fn below(root: &Path) -> Self {
        Self {
            sys: root.join("sys"),
            proc: root.join("proc"),
            dev: root.join("dev"),
        }
    }

    /// Whether this machine runs on Xen.
    ///
    /// # Errors
    /// If it does not.
    pub fn on_xen(&self) -> anyhow::Result<()> {
        let kind = std::fs::read_to_string(self.sys.join("hypervisor/type")).unwrap_or_default();
        if kind.trim() != "xen" {
            bail!("this machine does not run on Xen (/sys/hypervisor/type does not say so)");
        }
        Ok(())
    }

    /// Whether this machine is the one that starts and ends the others.
    ///
    /// # Errors
    /// If it is not, or does not show it.
    pub fn is_dom0(&self) -> anyhow::Result<()> {
        self.on_xen()?;
        let path = self.proc.join("xen/capabilities");
        if !path.exists() && self.looks_like_a_guest() {
            bail!(NOT_DOM0);
        }
        let said = std::fs::read_to_string(&path).with_context(|| {
            format!(
                "{} cannot be read: as root, mount -t xenfs xenfs /proc/xen",
                path.display()
            )
        })?;
        if !said.contains("control_d") {
            bail!(NOT_DOM0);
        }
        Ok(())
    }

    /// Where xenfs, which would say it, is not mounted: guests have an identity of their own, and no end of Xenstore's ring.
    fn looks_like_a_guest(&self) -> bool {
        let uuid = std::fs::read_to_string(self.sys.join("hypervisor/uuid")).unwrap_or_default();
        let of_its_own = uuid.bytes().any(|b| b.is_ascii_hexdigit() && b != b'0');
        of_its_own && !self.dev.join("xen/xenbus_backend").exists()
    }

    /// The device `name` below /dev/xen.
    ///
    /// # Errors
    /// If it is not there: with the module that makes it.
    pub fn device(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.dev.join("xen").join(name);
        if !path.exists() {
            let module = match name {
                "xenbus" | "xenbus_backend" => "xenfs",
                "privcmd" | "hypercall" => "xen-privcmd",
                "evtchn" => "xen-evtchn",
                "gntalloc" => "xen-gntalloc",
                _ => "xen-gntdev",
            };
            bail!("{} is missing: as root, modprobe {module}", path.display());
        }
        Ok(path)
    }
}

/// Whether software runs this machine's instructions, as far as it tells: QEMU's does, at the place where hypervisors say who they are. To programs of a
/// paravirtual guest Xen leaves that place as it is.
pub fn is_emulated() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let said = std::arch::x86_64::__cpuid(0x4000_0000);
        let name = [said.ebx, said.ecx, said.edx].map(u32::to_le_bytes).concat();
        name == b"TCGTCGTCGTCG"
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn a_machine_says_what_it_lacks() {
        let root = tempfile::tempdir().unwrap();
        let here = Here::below(root.path());
        assert!(
            here.is_dom0()
                .unwrap_err()
                .to_string()
                .contains("does not run on Xen")
        );
        put(root.path(), "sys/hypervisor/type", "xen\n");
        assert!(here.is_dom0().unwrap_err().to_string().contains("mount -t xenfs"));
        // Dom0's identity is all zeros, or somebody has given it one.
        let uuid = "sys/hypervisor/uuid";
        put(root.path(), uuid, "00000000-0000-0000-0000-000000000000\n");
        assert!(here.is_dom0().unwrap_err().to_string().contains("mount -t xenfs"));
        put(root.path(), uuid, "11ca1cd9-9706-42bf-bd47-6e1e9aa5accb\n");
        assert!(here.is_dom0().unwrap_err().to_string().contains("not dom0"));
        put(root.path(), "dev/xen/xenbus_backend", "");
        assert!(here.is_dom0().unwrap_err().to_string().contains("mount -t xenfs"));
        put(root.path(), "proc/xen/capabilities", "");
        assert!(here.is_dom0().unwrap_err().to_string().contains("not dom0"));
        put(root.path(), "proc/xen/capabilities", "control_d\n");
        here.is_dom0().unwrap();
        let why = here.device("gntdev").unwrap_err().to_string();
        assert!(why.contains("modprobe xen-gntdev"), "{why}");
        put(root.path(), "dev/xen/gntdev", "");
        here.device("gntdev").unwrap();
    }
}
