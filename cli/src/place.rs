//! Where the daemon is: the options `--runtime-dir` and `--domain`, which mean the same for every command.

use std::path::{Path, PathBuf};

/// Environment variable behind `--runtime-dir`.
pub(crate) const RUNTIME_DIR: &str = "VSHMEM_RUNTIME_DIR";
/// Environment variable behind `--domain`.
pub(crate) const DOMAIN: &str = "VSHMEM_DOMAIN";

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
    if let Some(folder) = std::env::var_os(RUNTIME_DIR).filter(|folder| !folder.is_empty()) {
        return folder.into();
    }
    let system = PathBuf::from("/run/vshmem");
    if rustix::process::geteuid().is_root() || system.is_dir() {
        return system;
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(own) => PathBuf::from(own).join("vshmem"),
        None => system,
    }
}
