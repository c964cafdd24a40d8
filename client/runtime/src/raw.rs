//! System calls by number, past libc: its `syscall` is one of the functions that the preload library stands in for.
//!
//! Not for anything that rustix offers.
#![allow(unsafe_code)] // The system call instruction.

/// A system call with up to six arguments; gives what the kernel gives: a negative errno on failure.
///
/// # Safety
/// As for the call that is made.
pub unsafe fn call6(
    number: libc::c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> isize {
    let result: isize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: promised by the caller.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: promised by the caller.
    unsafe {
        core::arch::asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a => result,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
            options(nostack)
        );
    }
    result
}

/// A system call with up to four arguments.
///
/// # Safety
/// As for the call that is made.
pub unsafe fn call4(number: libc::c_long, a: usize, b: usize, c: usize, d: usize) -> isize {
    // SAFETY: promised by the caller.
    unsafe { call6(number, a, b, c, d, 0, 0) }
}
