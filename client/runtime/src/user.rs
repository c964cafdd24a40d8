//! The program's own memory, at addresses that may be wrong: EFAULT, as from the kernel, and not the end of the process.
//!
//! On the good path an access is a copy and nothing else ([`vshmem_words::Foreign`]). A fault in it is caught by the handler that
//! [`crate::signal`] keeps between the kernel and whatever the program does about SIGSEGV and SIGBUS. A thread that blocks one of these two would be killed
//! by a fault, so for it they are let through during the access: two system calls. Which threads do is remembered in the thread and forgotten
//! whenever something may have changed its mask ([`crate::signal::mask_may_have_changed`]); then the kernel is asked once.
//!
//! No access is made while a construct's lock or the control lock is held.
//!
//! Without the preload library nobody catches faults, and only addresses at which no program has memory give EFAULT.
#![allow(unsafe_code)] // Raw addresses; the signal mask.

use crate::errno::{Errno, Result};
use crate::signal;
use crate::thread::{self, Faults, Thread};
use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use vshmem_ipc::msgq::SHORT;
use vshmem_words::Foreign;

/// Pointers below are nobody's memory.
const LOWEST: usize = 4096;
/// End of what a program of this processor can map.
const HIGHEST: usize = 0x7fff_ffff_f000;

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
///
/// # Safety
/// Any bytes make a `T`.
#[inline(always)]
pub unsafe fn read<T: Copy>(at: *const T) -> Result<T> {
    pointer(at)?;
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: the bytes of `value`, which are initialised.
    let into = unsafe { std::slice::from_raw_parts_mut(value.as_mut_ptr().cast::<u8>(), size_of::<T>()) };
    // SAFETY: the program's memory; only read.
    let foreign = unsafe { Foreign::new(at.cast::<u8>().cast_mut(), size_of::<T>()) };
    access(|| foreign.read(into))?;
    // SAFETY: promised by the caller.
    Ok(unsafe { value.assume_init() })
}

/// Fills `into` from the program's array.
///
/// # Safety
/// Any bytes make a `T`, and it has no padding.
#[inline(always)]
pub unsafe fn read_all<T: Copy>(at: *const T, into: &mut [T]) -> Result<()> {
    pointer(at)?;
    let bytes = size_of_val(into);
    // SAFETY: the same memory as bytes; promised by the caller that any may be put there.
    let into = unsafe { std::slice::from_raw_parts_mut(into.as_mut_ptr().cast::<u8>(), bytes) };
    // SAFETY: the program's memory; only read.
    let foreign = unsafe { Foreign::new(at.cast::<u8>().cast_mut(), bytes) };
    access(|| foreign.read(into))
}

/// Writes to where the program wants it.
///
/// # Safety
/// A `T` has no padding; what is overwritten is the program's to say.
#[inline(always)]
pub unsafe fn write_all<T: Copy>(at: *mut T, from: &[T]) -> Result<()> {
    pointer(at)?;
    let bytes = size_of_val(from);
    // SAFETY: the same memory as bytes; without padding, as promised by the caller.
    let from = unsafe { std::slice::from_raw_parts(from.as_ptr().cast::<u8>(), bytes) };
    // SAFETY: promised by the caller.
    let foreign = unsafe { Foreign::new(at.cast(), bytes) };
    access(|| foreign.write(from))
}

/// EFAULT unless all of it can be read now.
#[inline]
pub(crate) fn readable(memory: Foreign) -> Result<()> {
    access(|| memory.readable())
}

/// Whether faults of this thread are caught without more ado (or by nobody), so that an operation may copy from and to the program's memory itself.
#[inline(always)]
pub(crate) fn directly(thread: &Thread) -> bool {
    look(thread) != Faults::Blocked
}

/// What is known of the thread's mask, after asking if nothing is.
#[inline(always)]
fn look(thread: &Thread) -> Faults {
    match thread.faults.get() {
        Faults::Unknown => ask(thread),
        known => known,
    }
}

#[cold]
fn ask(thread: &Thread) -> Faults {
    let now = match signal::guarding() && signal::blocks_faults() {
        true => Faults::Blocked,
        false => Faults::Open,
    };
    thread.faults.set(now);
    now
}

/// Makes one access, in a window if need be.
#[inline(always)]
pub(crate) fn access(work: impl FnOnce() -> bool) -> Result<()> {
    access_in(thread::current(), work)
}

/// The same for a caller who knows its thread: to ask costs as much as a short copy.
#[inline(always)]
pub(crate) fn access_in(thread: &Thread, work: impl FnOnce() -> bool) -> Result<()> {
    let done = match look(thread) {
        Faults::Blocked => in_window(thread, work),
        _ => work(),
    };
    if done { Ok(()) } else { Err(Errno::EFAULT) }
}

#[cold]
fn in_window(thread: &Thread, work: impl FnOnce() -> bool) -> bool {
    let before = thread.faults.replace(Faults::Window);
    let blocked = signal::let_faults_through();
    let done = work();
    signal::block_again(blocked);
    thread.faults.set(before);
    done
}

/// Room for one short text, in each thread.
pub(crate) struct Scratch(UnsafeCell<[u8; SHORT]>);

impl Scratch {
    pub(crate) const fn new() -> Scratch {
        Scratch(UnsafeCell::new([0; SHORT]))
    }
}

/// Runs `work` with the thread's room for one short text. Inside a section, so that no handler comes in between.
#[inline(always)]
pub(crate) fn with_scratch<T>(thread: &'static Thread, work: impl FnOnce(&mut [u8; SHORT]) -> T) -> T {
    let _section = thread::Section::enter(thread);
    // SAFETY: lives as long as the thread and has no destructor. Nobody else uses it: callers do not nest, and handlers wait until the section ends.
    work(unsafe { &mut *thread.scratch.0.get() })
}
