//! Where UML keeps a guest's memory, and whether that place serves: it maps a file there, with the right to execute.
//!
//! Containers have a `/dev/shm` of 64 MiB without that right, hardened hosts one without it. UML's own words about the
//! first are a guest that dies by SIGBUS some time, and about the second two lines on its console.

use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, statfs, statvfs};
use vshmem_port::boot::BootError;

/// The number of file systems in memory (`TMPFS_MAGIC`).
const IN_MEMORY: i64 = 0x0102_1994;

/// The folder that a `linux.uml` started by this process takes: the first one in memory, or else a plain one.
fn folder() -> PathBuf {
    let named = std::env::var_os("TMPDIR")
        .filter(|name| !name.is_empty())
        .map(PathBuf::from);
    let candidates = named.iter().cloned().chain([PathBuf::from("/dev/shm")]);
    let found = candidates.into_iter().find(|folder| is_in_memory(folder));
    found.or(named).unwrap_or_else(|| PathBuf::from("/tmp"))
}

fn is_in_memory(folder: &Path) -> bool {
    statfs(folder).is_ok_and(|found| i128::from(found.f_type) == i128::from(IN_MEMORY))
}

/// Whether a guest with this much memory can be kept there.
pub(crate) fn check(bytes: u64) -> Result<(), BootError> {
    let folder = folder();
    // A folder that cannot be asked is left to UML's own judgement.
    let Ok(found) = statvfs(&folder) else {
        return Ok(());
    };
    let executes = !found.f_flag.contains(StatVfsMountFlags::NOEXEC);
    judge(
        &folder,
        executes,
        found.f_bavail.saturating_mul(found.f_frsize),
        bytes,
    )
}

fn judge(folder: &Path, executes: bool, free: u64, bytes: u64) -> Result<(), BootError> {
    let shown = folder.display();
    if !executes {
        return Err(BootError::Unsupported(format!(
            "{shown} is mounted noexec, and UML keeps the memory of guests there: mount -o remount,exec {shown} (in Docker: \
             --tmpfs {shown}:exec,size=2g)"
        )));
    }
    if free < bytes {
        return Err(BootError::Unsupported(format!(
            "{shown} has {} MiB left, and UML keeps the {} MiB of this guest's memory there: make it larger (mount -o \
             remount,size=2g {shown}; in Docker: --tmpfs {shown}:exec,size=2g), or give the guest less",
            free >> 20,
            bytes >> 20
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_without_the_right_to_execute_or_with_too_little_room_is_refused_with_what_to_do() {
        let place = Path::new("/dev/shm");
        let said = judge(place, false, 1 << 30, 1 << 28)
            .expect_err("noexec")
            .to_string();
        assert!(said.contains("remount,exec /dev/shm"), "{said}");
        let said = judge(place, true, 64 << 20, 256 << 20)
            .expect_err("too large")
            .to_string();
        assert!(
            said.contains("64 MiB left") && said.contains("256 MiB of this"),
            "{said}"
        );
        assert!(judge(place, true, 1 << 28, 1 << 28).is_ok());
    }
}
