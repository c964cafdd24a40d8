//! Where the preload library is, and the list in LD_PRELOAD.

use crate::trouble::{OURS, Trouble};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The library's file name.
pub(crate) const LIBRARY: &str = "libvshmem_preload.so";
/// Environment variable that names it.
pub(crate) const PRELOAD: &str = "VSHMEM_PRELOAD";

/// Debian's folder for libraries of this machine, beside `bin`.
#[cfg(target_arch = "x86_64")]
const MULTIARCH: &str = "../lib/x86_64-linux-gnu";
#[cfg(target_arch = "aarch64")]
const MULTIARCH: &str = "../lib/aarch64-linux-gnu";

/// Finds the library: as `VSHMEM_PRELOAD` says, else beside this command, else in the library folders beside its folder.
pub(crate) fn find() -> Result<PathBuf, Trouble> {
    let missing = |why: String| {
        Trouble::new(LIBRARY, why)
            .remedy(format!(
                "install it beside the vshmem command or in ../lib, or name it in {PRELOAD}"
            ))
            .with_status(OURS)
    };
    if let Some(named) = std::env::var_os(PRELOAD).filter(|path| !path.is_empty()) {
        let path = PathBuf::from(named);
        return match path.canonicalize() {
            Ok(path) if path.is_file() => Ok(path),
            _ => Err(missing(format!(
                "{PRELOAD} names {}, which is no file",
                path.display()
            ))),
        };
    }
    let own = std::env::current_exe().map_err(|error| missing(format!("own place unknown: {error}")))?;
    let folder = own.parent().unwrap_or(Path::new("/"));
    for place in ["", "../lib", "../lib/vshmem", MULTIARCH] {
        if let Ok(path) = folder.join(place).join(LIBRARY).canonicalize() {
            return Ok(path);
        }
    }
    Err(missing(format!(
        "not found beside {} nor in ../lib or ../lib/vshmem",
        own.display()
    )))
}

/// LD_PRELOAD with the library first and what was there behind it.
pub(crate) fn list_with(library: &Path) -> OsString {
    joined(library, std::env::var_os("LD_PRELOAD").as_deref())
}

fn joined(library: &Path, present: Option<&OsStr>) -> OsString {
    let mut list = library.as_os_str().to_owned();
    for entry in present
        .unwrap_or_default()
        .as_bytes()
        .split(|byte| matches!(byte, b':' | b' '))
    {
        if !entry.is_empty() && entry != library.as_os_str().as_bytes() {
            list.push(":");
            list.push(OsStr::from_bytes(entry));
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_existing_list_is_kept() {
        let library = Path::new("/x/v.so");
        assert_eq!(joined(library, None), "/x/v.so");
        assert_eq!(
            joined(library, Some(OsStr::new("a.so b.so:/x/v.so"))),
            "/x/v.so:a.so:b.so"
        );
    }
}
