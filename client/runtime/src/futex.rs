//! Futexes, and a wait that a put-off signal handler ends without a gap.
//!
//! The gap: a handler is put off after the caller looked for one and before the kernel sleeps; the sleep would go on although the
//! handler waits. So the last look and the system call are a few instructions of assembly with known addresses, and the signal wrapper, when
//! it finds the thread between them, moves it to the exit ([`leave_wait`]). Where that is not written (other processors), waits are cut
//! short instead: see [`SLICE`].
#![allow(unsafe_code)] // System calls on raw addresses; assembly.

use std::sync::atomic::AtomicU32;
use std::time::Duration;

/// The longest wait in one piece.
pub(crate) const SLICE: Duration = if cfg!(target_arch = "x86_64") {
    Duration::from_millis(250)
} else {
    Duration::from_millis(10)
};

const FUTEX_WAIT: i32 = 0;
const FUTEX_WAKE: i32 = 1;

/// What a wait gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waited {
    /// Woken, or the word has another value.
    Woken,
    /// The time is up.
    TimedOut,
    /// A handler ran or was put off.
    Interrupted,
    /// The kernel cannot wait on this memory (device memory).
    Unfit,
}

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".hidden vshmem_wait",
    ".hidden vshmem_wait_begin",
    ".hidden vshmem_wait_end",
    ".hidden vshmem_wait_cancelled",
    ".globl vshmem_wait, vshmem_wait_begin, vshmem_wait_end, vshmem_wait_cancelled",
    // (address, operation, value, time-out, put-off flag) -> result
    "vshmem_wait:",
    "mov r10, rcx",
    "mov r9, r8",
    "mov eax, 202", // SYS_futex
    "vshmem_wait_begin:",
    "cmp dword ptr [r9], 0",
    "jne vshmem_wait_cancelled",
    "syscall",
    "vshmem_wait_end:",
    "ret",
    "vshmem_wait_cancelled:",
    "mov eax, -4", // -EINTR
    "ret",
);

#[cfg(target_arch = "x86_64")]
unsafe extern "C" {
    fn vshmem_wait(
        at: *const u32,
        operation: i32,
        value: u32,
        timeout: *const libc::timespec,
        flag: *const u32,
    ) -> i32;
    static vshmem_wait_begin: u8;
    static vshmem_wait_end: u8;
    static vshmem_wait_cancelled: u8;
}

/// Waits while the 32-bit word at `at` is `expected`, at most `timeout`, unless `flag` is or becomes set by a handler of this thread.
///
/// # Safety
/// `at` is mapped and aligned to 4. (An address that is not mapped gives [`Waited::Unfit`], no harm.)
pub(crate) unsafe fn wait(at: *const u32, expected: u32, timeout: Duration, flag: &AtomicU32) -> Waited {
    let time = libc::timespec {
        tv_sec: timeout.as_secs() as libc::time_t,
        tv_nsec: timeout.subsec_nanos().into(),
    };
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the addresses are valid for the call; the system call writes nothing.
    let result = unsafe { vshmem_wait(at, FUTEX_WAIT, expected, &raw const time, flag.as_ptr()) };
    #[cfg(not(target_arch = "x86_64"))]
    let result = if flag.load(std::sync::atomic::Ordering::Relaxed) != 0 {
        -libc::EINTR
    } else {
        // SAFETY: as above.
        unsafe {
            crate::raw::call4(
                libc::SYS_futex,
                at as usize,
                FUTEX_WAIT as usize,
                expected as usize,
                &raw const time as usize,
            ) as i32
        }
    };
    match -result {
        libc::ETIMEDOUT => Waited::TimedOut,
        libc::EINTR => Waited::Interrupted,
        libc::EFAULT => Waited::Unfit,
        _ => Waited::Woken,
    }
}

/// Wakes up to `count` waiters on the word at `at`. A word that is not mapped wakes nobody.
pub(crate) fn wake(at: *const u32, count: i32) {
    // SAFETY: waking reads nothing and writes nothing at the address.
    unsafe {
        crate::raw::call4(
            libc::SYS_futex,
            at as usize,
            FUTEX_WAKE as usize,
            count as usize,
            0,
        )
    };
}

/// For the signal wrapper: if the interrupted thread is about to wait, lets it go past.
///
/// # Safety
/// `context` is the third argument of a running signal handler.
pub(crate) unsafe fn leave_wait(context: *mut libc::c_void) {
    #[cfg(target_arch = "x86_64")]
    {
        let context = context.cast::<libc::ucontext_t>();
        // SAFETY: promised by the caller; nobody else touches the context of a running handler.
        unsafe {
            let at = &mut (*context).uc_mcontext.gregs[libc::REG_RIP as usize];
            let begin = &raw const vshmem_wait_begin as i64;
            let end = &raw const vshmem_wait_end as i64;
            if (begin..end).contains(at) {
                *at = &raw const vshmem_wait_cancelled as i64;
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = context;
}
