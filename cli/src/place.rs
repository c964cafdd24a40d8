//! Where the daemon is: the options `--runtime-dir` and `--domain`, which mean the same for every command.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Environment variable behind `--runtime-dir`.
pub(crate) const RUNTIME_DIR: &str = "VSHMEM_RUNTIME_DIR";
/// Environment variable behind `--domain`.
pub(crate) const DOMAIN: &str = "VSHMEM_DOMAIN";

/// The system's own.
const SYSTEM: &str = "/run/vshmem";

/// Options that say which daemon is meant and as which domain.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Place {
    /// Folder of the daemon's socket [default: $VSHMEM_RUNTIME_DIR, else /run/vshmem, else $XDG_RUNTIME_DIR/vshmem]
    #[arg(long, value_name = "DIR", help_heading = "Place")]
    pub(crate) runtime_dir: Option<PathBuf>,

    /// Domain to be in, where the daemon lets a local process choose [default: $VSHMEM_DOMAIN, else the daemon's own]
    #[arg(long, value_name = "NAME", help_heading = "Place")]
    pub(crate) domain: Option<String>,
}

impl Place {
    /// The folder of the daemon's socket.
    pub(crate) fn folder(&self) -> PathBuf {
        runtime_folder(self.runtime_dir.as_deref())
    }

    /// The domain asked for.
    pub(crate) fn domain(&self) -> Option<String> {
        self.domain
            .clone()
            .or_else(|| std::env::var(DOMAIN).ok())
            .filter(|name| !name.is_empty())
    }
}

/// The runtime folder: as asked for, else `$VSHMEM_RUNTIME_DIR`, else `/run/vshmem` where it exists or root asks, else the user's.
pub(crate) fn runtime_folder(asked: Option<&Path>) -> PathBuf {
    if let Some(folder) = asked {
        return folder.to_owned();
    }
    let system = Path::new(SYSTEM);
    let ours = rustix::process::geteuid().is_root() || system.is_dir();
    by_surroundings(|name| std::env::var_os(name), ours)
}

/// The folder that the environment names, where a variable that is set to nothing is not set.
fn by_surroundings(variable: impl Fn(&str) -> Option<OsString>, system: bool) -> PathBuf {
    let set = |name| {
        variable(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    match (set(RUNTIME_DIR), set("XDG_RUNTIME_DIR")) {
        (Some(folder), _) => folder,
        (None, Some(own)) if !system => own.join("vshmem"),
        _ => PathBuf::from(SYSTEM),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_are_set_to_nothing_are_not_set() {
        let folder = |runtime: &str, xdg: &str, system| {
            let variable = |name: &str| Some(if name == RUNTIME_DIR { runtime } else { xdg }.into());
            by_surroundings(variable, system)
        };
        assert_eq!(folder("/a", "/b", true), Path::new("/a"));
        assert_eq!(folder("", "/b", false), Path::new("/b/vshmem"));
        assert_eq!(folder("", "/b", true), Path::new(SYSTEM));
        assert_eq!(folder("", "", false), Path::new(SYSTEM));
    }
}
