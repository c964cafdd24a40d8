//! The edge between C and Rust: results, panics, pointers.
#![allow(unsafe_code)]
// errno is a C variable; programs hand raw pointers in.
// Whether a program's structure is where it says is the program's promise, made to an `extern "C"` function; every call of this crate passes
// it on, and marking each of them unsafe would say nothing that C's signatures do not.
#![allow(clippy::not_unsafe_ptr_arg_deref)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use vshmem_runtime::{Errno, Result};

/// Pointers below are nobody's memory.
const LOWEST: usize = 4096;
/// End of what a program of this processor can map.
const HIGHEST: usize = 0x7fff_ffff_f000;

/// Sets errno.
pub fn set_errno(errno: i32) {
    // SAFETY: the address of this thread's errno.
    unsafe { *libc::__errno_location() = errno };
}

/// Runs a call's body; gives what C expects: the value, or -1 with errno. A panic does not leave it.
#[inline(always)]
pub fn call(work: impl FnOnce() -> Result<isize>) -> isize {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => value,
        Ok(Err(errno)) => {
            set_errno(errno.0);
            -1
        }
        Err(_) => {
            set_errno(Errno::EIO.0);
            -1
        }
    }
}

/// As [`call`], for calls that give an int.
#[inline(always)]
pub fn call_int(work: impl FnOnce() -> Result<i32>) -> i32 {
    call(|| work().map(|value| value as isize)) as i32
}

/// EFAULT for addresses at which no program has memory: null and its neighbours, and the kernel's half.
#[inline(always)]
pub fn pointer<T>(at: *const T) -> Result<()> {
    let at = at as usize;
    if (LOWEST..HIGHEST).contains(&at) {
        Ok(())
    } else {
        Err(Errno::EFAULT)
    }
}

/// Reads a structure of the program.
pub fn read<T: Copy>(at: *const T) -> Result<T> {
    pointer(at)?;
    // SAFETY: the program says that its structure is there; unaligned, in case it is.
    Ok(unsafe { at.read_unaligned() })
}

/// Writes a structure to where the program wants it.
pub fn write<T: Copy>(at: *mut T, value: T) -> Result<()> {
    pointer(at)?;
    // SAFETY: the program says that it has room for the structure there.
    unsafe { at.write_unaligned(value) };
    Ok(())
}
