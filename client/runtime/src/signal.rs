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
//!
//! SIGSEGV and SIGBUS always come here once [`guard`] was called, whatever the program does about them: a fault on a pointer that the program handed to
//! a System V call ends in EFAULT ([`crate::user`]). Of that the program sees nothing: asked for its action it hears what it set, its handler is called for
//! its own faults, and where it has none [`as_without_handler`] lets happen what the kernel would do.
#![allow(unsafe_code)] // Works on signal contexts and calls handlers through pointers.

use crate::raw::call4;
use crate::thread::{self, Faults, Thread};
use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};

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
/// Whether SIGSEGV and SIGBUS come here whatever the program wants.
static GUARDING: AtomicBool = AtomicBool::new(false);

struct Saved(UnsafeCell<u64>);
thread_local! {
    /// The signal mask to restore at the section's end.
    static SAVED: Saved = const { Saved(UnsafeCell::new(0)) };
}

struct Sent(UnsafeCell<[Option<libc::siginfo_t>; 2]>);
thread_local! {
    /// A SIGSEGV and a SIGBUS that somebody sent while they were let through for an access.
    static SENT: Sent = const { Sent(UnsafeCell::new([None, None])) };
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

/// The faults that a wrong pointer brings about.
const GUARDED: u64 = bit(libc::SIGSEGV) | bit(libc::SIGBUS);

/// From the process's first use on, faults on the program's pointers shall be caught. `real` is libc's sigaction(2), which nobody replaces.
pub fn guard(real: Sigaction) {
    REAL.store(real as usize, Ordering::Relaxed);
}

/// The first use: if [`guard`] was called, takes SIGSEGV and SIGBUS over.
pub(crate) fn begin() {
    let Some(real) = real() else { return };
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: plain structures that live through the calls; the handler is one.
        unsafe {
            let mut found: libc::sigaction = std::mem::zeroed();
            if real(signal, std::ptr::null(), &raw mut found) < 0 {
                return;
            }
            if found.sa_sigaction != on_signal as *const () as usize {
                GUARDING.store(true, Ordering::Relaxed);
                set(real, signal, &raw const found, std::ptr::null_mut());
            }
        }
    }
    GUARDING.store(true, Ordering::Relaxed);
}

fn real() -> Option<Sigaction> {
    // SAFETY: null, which is None, or a function of this type.
    unsafe { std::mem::transmute(REAL.load(Ordering::Relaxed)) }
}

/// Whether faults on the program's pointers are caught.
pub(crate) fn guarding() -> bool {
    GUARDING.load(Ordering::Relaxed)
}

/// The program may have changed this thread's signal mask: it is looked at anew before it matters.
pub fn mask_may_have_changed() {
    thread::current().faults.set(Faults::Unknown);
}

fn note_mask(thread: &Thread, mask: u64) {
    let blocked = mask & GUARDED != 0;
    thread
        .faults
        .set(if blocked { Faults::Blocked } else { Faults::Open });
}

/// The thread's mask before it is changed by `mask` as `how` says, or as it is.
fn mask(how: c_int, mask: Option<u64>) -> u64 {
    let mut before = 0u64;
    let mask = mask.as_ref().map_or(0, |mask| std::ptr::from_ref(mask) as usize);
    // SAFETY: reads eight bytes or none, writes eight.
    unsafe {
        call4(
            libc::SYS_rt_sigprocmask,
            how as usize,
            mask,
            &raw mut before as usize,
            8,
        )
    };
    before
}

/// Whether the calling thread blocks a guarded fault.
pub(crate) fn blocks_faults() -> bool {
    mask(libc::SIG_BLOCK, None) & GUARDED != 0
}

/// Lets guarded faults through; gives those that were blocked.
pub(crate) fn let_faults_through() -> u64 {
    mask(libc::SIG_UNBLOCK, Some(GUARDED)) & GUARDED
}

/// Blocks what [`let_faults_through`] gave, and sends again what was sent meanwhile.
pub(crate) fn block_again(blocked: u64) {
    mask(libc::SIG_BLOCK, Some(blocked));
    for (signal, of) in [(libc::SIGSEGV, 0), (libc::SIGBUS, 1)] {
        // SAFETY: this thread's own cells, which its handler writes only while the signals are let through; what is in them is a signal's.
        unsafe {
            if let Some(mut info) = SENT.with(|sent| (*sent.0.get())[of].take()) {
                queue_again(signal, &raw mut info);
            }
        }
    }
}

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
        let keep = guarding() && bit(signal) & GUARDED != 0;
        if new.is_null() || !keep && !is_handler((*new).sa_sigaction) {
            real(signal, new, old)
        } else {
            let mut wrapped = *new;
            if !is_handler(wrapped.sa_sigaction) {
                // The kernel tells no flags and no mask of a program that has no handler to run with them, but keeps them.
                wrapped.sa_flags |= libc::SA_ONSTACK;
            }
            action.handler.store(wrapped.sa_sigaction, Ordering::Relaxed);
            action.flags.store((*new).sa_flags, Ordering::Relaxed);
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
        if bit(signal) & GUARDED != 0 && (caught(info, context) || put_off_fault(thread, signal, info)) {
            return;
        }
        if !thread.inside() || is_fault(signal) {
            return call_handler(thread, signal, info, context);
        }
        let mask = (&raw mut (*context.cast::<libc::ucontext_t>()).uc_sigmask).cast::<u64>();
        SAVED.with(|saved| *saved.0.get() = *mask);
        *mask = !NEVER_BLOCKED;
        thread.put_off.store(1, Ordering::Relaxed);
        crate::futex::leave_wait(context);
        queue_again(signal, info);
    }
}

