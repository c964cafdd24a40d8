//! Writing to `/proc/sys/kernel/{shmmax,sem,…}`: the daemon's limits change, as a write to these files changes the kernel's.
//!
//! A file of these that is opened for writing is a memory file, and noted here by its inode. write(2) to it goes to the daemon at once, and so do
//! streams, whose writes go through a function of ours; both tell what the daemon says. What reaches the memory file in another way (a shell's `echo` after a
//! redirection: libc writes on its own) counts when the descriptor is closed or replaced, or when a program ends to which it was handed as standard output;
//! a mistake in it has no effect, and nobody is told.
#![allow(unsafe_code)] // C functions by name, called through pointers that dlsym gave; streams with functions of ours.

use crate::next::Next;
use libc::{FILE, c_char, c_int, c_void, size_t, ssize_t};
use rustix::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use rustix::fs::{MemfdFlags, memfd_create};
use std::ffi::CStr;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use vshmem_abi::edge;
use vshmem_abi::settings::{FILES, LONGEST, set};
use vshmem_runtime::{Errno, Result, user};
use vshmem_wire::Setting;

/// What the memory files are called before the file's own name.
const NAME: &str = "vshmem-limit:";

// Files that are open, by inode: inode and number of the setting. A few; the oldest is forgotten.

static OPEN: [(AtomicU64, AtomicU32); 16] = [const { (AtomicU64::new(0), AtomicU32::new(0)) }; 16];
static OPENED: AtomicU32 = AtomicU32::new(0);

fn any_open() -> bool {
    OPENED.load(Ordering::Relaxed) != 0
}

fn note(inode: u64, number: usize) {
    let at = OPENED.fetch_add(1, Ordering::Relaxed) as usize % OPEN.len();
    OPEN[at].1.store(number as u32, Ordering::Relaxed);
    OPEN[at].0.store(inode, Ordering::Release);
}

/// A file of memory has no name in any folder.
fn inode(file: c_int) -> Option<u64> {
    if file < 0 {
        return None;
    }
    // SAFETY: a number that is no descriptor makes the call fail.
    let stat = rustix::fs::fstat(unsafe { BorrowedFd::borrow_raw(file) }).ok()?;
    (stat.st_nlink == 0 && stat.st_mode & libc::S_IFMT == libc::S_IFREG).then_some(stat.st_ino)
}

fn setting_of(file: c_int) -> Option<Setting> {
    let inode = inode(file)?;
    let known = OPEN
        .iter()
        .find(|(known, _)| known.load(Ordering::Acquire) == inode)?;
    let number = known.1.load(Ordering::Relaxed) as usize;
    FILES.get(number).map(|(_, setting)| *setting)
}

/// The file opened for writing. As in Linux it is root's alone.
pub(crate) fn open(setting: Setting, close_on_exec: bool) -> Result<OwnedFd> {
    if !rustix::process::geteuid().is_root() {
        return Err(Errno::EACCES);
    }
    let number = FILES.iter().position(|(_, known)| *known == setting);
    let number = number.ok_or(Errno::EINVAL)?;
    let flags = if close_on_exec {
        MemfdFlags::CLOEXEC
    } else {
        MemfdFlags::empty()
    };
    let file = memfd_create(format!("{NAME}{}", FILES[number].0), flags)?;
    note(inode(file.as_raw_fd()).ok_or(Errno::EIO)?, number);
    Ok(file)
}

/// What reached the memory file behind our back counts now. Keeps errno.
#[cold]
fn settle(file: c_int) {
    let Some(setting) = setting_of(file) else { return };
    let before = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    // SAFETY: a descriptor that is open: its inode was just read.
    let borrowed = unsafe { BorrowedFd::borrow_raw(file) };
    let mut text = [0; LONGEST];
    if let Ok(bytes @ 1..) = rustix::io::pread(borrowed, &mut text, 0) {
        let _ = rustix::fs::ftruncate(borrowed, 0);
        if let Err(errno) = set(setting, &text[..bytes]) {
            vshmem_runtime::debug!("a limit was not changed: {errno}");
        }
    }
    edge::set_errno(before);
}

static WRITE: Next = Next::new(c"write");
static CLOSE: Next = Next::new(c"close");
static DUP2: Next = Next::new(c"dup2");
static DUP3: Next = Next::new(c"dup3");

fn missing() -> c_int {
    edge::set_errno(libc::ENOSYS);
    -1
}

#[cold]
fn written(setting: Setting, from: *const c_void, bytes: usize) -> isize {
    edge::call(|| {
        let mut text = [0; LONGEST];
        let text = text.get_mut(..bytes).ok_or(Errno::EINVAL)?;
        // SAFETY: any bytes make bytes.
        unsafe { user::read_all(from.cast::<u8>(), text)? };
        set(setting, text).map(|()| bytes as isize)
    })
}

