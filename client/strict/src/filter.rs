//! The seccomp filter: which system calls the supervisor hears of, and putting it on.
//!
//! Everything else, and whatever carries the supervisor's pass, goes on as if there were no filter. The pass is a random number in the sixth
//! argument, which none of these calls uses but mmap, where half of it is in the unused half of the descriptor: with it the supervisor has a program make
//! a call that must reach the kernel. It keeps honest programs honest; it is no fence against a program that wants the kernel's own System V IPC (such
//! a program can have it by other ways too).
//!
//! Calls that map, move or unmap are heard of only where they touch the [window](WINDOW), a part of the address space in which nothing but segments is
//! put: programs make too many of them for each to be passed round.
#![allow(unsafe_code)] // prctl(2), seccomp(2).

use libc::{
    BPF_ABS, BPF_ADD, BPF_ALU, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, c_long,
    sock_filter,
};
use rustix::fd::{FromRawFd, OwnedFd};
use std::io;
use std::mem::offset_of;
use std::ops::Range;

/// Environment variable: with `kernel`, files below /proc are the kernel's, and no open(2) is heard of.
const FILES: &str = "VSHMEM_STRICT_FILES";
/// AUDIT_ARCH_X86_64.
pub(crate) const ARCH_64: u32 = 0xc000_003e;
/// AUDIT_ARCH_I386: `int $0x80`, from 64-bit programs too.
pub(crate) const ARCH_32: u32 = 0x4000_0003;
/// Numbers of the x32 calls have this bit.
pub(crate) const X32: i32 = 0x4000_0000;

/// The calls that are served.
pub(crate) const IPC: [c_long; 12] = [
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmdt,
    libc::SYS_shmctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
];

/// Calls that end what is attached.
pub(crate) const EXEC: [c_long; 2] = [libc::SYS_execve, libc::SYS_execveat];
/// Calls that make a process with memory of its own. (clone without CLONE_VM is one more.)
pub(crate) const FORK: [c_long; 2] = [libc::SYS_fork, libc::SYS_clone3];
/// Calls after which a process may be another user.
pub(crate) const IDENTITY: [c_long; 10] = [
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_capset,
];

/// Calls by which parts of segments may be cut off, moved or protected.
pub(crate) const REMAP: [c_long; 5] = [
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_remap_file_pages,
    libc::SYS_mremap,
    libc::SYS_mmap,
];
/// Where segments are put that may be put anywhere. Below 39 bits, which is all that a guest of User-mode Linux has; whole multiples of 4 GiB.
pub(crate) const WINDOW: Range<u64> = 0x30_0000_0000..0x40_0000_0000;

/// Flags of unshare(2) by which a thread leaves the list of what is to undo.
pub(crate) const LEAVES: i32 = libc::CLONE_SYSVSEM | libc::CLONE_NEWIPC;

/// 32-bit numbers of System V calls: ipc(2), the later ones of their own (393 to 402), semtimedop_time64.
const IPC_32: [u32; 12] = [117, 393, 394, 395, 396, 397, 398, 399, 400, 401, 402, 420];

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
}

fn load(at: usize) -> sock_filter {
    statement(BPF_LD | BPF_W | BPF_ABS, at as u32)
}

fn give(action: u32) -> sock_filter {
    statement(BPF_RET | BPF_K, action)
}

/// Goes on with the next instruction if the test holds, else past the one after it.
fn only_if(test: u32, k: u32) -> sock_filter {
    sock_filter {
        jf: 1,
        ..statement(BPF_JMP | test | BPF_K, k)
    }
}

/// Goes past the next instruction if the test holds.
fn unless(test: u32, k: u32) -> sock_filter {
    sock_filter {
        jt: 1,
        ..statement(BPF_JMP | test | BPF_K, k)
    }
}

/// Offset of the lower half of an argument.
fn argument(number: usize) -> usize {
    offset_of!(libc::seccomp_data, args) + number * 8
}

/// Offset of the upper half of an argument.
fn upper(number: usize) -> usize {
    argument(number) + 4
}

/// Goes on with the next instruction if the test holds, else past so many after it.
fn else_past(test: u32, k: u32, past: usize) -> sock_filter {
    sock_filter {
        jf: past as u8,
        ..statement(BPF_JMP | test | BPF_K, k)
    }
}

/// A random number as a pass: neither half is what honest programs have there.
pub(crate) fn pass_of(random: u64) -> u64 {
    random & !(1 << 63) | 1 << 32
}

/// A call's arguments, with the pass.
pub(crate) fn with_pass(number: i64, mut arguments: [u64; 6], pass: u64) -> [u64; 6] {
    const LOWER: u64 = u32::MAX as u64;
    if number == libc::SYS_mmap {
        arguments[4] = arguments[4] & LOWER | pass & !LOWER;
    } else {
        arguments[5] = pass;
    }
    arguments
}

