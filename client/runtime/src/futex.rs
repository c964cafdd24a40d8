//! Futexes, and waits that a put-off signal handler ends without a gap: for a futex, and for an event of an epoll instance.
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
    // (four arguments of the system call, its number, put-off flag) -> result. The call's fifth argument is 0; its sixth is the flag's address, which
    // neither of the two calls made by this looks at.
    "vshmem_wait:",
    "mov r10, rcx",
    "mov eax, r8d",
    "xor r8d, r8d",
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
        first: usize,
        second: usize,
        third: usize,
        timeout: *const libc::timespec,
        number: i32,
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
    let result = unsafe {
        vshmem_wait(
            at as usize,
            FUTEX_WAIT as usize,
            expected as usize,
            &raw const time,
            libc::SYS_futex as i32,
            flag.as_ptr(),
        )
    };
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

/// Waits for an event of the epoll instance `epoll`, at most `timeout`, unless `flag` is or becomes set by a handler of this thread: the event's data, or None
/// when the time is up. A descriptor that is no epoll instance gives an errno, and no harm.
pub(crate) fn wait_for_event(epoll: i32, timeout: Duration, flag: &AtomicU32) -> Result<Option<u64>, i32> {
    let time = libc::timespec {
        tv_sec: timeout.as_secs() as libc::time_t,
        tv_nsec: timeout.subsec_nanos().into(),
    };
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    let into = (&raw mut event) as usize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the addresses are valid for the call, which writes at most one event, and only if it returns 1.
    let result = unsafe {
        vshmem_wait(
            epoll as usize,
            into,
            1,
            &raw const time,
            libc::SYS_epoll_pwait2 as i32,
            flag.as_ptr(),
        )
    };
    #[cfg(not(target_arch = "x86_64"))]
    let result = if flag.load(std::sync::atomic::Ordering::Relaxed) != 0 {
        -libc::EINTR
    } else {
        // A handler may be put off between the look and the call.
        let most = libc::timespec {
            tv_sec: 0,
            tv_nsec: 10_000_000,
        };
        let time = if timeout > Duration::from_millis(10) {
            most
        } else {
            time
        };
        // SAFETY: as above; the fifth argument, a signal mask, is null.
        unsafe {
            crate::raw::call6(
                libc::SYS_epoll_pwait2,
                epoll as usize,
                into,
                1,
                &raw const time as usize,
                0,
                0,
            ) as i32
        }
    };
    match result {
        0 => Ok(None),
        1 => Ok(Some(event.u64)),
        error => Err(-error),
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