// Libc's are points of cancellation, which unwinds.
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn write(file: c_int, from: *const c_void, bytes: size_t) -> ssize_t {
    type Function = unsafe extern "C-unwind" fn(c_int, *const c_void, size_t) -> ssize_t;
    if any_open()
        && let Some(setting) = setting_of(file)
    {
        return written(setting, from, bytes);
    }
    // SAFETY: the program's own arguments; dlsym found the function by its name.
    unsafe {
        match std::mem::transmute::<*mut c_void, Option<Function>>(WRITE.address()) {
            Some(next) => next(file, from, bytes),
            None => missing() as ssize_t,
        }
    }
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn close(file: c_int) -> c_int {
    type Function = unsafe extern "C-unwind" fn(c_int) -> c_int;
    if any_open() {
        settle(file);
    }
    // SAFETY: the program's own arguments; dlsym found the function by its name.
    unsafe {
        match std::mem::transmute::<*mut c_void, Option<Function>>(CLOSE.address()) {
            Some(next) => next(file),
            None => missing(),
        }
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn dup2(old: c_int, new: c_int) -> c_int {
    type Function = unsafe extern "C" fn(c_int, c_int) -> c_int;
    if any_open() {
        settle(new);
    }
    // SAFETY: the program's own arguments; dlsym found the function by its name.
    unsafe {
        match std::mem::transmute::<*mut c_void, Option<Function>>(DUP2.address()) {
            Some(next) => next(old, new),
            None => missing(),
        }
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn dup3(old: c_int, new: c_int, flags: c_int) -> c_int {
    type Function = unsafe extern "C" fn(c_int, c_int, c_int) -> c_int;
    if any_open() {
        settle(new);
    }
    // SAFETY: the program's own arguments; dlsym found the function by its name.
    unsafe {
        match std::mem::transmute::<*mut c_void, Option<Function>>(DUP3.address()) {
            Some(next) => next(old, new, flags),
            None => missing(),
        }
    }
}

// A program that was executed with such a file as its standard output.

extern "C" fn at_start() {
    if let Some(inode) = inode(libc::STDOUT_FILENO)
        && let Ok(name) = std::fs::read_link("/proc/self/fd/1")
        && let Some(name) = name.to_str().and_then(|name| name.strip_prefix("/memfd:"))
        && let Some(name) = name.strip_prefix(NAME)
        && let Some(name) = name.split(' ').next()
        && let Some(number) = FILES.iter().position(|(known, _)| *known == name)
    {
        note(inode, number);
        // Many programs close their standard output before they end.
        // SAFETY: standard output was found to be open.
        let output = unsafe { BorrowedFd::borrow_raw(libc::STDOUT_FILENO) };
        if let Ok(kept) = rustix::io::fcntl_dupfd_cloexec(output, 256) {
            OUTPUT.store(kept.into_raw_fd(), Ordering::Relaxed);
        }
    }
}

/// Standard output, if it is such a file.
static OUTPUT: AtomicI32 = AtomicI32::new(-1);

extern "C" fn at_end() {
    if any_open() {
        settle(OUTPUT.load(Ordering::Relaxed));
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = at_start;
#[used]
#[unsafe(link_section = ".fini_array")]
static AT_END: extern "C" fn() = at_end;

// Streams.

#[repr(C)]
struct Functions {
    read: Option<unsafe extern "C" fn(*mut c_void, *mut c_char, size_t) -> ssize_t>,
    write: Option<unsafe extern "C" fn(*mut c_void, *const c_char, size_t) -> ssize_t>,
    seek: Option<unsafe extern "C" fn(*mut c_void, *mut i64, c_int) -> c_int>,
    close: Option<unsafe extern "C" fn(*mut c_void) -> c_int>,
}

unsafe extern "C" {
    fn fopencookie(cookie: *mut c_void, mode: *const c_char, functions: Functions) -> *mut FILE;
}

/// The cookie is the number of the setting.
unsafe extern "C" fn stream_write(cookie: *mut c_void, from: *const c_char, bytes: size_t) -> ssize_t {
    match FILES.get(cookie as usize) {
        Some((_, setting)) => written(*setting, from.cast(), bytes),
        None => -1,
    }
}

/// Whether a stream's mode is for writing.
pub(crate) fn writes(mode: &CStr) -> bool {
    mode.to_bytes().iter().any(|byte| b"wa+".contains(byte))
}

/// The file as a stream for writing.
pub(crate) fn stream(setting: Setting, mode: &CStr) -> *mut FILE {
    let number = FILES.iter().position(|(_, known)| *known == setting);
    if !rustix::process::geteuid().is_root() || number.is_none() {
        edge::set_errno(libc::EACCES);
        return std::ptr::null_mut();
    }
    let functions = Functions {
        read: None,
        write: Some(stream_write),
        seek: None,
        close: None,
    };
    // SAFETY: the cookie is a number; the functions live for ever.
    unsafe {
        fopencookie(
            std::ptr::without_provenance_mut(number.unwrap_or(0)),
            mode.as_ptr(),
            functions,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_known_by_letter() {
        assert!(writes(c"w") && writes(c"r+") && writes(c"ae") && !writes(c"rce"));
    }
}
