//! The same calls, made to the kernel.
#![allow(unsafe_code)] // System calls with the program's own arguments.

use libc::c_long;
use vshmem_abi::edge;
use vshmem_runtime::raw::call6;

/// Makes the system call with the program's arguments, and gives what libc would.
pub(crate) fn pass(number: c_long, arguments: [usize; 5]) -> isize {
    let [a, b, c, d, e] = arguments;
    // SAFETY: exactly what the program asked for.
    let result = unsafe { call6(number, a, b, c, d, e, 0) };
    if (-4095..0).contains(&result) {
        edge::set_errno(-result as i32);
        return -1;
    }
    result
}
