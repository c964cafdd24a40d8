//! The guest's side: loads the modules, mounts the host's tree, lets go of the first root, and executes the first process anew from the host's.

use super::{FOLDER, HOST, INIT, MODULES};
use anyhow::{Context, bail};
use rustix::io::Errno;
use rustix::mount::mount_move;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// `MODULE_INIT_COMPRESSED_FILE`.
const COMPRESSED: i32 = 4;

/// Whether this process runs from a first root.
#[must_use]
pub fn is_here() -> bool {
    Path::new("/").join(FOLDER).is_dir()
}

/// From the first root to the host's, which `mount_host` mounts at a folder, read-only. Returns only when it fails.
///
/// # Errors
/// What is missing: the machine cannot go on.
pub fn leave(mount_host: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let boot = Path::new("/").join(FOLDER);
    load_modules(&boot.join(MODULES))?;
    let init = OsString::from_vec(std::fs::read(boot.join(INIT)).context("the path of the first process")?);
    let host = Path::new("/").join(HOST);
    mount_host(&host)?;
    // The files' memory is given back; this process keeps its own until it is executed anew.
    for file in files_below(Path::new("/"), &host) {
        let _ = std::fs::remove_file(file);
    }
    std::env::set_current_dir(&host)?;
    mount_move(".", "/").context("moving the host's tree to the root")?;
    rustix::process::chroot(".").context("changing the root")?;
    std::env::set_current_dir("/")?;
    let failed = Command::new(&init).args(std::env::args_os().skip(1)).exec();
    Err(failed).with_context(|| format!("executing {} from the host's tree", init.display()))
}

fn load_modules(folder: &Path) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.sort();
    for path in files {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let flags = if name.ends_with(".ko") { 0 } else { COMPRESSED };
        let file = std::fs::File::open(&path).with_context(|| name.clone())?;
        match rustix::system::finit_module(&file, c"", flags) {
            // Built in, too.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => bail!("module {name}: {errno}"),
        }
    }
    Ok(())
}

/// Every file below a folder of the first root, but for what is mounted there.
fn files_below(folder: &Path, host: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && path != host => folders.push(path),
                Ok(kind) if kind.is_file() => found.push(path),
                _ => {}
            }
        }
    }
    found
}
