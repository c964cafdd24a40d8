//! What only the C library knows: the local time zone, the names of users and groups, how a broken pipe ends us, and what was inherited.
//!
//! The workspace denies unsafe code; these calls have no safe wrapper in our dependencies. Each block calls one function on memory that
//! lives on this stack.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// A point in time in the local time zone.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LocalTime {
    /// 1970 and on.
    pub(crate) year: i32,
    /// 1 to 12.
    pub(crate) month: u8,
    /// 1 to 31.
    pub(crate) day: u8,
    /// 0 (Sunday) to 6.
    pub(crate) weekday: u8,
    /// 0 to 23.
    pub(crate) hour: u8,
    /// 0 to 59.
    pub(crate) minute: u8,
    /// 0 to 60.
    pub(crate) second: u8,
    /// Seconds east of Greenwich.
    pub(crate) offset: i64,
}

/// Seconds since the epoch as the wall clock here shows them.
pub(crate) fn local_time(seconds: i64) -> LocalTime {
    let mut out = MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are to live, aligned objects of this frame; localtime_r writes only to the second.
    let known = unsafe { !libc::localtime_r(&seconds, out.as_mut_ptr()).is_null() };
    if !known {
        return LocalTime::default();
    }
    // SAFETY: localtime_r returned non-null, so it has filled `out`; before that it was zeroed, a valid tm.
    let tm = unsafe { out.assume_init() };
    LocalTime {
        year: tm.tm_year.saturating_add(1900),
        month: (tm.tm_mon + 1) as u8,
        day: tm.tm_mday as u8,
        weekday: tm.tm_wday as u8,
        hour: tm.tm_hour as u8,
        minute: tm.tm_min as u8,
        second: tm.tm_sec as u8,
        offset: tm.tm_gmtoff,
    }
}

/// Name of a user; None if it has none here.
pub(crate) fn user_name(uid: u32) -> Option<String> {
    let mut buffer = vec![0 as c_char; 16 * 1024];
    let mut entry = MaybeUninit::<libc::passwd>::zeroed();
    let mut found = std::ptr::null_mut();
    // SAFETY: every pointer is to a live object of this frame, and the length is the buffer's.
    let code = unsafe {
        libc::getpwuid_r(
            uid,
            entry.as_mut_ptr(),
            buffer.as_mut_ptr(),
            buffer.len(),
            &mut found,
        )
    };
    if code != 0 || found.is_null() {
        return None;
    }
    // SAFETY: found is non-null, so `entry` is filled and pw_name points to a terminated string in `buffer`, alive here.
    let name = unsafe { CStr::from_ptr(entry.assume_init().pw_name) };
    Some(name.to_string_lossy().into_owned())
}

/// Name of a group; None if it has none here.
pub(crate) fn group_name(gid: u32) -> Option<String> {
    let mut buffer = vec![0 as c_char; 64 * 1024];
    let mut entry = MaybeUninit::<libc::group>::zeroed();
    let mut found = std::ptr::null_mut();
    // SAFETY: every pointer is to a live object of this frame, and the length is the buffer's.
    let code = unsafe {
        libc::getgrgid_r(
            gid,
            entry.as_mut_ptr(),
            buffer.as_mut_ptr(),
            buffer.len(),
            &mut found,
        )
    };
    if code != 0 || found.is_null() {
        return None;
    }
    // SAFETY: found is non-null, so `entry` is filled and gr_name points to a terminated string in `buffer`, alive here.
    let name = unsafe { CStr::from_ptr(entry.assume_init().gr_name) };
    Some(name.to_string_lossy().into_owned())
}

/// A copy of a descriptor that this process was started with, closed on exec.
pub(crate) fn inherited(fd: RawFd) -> std::io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC takes any number and refuses one that is no open descriptor.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: fcntl has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Lets `vshmem ipcs | head` end quietly, as other commands do: Rust ignores SIGPIPE at start.
pub(crate) fn end_on_broken_pipe() {
    // SAFETY: SIG_DFL is a valid disposition for SIGPIPE, and no other thread runs yet.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}