/// Queues the signal again for this thread, with what came with it.
///
/// # Safety
/// `info` is a signal's.
unsafe fn queue_again(signal: c_int, info: *mut libc::siginfo_t) {
    // SAFETY: promised by the caller.
    unsafe {
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

/// Whether the kernel sent the signal for what the thread did, and no process by kill(2) or the like.
///
/// # Safety
/// `info` is a signal's.
unsafe fn is_the_threads_doing(info: *const libc::siginfo_t) -> bool {
    // SAFETY: promised by the caller.
    unsafe { (*info).si_code > 0 }
}

/// A fault on a pointer of the program, in the copy that is made for that: goes on behind it.
///
/// # Safety
/// The arguments are those of a running signal handler.
unsafe fn caught(info: *const libc::siginfo_t, context: *mut c_void) -> bool {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: promised by the caller; nobody else touches the context of a running handler.
    unsafe {
        let at = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RIP as usize];
        if let Some(landing) = vshmem_words::landing(*at as usize)
            && is_the_threads_doing(info)
        {
            *at = landing as i64;
            return true;
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (info, context);
    false
}

/// Somebody sent a SIGSEGV or SIGBUS that the program blocks, while it is let through for an access: it waits until that is over.
///
/// # Safety
/// `info` is a signal's.
unsafe fn put_off_fault(thread: &Thread, signal: c_int, info: *const libc::siginfo_t) -> bool {
    // SAFETY: promised by the caller.
    unsafe {
        if thread.faults.get() != Faults::Window || is_the_threads_doing(info) {
            return false;
        }
        SENT.with(|sent| (*sent.0.get())[usize::from(signal != libc::SIGSEGV)] = Some(*info));
    }
    true
}

/// A guarded signal that the program ignores or leaves to the kernel.
///
/// # Safety
/// The arguments are those of a running signal handler.
unsafe fn as_without_handler(signal: c_int, handler: usize, info: *mut libc::siginfo_t) {
    // SAFETY: promised by the caller.
    unsafe {
        let own = is_the_threads_doing(info);
        if handler == libc::SIG_IGN && !own {
            return;
        }
        // The kernel ends a process that ignores its own fault. The instruction faults again, this time without a handler; what was sent is sent again.
        to_default(signal);
        if !own {
            queue_again(signal, info);
        }
    }
}

/// Back to the kernel's own action.
fn to_default(signal: c_int) {
    let Some(real) = real() else { return };
    // SAFETY: a plain structure that lives through the call.
    unsafe {
        let mut default: libc::sigaction = std::mem::zeroed();
        default.sa_sigaction = libc::SIG_DFL;
        real(signal, &raw const default, std::ptr::null_mut());
    }
}

/// Calls the program's handler as the kernel would have.
///
/// # Safety
/// The arguments are those of a running signal handler.
unsafe fn call_handler(thread: &Thread, signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let Some(action) = ACTIONS.get(signal as usize) else {
        return;
    };
    let handler = action.handler.load(Ordering::Relaxed);
    let flags = action.flags.load(Ordering::Relaxed);
    if !is_handler(handler) {
        if guarding() && bit(signal) & GUARDED != 0 {
            // SAFETY: promised by the caller.
            unsafe { as_without_handler(signal, handler, info) };
        }
        return;
    }
    // SAFETY: the handler is what the program gave to sigaction.
    unsafe {
        if flags & libc::SA_RESETHAND != 0 {
            if guarding() && bit(signal) & GUARDED != 0 {
                action.handler.store(libc::SIG_DFL, Ordering::Relaxed);
            } else {
                to_default(signal);
            }
        }
        let interrupted = *(&raw const (*context.cast::<libc::ucontext_t>()).uc_sigmask).cast::<u64>();
        let own = if flags & libc::SA_NODEFER != 0 {
            0
        } else {
            bit(signal)
        };
        let during = interrupted | action.mask.load(Ordering::Relaxed) | own;
        change_mask(libc::SIG_SETMASK, during);
        note_mask(thread, during);
        let handler: unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
            std::mem::transmute(handler);
        thread.handle(|| handler(signal, info, context));
        // What the handler made of it is the mask from here on.
        note_mask(
            thread,
            *(&raw const (*context.cast::<libc::ucontext_t>()).uc_sigmask).cast::<u64>(),
        );
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
