//! The edge between C and Rust: results, panics, pointers.
#![allow(unsafe_code)]
// errno is a C variable; programs hand raw pointers in.
// Whether a program's structure is where it says is the program's promise, made to an `extern "C"` function; every call of this crate passes
// it on, and marking each of them unsafe would say nothing that C's signatures do not.
#![allow(clippy::not_unsafe_ptr_arg_deref)]

use crate::layouts::{Msginfo, MsqidDs, SemidDs, Seminfo, ShmInfo, ShmidDs, Shminfo};
use std::panic::{AssertUnwindSafe, catch_unwind};
use vshmem_runtime::{Errno, Result, SemBuf, user};

pub use vshmem_runtime::user::pointer;

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

/// Structures that the calls take and give: any bytes make one, and none of its bytes are padding.
///
/// # Safety
/// As it says.
pub unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($what:ty)*) => {$(
        // SAFETY: numbers side by side, without a gap.
        unsafe impl Plain for $what {}
    )*};
}
plain! { u8 u16 i64 libc::timespec SemBuf ShmidDs SemidDs MsqidDs Shminfo ShmInfo Seminfo Msginfo }

/// Reads a structure of the program. EFAULT if there is none.
#[inline(always)]
pub fn read<T: Plain>(at: *const T) -> Result<T> {
    // SAFETY: any bytes make a `Plain`.
    unsafe { user::read(at) }
}

/// Reads as many as fit into `into`.
#[inline(always)]
pub fn read_all<T: Plain>(at: *const T, into: &mut [T]) -> Result<()> {
    // SAFETY: any bytes make a `Plain`.
    unsafe { user::read_all(at, into) }
}

/// Writes a structure to where the program wants it. EFAULT if that cannot be.
#[inline(always)]
pub fn write<T: Plain>(at: *mut T, value: T) -> Result<()> {
    write_all(at, &[value])
}

/// Writes several, one after another.
#[inline(always)]
pub fn write_all<T: Plain>(at: *mut T, values: &[T]) -> Result<()> {
    // SAFETY: a `Plain` has no padding; what is overwritten is the program's to say.
    unsafe { user::write_all(at, values) }
}
