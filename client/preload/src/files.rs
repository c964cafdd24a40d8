//! open(2), openat(2) and fopen(3) of the few files of which Vshmem has its own text: they give a memory file that holds it.
//!
//! Everything else goes to libc, untouched. Writing to limits is [`crate::limits`]'s.
#![allow(unsafe_code)] // C functions by name, called through pointers that dlsym gave.

use crate::limits;
use crate::next::Next;
use crate::routes;
use libc::{FILE, c_char, c_int, mode_t};
use rustix::fd::IntoRawFd;
use std::ffi::CStr;
use vshmem_abi::edge;
use vshmem_abi::proc_text::{self, Text};

type Open = unsafe extern "C" fn(*const c_char, c_int, mode_t) -> c_int;
type OpenAt = unsafe extern "C" fn(c_int, *const c_char, c_int, mode_t) -> c_int;
type Fopen = unsafe extern "C" fn(*const c_char, *const c_char) -> *mut FILE;

/// The text that a path names, if it is one of ours. libc's own function has been called with it and gave `file` (negative if it failed): the kernel has read
/// the path then, or told with its errno that it did not.
///
/// # Safety
/// `path` is what the kernel was given.
unsafe fn ours(folder: c_int, path: *const c_char, file: c_int) -> Option<Text> {
    if file < 0 && !matches!(errno(), libc::ENOENT | libc::EACCES | libc::EPERM | libc::EROFS) {
        return None;
    }
    // SAFETY: a C string, as the kernel has found.
    let path = unsafe { CStr::from_ptr(path) }.to_bytes();
    if path.starts_with(b"/") {
        return path.starts_with(b"/proc/sys").then(|| proc_text::by_path(path))?;
    }
    let name = path.rsplit(|&byte| byte == b'/').next()?;
    if !proc_text::is_name(name) {
        return None;
    }
    let whole = match (file, folder) {
        (0.., _) => link(&format!("/proc/self/fd/{file}"))?,
        (_, libc::AT_FDCWD) => [link("/proc/self/cwd")?.as_slice(), path].join(&b'/'),
        (_, folder) => [link(&format!("/proc/self/fd/{folder}"))?.as_slice(), path].join(&b'/'),
    };
    proc_text::by_path(&whole)
}

fn link(path: &str) -> Option<Vec<u8>> {
    let read = rustix::fs::readlink(path, Vec::new()).ok()?;
    Some(read.into_bytes())
}

fn errno() -> c_int {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn opened(text: Text, flags: c_int) -> c_int {
    if let Text::Limit(setting) = text
        && flags & libc::O_ACCMODE != libc::O_RDONLY
    {
        return edge::call_int(|| {
            limits::open(setting, flags & libc::O_CLOEXEC != 0).map(IntoRawFd::into_raw_fd)
        });
    }
    let file = || text.file(!routes::all_is_ours(), flags & libc::O_CLOEXEC != 0);
    edge::call_int(|| file().map(IntoRawFd::into_raw_fd))
}

/// What libc opened, or our own file if the path is one of ours.
///
/// # Safety
/// `path` is what libc was given.
unsafe fn instead(folder: c_int, path: *const c_char, flags: c_int, file: c_int) -> c_int {
    // SAFETY: promised by the caller; the descriptor was opened for us.
    unsafe {
        match ours(folder, path, file) {
            None => file,
            Some(text) => {
                if file >= 0 {
                    rustix::io::close(file);
                }
                opened(text, flags)
            }
        }
    }
}

/// The same for streams.
///
/// # Safety
/// `path` and `mode` are what libc was given.
unsafe fn stream_instead(path: *const c_char, mode: *const c_char, stream: *mut FILE) -> *mut FILE {
    // SAFETY: promised by the caller; the stream was opened for us.
    unsafe {
        let file = if stream.is_null() {
            -1
        } else {
            libc::fileno(stream)
        };
        match ours(libc::AT_FDCWD, path, file) {
            None => stream,
            Some(text) => {
                if !stream.is_null() {
                    libc::fclose(stream);
                }
                let mode = CStr::from_ptr(mode);
                if let Text::Limit(setting) = text
                    && limits::writes(mode)
                {
                    return limits::stream(setting, mode);
                }
                let file = opened(text, libc::O_CLOEXEC);
                if file < 0 {
                    std::ptr::null_mut()
                } else {
                    libc::fdopen(file, mode.as_ptr())
                }
            }
        }
    }
}

fn missing() -> c_int {
    edge::set_errno(libc::ENOSYS);
    -1
}

macro_rules! opens {
    ($($name:ident $next:ident $text:literal;)*) => {$(
        static $next: Next = Next::new($text);

        // Variadic in C; the mode arrives where a third argument would, and is handed on whether it means anything or not.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
            // SAFETY: the program's own arguments; dlsym found the function by its name.
            unsafe {
                match std::mem::transmute::<*mut libc::c_void, Option<Open>>($next.address()) {
                    Some(next) => instead(libc::AT_FDCWD, path, flags, next(path, flags, mode)),
                    None => missing(),
                }
            }
        }
    )*};
}
opens! {
    open OPEN c"open";
    open64 OPEN64 c"open64";
    __open_2 OPEN_2 c"__open_2";
    __open64_2 OPEN64_2 c"__open64_2";
}

macro_rules! opens_at {
    ($($name:ident $next:ident $text:literal;)*) => {$(
        static $next: Next = Next::new($text);

        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(folder: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
            // SAFETY: the program's own arguments; dlsym found the function by its name.
            unsafe {
                match std::mem::transmute::<*mut libc::c_void, Option<OpenAt>>($next.address()) {
                    Some(next) => instead(folder, path, flags, next(folder, path, flags, mode)),
                    None => missing(),
                }
            }
        }
    )*};
}
opens_at! {
    openat OPENAT c"openat";
    openat64 OPENAT64 c"openat64";
    __openat_2 OPENAT_2 c"__openat_2";
    __openat64_2 OPENAT64_2 c"__openat64_2";
}

macro_rules! fopens {
    ($($name:ident $next:ident $text:literal;)*) => {$(
        static $next: Next = Next::new($text);

        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(path: *const c_char, mode: *const c_char) -> *mut FILE {
            // SAFETY: the program's own arguments; dlsym found the function by its name.
            unsafe {
                match std::mem::transmute::<*mut libc::c_void, Option<Fopen>>($next.address()) {
                    Some(next) => stream_instead(path, mode, next(path, mode)),
                    None => {
                        missing();
                        std::ptr::null_mut()
                    }
                }
            }
        }
    )*};
}
fopens! {
    fopen FOPEN c"fopen";
    fopen64 FOPEN64 c"fopen64";
}
