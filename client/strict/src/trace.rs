//! A thread held for a moment with ptrace(2), to have it make system calls: what maps a segment must run in the process that wants it.
//!
//! The thread comes out of the call that the supervisor answers, and stops before it is back in its program. There it is made to make other calls with the
//! instruction it has just used, and is let go with the result of the one that it asked for. It hears of no signal meanwhile.
//!
//! | step | the thread | the supervisor |
//! |---|---|---|
//! | 1 | waits for the answer | PTRACE_SEIZE, PTRACE_INTERRUPT, answers |
//! | 2 | stops (PTRACE_EVENT_STOP), which comes before any signal | keeps registers and signal mask, blocks all |
//! | 3 | enters a call: stops; leaves it: stops | as often as needed |
//! | 4 | goes on | registers and mask as they were, but for the result; PTRACE_DETACH |
//!
//! If the supervisor dies in between, the thread's process is killed (PTRACE_O_EXITKILL): it would be somewhere in the middle.
#![allow(unsafe_code)] // ptrace(2), waitpid(2).

use crate::filter;
use crate::notice::{self, Notice};
use libc::{c_uint, c_void, user_regs_struct};
use rustix::fd::BorrowedFd;
use std::ptr;

const EVENT_STOP: i32 = 128;
const SYSCALL_STOP: i32 = libc::SIGTRAP | 0x80;
/// ERESTARTNOHAND: the kernel makes it EINTR if it runs a handler, and otherwise makes the call again. Only for a thread that has a signal to see to.
pub(crate) const AGAIN_WITHOUT_HANDLER: i32 = 514;
/// `syscall`.
const INSTRUCTION: [u8; 2] = [0x0f, 0x05];

/// Why a thread cannot be had, or not any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It is dead or about to be, or has an answer of its own.
    Gone,
    /// Somebody else traces it, or it may not be traced.
    Denied,
}

/// Why a thread has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// At the door of a system call, in either direction.
    Call,
    /// It has made a process.
    Forked,
    /// Because it was asked to.
    Asked,
}

/// By what a supervisor takes hold of its program's threads, and has them make calls that the filter lets through.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pass<'a> {
    /// Where their calls are heard of.
    pub(crate) listener: BorrowedFd<'a>,
    /// The number that the filter knows.
    pub(crate) number: u64,
}

/// A thread that is held.
#[derive(Debug)]
pub(crate) struct Held {
    thread: i32,
    pass: u64,
    registers: user_regs_struct,
    mask: u64,
    /// Signals that came although all are blocked: SIGSTOP.
    late: Vec<i32>,
}

fn ptrace(request: c_uint, thread: i32, address: usize, data: usize) -> Result<(), Trouble> {
    // SAFETY: callers pass addresses of their own structures, or numbers.
    let result = unsafe { libc::ptrace(request, thread, address as *mut c_void, data as *mut c_void) };
    if result >= 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    vshmem_runtime::debug!("thread {thread}: ptrace request {request:x}: {error}");
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EIO) => Err(Trouble::Denied),
        _ => Err(Trouble::Gone),
    }
}

/// Waits until a thread stops.
fn wait(thread: i32, late: &mut Vec<i32>) -> Result<Stop, Trouble> {
    loop {
        let mut status = 0;
        // SAFETY: an int of ours.
        let got = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) };
        if got < 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EINTR) {
            continue;
        }
        if got < 0 || !libc::WIFSTOPPED(status) {
            return Err(Trouble::Gone);
        }
        match (status >> 16, libc::WSTOPSIG(status)) {
            (EVENT_STOP, _) => return Ok(Stop::Asked),
            (libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE, _) => {
                return Ok(Stop::Forked);
            }
            (0, SYSCALL_STOP) => return Ok(Stop::Call),
            (0, signal) => late.push(signal),
            _ => {}
        }
        ptrace(libc::PTRACE_SYSCALL, thread, 0, 0)?;
    }
}

fn registers_of(thread: i32) -> Result<user_regs_struct, Trouble> {
    // SAFETY: all-zero is a valid set of registers; the kernel fills it.
    let mut registers: user_regs_struct = unsafe { std::mem::zeroed() };
    ptrace(libc::PTRACE_GETREGS, thread, 0, &raw mut registers as usize)?;
    Ok(registers)
}

fn set_registers(thread: i32, registers: &user_regs_struct) -> Result<(), Trouble> {
    ptrace(libc::PTRACE_SETREGS, thread, 0, ptr::from_ref(registers) as usize)
}

fn set_mask(thread: i32, mask: u64) -> Result<(), Trouble> {
    ptrace(libc::PTRACE_SETSIGMASK, thread, 8, &raw const mask as usize)
}

/// Lets a thread go, and sends it what it missed.
fn detach(thread: i32, late: &[i32]) {
    let _ = ptrace(libc::PTRACE_DETACH, thread, 0, 0);
    for signal in late {
        // SAFETY: numbers.
        unsafe { libc::syscall(libc::SYS_tkill, thread, *signal) };
    }
}

/// What a call that makes a process came to.
#[derive(Debug)]
pub(crate) enum Forked {
    /// The child, which stands at its beginning until it is let go.
    Child(Box<Child>),
    /// There is none; the thread has its error and is gone on.
    Failed,
}

/// A child that is held, and the thread that made it.
#[derive(Debug)]
pub(crate) struct Child {
    /// Its pid.
    pub(crate) process: i32,
    parent: Held,
}

