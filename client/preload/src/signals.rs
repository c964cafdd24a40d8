//! sigaction(2) and signal(2), so that handlers wait until a section ends: see [`vshmem_runtime::signal`].
#![allow(unsafe_code)] // C functions by name; signal actions.

use libc::{c_int, sighandler_t};
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