/// Asks if addresses from the argument `at` on, as many bytes as the argument `bytes` says, may touch the window. Never goes on behind.
fn touches(at: usize, bytes: usize) -> Vec<sock_filter> {
    let (first, after) = ((WINDOW.start >> 32) as u32, (WINDOW.end >> 32) as u32);
    vec![
        load(upper(at)),
        only_if(BPF_JGE, after),
        give(libc::SECCOMP_RET_ALLOW),
        statement(libc::BPF_MISC | libc::BPF_TAX, 0),
        load(upper(bytes)),
        statement(BPF_ALU | BPF_ADD | libc::BPF_X, 0),
        // What the lower halves may carry over.
        statement(BPF_ALU | BPF_ADD | BPF_K, 1),
        only_if(BPF_JGE, first),
        give(libc::SECCOMP_RET_USER_NOTIF),
        give(libc::SECCOMP_RET_ALLOW),
    ]
}

/// What is done with calls that map, move or unmap; goes on behind with all others.
fn remaps(pass: u64) -> Vec<sock_filter> {
    let allow = give(libc::SECCOMP_RET_ALLOW);
    let ranges = touches(0, 1);
    let mut mremap = vec![
        load(argument(3)),
        else_past(BPF_JSET, libc::MREMAP_FIXED as u32, 4),
        load(upper(4)),
        else_past(BPF_JGE, (WINDOW.start >> 32) as u32, 2),
        unless(BPF_JGE, (WINDOW.end >> 32) as u32),
        give(libc::SECCOMP_RET_USER_NOTIF),
    ];
    mremap.extend(ranges.clone());
    let mut mmap = vec![
        load(argument(3)),
        unless(BPF_JSET, libc::MAP_FIXED as u32),
        allow,
        load(upper(4)),
        only_if(BPF_JEQ, (pass >> 32) as u32),
        allow,
    ];
    mmap.extend(ranges.clone());
    let mut all = Vec::new();
    for (number, then) in [
        (libc::SYS_munmap, ranges.clone()),
        (libc::SYS_mprotect, ranges.clone()),
        (libc::SYS_remap_file_pages, ranges),
        (libc::SYS_mremap, mremap),
        (libc::SYS_mmap, mmap),
    ] {
        all.push(else_past(BPF_JEQ, number as u32, then.len()));
        all.extend(then);
    }
    all
}

/// What is done with calls that open files, which are heard of unless they cannot be about a file that is there to be read or written; goes on behind with
/// all others.
fn opens() -> Vec<sock_filter> {
    let allow = give(libc::SECCOMP_RET_ALLOW);
    let ask = give(libc::SECCOMP_RET_USER_NOTIF);
    let mut all = Vec::new();
    for (number, flags) in [(libc::SYS_openat, 2), (libc::SYS_open, 1)] {
        let then = [
            load(argument(flags)),
            only_if(BPF_JSET, (libc::O_DIRECTORY | libc::O_PATH) as u32),
            allow,
            else_past(BPF_JSET, libc::O_CREAT as u32, 2),
            only_if(BPF_JSET, libc::O_EXCL as u32),
            allow,
            ask,
        ];
        all.push(else_past(BPF_JEQ, number as u32, then.len()));
        all.extend(then);
    }
    for number in [libc::SYS_openat2, libc::SYS_creat] {
        all.extend([only_if(BPF_JEQ, number as u32), ask]);
    }
    all
}

/// The filter, for a pass; whether calls that open files are heard of.
fn program(pass: u64, with_opens: bool) -> Vec<sock_filter> {
    const ARCH: usize = offset_of!(libc::seccomp_data, arch);
    const NUMBER: usize = offset_of!(libc::seccomp_data, nr);
    let (allow, ask) = (give(libc::SECCOMP_RET_ALLOW), give(libc::SECCOMP_RET_USER_NOTIF));
    let hears = |number: u32| [only_if(BPF_JEQ, number), ask];
    // 32-bit calls.
    let mut bits_32 = vec![load(NUMBER)];
    bits_32.extend(IPC_32.into_iter().flat_map(hears));
    bits_32.push(allow);
    // Calls with the pass.
    let mut all = vec![
        load(argument(5)),
        sock_filter {
            jf: 3,
            ..statement(BPF_JMP | BPF_JEQ | BPF_K, pass as u32)
        },
        load(argument(5) + 4),
        only_if(BPF_JEQ, (pass >> 32) as u32),
        allow,
    ];
    all.push(load(ARCH));
    all.push(sock_filter {
        jt: 0,
        jf: bits_32.len() as u8,
        ..statement(BPF_JMP | BPF_JEQ | BPF_K, ARCH_32)
    });
    all.extend(bits_32);
    // 64-bit calls; the x32 ones are the same without their bit.
    all.push(load(NUMBER));
    all.push(statement(BPF_ALU | libc::BPF_AND | BPF_K, !X32 as u32));
    let numbers = IPC.iter().chain(&EXEC).chain(&FORK).chain(&IDENTITY);
    all.extend(numbers.flat_map(|number| hears(*number as u32)));
    all.extend(remaps(pass));
    if with_opens {
        all.extend(opens());
    }
    all.extend([
        else_past(BPF_JEQ, libc::SYS_unshare as u32, 4),
        load(argument(0)),
        only_if(BPF_JSET, LEAVES as u32),
        ask,
        allow,
    ]);
    all.extend(hears(libc::SYS_setns as u32));
    all.extend([unless(BPF_JEQ, libc::SYS_clone as u32), allow]);
    all.extend([
        load(argument(0)),
        only_if(BPF_JSET, libc::CLONE_VM as u32),
        allow,
        ask,
    ]);
    all
}

