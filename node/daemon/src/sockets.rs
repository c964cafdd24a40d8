//! The runtime directory: its lock, its listening sockets, and what becomes of them.

use crate::config::SocketConfig;
use anyhow::{Context, bail};
use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::fs::FileType;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// Name of the main socket in the runtime directory.
pub const MAIN: &str = "vshmem.sock";
/// Folder of the local domains' sockets.
pub const DOMAINS: &str = "domains";
/// Folder of the sockets for machines that somebody else starts, one folder a domain.
pub(crate) const MACHINES: &str = "machines";
/// In such a folder: what vsock leads to.
const STREAMS: &str = "vsock";
/// Name of the first group's pool, as a file, for their hypervisors; for another group's, a dash and its name follow.
pub(crate) const POOL: &str = "pool";
/// Name of the lock file.
pub(crate) const LOCK: &str = "lock";

/// The runtime directory: `given`, else `$VSHMEM_RUNTIME_DIR`, else `/run/vshmem` for root and `$XDG_RUNTIME_DIR/vshmem` for others.
///
/// # Errors
/// If none of them is there.
pub fn runtime_dir(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let of = |name: &str| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    if let Some(dir) = given.map(Path::to_path_buf).or_else(|| of("VSHMEM_RUNTIME_DIR")) {
        return std::path::absolute(&dir).with_context(|| format!("{}", dir.display()));
    }
    if rustix::process::geteuid().is_root() {
        return Ok("/run/vshmem".into());
    }
    match of("XDG_RUNTIME_DIR") {
        Some(dir) => Ok(dir.join("vshmem")),
        None => {
            bail!("set VSHMEM_RUNTIME_DIR or XDG_RUNTIME_DIR: it is not clear where the socket should be")
        }
    }
}

/// Makes the runtime directory, and takes its lock: only one daemon may serve it. Says also whether the directory was made here.
pub(crate) fn lock(dir: &Path) -> anyhow::Result<(OwnedFd, bool)> {
    let made = !dir.exists();
    let folders = [dir.to_path_buf(), dir.join(DOMAINS)].map(|folder| (!folder.exists(), folder));
    std::fs::create_dir_all(dir.join(DOMAINS))
        .with_context(|| format!("making the runtime directory {}", dir.display()))?;
    for (made, folder) in folders {
        let_pass(&folder, made);
    }
    let path = dir.join(LOCK);
    loop {
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)
            .with_context(|| format!("opening {}", path.display()))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::AGAIN) => bail!(
                "another daemon serves {}: stop it first, or choose another directory with --runtime-dir",
                dir.display()
            ),
            Err(e) => return Err(e).with_context(|| format!("locking {}", path.display())),
        }
        // A daemon that ends removes the file it has locked: a lock on that one would exclude nobody.
        let ours = rustix::fs::fstat(&file)?.st_ino;
        if rustix::fs::stat(&path).is_ok_and(|there| there.st_ino == ours) {
            return Ok((file, made));
        }
    }
}

/// Clients of every user must get to the sockets; the sockets' own modes say who may connect. A directory that was there before may be anything, `/tmp` too: it
/// is opened for passing through, and stays as it is otherwise.
fn let_pass(folder: &Path, made: bool) {
    let was = std::fs::metadata(folder).map_or(0, |found| found.permissions().mode() & 0o7777);
    let mode = if made { 0o755 } else { was | 0o111 };
    if mode != was {
        let _ = std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode));
    }
}

/// Path of the main socket, or of a local domain's.
pub(crate) fn path(dir: &Path, domain: Option<&str>) -> PathBuf {
    match domain {
        None => dir.join(MAIN),
        Some(name) => dir.join(DOMAINS).join(format!("{name}.sock")),
    }
}

/// Listens for clients on a socket at `path`, in place of what a daemon that did not end cleanly may have left there.
pub(crate) fn listen(path: &Path, config: &SocketConfig) -> anyhow::Result<OwnedFd> {
    listen_for(path, config, SocketType::SEQPACKET)
}

/// The path of one of the sockets for a domain's hypervisor.
pub(crate) fn machine_path(dir: &Path, domain: &str, socket: &str) -> PathBuf {
    dir.join(MACHINES).join(domain).join(format!("{socket}.sock"))
}

/// Listens for hypervisors, in the same manner, in a folder that is made.
pub(crate) fn listen_for_machine(path: &Path, config: &SocketConfig) -> anyhow::Result<OwnedFd> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        for folder in folder.ancestors().take(2) {
            let_pass(folder, false);
        }
    }
    listen_for(path, config, SocketType::STREAM)
}

/// Where the hypervisor of a machine that opens its stream itself is to listen, if it turns vsock into unix sockets.
pub(crate) fn stream_place(dir: &Path, domain: &str) -> PathBuf {
    dir.join(MACHINES).join(domain).join(STREAMS).join("host")
}

