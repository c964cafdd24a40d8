//! Signal handlers do not run inside sections.
//!
//! A handler that called semop while its thread holds a set's lock would wait for itself; one that left by longjmp would leave the lock
//! behind. So the preload library puts [`on_signal`] in the place of every handler a program installs (through [`set`]). Outside sections it calls
//! the handler. Inside it does three things and returns: it queues the signal again for this thread, blocks all signals in the context that is
//! returned to, and sets the thread's put-off flag, which ends a spin or a sleep with EINTR. At the section's end [`deliver`] restores the
//! signal mask, upon which the kernel delivers what waits, with its siginfo, mask and stack as ever.
//!
//! The kernel is told to block everything while [`on_signal`] runs, so it is never interrupted by itself, and what it saves is the mask of the thread
//! proper. A handler that is called at once first gets the mask that the program asked for: one system call for each signal.
//!
//! Faults (SIGSEGV and its like) are never put off.
#![allow(unsafe_code)] // Works on signal contexts and calls handlers through pointers.

use crate::raw::call4;
use crate::thread::{self, Thread};
use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};

/// libc's own sigaction(2).
pub type Sigaction = unsafe extern "C" fn(c_int, *const libc::sigaction, *mut libc::sigaction) -> c_int;

const SIGNALS: usize = 65;

/// What the program asked for, by signal.
struct Action {
    handler: AtomicUsize,
    flags: AtomicI32,
    mask: AtomicU64,
}

static ACTIONS: [Action; SIGNALS] = [const {
    Action {
        handler: AtomicUsize::new(0),
        flags: AtomicI32::new(0),
        mask: AtomicU64::new(0),
    }
}; SIGNALS];
static REAL: AtomicUsize = AtomicUsize::new(0);

struct Saved(UnsafeCell<u64>);
thread_local! {
    /// The signal mask to restore at the section's end.
    static SAVED: Saved = const { Saved(UnsafeCell::new(0)) };
}

const fn bit(signal: c_int) -> u64 {
    1 << (signal - 1)
}
/// Faults, and the two signals that libc keeps for itself.
const NEVER_BLOCKED: u64 = bit(libc::SIGSEGV)
    | bit(libc::SIGBUS)
    | bit(libc::SIGFPE)
    | bit(libc::SIGILL)
    | bit(libc::SIGTRAP)
    | bit(32)
    | bit(33);

/// sigaction(2), with [`on_signal`] between the kernel and the handler. `real` is libc's.
///
/// # Safety
/// As for sigaction(2).
pub unsafe fn set(
    real: Sigaction,
    signal: c_int,
    new: *const libc::sigaction,
    old: *mut libc::sigaction,
) -> c_int {
    REAL.store(real as usize, Ordering::Relaxed);
    let Some(action) = usize::try_from(signal).ok().and_then(|s| ACTIONS.get(s)) else {
        // SAFETY: promised by the caller.
        return unsafe { real(signal, new, old) };
    };
    let (handler, flags, mask) = (
        action.handler.load(Ordering::Relaxed),
        action.flags.load(Ordering::Relaxed),
        action.mask.load(Ordering::Relaxed),
    );
    // SAFETY: promised by the caller; a null `new` only asks.
    let result = unsafe {
        if new.is_null() || !is_handler((*new).sa_sigaction) {
            real(signal, new, old)
        } else {
            let mut wrapped = *new;
            action.handler.store(wrapped.sa_sigaction, Ordering::Relaxed);
            action.flags.store(wrapped.sa_flags, Ordering::Relaxed);
            let mask = (&raw mut wrapped.sa_mask).cast::<u64>();
            action.mask.store(*mask, Ordering::Relaxed);
            *mask = !NEVER_BLOCKED;
            wrapped.sa_sigaction = on_signal as *const () as usize;
            wrapped.sa_flags = wrapped.sa_flags & !(libc::SA_RESETHAND | libc::SA_NODEFER) | libc::SA_SIGINFO;
            real(signal, &raw const wrapped, old)
        }
    };
    // SAFETY: libc has filled `old`, if there is one.
    unsafe {
        if result == 0 && !old.is_null() && (*old).sa_sigaction == on_signal as *const () as usize {
            (*old).sa_sigaction = handler;
            (*old).sa_flags = flags;
            *(&raw mut (*old).sa_mask).cast::<u64>() = mask;
        }
    }
    result
}

