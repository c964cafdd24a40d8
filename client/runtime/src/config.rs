//! The environment variables that a client obeys.
//!
//! | variable | meaning |
//! |---|---|
//! | `VSHMEM_RUNTIME_DIR` | folder of the daemon's socket; else `/run/vshmem`, else `$XDG_RUNTIME_DIR/vshmem` |
//! | `VSHMEM_DOMAIN` | the local domain to be in |
//! | `VSHMEM_KEYS` | which keys go to Vshmem; the rest goes to the kernel (preload only) |
//! | `VSHMEM_SPIN` | longest spin in microseconds before sleeping (50; in a guest 500); `off` or 0: none; if given, for a lock that another thread has, too (10,000 at most) |
//! | `VSHMEM_TIMEOUT` | seconds to wait for a daemon that restarts (5) |
//! | `VSHMEM_LOG` | `error` (default), `off`, `warn`, `info`, `debug`: what is said on standard error |

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Name of the socket in the runtime folder.
pub const SOCKET: &str = "vshmem.sock";

/// The daemon's socket, or where it should be.
pub fn socket_path() -> PathBuf {
    if let Some(folder) = set("VSHMEM_RUNTIME_DIR") {
        return PathBuf::from(folder).join(SOCKET);
    }
    let system = PathBuf::from("/run/vshmem").join(SOCKET);
    match set("XDG_RUNTIME_DIR") {
        Some(folder) if !system.exists() => PathBuf::from(folder).join("vshmem").join(SOCKET),
        _ => system,
    }
}

/// The domain asked for.
pub fn domain() -> Option<String> {
    set("VSHMEM_DOMAIN").map(|name| name.to_string_lossy().into_owned())
}

/// The keys asked for.
pub fn keys() -> Option<String> {
    set("VSHMEM_KEYS").map(|keys| keys.to_string_lossy().into_owned())
}

/// The longest spin, in microseconds, if one is asked for.
pub fn spin_micros() -> Option<u32> {
    set("VSHMEM_SPIN").map(|text| text.to_str().and_then(|text| text.parse().ok()).unwrap_or(0))
}

/// How long to wait for a daemon that restarts.
pub fn timeout() -> Duration {
    let seconds = set("VSHMEM_TIMEOUT").and_then(|text| text.to_str()?.parse::<f64>().ok());
    Duration::try_from_secs_f64(seconds.unwrap_or(5.0)).unwrap_or(Duration::from_secs(5))
}

fn set(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}
