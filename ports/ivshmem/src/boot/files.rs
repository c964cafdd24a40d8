//! The host's tree for the guest: virtiofsd, which serves one machine and ends with it.
//!
//! It sees the tree read-only but for the folders that the guest may write to, so that not even the guest's root can change anything else.

use crate::boot::spawn::{read_only_tree, spawn};
use rustix::fd::{AsRawFd, OwnedFd};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Where distributions put it: with QEMU up to 7, in a package of its own since.
const PLACES: [&str; 4] = [
    "/usr/libexec/virtiofsd",
    "/usr/lib/qemu/virtiofsd",
    "/usr/lib/virtiofsd",
    "/usr/bin/virtiofsd",
];

/// The program, if it is installed.
pub(crate) fn program() -> Option<PathBuf> {
    PLACES.iter().map(PathBuf::from).find(|path| path.is_file())
}

/// The options of the version that is part of QEMU differ from those of the later one.
fn options(program: &Path) -> &'static [&'static str] {
    if program.starts_with("/usr/lib/qemu") {
        &[
            "-o",
            "source=/",
            "-o",
            "cache=auto",
            "-o",
            "sandbox=chroot",
            "-o",
            "xattr",
        ]
    } else {
        &["--shared-dir=/", "--cache=auto", "--sandbox=chroot", "--xattr"]
    }
}

/// Starts it; gives the process and the connection that QEMU is to have.
pub(crate) fn start(
    program: &Path,
    writable: &[PathBuf],
    cpus: &[usize],
    console: &OwnedFd,
) -> io::Result<(Child, OwnedFd)> {
    let (door, connection) = connection()?;
    let mut command = Command::new(program);
    command
        .args(options(program))
        .arg(format!("--fd={}", door.as_raw_fd()))
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(console.try_clone()?)
        .stderr(console.try_clone()?);
    read_only_tree(&mut command, writable)?;
    let child = spawn(&mut command, &[&door], cpus)?;
    Ok((child, connection))
}

/// A socket that is listened on, and the first connection to it. Nobody else can connect: its name lies in a folder of our own, and is gone when
/// this returns.
fn connection() -> io::Result<(OwnedFd, OwnedFd)> {
    connection_below(&std::env::temp_dir())
}

fn connection_below(above: &Path) -> io::Result<(OwnedFd, OwnedFd)> {
    let folder = (0..1000_u32)
        .map(|attempt| above.join(format!("vshmem-vm.{}.{attempt}", std::process::id())))
        .find_map(
            |path| match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => Some(Ok(path)),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => None,
                Err(e) => Some(Err(e)),
            },
        )
        .unwrap_or_else(|| Err(io::ErrorKind::AlreadyExists.into()))?;
    // By way of the folder's descriptor: a socket's name has 107 bytes at most, a folder's may have more.
    let within = std::fs::File::open(&folder)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/files", within.as_raw_fd()));
    let made = UnixListener::bind(&path).and_then(|door| Ok((door, UnixStream::connect(&path)?)));
    let _ = std::fs::remove_file(&path);
    let _ = std::fs::remove_dir(&folder);
    let (door, connection) = made?;
    Ok((door.into(), connection.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_folder_may_have_a_long_name_and_nothing_is_left_in_it() {
        let place = tempfile::tempdir().unwrap();
        let long = place.path().join("a, b".repeat(40));
        std::fs::create_dir(&long).unwrap();
        let (door, connection) = connection_below(&long).unwrap();
        assert_eq!(std::fs::read_dir(&long).unwrap().count(), 0);
        let (mut served, _) = UnixListener::from(door).accept().unwrap();
        UnixStream::from(connection).write_all(b"here").unwrap();
        let mut said = String::new();
        served.read_to_string(&mut said).unwrap();
        assert_eq!(said, "here");
    }
}