/// Listens beside that place for what the hypervisor connects for port `port`, in a folder that is made anew and belongs to the hypervisor's user: whoever may
/// write to the sockets may make some there. Nothing is made in it later, when that user can have put anything in its place.
pub(crate) fn listen_for_streams(
    dir: &Path,
    domain: &str,
    port: u32,
    config: &SocketConfig,
) -> anyhow::Result<OwnedFd> {
    let place = stream_place(dir, domain);
    let folder = place.parent().unwrap_or(dir);
    let said = || format!("making {}", folder.display());
    if is(folder, FileType::is_dir) {
        clear_sockets(folder);
    }
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(folder)
        .with_context(said)?;
    let path = folder.join(format!("host_{port}"));
    let listener = listen_for(&path, config, SocketType::STREAM)?;
    let everybody = [0o600, 0o060, 0o006].into_iter().zip([0o700, 0o070, 0o007]);
    let mode = everybody.filter(|(writes, _)| config.mode & writes != 0);
    let mode = mode.fold(0, |mode, (_, all)| mode | all);
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode)).with_context(said)?;
    chown(folder, config.uid, config.gid).with_context(said)?;
    Ok(listener)
}

/// Makes a name in the runtime directory lead to a pool, a descriptor of this process, in one step: whoever opens it opens the pool.
pub(crate) fn link_pool(dir: &Path, name: &str, descriptor: BorrowedFd<'_>) -> anyhow::Result<()> {
    let target = format!("/proc/{}/fd/{}", std::process::id(), descriptor.as_raw_fd());
    let (new, path) = (dir.join(format!("{name}.new")), dir.join(name));
    make_room(&new, FileType::is_symlink)?;
    make_room(&path, FileType::is_symlink)?;
    std::os::unix::fs::symlink(target, &new)
        .and_then(|()| std::fs::rename(&new, &path))
        .with_context(|| format!("making {}", path.display()))
}

fn listen_for(path: &Path, config: &SocketConfig, kind: SocketType) -> anyhow::Result<OwnedFd> {
    let said = || format!("listening on {}", path.display());
    make_room(path, FileType::is_socket)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None).with_context(said)?;
    let address = SocketAddrUnix::new(path).with_context(|| {
        format!(
            "{} is no possible name of a socket (107 bytes at most)",
            path.display()
        )
    })?;
    rustix::net::bind(&fd, &address).with_context(said)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(config.mode)).with_context(said)?;
    if config.uid.is_some() || config.gid.is_some() {
        chown(path, config.uid, config.gid)
            .with_context(|| format!("giving {} to its owner", path.display()))?;
    }
    rustix::net::listen(&fd, 1024).with_context(said)?;
    Ok(fd)
}

/// Removes what an earlier daemon left under a name. What is not of the kind that a daemon makes there is somebody's, and stays.
fn make_room(path: &Path, ours: impl Fn(&FileType) -> bool) -> anyhow::Result<()> {
    if let Ok(found) = std::fs::symlink_metadata(path) {
        if !ours(&found.file_type()) {
            bail!(
                "{} is in the way, and no daemon made it: choose another directory with --runtime-dir",
                path.display()
            );
        }
        remove(path);
    }
    Ok(())
}

/// Removes a socket's name, or a link; nothing else.
pub(crate) fn remove(path: &Path) {
    if !is(path, |kind| kind.is_socket() || kind.is_symlink()) {
        return;
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => tracing::warn!("cannot remove {}: {e}", path.display()),
        _ => {}
    }
}

/// Removes what a daemon made in its runtime directory, and the directory if it made that, too, and nothing else is in it. Whatever else is there stays.
pub(crate) fn clear(dir: &Path, made: bool) {
    let machines = dir.join(MACHINES);
    for domain in entries(&machines) {
        clear_sockets(&domain.join(STREAMS));
        clear_sockets(&domain);
    }
    let _ = std::fs::remove_dir(machines);
    for path in entries(dir).filter(|path| is(path, FileType::is_symlink)) {
        let rest = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_prefix(POOL));
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-')) {
            let _ = std::fs::remove_file(path);
        }
    }
    if std::fs::metadata(dir.join(LOCK)).is_ok_and(|lock| lock.len() == 0) {
        let _ = std::fs::remove_file(dir.join(LOCK));
    }
    let _ = std::fs::remove_dir(dir.join(DOMAINS));
    if made {
        let _ = std::fs::remove_dir(dir);
    }
}

/// Removes the sockets in a folder, and the folder if nothing else is in it.
fn clear_sockets(folder: &Path) {
    for socket in entries(folder).filter(|path| is(path, FileType::is_socket)) {
        let _ = std::fs::remove_file(socket);
    }
    let _ = std::fs::remove_dir(folder);
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let found = std::fs::read_dir(dir).into_iter().flatten().flatten();
    found.map(|entry| entry.path())
}

fn is(path: &Path, kind: impl Fn(&FileType) -> bool) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| kind(&found.file_type()))
}
