//! The C library: `vshmem.h` and `libvshmem.so`, for C programs that want Vshmem without a preload library.
//!
//! Each function is System V's of the same name with `vshmem_` before it: same arguments, same result, same errno. Keys and ids are always
//! Vshmem's; nothing is passed on to the kernel. Not async-signal-safe, unlike the preload library, since a C library does not interpose sigaction.
#![allow(unsafe_code)] // C functions by name; memory of the program.

pub mod team;

use std::ffi::{c_char, c_long, c_void};
use vshmem_abi::{edge, msg, sem, shm};
use vshmem_runtime::{Errno, Runtime, SemBuf};

/// shmget(2).
#[unsafe(no_mangle)]
pub extern "C" fn vshmem_shmget(key: i32, size: usize, flags: i32) -> i32 {
    edge::call_int(|| Runtime::global().shmget(key, size, flags))
}

/// shmat(2).
///
/// # Safety
/// What SHM_REMAP replaces is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vshmem_shmat(id: i32, address: *const c_void, flags: i32) -> *mut c_void {
    // SAFETY: promised by the caller.
    edge::call(|| unsafe { Runtime::global().shmat(id, address, flags) }.map(|at| at as isize)) as *mut c_void
}

/// shmdt(2).
///
/// # Safety
/// The memory is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vshmem_shmdt(address: *const c_void) -> i32 {
    // SAFETY: promised by the caller.
    edge::call_int(|| unsafe { Runtime::global().shmdt(address) }.map(|()| 0))
}

/// shmctl(2).
///
/// # Safety
/// `argument` is what the command wants.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vshmem_shmctl(id: i32, command: i32, argument: *mut c_void) -> i32 {
    edge::call_int(|| shm::control(id, command, argument))
}

/// semget(2).
#[unsafe(no_mangle)]
pub extern "C" fn vshmem_semget(key: i32, nsems: i32, flags: i32) -> i32 {
    edge::call_int(|| Runtime::global().semget(key, nsems, flags))
}

/// semop(2).
///
/// # Safety
/// `operations` is an array of `count` operations.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vshmem_semop(id: i32, operations: *const SemBuf, count: usize) -> i32 {
    // SAFETY: promised by the caller.
    edge::call_int(|| unsafe { sem::operate(id, operations, count, std::ptr::null()) })
}

/// semtimedop(2).
///
/// # Safety
/// `operations` is an array of `count` operations; `timeout` is null or a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vshmem_semtimedop(
    id: i32,
    operations: *const SemBuf,
    count: usize,
    timeout: *const libc::timespec,
) -> i32 {
    // SAFETY: promised by the caller.
    edge::call_int(|| unsafe { sem::operate(id, operations, count, timeout) })
}

/// semctl(2). In C it is variadic, with a union by value; that arrives where a pointer would.
///
/// # Safety
/// `argument` is what the command wants.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vshmem_semctl(id: i32, num: i32, command: i32, argument: *mut c_void) -> i32 {
    edge::call_int(|| sem::control(id, num, command, argument))
}

/// msgget(2).
#[unsafe(no_mangle)]
pub extern "C" fn vshmem_msgget(key: i32, flags: i32) -> i32 {
    edge::call_int(|| Runtime::global().msgget(key, flags))
}

/// msgsnd(2).
///
/// # Safety
/// At `message` there are a long and `bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vshmem_msgsnd(id: i32, message: *const c_void, bytes: usize, flags: i32) -> i32 {
    // SAFETY: promised by the caller.
    edge::call_int(|| unsafe { msg::send(id, message, bytes, flags) })
}

/// msgrcv(2).
///
/// # Safety
/// At `message` there is room for a long and `bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vshmem_msgrcv(
    id: i32,
    message: *mut c_void,
    bytes: usize,
    msgtyp: c_long,
    flags: i32,
) -> isize {
    // SAFETY: promised by the caller.
    edge::call(|| unsafe { msg::receive(id, message, bytes, msgtyp, flags) })
}

/// msgctl(2).
///
/// # Safety
/// `argument` is what the command wants.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vshmem_msgctl(id: i32, command: i32, argument: *mut c_void) -> i32 {
    edge::call_int(|| msg::control(id, command, argument))
}

/// Writes the name of this process's domain, cut to `bytes` and ended by a zero byte; gives its length, or -1 with errno.
///
/// # Safety
/// There is room for `bytes` bytes at `into`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vshmem_domain(into: *mut c_char, bytes: usize) -> isize {
    edge::call(|| {
        let name = Runtime::global().connect()?.name;
        if bytes == 0 {
            return Err(Errno::EINVAL);
        }
        edge::pointer(into)?;
        let shown = &name.as_bytes()[..name.len().min(bytes - 1)];
        // SAFETY: promised by the caller; `shown` and the zero fit.
        unsafe {
            std::ptr::copy_nonoverlapping(shown.as_ptr(), into.cast(), shown.len());
            into.add(shown.len()).write(0);
        }
        Ok(name.len() as isize)
    })
}