const FLAGS: libc::c_ulong =
    libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;

/// Whether this kernel has what is needed: without a filter it then says EFAULT.
pub(crate) fn is_possible() -> bool {
    // SAFETY: the kernel finds that there is no filter.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            FLAGS,
            std::ptr::null::<libc::sock_fprog>(),
        )
    };
    result == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}

/// Puts the filter on the calling thread and what it will start; gives where its calls are heard of.
pub(crate) fn put_on(pass: u64) -> io::Result<OwnedFd> {
    let mut program = program(
        pass,
        std::env::var_os(FILES).is_none_or(|files| files != "kernel"),
    );
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: plain numbers; a program that lives until after the call.
    unsafe {
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
            return Err(io::Error::last_os_error());
        }
        let made = libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            FLAGS,
            &raw const program,
        );
        if made < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(made as i32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would do with a call.
    fn verdict(program: &[sock_filter], data: &libc::seccomp_data) -> u32 {
        let word = |at: u32| match at as usize {
            0 => data.nr as u32,
            4 => data.arch,
            at if at % 8 == 0 => data.args[(at - 16) / 8] as u32,
            at => (data.args[(at - 20) / 8] >> 32) as u32,
        };
        let (mut at, mut a, mut x) = (0, 0u32, 0u32);
        loop {
            let f = program[at];
            at += 1;
            let code = u32::from(f.code);
            let skip = |holds: bool| usize::from(if holds { f.jt } else { f.jf });
            match code {
                _ if code == BPF_LD | BPF_W | BPF_ABS => a = word(f.k),
                _ if code == BPF_RET | BPF_K => return f.k,
                _ if code == BPF_JMP | BPF_JEQ | BPF_K => at += skip(a == f.k),
                _ if code == BPF_JMP | BPF_JSET | BPF_K => at += skip(a & f.k != 0),
                _ if code == BPF_JMP | BPF_JGE | BPF_K => at += skip(a >= f.k),
                _ if code == libc::BPF_MISC | libc::BPF_TAX => x = a,
                _ if code == BPF_ALU | BPF_ADD | libc::BPF_X => a = a.wrapping_add(x),
                _ if code == BPF_ALU | BPF_ADD | BPF_K => a = a.wrapping_add(f.k),
                _ if code == BPF_ALU | libc::BPF_AND | BPF_K => a &= f.k,
                other => panic!("{other:x}"),
            }
        }
    }

    #[test]
    fn the_calls_meant_are_heard_of_and_no_others() {
        const PASS: u64 = 0x1234_5678_9abc_def0;
        let program = program(PASS, true);
        let call = |arch, nr: c_long, args| libc::seccomp_data {
            nr: nr as i32,
            arch,
            instruction_pointer: 0,
            args,
        };
        let none = [0; 6];
        let heard = |data| match verdict(&program, &data) {
            libc::SECCOMP_RET_USER_NOTIF => true,
            libc::SECCOMP_RET_ALLOW => false,
            other => panic!("{other:x}"),
        };
        for number in IPC.into_iter().chain(EXEC).chain(FORK).chain(IDENTITY) {
            assert!(heard(call(ARCH_64, number, none)), "{number}");
            assert!(heard(call(ARCH_64, number | c_long::from(X32), none)), "{number}");
            assert!(!heard(call(ARCH_64, number, [1, 1, 1, 1, 1, PASS])), "{number}");
            assert!(heard(call(ARCH_64, number, [0, 0, 0, 0, 0, PASS & 0xffff_ffff])));
            assert!(heard(call(ARCH_64, number, [0, 0, 0, 0, 0, PASS ^ 1])));
        }
        for number in [
            libc::SYS_read,
            libc::SYS_mmap,
            libc::SYS_futex,
            libc::SYS_vfork,
            1000,
        ] {
            assert!(!heard(call(ARCH_64, number, none)), "{number}");
        }
        assert!(heard(call(ARCH_64, libc::SYS_clone, none)));
        let threads = [libc::CLONE_VM as u64, 0, 0, 0, 0, 0];
        assert!(!heard(call(ARCH_64, libc::SYS_clone, threads)));
        let opening = |number, flags: i32| {
            let mut arguments = none;
            arguments[if number == libc::SYS_open { 1 } else { 2 }] = flags as u64;
            heard(call(ARCH_64, number, arguments))
        };
        for number in [libc::SYS_open, libc::SYS_openat] {
            assert!(opening(number, libc::O_CLOEXEC) && opening(number, libc::O_WRONLY | libc::O_CREAT));
            assert!(!opening(number, libc::O_PATH) && !opening(number, libc::O_DIRECTORY));
            assert!(!opening(number, libc::O_CREAT | libc::O_EXCL));
        }
        assert!(heard(call(ARCH_64, libc::SYS_openat2, none)) && heard(call(ARCH_64, libc::SYS_creat, none)));
        assert!(heard(call(ARCH_64, libc::SYS_setns, none)));
        let leaving = [LEAVES as u64 | libc::CLONE_FS as u64, 0, 0, 0, 0, 0];
        assert!(heard(call(ARCH_64, libc::SYS_unshare, leaving)));
        let staying = [libc::CLONE_FS as u64, 0, 0, 0, 0, 0];
        assert!(!heard(call(ARCH_64, libc::SYS_unshare, staying)));
        for number in IPC_32 {
            assert!(heard(call(ARCH_32, number.into(), none)), "{number}");
        }
        assert!(!heard(call(ARCH_32, 3, none)));
        assert!(!heard(call(ARCH_32, libc::SYS_shmget, none)));
    }
    #[test]
    fn what_touches_the_window_is_heard_of_and_nothing_else() {
        let pass = pass_of(u64::MAX);
        assert!(pass >> 32 != 0xffff_ffff && pass_of(0) >> 32 != 0);
        let program = program(pass, true);
        let heard = |nr: c_long, args| {
            let data = libc::seccomp_data {
                nr: nr as i32,
                arch: ARCH_64,
                instruction_pointer: 0,
                args,
            };
            verdict(&program, &data) == libc::SECCOMP_RET_USER_NOTIF
        };
        let (inside, behind) = (WINDOW.start + 0x5000, WINDOW.end);
        for number in [libc::SYS_munmap, libc::SYS_mprotect, libc::SYS_remap_file_pages] {
            for (at, bytes, touching) in [
                (inside, 0x1000, true),
                (WINDOW.start - 0x1000, 0x2000, true),
                (0x1000, WINDOW.end, true),
                (0x1000, 0x1000, false),
                (behind, 0x1000, false),
                (0x7f00_0000_0000, 0x10_0000_0000, false),
                (WINDOW.start - 0x5_0000_0000, 0x1000, false),
            ] {
                let arguments = [at, bytes, 0, 0, 0, 0];
                assert_eq!(heard(number, arguments), touching, "{at:x}");
                assert!(!heard(number, with_pass(number, arguments, pass)));
            }
        }
        let fixed = libc::MAP_FIXED as u64 | libc::MAP_ANONYMOUS as u64;
        let mmap = |at, flags| [at, 0x1000, 0, flags, u64::MAX, 0];
        assert!(heard(libc::SYS_mmap, mmap(inside, fixed)));
        assert!(!heard(libc::SYS_mmap, mmap(inside, 0)) && !heard(libc::SYS_mmap, mmap(behind, fixed)));
        let passing = with_pass(libc::SYS_mmap, mmap(inside, fixed), pass);
        assert!(!heard(libc::SYS_mmap, passing) && passing[4] as i32 == -1);
        let move_to = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
        let mremap = |old, flags, new| [old, 0x1000, 0x1000, flags, new, 0];
        assert!(heard(libc::SYS_mremap, mremap(inside, 1, 0)));
        assert!(heard(libc::SYS_mremap, mremap(behind, move_to, inside)));
        assert!(!heard(libc::SYS_mremap, mremap(behind, 1, inside)));
        assert!(!heard(libc::SYS_mremap, mremap(behind, move_to, 0x1000)));
        assert!(!heard(libc::SYS_mremap, mremap(0x1000, 1, 0)));
        assert!(heard(libc::SYS_mremap, mremap(inside, move_to, 0x1000)));
        assert!(heard(libc::SYS_mremap, mremap(inside, move_to, behind)));
    }
}
