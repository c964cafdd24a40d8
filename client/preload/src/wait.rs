//! wait(2) and its family: who was told of a child's death finds that child's attachments ended and what it had to undo undone, as under the kernel,
//! where both happen before a parent can know.
//!
//! The daemon notices deaths by itself and before it answers anybody, so one question asked after the child was waited for is enough. Only a process that
//! is a client already asks: another's first call asks anyhow. What is not here: other ways to hear of a death (the end of a pipe, a pidfd).
#![allow(unsafe_code)] // C functions by name, called through pointers that dlsym gave; the caller's structures.

use crate::next::Next;
use libc::{c_int, c_void, id_t, idtype_t, pid_t, rusage, siginfo_t};
use vshmem_abi::edge;
use vshmem_runtime::Runtime;

static WAIT4: Next = Next::new(c"wait4");
static WAITID: Next = Next::new(c"waitid");

/// A child has ended and was waited for: errno stays what it is.
fn settle() {
    // SAFETY: the address of this thread's errno.
    let before = unsafe { *libc::__errno_location() };
    let asked = edge::call_int(|| Runtime::global().settle().map(|()| 0));
    if asked != 0 {
        vshmem_runtime::debug!("whether a child's end was dealt with is not known");
    }
    edge::set_errno(before);
}

/// wait4, with the status where it can be read.
unsafe fn wait_for(pid: pid_t, status: *mut c_int, options: c_int, usage: *mut rusage) -> pid_t {
    type Function = unsafe extern "C" fn(pid_t, *mut c_int, c_int, *mut rusage) -> pid_t;
    let mut own = 0;
    let seen: *mut c_int = if status.is_null() { &raw mut own } else { status };
    // SAFETY: the program's own arguments, or an int of ours; dlsym found the function by its name.
    let ended = unsafe {
        match std::mem::transmute::<*mut c_void, Option<Function>>(WAIT4.address()) {
            Some(next) => next(pid, seen, options, usage),
            None => {
                edge::set_errno(libc::ENOSYS);
                return -1;
            }
        }
    };
    if ended > 0 {
        // SAFETY: the call has just written it.
        let status = unsafe { seen.read() };
        if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
            settle();
        }
    }
    ended
}

#[unsafe(no_mangle)]
unsafe extern "C" fn wait(status: *mut c_int) -> pid_t {
    // SAFETY: as the caller promises.
    unsafe { wait_for(-1, status, 0, std::ptr::null_mut()) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn waitpid(pid: pid_t, status: *mut c_int, options: c_int) -> pid_t {
    // SAFETY: as the caller promises.
    unsafe { wait_for(pid, status, options, std::ptr::null_mut()) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn wait3(status: *mut c_int, options: c_int, usage: *mut rusage) -> pid_t {
    // SAFETY: as the caller promises.
    unsafe { wait_for(-1, status, options, usage) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn wait4(pid: pid_t, status: *mut c_int, options: c_int, usage: *mut rusage) -> pid_t {
    // SAFETY: as the caller promises.
    unsafe { wait_for(pid, status, options, usage) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn waitid(kind: idtype_t, id: id_t, info: *mut siginfo_t, options: c_int) -> c_int {
    type Function = unsafe extern "C" fn(idtype_t, id_t, *mut siginfo_t, c_int) -> c_int;
    // SAFETY: the program's own arguments; dlsym found the function by its name.
    let result = unsafe {
        match std::mem::transmute::<*mut c_void, Option<Function>>(WAITID.address()) {
            Some(next) => next(kind, id, info, options),
            None => {
                edge::set_errno(libc::ENOSYS);
                return -1;
            }
        }
    };
    // Without a structure it is not said what has happened to the child: it may be its end. WNOHANG leaves a zero where nothing has.
    let ended = [libc::CLD_EXITED, libc::CLD_KILLED, libc::CLD_DUMPED];
    // SAFETY: the call has just filled it in.
    if result == 0 && (info.is_null() || ended.contains(&unsafe { (*info).si_code })) {
        settle();
    }
    result
}
