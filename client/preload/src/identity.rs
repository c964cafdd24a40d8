//! setuid(2) and its family, and capset(2): what was checked for the former user counts no more.
//!
//! The daemon knows who a caller is by its connection, so after a change the runtime connects anew; constructs that are open are asked for again.
#![allow(unsafe_code)] // C functions by name, called through pointers that dlsym gave.

use crate::next::Next;
use libc::{c_char, c_int, c_void, gid_t, size_t, uid_t};
use vshmem_abi::edge;
use vshmem_runtime::Runtime;

/// A system call by number made the process another user.
pub(crate) fn changed_by_number() {
    Runtime::global().identity_changed();
}

fn changed(result: c_int) -> c_int {
    if result == 0 {
        Runtime::global().identity_changed();
    }
    result
}

macro_rules! changes {
    ($($name:ident $next:ident $text:literal ($($argument:ident: $of:ty),*);)*) => {$(
        static $next: Next = Next::new($text);

        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($argument: $of),*) -> c_int {
            type Function = unsafe extern "C" fn($($of),*) -> c_int;
            // SAFETY: the program's own arguments; dlsym found the function by its name.
            unsafe {
                match std::mem::transmute::<*mut libc::c_void, Option<Function>>($next.address()) {
                    Some(next) => changed(next($($argument),*)),
                    None => {
                        edge::set_errno(libc::ENOSYS);
                        -1
                    }
                }
            }
        }
    )*};
}
changes! {
    setuid SETUID c"setuid" (uid: uid_t);
    seteuid SETEUID c"seteuid" (uid: uid_t);
    setreuid SETREUID c"setreuid" (real: uid_t, effective: uid_t);
    setresuid SETRESUID c"setresuid" (real: uid_t, effective: uid_t, saved: uid_t);
    setgid SETGID c"setgid" (gid: gid_t);
    setegid SETEGID c"setegid" (gid: gid_t);
    setregid SETREGID c"setregid" (real: gid_t, effective: gid_t);
    setresgid SETRESGID c"setresgid" (real: gid_t, effective: gid_t, saved: gid_t);
    setgroups SETGROUPS c"setgroups" (count: size_t, groups: *const gid_t);
    initgroups INITGROUPS c"initgroups" (user: *const c_char, group: gid_t);
    capset CAPSET c"capset" (header: *mut c_void, sets: *const c_void);
}
