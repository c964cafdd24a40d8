//! `syscall(SYS_semop, …)`: programs that go past libc's functions.
//!
//! libc's `syscall` is a few instructions, and callers rely on that (a clone through it returns on another stack). So this one is as short: the numbers of
//! System V IPC, and remap_file_pages, go to [`system_v`], those that make the process another user to [`who`], children that share an undo list to [`sharing`], everything else straight to the kernel.
#![allow(unsafe_code)] // Assembly; C functions by name.

use std::ffi::{c_long, c_void};
use vshmem_abi::edge;

#[cfg(target_arch = "x86_64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn syscall() {
    core::arch::naked_asm!(
        "lea rax, [rdi - 29]", // shmget 29, shmat 30, shmctl 31
        "cmp rax, 2",
        "jbe 2f",
        "lea rax, [rdi - 64]", // semget 64, semop, semctl, shmdt, msgget, msgsnd, msgrcv, msgctl 71
        "cmp rax, 7",
        "jbe 2f",
        "cmp rdi, 220", // semtimedop
        "je 2f",
        "cmp rdi, 216", // remap_file_pages
        "je 2f",
        "cmp rdi, 56", // clone
        "je 5f",
        "cmp rdi, 435", // clone3
        "je 5f",
        "cmp rdi, 272", // unshare
        "je 4f",
        "cmp rdi, 308", // setns
        "je 4f",
        "lea rax, [rdi - 105]", // setuid 105 and its family, up to capset 126
        "cmp rax, 21",
        "jbe 4f",
        "6:",
        "mov rax, rdi",
        "mov rdi, rsi",
        "mov rsi, rdx",
        "mov rdx, rcx",
        "mov r10, r8",
        "mov r8, r9",
        "mov r9, [rsp + 8]",
        "syscall",
        "cmp rax, -4095",
        "jae 3f",
        "ret",
        "2:",
        "jmp {system_v}",
        "3:",
        "mov rdi, rax",
        "jmp {failed}",
        "4:",
        "jmp {who}",
        "5:",
        "push rdi",
        "push rsi",
        "push rdx",
        "push rcx",
        "push r8",
        "push r9",
        "sub rsp, 8",
        "call {is_sharing}",
        "add rsp, 8",
        "pop r9",
        "pop r8",
        "pop rcx",
        "pop rdx",
        "pop rsi",
        "pop rdi",
        "test al, al",
        "jz 6b",
        "jmp {sharing}",
        who = sym who,
        is_sharing = sym crate::clone::is_sharing,
        sharing = sym sharing,
        system_v = sym system_v,
        failed = sym failed,
    )
}

unsafe extern "C" {
    // The functions of this library, by the names under which they are exported.
    fn shmget(key: i32, size: usize, flags: i32) -> i32;
    fn shmat(id: i32, address: *const c_void, flags: i32) -> *mut c_void;
    fn shmdt(address: *const c_void) -> i32;
    fn shmctl(id: i32, command: i32, argument: *mut c_void) -> i32;
    fn semget(key: i32, nsems: i32, flags: i32) -> i32;
    fn semop(id: i32, operations: *const c_void, count: usize) -> i32;
    fn semtimedop(id: i32, operations: *const c_void, count: usize, timeout: *const c_void) -> i32;
    fn semctl(id: i32, num: i32, command: i32, argument: *mut c_void) -> i32;
    fn msgget(key: i32, flags: i32) -> i32;
    fn msgsnd(id: i32, message: *const c_void, bytes: usize, flags: i32) -> i32;
    fn msgrcv(id: i32, message: *mut c_void, bytes: usize, msgtyp: c_long, flags: i32) -> isize;
    fn msgctl(id: i32, command: i32, argument: *mut c_void) -> i32;
}

#[cfg(target_arch = "x86_64")]
extern "C" fn failed(result: isize) -> c_long {
    edge::set_errno(-result as i32);
    -1
}

/// A system call about users, by number: made, and if it made the process another one, that is noticed.
#[cfg(target_arch = "x86_64")]
unsafe extern "C" fn who(number: c_long, a: usize, b: usize, c: usize) -> c_long {
    // SAFETY: the program's own call, with its own arguments.
    let result = unsafe { call(number, [a, b, c, 0, 0]) };
    if result < 0 {
        return failed(result);
    }
    match number {
        libc::SYS_unshare => crate::clone::left(a as i32),
        libc::SYS_setns => crate::clone::entered(a as i32, b as i32),
        _ => {}
    }
    let changes = matches!(
        number,
        libc::SYS_setuid
            | libc::SYS_setgid
            | libc::SYS_setreuid
            | libc::SYS_setregid
            | libc::SYS_setgroups
            | libc::SYS_setresuid
            | libc::SYS_setresgid
            | libc::SYS_capset
    );
    if changes {
        crate::identity::changed_by_number();
    }
    result as c_long
}

/// A system call.
///
/// # Safety
/// What it does is the program's wish.
#[cfg(target_arch = "x86_64")]
unsafe fn call(number: c_long, [a, b, c, d, e]: [usize; 5]) -> isize {
    let result: isize;
    // SAFETY: promised by the caller; the kernel changes these registers alone.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            in("r8") e,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// A child that shares its parent's undo list, made by number: on the same stack, with memory of its own, as by fork.
#[cfg(target_arch = "x86_64")]
unsafe extern "C" fn sharing(number: c_long, a: usize, b: usize, c: usize, d: usize, e: usize) -> c_long {
    // SAFETY: the program's own call, with its own arguments.
    let make = || unsafe { call(number, [a, b, c, d, e]) };
    match vshmem_runtime::Runtime::global().fork_sharing(make) {
        result if result < 0 => failed(result),
        result => result as c_long,
    }
}

/// A system call of System V IPC, by number.
#[cfg(target_arch = "x86_64")]
unsafe extern "C" fn system_v(number: c_long, a: usize, b: usize, c: usize, d: usize, e: usize) -> c_long {
    let (a32, b32, c32) = (a as i32, b as i32, c as i32);
    // SAFETY: the program's own arguments, for the call it named.
    unsafe {
        match number {
            libc::SYS_shmget => shmget(a32, b, c32).into(),
            libc::SYS_shmat => shmat(a32, b as *const c_void, c32) as c_long,
            libc::SYS_shmdt => shmdt(a as *const c_void).into(),
            libc::SYS_shmctl => shmctl(a32, b32, c as *mut c_void).into(),
            libc::SYS_semget => semget(a32, b32, c32).into(),
            libc::SYS_semop => semop(a32, b as *const c_void, c32 as u32 as usize).into(),
            libc::SYS_semtimedop => {
                semtimedop(a32, b as *const c_void, c32 as u32 as usize, d as *const c_void).into()
            }
            libc::SYS_semctl => semctl(a32, b32, c32, d as *mut c_void).into(),
            libc::SYS_msgget => msgget(a32, b32).into(),
            libc::SYS_msgsnd => msgsnd(a32, b as *const c_void, c, d as i32).into(),
            libc::SYS_msgrcv => msgrcv(a32, b as *mut c_void, c, d as c_long, e as i32) as c_long,
            libc::SYS_msgctl => msgctl(a32, b32, c as *mut c_void).into(),
            libc::SYS_remap_file_pages => {
                crate::mappings::remap_file_pages(a as *mut c_void, b, c32, d, e as i32).into()
            }
            _ => failed(-(libc::ENOSYS as isize)),
        }
    }
}
