//! The listener: a call that was heard of, and answering it.
//!
//! A thread whose call the supervisor has taken note of can be killed but not interrupted: whether a signal ends the call is the supervisor's to
//! say, so that no unit is taken and no message lost by a call that then gives EINTR.
#![allow(unsafe_code)] // ioctl(2).

use rustix::fd::{AsFd, AsRawFd, BorrowedFd};
use std::io;

/// A system call that a thread makes, and waits for the answer to.
#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
pub(crate) struct Notice {
    /// Which notice.
    pub(crate) id: u64,
    /// The thread.
    pub(crate) thread: i32,
    /// The call.
    pub(crate) number: i32,
    /// By which door it came.
    pub(crate) arch: u32,
    /// Its arguments.
    pub(crate) arguments: [u64; 6],
}

impl Notice {
    /// An argument that is an int in C.
    pub(crate) fn int(&self, number: usize) -> i32 {
        self.arguments[number] as i32
    }

    /// An argument that is a pointer or a size.
    pub(crate) fn word(&self, number: usize) -> usize {
        self.arguments[number] as usize
    }
}

/// The next call. `None`: it is gone again.
pub(crate) fn next(listener: impl AsFd) -> io::Result<Option<Notice>> {
    // SAFETY: all-zero is what the kernel asks for; it fills the structure.
    let (got, notice) = unsafe {
        let mut notice: libc::seccomp_notif = std::mem::zeroed();
        let got = libc::ioctl(
            listener.as_fd().as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_RECV,
            &raw mut notice,
        );
        (got, notice)
    };
    if got != 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ENOENT | libc::EINTR | libc::EAGAIN) => Ok(None),
            _ => Err(error),
        };
    }
    Ok(Some(Notice {
        id: notice.id,
        thread: notice.pid as i32,
        number: notice.data.nr,
        arch: notice.data.arch,
        arguments: notice.data.args,
    }))
}

fn send(listener: BorrowedFd<'_>, mut response: libc::seccomp_notif_resp) -> bool {
    // SAFETY: a structure of ours.
    unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SEND,
            &raw mut response,
        ) == 0
    }
}

/// Answers a call. `false`: nobody waits any more.
pub(crate) fn answer(listener: impl AsFd, id: u64, result: Result<i64, i32>) -> bool {
    let response = libc::seccomp_notif_resp {
        id,
        val: result.unwrap_or(0),
        error: result.map_or_else(|errno| -errno, |_| 0),
        flags: 0,
    };
    send(listener.as_fd(), response)
}

/// Lets a call go on to the kernel.
pub(crate) fn let_go(listener: impl AsFd, id: u64) {
    let response = libc::seccomp_notif_resp {
        id,
        val: 0,
        error: 0,
        flags: libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
    };
    send(listener.as_fd(), response);
}

/// Whether the thread still waits.
pub(crate) fn waits(listener: impl AsFd, id: u64) -> bool {
    // SAFETY: the number is read.
    unsafe {
        libc::ioctl(
            listener.as_fd().as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_ID_VALID,
            &raw const id,
        ) == 0
    }
}

/// Gives the thread's process a descriptor; gives its number there.
pub(crate) fn give(listener: impl AsFd, id: u64, from: impl AsFd) -> io::Result<i32> {
    add(listener, id, from, 0, libc::O_CLOEXEC)
}

/// Answers a call that opens a file with a descriptor, opened with these flags, or with the error that there is none to be had.
pub(crate) fn give_instead(listener: impl AsFd, id: u64, from: impl AsFd, flags: i32) {
    const AND_ANSWER: u32 = 2;
    if let Err(error) = add(&listener, id, from, AND_ANSWER, flags & libc::O_CLOEXEC) {
        answer(listener, id, Err(error.raw_os_error().unwrap_or(libc::EMFILE)));
    }
}

fn add(listener: impl AsFd, id: u64, from: impl AsFd, flags: u32, its: i32) -> io::Result<i32> {
    let descriptor = libc::seccomp_notif_addfd {
        id,
        flags,
        srcfd: from.as_fd().as_raw_fd() as u32,
        newfd: 0,
        newfd_flags: its as u32,
    };
    // SAFETY: a structure of ours.
    let made = unsafe {
        libc::ioctl(
            listener.as_fd().as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_ADDFD,
            &raw const descriptor,
        )
    };
    if made < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(made)
}

/// Has the one who answers and the one who is answered take turns on one CPU, on kernels that can: that is what they do anyway.
pub(crate) fn take_turns(listener: impl AsFd) {
    const SYNC_WAKE_UP: libc::c_ulong = 1;
    // SAFETY: a number. Older kernels say EINVAL.
    unsafe {
        libc::ioctl(
            listener.as_fd().as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS,
            SYNC_WAKE_UP,
        )
    };
}
