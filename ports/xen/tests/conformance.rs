//! The port conformance suite, with Xen guests as domains: of the type that `VSHMEM_XEN_TYPE` says, paravirtual ones if it says nothing.
//!
//! The program is both sides: in dom0 it runs the checks; as the first process of a guest, which the port boots on dom0's own tree, it is the agent. Where there is no
//! Xen every check is skipped, by name, with the reason; `cargo xtask xen-lab -- PROGRAM --test-threads=1` runs them in the laboratory. Guests come up sooner from a
//! root in memory that holds nothing but this program, its libraries and the modules: a folder with one can be named.

use anyhow::{Context, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::mount::{MountFlags, mount};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU32, Ordering};
use vshmem_port::boot::{Boot, Inside};
use vshmem_port::conformance::{CHECKS, Domain, Fixture, POOL_BYTES, boot, in_guest};
use vshmem_port::direct::DirectBells;
use vshmem_port::store::Store;
use vshmem_port_xen::bells::XenBells;
use vshmem_port_xen::boot::{TYPE_VARIABLE, XenBoot};
use vshmem_port_xen::guest::XenGuest;
use vshmem_port_xen::here::Here;
use vshmem_port_xen::holder::{Ahead, GrantStore};
use vshmem_port_xen::inside::XenInside;
use vshmem_port_xen::line;
use vshmem_port_xen::xenstore::Xenstore;
use vshmem_wire::Window;

/// If it is set: a folder with `vmlinux` (a kernel for guests) and `initrd` (this program as `/init`, its libraries, and modules in `/mod`).
const GUEST: &str = "VSHMEM_XEN_GUEST";

fn main() -> ExitCode {
    if std::process::id() == 1 {
        in_guest(arrive, &XenGuest::default());
    }
    let trials = CHECKS
        .iter()
        .map(|check| {
            Trial::test(format!("xen::{}", check.name), move || {
                let folder = match ready() {
                    Ok(folder) => folder,
                    Err(why) => {
                        eprintln!("skipped: {why:#}");
                        return Ok(());
                    }
                };
                check
                    .run(&Xen { folder })
                    .map_err(|why| Failed::from(format!("{why:#}")))
            })
        })
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

// Dom0's side.

fn ready() -> anyhow::Result<Option<PathBuf>> {
    Here::default().is_dom0()?;
    let folder = std::env::var_os(GUEST).map(PathBuf::from);
    if folder.is_none() {
        XenBoot::new().check()?;
    }
    Ok(folder)
}

struct Xen {
    folder: Option<PathBuf>,
}

impl Fixture for Xen {
    fn new_store(&self) -> anyhow::Result<Box<dyn Store>> {
        Ok(Box::new(GrantStore::new(POOL_BYTES, Ahead::default())?))
    }

    fn direct_bells(&self) -> anyhow::Result<Option<Box<dyn DirectBells>>> {
        Ok(Some(Box::new(XenBells::open(&Here::default(), Vec::new())?)))
    }

    fn machine(&self, name: &str) -> anyhow::Result<u32> {
        Ok(Xenstore::open(&Here::default())?.domain_named(name)?.into())
    }

    fn start(&self, _: &dyn Store) -> anyhow::Result<Box<dyn Domain>> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "conformance-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let Some(folder) = &self.folder else {
            return boot(&XenBoot::new(), name, 128 << 20, Vec::new());
        };
        let kind = std::env::var(TYPE_VARIABLE).unwrap_or_else(|_| "pv".to_owned());
        let configuration = std::env::temp_dir().join(&name);
        let text = format!(
            "name=\"{name}\"\ntype=\"{kind}\"\nkernel=\"{0}/vmlinux\"\nramdisk=\"{0}/initrd\"\nmemory=192\nvcpus=1\ntsc_mode=\"native\"\n\
             extra=\"console=hvc0 rdinit=/init mitigations=off quiet\"\non_poweroff=\"destroy\"\non_crash=\"destroy\"\n",
            folder.display()
        );
        std::fs::write(&configuration, text)?;
        let made = Command::new("xl")
            .args(["create", "-q"])
            .arg(&configuration)
            .status();
        let _ = std::fs::remove_file(&configuration);
        ensure!(made?.success(), "xl create failed");
        let number = Xenstore::open(&Here::default())?.domain_named(&name)?;
        let stream = line::offer(number)?;
        Ok(Box::new(Guest { name, stream }))
    }
}

struct Guest {
    name: String,
    stream: OwnedFd,
}

impl Domain for Guest {
    fn stream(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    fn hand(&mut self, _: OwnedFd, _: Window) -> anyhow::Result<()> {
        Ok(())
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn kill(&mut self) {
        let _ = Command::new("xl").args(["destroy", &self.name]).output();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.kill();
    }
}

// The guest's side.

fn arrive() -> anyhow::Result<()> {
    let modules = Path::new("/mod");
    if !modules.is_dir() {
        // Booted by the port, which has loaded them.
        return XenInside.arrive();
    }
    mount("sysfs", "/sys", "sysfs", MountFlags::empty(), None).context("mounting /sys")?;
    for module in std::fs::read_dir(modules)?.flatten() {
        let file = std::fs::File::open(module.path())?;
        let _ = rustix::system::finit_module(&file, c"", 0);
    }
    Ok(())
}
