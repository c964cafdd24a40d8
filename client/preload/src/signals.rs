//! sigaction(2) and signal(2), so that handlers wait until a section ends; and what changes a thread's signal mask, which is noted:
//! see [`vshmem_runtime::signal`].
#![allow(unsafe_code)] // C functions by name; signal actions; assembly.

use crate::next::Next;
use libc::{c_int, sighandler_t, sigset_t, ucontext_t};
use vshmem_abi::edge;
use vshmem_runtime::signal;

unsafe extern "C" {
    /// libc's sigaction by its other name, which nobody replaces.
    fn __sigaction(number: c_int, new: *const libc::sigaction, old: *mut libc::sigaction) -> c_int;
}

#[unsafe(no_mangle)]
unsafe extern "C" fn sigaction(
    number: c_int,
    new: *const libc::sigaction,
    old: *mut libc::sigaction,
) -> c_int {
    // SAFETY: the program's own arguments.
    unsafe { signal::set(__sigaction, number, new, old) }
}

/// signal(2) by way of sigaction(2).
fn install(number: c_int, handler: sighandler_t, flags: c_int) -> sighandler_t {
    if handler == libc::SIG_ERR {
        edge::set_errno(libc::EINVAL);
        return libc::SIG_ERR;
    }
    // SAFETY: both structures are plain data and live through the call.
    unsafe {
        let mut new: libc::sigaction = std::mem::zeroed();
        let mut old: libc::sigaction = std::mem::zeroed();
        new.sa_sigaction = handler;
        new.sa_flags = flags;
        if flags & libc::SA_NODEFER == 0 {
            libc::sigaddset(&raw mut new.sa_mask, number);
        }
        if signal::set(__sigaction, number, &raw const new, &raw mut old) < 0 {
            return libc::SIG_ERR;
        }
        old.sa_sigaction
    }
}

#[unsafe(no_mangle)]
extern "C" fn signal(number: c_int, handler: sighandler_t) -> sighandler_t {
    install(number, handler, libc::SA_RESTART)
}

#[unsafe(no_mangle)]
extern "C" fn bsd_signal(number: c_int, handler: sighandler_t) -> sighandler_t {
    install(number, handler, libc::SA_RESTART)
}

#[unsafe(no_mangle)]
extern "C" fn ssignal(number: c_int, handler: sighandler_t) -> sighandler_t {
    install(number, handler, libc::SA_RESTART)
}

#[unsafe(no_mangle)]
extern "C" fn sysv_signal(number: c_int, handler: sighandler_t) -> sighandler_t {
    install(number, handler, libc::SA_RESETHAND | libc::SA_NODEFER)
}

#[unsafe(no_mangle)]
extern "C" fn __sysv_signal(number: c_int, handler: sighandler_t) -> sighandler_t {
    install(number, handler, libc::SA_RESETHAND | libc::SA_NODEFER)
}

// A program that never uses System V IPC keeps its SIGSEGV to itself: only the function is noted when the library is loaded.
#[used]
#[unsafe(link_section = ".init_array")]
static NOTE: extern "C" fn() = {
    extern "C" fn note() {
        signal::guard(__sigaction);
    }
    note
};

macro_rules! changes_mask {
    ($($name:ident $next:ident $text:literal ($($argument:ident: $of:ty),*);)*) => {$(
        static $next: Next = Next::new($text);

        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($argument: $of),*) -> c_int {
            type Function = unsafe extern "C" fn($($of),*) -> c_int;
            // SAFETY: the program's own arguments; dlsym found the function by its name.
            unsafe {
                match std::mem::transmute::<*mut libc::c_void, Option<Function>>($next.address()) {
                    Some(next) => {
                        // Before, for what does not return.
                        signal::mask_may_have_changed();
                        let result = next($($argument),*);
                        signal::mask_may_have_changed();
                        result
                    }
                    None => {
                        edge::set_errno(libc::ENOSYS);
                        -1
                    }
                }
            }
        }
    )*};
}
changes_mask! {
    sigprocmask SIGPROCMASK c"sigprocmask" (how: c_int, new: *const sigset_t, old: *mut sigset_t);
    pthread_sigmask PTHREAD_SIGMASK c"pthread_sigmask" (how: c_int, new: *const sigset_t, old: *mut sigset_t);
    sigsetmask SIGSETMASK c"sigsetmask" (mask: c_int);
    sigblock SIGBLOCK c"sigblock" (mask: c_int);
    sighold SIGHOLD c"sighold" (number: c_int);
    sigrelse SIGRELSE c"sigrelse" (number: c_int);
    swapcontext SWAPCONTEXT c"swapcontext" (from: *mut ucontext_t, to: *const ucontext_t);
    setcontext SETCONTEXT c"setcontext" (to: *const ucontext_t);
}

// Jumps that may restore a mask: libc looks at the stack that it is called on, so these are jumps, too.
macro_rules! jumps {
    ($($name:ident $find:ident $next:ident $text:literal;)*) => {$(
        static $next: Next = Next::new($text);

        extern "C" fn $find() -> *mut libc::c_void {
            signal::mask_may_have_changed();
            $next.address()
        }

        #[cfg(target_arch = "x86_64")]
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            core::arch::naked_asm!(
                "push rdi",
                "push rsi",
                "sub rsp, 8",
                "call {find}",
                "add rsp, 8",
                "pop rsi",
                "pop rdi",
                "jmp rax",
                find = sym $find,
            )
        }
    )*};
}
jumps! {
    longjmp find_longjmp LONGJMP c"longjmp";
    _longjmp find_underscored_longjmp UNDERSCORED_LONGJMP c"_longjmp";
    siglongjmp find_siglongjmp SIGLONGJMP c"siglongjmp";
    __longjmp_chk find_longjmp_chk LONGJMP_CHK c"__longjmp_chk";
}
