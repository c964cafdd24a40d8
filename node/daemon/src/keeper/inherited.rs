//! The descriptor that a daemon inherits from its keeper.
#![allow(unsafe_code)] // Taking ownership of a descriptor that is known by its number alone.

use rustix::fd::{FromRawFd, OwnedFd};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// Takes the inherited descriptor over, once, and keeps it from being inherited further.
pub(super) fn take(number: i32) -> io::Result<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    std::fs::symlink_metadata(format!("/proc/self/fd/{number}"))?;
    if number < 3 || TAKEN.swap(true, Ordering::SeqCst) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: open (looked up above), and nobody else's: the keeper opened it for this process alone and named it, and it is taken once.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(fd)
}
