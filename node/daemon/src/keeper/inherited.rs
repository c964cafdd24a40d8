//! Descriptors that this process inherits and knows by their numbers: a daemon's from its keeper, a front-end's stream and pool from whoever
//! started it.
#![allow(unsafe_code)] // Taking ownership of a descriptor that is known by its number alone.

use rustix::fd::{FromRawFd, OwnedFd};
use std::collections::BTreeSet;
use std::io;
use std::sync::Mutex;

/// Takes an inherited descriptor over, each number once in a process's life, and keeps it from being inherited further.
pub(crate) fn take(number: i32) -> io::Result<OwnedFd> {
    static TAKEN: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());
    std::fs::symlink_metadata(format!("/proc/self/fd/{number}"))?;
    let fresh = TAKEN.lock().is_ok_and(|mut taken| taken.insert(number));
    if number < 3 || !fresh {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: open (looked up above), and nobody else's: whoever started this process opened it for it and named it, and it is taken once.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(fd)
}
