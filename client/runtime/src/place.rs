//! Where a thread runs, without a system call: a 12-bit number that is equal for two callers only if they share a CPU.
//!
//! The kernel keeps the CPU's number in the thread's rseq area, where glibc 2.35 and later registers one. Else on x86-64 it is in a register
//! that `rdtscp` reads; in a guest whose kernel is a process of the host (UML) that is even the host's number, which is the one that
//! counts. A guest's own numbers mean nothing to others, so they are combined with the domain's.
#![allow(unsafe_code)] // Reads the rseq area at an address that libc tells, and two registers.

use std::sync::atomic::{AtomicIsize, Ordering};
use vshmem_ipc::Me;

/// Offset of the rseq area from the thread pointer; `NONE` if there is none; `UNKNOWN` before the first look.
static RSEQ: AtomicIsize = AtomicIsize::new(UNKNOWN);
const UNKNOWN: isize = isize::MIN;
const NONE: isize = isize::MAX;

/// Looks up the rseq area. Not for signal handlers.
pub(crate) fn prepare() {
    // SAFETY: the two names are data symbols of libc: a ptrdiff_t and an unsigned int, constant after start-up.
    let offset = unsafe {
        let offset = libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_offset".as_ptr()).cast::<isize>();
        let size = libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_size".as_ptr()).cast::<u32>();
        if offset.is_null() || size.is_null() || *size == 0 {
            NONE
        } else {
            *offset
        }
    };
    RSEQ.store(offset, Ordering::Relaxed);
}

/// The CPU's number by the rseq area.
fn by_rseq() -> Option<u32> {
    let offset = RSEQ.load(Ordering::Relaxed);
    if offset == NONE || offset == UNKNOWN {
        return None;
    }
    let pointer: usize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: on x86-64 the thread pointer is stored at the address it points to.
    unsafe {
        core::arch::asm!("mov {}, qword ptr fs:[0]", out(reg) pointer, options(nostack, preserves_flags, readonly));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: reads a register.
    unsafe {
        core::arch::asm!("mrs {}, tpidr_el0", out(reg) pointer, options(nostack, preserves_flags, nomem));
    }
    // SAFETY: libc says that the thread's rseq area is there: the field at 4 is `cpu_id`, written by the kernel.
    let cpu = unsafe { ((pointer.wrapping_add_signed(offset) + 4) as *const u32).read_volatile() };
    (cpu < 1 << 16).then_some(cpu)
}

#[cfg(target_arch = "x86_64")]
fn by_register() -> Option<u32> {
    let mut value = 0;
    // SAFETY: every x86-64 processor of the last fifteen years has the instruction.
    unsafe { core::arch::x86_64::__rdtscp(&mut value) };
    Some(value & 0xfff)
}

#[cfg(not(target_arch = "x86_64"))]
fn by_register() -> Option<u32> {
    None
}

/// Where the calling thread is now, for a caller in `space` and `domain`.
pub(crate) fn now(space: u16, domain: u16) -> u16 {
    let number = if space == 0 {
        by_rseq().or_else(by_register).map(|cpu| cpu & 0x7ff)
    } else if let Some(cpu) = by_rseq() {
        Some(0x800 | (u32::from(domain) << 5 ^ cpu) & 0x7ff)
    } else {
        by_register().map(|cpu| cpu & 0x7ff)
    };
    match number {
        Some(number) if number as u16 != Me::NOWHERE => number as u16,
        _ => Me::NOWHERE,
    }
}

/// A counter that grows steadily: the time stamp counter, or its like.
#[inline(always)]
pub(crate) fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: reads a register.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
    #[cfg(target_arch = "aarch64")]
    {
        let value: u64;
        // SAFETY: reads a register that Linux lets user programs read.
        unsafe {
            core::arch::asm!("mrs {}, cntvct_el0", out(reg) value, options(nostack, nomem, preserves_flags))
        };
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_the_cpu_that_the_thread_is_bound_to() {
        prepare();
        let mut set = rustix::thread::sched_getaffinity(None).unwrap();
        let cpu = (0..512).find(|&cpu| set.is_set(cpu)).unwrap();
        set.clear();
        set.set(cpu);
        rustix::thread::sched_setaffinity(None, &set).unwrap();
        assert_eq!(now(0, 0) as usize, cpu & 0x7ff);
    }
}
