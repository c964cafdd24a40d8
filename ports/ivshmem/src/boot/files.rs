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
    let folder = (0..1000_u32)
        .map(|attempt| std::env::temp_dir().join(format!("vshmem-vm.{}.{attempt}", std::process::id())))
        .find_map(
            |path| match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => Some(Ok(path)),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => None,
                Err(e) => Some(Err(e)),
            },
        )
        .unwrap_or_else(|| Err(io::ErrorKind::AlreadyExists.into()))?;
    let path = folder.join("files");
    let made = UnixListener::bind(&path).and_then(|door| Ok((door, UnixStream::connect(&path)?)));
    let _ = std::fs::remove_file(&path);
    let _ = std::fs::remove_dir(&folder);
    let (door, connection) = made?;
    Ok((door.into(), connection.into()))
}