impl Held {
    /// Takes hold of a thread that waits for an answer, which it thereby gets. `Denied`: it still waits.
    pub(crate) fn take(by: Pass<'_>, notice: &Notice) -> Result<Held, Trouble> {
        let thread = notice.thread;
        let options = libc::PTRACE_O_EXITKILL
            | libc::PTRACE_O_TRACESYSGOOD
            | libc::PTRACE_O_TRACEFORK
            | libc::PTRACE_O_TRACEVFORK
            | libc::PTRACE_O_TRACECLONE;
        ptrace(libc::PTRACE_SEIZE, thread, 0, options as usize)?;
        let asked = ptrace(libc::PTRACE_INTERRUPT, thread, 0, 0);
        // Also if that failed: then it dies.
        notice::answer(by.listener, notice.id, Ok(0));
        asked?;
        let mut late = Vec::new();
        wait(thread, &mut late)?;
        let registers = registers_of(thread)?;
        let mut mask = 0u64;
        ptrace(libc::PTRACE_GETSIGMASK, thread, 8, &raw mut mask as usize)?;
        set_mask(thread, !0)?;
        let held = Held {
            thread,
            pass: by.number,
            registers,
            mask,
            late,
        };
        if !held.has_instruction() {
            vshmem_runtime::error!("thread {thread} has not come by a `syscall` instruction: its call fails");
            held.let_go(-i64::from(libc::ENOSYS));
            return Err(Trouble::Gone);
        }
        Ok(held)
    }

    /// Whether the instruction just used is the one that calls can be made with.
    fn has_instruction(&self) -> bool {
        let mut instruction = [0; 2];
        let before = (self.registers.rip as usize).wrapping_sub(INSTRUCTION.len());
        crate::memory::read(self.thread, before, &mut instruction).is_ok() && instruction == INSTRUCTION
    }

    /// Which thread it is.
    pub(crate) fn thread(&self) -> i32 {
        self.thread
    }

    /// Has the thread begin a call, with the pass: it stops at the call's other side, or where it has made a process.
    fn begin(&mut self, number: i64, arguments: [u64; 6]) -> Result<Stop, Trouble> {
        let mut registers = self.registers;
        let [a, b, c, d, e, f] = filter::with_pass(number, arguments, self.pass);
        registers.rip -= INSTRUCTION.len() as u64;
        registers.rax = number as u64;
        registers.orig_rax = !0;
        (registers.rdi, registers.rsi, registers.rdx) = (a, b, c);
        (registers.r10, registers.r8, registers.r9) = (d, e, f);
        set_registers(self.thread, &registers)?;
        for _ in 0..2 {
            ptrace(libc::PTRACE_SYSCALL, self.thread, 0, 0)?;
            let stop = wait(self.thread, &mut self.late)?;
            if stop == Stop::Forked {
                return Ok(stop);
            }
        }
        Ok(Stop::Call)
    }

    /// Has the thread make a call; gives what the kernel gave.
    pub(crate) fn call(&mut self, number: i64, arguments: [u64; 6]) -> Result<Result<u64, i32>, Trouble> {
        self.begin(number, arguments)?;
        let result = registers_of(self.thread)?.rax as i64;
        Ok(match result {
            -4095..0 => Err(-result as i32),
            _ => Ok(result as u64),
        })
    }

    /// Has the thread make a call that makes a process.
    pub(crate) fn fork(mut self, number: i64, arguments: [u64; 6]) -> Result<Forked, Trouble> {
        let stop = self.begin(number, arguments)?;
        if stop != Stop::Forked {
            let result = registers_of(self.thread)?.rax as i64;
            self.let_go(result);
            return Ok(Forked::Failed);
        }
        let mut child: libc::c_ulong = 0;
        ptrace(libc::PTRACE_GETEVENTMSG, self.thread, 0, &raw mut child as usize)?;
        Ok(Forked::Child(Box::new(Child {
            process: child as i32,
            parent: self,
        })))
    }

    /// Lets the thread see to its signals: if it runs a handler the call that it had asked for gives EINTR, and otherwise it makes that again.
    pub(crate) fn let_go_again(mut self) {
        self.registers.rax = i64::from(-AGAIN_WITHOUT_HANDLER) as u64;
        let _ = set_registers(self.thread, &self.registers);
        let _ = set_mask(self.thread, self.mask);
        detach(self.thread, &self.late);
    }

    /// Lets the thread go on in its program with the result of the call that it had asked for.
    pub(crate) fn let_go(mut self, result: i64) {
        self.registers.rax = result as u64;
        self.registers.orig_rax = !0;
        let _ = set_registers(self.thread, &self.registers);
        let _ = set_mask(self.thread, self.mask);
        detach(self.thread, &self.late);
    }
}

impl Child {
    /// Lets both go on.
    pub(crate) fn let_go(self) {
        let held = self.parent;
        let mut late = Vec::new();
        if wait(self.process, &mut late).is_ok() {
            let _ = as_it_was(self.process, &held);
            detach(self.process, &late);
        }
        let _ = as_it_was(held.thread, &held);
        detach(held.thread, &held.late);
    }
}

/// In a thread that is within a call which makes a process: what the supervisor put there is taken away.
fn as_it_was(thread: i32, held: &Held) -> Result<(), Trouble> {
    let mut registers = registers_of(thread)?;
    registers.r9 = held.registers.r9;
    set_registers(thread, &registers)?;
    set_mask(thread, held.mask)
}
