//! What a UML guest calls things: its serial lines, its pool, its modules, and how it mounts a host folder.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, mount};
use vshmem_port::boot::{Inside, open_device};

/// The line given as `ssl0=`.
pub(crate) const CONTROL_LINE: u8 = 0;
/// The line given as `ssl1=`.
pub(crate) const STDIO_LINE: u8 = 1;
/// The ring line, behind which the bells' lines come.
pub(crate) const RING_LINE: u8 = 2;

/// The guest's side of the port.
#[derive(Debug, Clone, Copy, Default)]
pub struct UmlInside;

impl Inside for UmlInside {
    fn stdio(&self) -> anyhow::Result<OwnedFd> {
        const { assert!(STDIO_LINE == 1) };
        open_device(Path::new("/dev/ttyS1"))
    }

    fn network_card(&self) -> &str {
        "vec0"
    }

    fn check_pools(&self, _only: usize) -> Result<(), String> {
        if Path::new("/dev/mmapper").exists() {
            return Ok(());
        }
        Err(
            "this linux.uml has no /dev/mmapper, so it cannot show shared memory to programs; Debian's \
             user-mode-linux packages 6.1 (bookworm) and 6.12 (trixie) have it, 7.x do not"
                .to_owned(),
        )
    }

    fn module_folders(&self, release: &str) -> Vec<PathBuf> {
        ["/usr/lib/uml/modules", "/lib/modules", "/usr/lib/modules"]
            .iter()
            .map(|root| Path::new(root).join(release))
            .collect()
    }

    fn mount_host_folder(&self, folder: &Path, at: &Path) -> io::Result<()> {
        let path = CString::new(folder.as_os_str().as_bytes())?;
        Ok(mount("host", at, "hostfs", MountFlags::empty(), path.as_c_str())?)
    }
}