fn is_handler(handler: libc::sighandler_t) -> bool {
    handler != libc::SIG_DFL && handler != libc::SIG_IGN && handler != on_signal as *const () as usize
}

/// Whether the signal is for faults. Those are never put off, not even when somebody sends one: they cannot be blocked.
fn is_fault(signal: c_int) -> bool {
    bit(signal) & NEVER_BLOCKED != 0
}

unsafe extern "C" fn on_signal(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let thread = thread::current();
    // SAFETY: the kernel calls with valid pointers.
    unsafe {
        if !thread.inside() || is_fault(signal) {
            return call_handler(signal, info, context);
        }
        let mask = (&raw mut (*context.cast::<libc::ucontext_t>()).uc_sigmask).cast::<u64>();
        SAVED.with(|saved| *saved.0.get() = *mask);
        *mask = !NEVER_BLOCKED;
        thread.put_off.store(1, Ordering::Relaxed);
        crate::futex::leave_wait(context);
        let process = call4(libc::SYS_getpid, 0, 0, 0, 0);
        let id = call4(libc::SYS_gettid, 0, 0, 0, 0);
        call4(
            libc::SYS_rt_tgsigqueueinfo,
            process as usize,
            id as usize,
            signal as usize,
            info as usize,
        );
    }
}

/// Calls the program's handler as the kernel would have.
///
/// # Safety
/// The arguments are those of a running signal handler.
unsafe fn call_handler(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let Some(action) = ACTIONS.get(signal as usize) else {
        return;
    };
    let handler = action.handler.load(Ordering::Relaxed);
    let flags = action.flags.load(Ordering::Relaxed);
    if !is_handler(handler) || handler == 0 {
        return;
    }
    // SAFETY: the handler is what the program gave to sigaction; REAL is set since ACTIONS is.
    unsafe {
        if flags & libc::SA_RESETHAND != 0 {
            let real: Option<Sigaction> = std::mem::transmute(REAL.load(Ordering::Relaxed));
            let mut default: libc::sigaction = std::mem::zeroed();
            default.sa_sigaction = libc::SIG_DFL;
            if let Some(real) = real {
                real(signal, &raw const default, std::ptr::null_mut());
            }
        }
        let interrupted = *(&raw const (*context.cast::<libc::ucontext_t>()).uc_sigmask).cast::<u64>();
        let own = if flags & libc::SA_NODEFER != 0 {
            0
        } else {
            bit(signal)
        };
        change_mask(
            libc::SIG_SETMASK,
            interrupted | action.mask.load(Ordering::Relaxed) | own,
        );
        let handler: unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
            std::mem::transmute(handler);
        handler(signal, info, context);
    }
}

fn change_mask(how: c_int, mask: u64) {
    // SAFETY: reads eight bytes at the address given; no old mask is asked for.
    unsafe {
        call4(
            libc::SYS_rt_sigprocmask,
            how as usize,
            &raw const mask as usize,
            0,
            8,
        )
    };
}

/// The section has ended and handlers were put off: lets the kernel deliver them, before this returns.
#[cold]
pub(crate) fn deliver(thread: &Thread) {
    // SAFETY: this thread's own cell; all signals that could write it are blocked since the flag was set.
    let mask = SAVED.with(|saved| unsafe { *saved.0.get() });
    thread.put_off.store(0, Ordering::Relaxed);
    change_mask(libc::SIG_SETMASK, mask);
}
