//! Lets a command, and what it starts, see a copy of the host's tree that nobody can write to.
#![allow(unsafe_code)] // `pre_exec`: a mount namespace of the command's own

use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// The host's whole tree at the empty folder `at`, read-only, in a mount namespace of the command's own.
pub(crate) fn read_only_tree(command: &mut Command, at: &Path) -> io::Result<()> {
    let at = CString::new(at.as_os_str().as_bytes())?;
    let prepare = move || {
        // SAFETY: a mount namespace of the new process's own; it has one thread.
        check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
        mount(None, c"/", libc::MS_REC | libc::MS_PRIVATE)?;
        mount(Some(c"/"), &at, libc::MS_REC | libc::MS_BIND)?;
        set_read_only(&at)
    };
    // SAFETY: between fork and exec the closure makes plain system calls only, on strings made before.
    unsafe { command.pre_exec(prepare) };
    Ok(())
}

fn mount(from: Option<&CStr>, at: &CStr, flags: libc::c_ulong) -> io::Result<()> {
    let none = std::ptr::null();
    let from = from.map_or(none, CStr::as_ptr);
    // SAFETY: strings that end with a zero, or null where mount(2) ignores the argument.
    check(unsafe { libc::mount(from, at.as_ptr(), none, flags, none.cast()) })
}

/// Everything mounted at and below a folder.
fn set_read_only(at: &CStr) -> io::Result<()> {
    let wanted = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: reads a string that ends with a zero and a structure of the size that is given.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            at.as_ptr(),
            libc::AT_RECURSIVE,
            &raw const wanted,
            size_of::<libc::mount_attr>(),
        )
    };
    check(libc::c_int::from(answer != 0))
}

/// The answer of a system call that gives 0 when it worked.
fn check(answer: libc::c_int) -> io::Result<()> {
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
