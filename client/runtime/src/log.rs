//! What a client says on standard error, by `VSHMEM_LOG`.
//!
//! Not for results: programs see errno.

use std::fmt::Arguments;
use std::sync::atomic::{AtomicU8, Ordering};

/// How important a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Something does not work.
    Error = 1,
    /// Something is odd.
    Warn = 2,
    /// What an administrator may want to know.
    Info = 3,
    /// What a developer may want to know.
    Debug = 4,
}

const UNKNOWN: u8 = 0xff;
static LEVEL: AtomicU8 = AtomicU8::new(UNKNOWN);

/// Whether lines of this level are said.
pub fn says(level: Level) -> bool {
    let mut most = LEVEL.load(Ordering::Relaxed);
    if most == UNKNOWN {
        most = match std::env::var("VSHMEM_LOG").as_deref() {
            Ok("off") => 0,
            Ok("warn") => 2,
            Ok("info") => 3,
            Ok("debug" | "trace") => 4,
            _ => 1,
        };
        LEVEL.store(most, Ordering::Relaxed);
    }
    level as u8 <= most
}

/// Says a line.
pub fn say(level: Level, line: Arguments<'_>) {
    if says(level) {
        let text = format!("vshmem[{}]: {line}\n", std::process::id());
        // One write, so that lines of several processes do not mix. Nothing can be done if it fails.
        let _ = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
    }
}

/// Says a line for developers.
#[macro_export]
macro_rules! debug {
    ($($rest:tt)*) => {
        if $crate::log::says($crate::log::Level::Debug) {
            $crate::log::say($crate::log::Level::Debug, format_args!($($rest)*));
        }
    };
}

/// Says that something does not work.
#[macro_export]
macro_rules! error {
    ($($rest:tt)*) => { $crate::log::say($crate::log::Level::Error, format_args!($($rest)*)) };
}
