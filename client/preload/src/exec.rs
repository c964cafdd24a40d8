//! execve(2) and its family: a program that this library will not be in is named on standard error, since its System V calls go to the kernel.
//!
//! Called between fork and exec, after vfork too: no memory is allocated, no lock taken, nothing kept but a word that says that the user was told. The call
//! itself is left as it is: these are jumps, as some of the functions have as many arguments as their caller likes.
#![cfg(target_arch = "x86_64")]
#![allow(unsafe_code)] // Assembly; C functions by name; C strings.

use crate::next::Next;
use libc::{c_char, c_void};
use std::ffi::CStr;
use std::sync::atomic::{AtomicU64, Ordering};

/// Set by `vshmem run --strict`, under which nothing goes unserved.
const STRICT: &CStr = c"VSHMEM_STRICT";
const LIBRARY: &[u8] = b"vshmem_preload";
/// As much of a file as is looked at: ELF programs begin with their program headers.
const HEAD: usize = 2048;
/// What was said, by a number made of it: a process says a thing once, though it starts a program again and again, and few things in all.
static SAID: [AtomicU64; 32] = [const { AtomicU64::new(0) }; 32];

type Strings = *const *const c_char;

/// Why this library will not be in a program.
fn unreached(head: &[u8]) -> Option<&'static [u8]> {
    let number = |at: usize, bytes: usize| {
        let mut all = [0; 8];
        all[..bytes].copy_from_slice(head.get(at..)?.get(..bytes)?);
        usize::try_from(u64::from_le_bytes(all)).ok()
    };
    if !head.starts_with(b"\x7fELF") {
        return None;
    }
    if head.get(4) == Some(&1) {
        return Some(b"is a 32-bit program");
    }
    let (first, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    let mut all_seen = true;
    for i in 0..count {
        let header = first.checked_add(i * size)?;
        let Some(kind) = number(header, 4) else {
            all_seen = false;
            break;
        };
        // PT_INTERP.
        if kind == 3 {
            let (at, bytes) = (number(header + 8, 8)?, number(header + 32, 8)?);
            let linker = head.get(at..)?.get(..bytes)?;
            let glibc = contains(linker, b"/ld-linux")
                || contains(linker, b"/ld64.so")
                || contains(linker, b"/ld.so");
            return (!glibc).then_some(b"is of another C library than glibc");
        }
    }
    all_seen.then_some(b"is statically linked")
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// What a file says of itself; `None` if it cannot be read.
fn look(path: &CStr) -> Option<&'static [u8]> {
    // SAFETY: plain system calls on a descriptor of our own and a buffer of our own.
    unsafe {
        let file = libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK);
        if file < 0 {
            return None;
        }
        let mut head = [0u8; HEAD];
        let got = libc::pread(file, head.as_mut_ptr().cast(), HEAD, 0);
        let mut about: libc::stat = std::mem::zeroed();
        let known = libc::fstat(file, &raw mut about) == 0;
        libc::close(file);
        let why = unreached(head.get(..usize::try_from(got).ok()?)?);
        // A dynamic linker is a program without one.
        if why.is_some() && contains(path.to_bytes(), b"/ld-linux") {
            return None;
        }
        let set_uid = known && about.st_mode & libc::S_ISUID != 0 && about.st_uid != libc::geteuid();
        why.or(set_uid.then_some(b"is set-uid"))
    }
}

/// Whether an environment has this library for the next program.
fn keeps_library(environment: Strings) -> bool {
    let mut at = environment;
    // SAFETY: an array of C strings that ends with null, as the program promised to the function it called.
    unsafe {
        while !at.is_null() && !(*at).is_null() {
            let variable = CStr::from_ptr(*at).to_bytes();
            if variable.starts_with(b"LD_PRELOAD=") && contains(variable, LIBRARY) {
                return true;
            }
            at = at.add(1);
        }
    }
    false
}

