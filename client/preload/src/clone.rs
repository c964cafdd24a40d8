//! clone(2), unshare(2) and setns(2), as far as they concern System V IPC: lists of what is to undo that are shared or left, and IPC namespaces.
//!
//! Threads share their process's list anyhow, and a child that has its parent's memory (CLONE_VM) is taken for it. What is left is a child with memory of
//! its own that shares the list (CLONE_SYSVSEM). A new IPC namespace changes nothing about the keys of Vshmem, whose namespace is the group: that is said.
#![allow(unsafe_code)] // C functions by name, called through pointers that dlsym gave; system calls.

use crate::next::Next;
use libc::{CLONE_NEWIPC, CLONE_SETTLS, CLONE_SYSVSEM, CLONE_VM, c_int, c_long, c_void};
use vshmem_abi::edge;
use vshmem_runtime::Runtime;

static UNSHARE: Next = Next::new(c"unshare");
static SETNS: Next = Next::new(c"setns");
static CLONE: Next = Next::new(c"clone");

/// Whether a child made with these flags has memory of its own and shares its parent's list.
fn shares(flags: c_int) -> bool {
    flags & CLONE_SYSVSEM != 0 && flags & (CLONE_VM | CLONE_SETTLS) == 0
}

/// unshare or setns succeeded.
pub(crate) fn left(flags: c_int) {
    if flags & (CLONE_SYSVSEM | CLONE_NEWIPC) != 0
        && let Err(errno) = Runtime::global().leave_undo()
    {
        vshmem_runtime::debug!("what is to undo stays: {errno}");
    }
    if flags & CLONE_NEWIPC != 0 {
        vshmem_runtime::error!(
            "another IPC namespace of the kernel: keys that Vshmem serves stay those of its group (--keys says which those are)"
        );
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn unshare(flags: c_int) -> c_int {
    type Function = unsafe extern "C" fn(c_int) -> c_int;
    // SAFETY: the program's own argument; dlsym found the function by its name.
    let result = unsafe {
        match std::mem::transmute::<*mut c_void, Option<Function>>(UNSHARE.address()) {
            Some(next) => next(flags),
            None => return missing(),
        }
    };
    if result == 0 {
        left(flags);
    }
    result
}

#[unsafe(no_mangle)]
unsafe extern "C" fn setns(file: c_int, kind: c_int) -> c_int {
    type Function = unsafe extern "C" fn(c_int, c_int) -> c_int;
    // SAFETY: the program's own arguments; dlsym found the function by its name.
    let result = unsafe {
        match std::mem::transmute::<*mut c_void, Option<Function>>(SETNS.address()) {
            Some(next) => next(file, kind),
            None => return missing(),
        }
    };
    if result == 0 {
        entered(file, kind);
    }
    result
}

/// setns succeeded: without a kind, the descriptor tells it.
pub(crate) fn entered(file: c_int, kind: c_int) {
    const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
    let kind = match kind {
        // SAFETY: the request takes no argument.
        0 => unsafe { libc::ioctl(file, NS_GET_NSTYPE) },
        kind => kind,
    };
    if kind > 0 && kind & CLONE_NEWIPC != 0 {
        left(CLONE_NEWIPC);
    }
}

fn missing() -> c_int {
    edge::set_errno(libc::ENOSYS);
    -1
}

type Body = extern "C" fn(*mut c_void) -> c_int;

/// What the child of [`clone`] begins with.
struct Start {
    body: Body,
    argument: *mut c_void,
}

extern "C" fn in_child(start: *mut c_void) -> c_int {
    // SAFETY: the child has its own copy of what `clone` put on its stack.
    let (body, argument) = unsafe { ((*start.cast::<Start>()).body, (*start.cast::<Start>()).argument) };
    Runtime::global().forked_sharing();
    body(argument)
}

/// clone(3): libc's has variable arguments, of which the registers hold what the callers give.
#[unsafe(no_mangle)]
unsafe extern "C" fn clone(
    body: Option<Body>,
    stack: *mut c_void,
    flags: c_int,
    argument: *mut c_void,
    parent: *mut c_int,
    tls: *mut c_void,
    child: *mut c_int,
) -> c_int {
    type Function = unsafe extern "C" fn(
        Option<Body>,
        *mut c_void,
        c_int,
        *mut c_void,
        *mut c_int,
        *mut c_void,
        *mut c_int,
    ) -> c_int;
    // SAFETY: dlsym found the function by its name.
    let next = unsafe { std::mem::transmute::<*mut c_void, Option<Function>>(CLONE.address()) };
    let Some(next) = next else { return missing() };
    match body.filter(|_| shares(flags) && !stack.is_null()) {
        // SAFETY: the program's own arguments.
        None => unsafe { next(body, stack, flags, argument, parent, tls, child) },
        Some(body) => {
            let mut start = Start { body, argument };
            let start = (&raw mut start).cast();
            // SAFETY: the program's own arguments, but for a body that calls its one.
            let make = || unsafe { next(Some(in_child), stack, flags, start, parent, tls, child) };
            // The child does not come back here.
            Runtime::global().fork_sharing(|| make() as isize) as c_int
        }
    }
}

/// Whether `syscall(SYS_clone…)` or `syscall(SYS_clone3…)` makes a child that shares its parent's list, and goes on on its parent's stack.
pub(crate) extern "C" fn is_sharing(number: c_long, a: usize, b: usize) -> bool {
    match number {
        libc::SYS_clone => b == 0 && shares(a as c_int),
        libc::SYS_clone3 if b >= 64 => {
            // struct clone_args: flags first, the stack sixth.
            let mut given = [0_i64; 8];
            edge::read_all(std::ptr::with_exposed_provenance::<i64>(a), &mut given).is_ok()
                && given[5] == 0
                && shares(given[0] as c_int)
        }
        _ => false,
    }
}
