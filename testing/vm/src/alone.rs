//! What the whole machine has once, for one test at a time: processes and threads of all test programs wait for each other.
//!
//! Not for what a test can have of its own.

use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io;

/// Waits until nobody else has what goes by that name; it is free again once the file is dropped.
///
/// # Errors
/// If the lock's file cannot be opened.
pub fn alone(name: &str) -> io::Result<File> {
    let path = std::env::temp_dir().join(format!("vshmem-{name}.lock"));
    let lock = File::options().create(true).append(true).open(path)?;
    flock(&lock, FlockOperation::LockExclusive)?;
    Ok(lock)
}