/// Whether this is to be said now for the first time.
fn is_new(path: &[u8], why: &[u8]) -> bool {
    // FNV-1a.
    let number = path
        .iter()
        .chain(why)
        .fold(0xcbf2_9ce4_8422_2325u64, |number, byte| {
            (number ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    for known in &SAID {
        match known.compare_exchange(0, number, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return true,
            Err(other) if other == number => return false,
            Err(_) => {}
        }
    }
    false
}

fn say(path: &[u8], why: &[u8]) {
    if !vshmem_runtime::log::says(vshmem_runtime::log::Level::Error) || !is_new(path, why) {
        return;
    }
    let mut line = [0u8; 512];
    let mut bytes = 0;
    let after: &[u8] = b": its System V IPC goes to the kernel; `vshmem run --strict` would serve it\n";
    let path = &path[..path.len().min(300)];
    for part in [b"vshmem: ".as_slice(), path, b" ", why, after] {
        let end = (bytes + part.len()).min(line.len());
        line[bytes..end].copy_from_slice(&part[..end - bytes]);
        bytes = end;
    }
    // SAFETY: a buffer of ours. Nothing can be done if it fails.
    unsafe { libc::write(2, line.as_ptr().cast(), bytes) };
}

/// Calls `look` on a program's file, which execvp(3) finds along PATH if the name has no slash.
unsafe fn find(name: &CStr, searched: bool) -> Option<&'static [u8]> {
    if !searched || name.to_bytes().contains(&b'/') {
        return look(name);
    }
    // SAFETY: a C string, or null.
    let folders = unsafe {
        match libc::getenv(c"PATH".as_ptr()) {
            path if path.is_null() => b"/bin:/usr/bin".as_slice(),
            path => CStr::from_ptr(path).to_bytes(),
        }
    };
    for folder in folders.split(|byte| *byte == b':') {
        let mut path = [0u8; 1024];
        let name = name.to_bytes_with_nul();
        let end = folder.len() + 1 + name.len();
        if end > path.len() {
            continue;
        }
        path[..folder.len()].copy_from_slice(folder);
        path[folder.len()] = b'/';
        path[folder.len() + 1..end].copy_from_slice(name);
        let Ok(path) = CStr::from_bytes_with_nul(&path[..end]) else {
            continue;
        };
        // SAFETY: a C string.
        if unsafe { libc::access(path.as_ptr(), libc::X_OK) } == 0 {
            return look(path);
        }
    }
    None
}

unsafe extern "C" {
    static environ: Strings;
}

unsafe fn check(name: *const c_char, searched: bool, environment: Option<Strings>) {
    // SAFETY: C strings, or null; errno is this thread's.
    unsafe {
        if name.is_null() || !libc::getenv(STRICT.as_ptr()).is_null() {
            return;
        }
        let before = *libc::__errno_location();
        let name = CStr::from_ptr(name);
        let dropped = !keeps_library(environment.unwrap_or(environ));
        if let Some(why) = find(name, searched) {
            say(name.to_bytes(), why);
        } else if dropped {
            say(name.to_bytes(), b"is started without LD_PRELOAD");
        }
        *libc::__errno_location() = before;
    }
}

/// The function named, with a look at its arguments before: where the name, whether it is searched for, where the environment.
macro_rules! looked_at {
    ($($name:ident $text:literal $look:ident ($a:ident $b:ident $c:ident $d:ident $e:ident $f:ident) $file:ident $searched:literal $environment:expr;)*) => {$(
        extern "C" fn $look($a: usize, $b: usize, $c: usize, $d: usize, $e: usize, $f: usize) -> *mut c_void {
            static NEXT: Next = Next::new($text);
            let _ = ($a, $b, $c, $d, $e, $f);
            // SAFETY: the arguments are what the function's caller passed.
            unsafe { check($file as *const c_char, $searched, $environment) };
            NEXT.address()
        }

        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            core::arch::naked_asm!(
                "push rdi",
                "push rsi",
                "push rdx",
                "push rcx",
                "push r8",
                "push r9",
                "push rax", // how many arguments are in vector registers, where there may be any number
                "call {look}",
                "mov r11, rax",
                "pop rax",
                "pop r9",
                "pop r8",
                "pop rcx",
                "pop rdx",
                "pop rsi",
                "pop rdi",
                "jmp r11",
                look = sym $look,
            )
        }
    )*};
}

looked_at! {
    execve c"execve" look_execve (file arguments all d e f) file false Some(all as Strings);
    execv c"execv" look_execv (file arguments c d e f) file false None;
    execvp c"execvp" look_execvp (file arguments c d e f) file true None;
    execvpe c"execvpe" look_execvpe (file arguments all d e f) file true Some(all as Strings);
    execl c"execl" look_execl (file argument c d e f) file false None;
    execlp c"execlp" look_execlp (file argument c d e f) file true None;
    execle c"execle" look_execle (file argument c d e f) file false None;
    posix_spawn c"posix_spawn" look_spawn (pid file actions attributes arguments all) file false Some(all as Strings);
    posix_spawnp c"posix_spawnp" look_spawnp (pid file actions attributes arguments all) file true Some(all as Strings);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_say_what_they_are() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(unreached(&own[..HEAD]), None);
        assert_eq!(unreached(b"#!/bin/sh\n"), None);
        assert_eq!(unreached(b""), None);
        let mut other = own[..HEAD].to_vec();
        other[4] = 1;
        assert_eq!(unreached(&other), Some(b"is a 32-bit program".as_slice()));
        // Without its headers it says nothing of a linker.
        let mut bare = own[..HEAD].to_vec();
        bare[56..58].copy_from_slice(&[0, 0]);
        assert_eq!(unreached(&bare), Some(b"is statically linked".as_slice()));
        // Headers that lie.
        for (at, bytes) in [(32, 8), (54, 2), (56, 2)] {
            let mut lying = own[..HEAD].to_vec();
            lying[at..at + bytes].fill(0xff);
            assert_eq!(unreached(&lying), None);
        }
        assert_eq!(unreached(&own[..40]), None);
    }
}
