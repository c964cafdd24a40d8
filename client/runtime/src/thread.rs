//! What a thread carries: its number, its hazard, and whether it is inside a section that no signal handler may interrupt.
//!
//! A *section* is any stretch in which a thread holds, or may hold, a construct's lock or this process's control lock. The signal wrapper
//! (see [`crate::signal`]) puts off handlers until the section ends. Entering and leaving cost a few instructions, no system call.
//!
//! Thread numbers are unique among the living threads of a process, from 1. Each has a cache line in a static table where it publishes
//! which attachment it uses (its *hazard*), so that whoever wants to unmap one can look.
#![allow(unsafe_code)] // A static table is handed out by index, and thread-local cells are read by a signal handler of the same thread.

use crate::bell::{Bell, Spare};
use crate::process;
use crate::user::Scratch;
use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, compiler_fence};

/// Most threads of one process that use Vshmem at the same time.
pub(crate) const MOST: usize = 1 << 15;

#[repr(align(64))]
struct Line {
    hazard: AtomicPtr<()>,
}

static LINES: [Line; MOST] = [const {
    Line {
        hazard: AtomicPtr::new(ptr::null_mut()),
    }
}; MOST];
/// One more than the highest number handed out so far.
static HIGHEST: AtomicU32 = AtomicU32::new(1);

/// A thread's own state.
pub(crate) struct Thread {
    /// Epoch of the process this was set up in; 0 before.
    epoch: Cell<u64>,
    /// As which client its ticket, its bell and its undo list were given: see [`State::clients`](crate::control::State).
    client: Cell<u64>,
    number: Cell<u16>,
    /// Wait page entry, 0 if there is none.
    pub(crate) ticket: Cell<u32>,
    /// The undo list that the thread has for itself; 0 if it uses the process's.
    pub(crate) undo: Cell<u64>,
    /// What it may wait on instead of that entry.
    pub(crate) bell: Bell,
    /// Sections entered and not left.
    depth: Cell<u32>,
    /// Handlers of the program that run, or that it left by longjmp.
    handling: Cell<u32>,
    /// 1 while a handler was put off in the current section. Also read by the waiting code in assembly.
    pub(crate) put_off: AtomicU32,
    /// CPU, as far as known, and how many more times it may be used before it is looked up again.
    pub(crate) place: Cell<u16>,
    pub(crate) place_good_for: Cell<u16>,
    /// Whether faults of this thread reach their handler: see [`crate::user`].
    pub(crate) faults: Cell<Faults>,
    /// Its room for one short text.
    pub(crate) scratch: Scratch,
}

/// What is known of the thread's signal mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Faults {
    /// Nothing: it may have changed.
    Unknown,
    /// SIGSEGV and SIGBUS are let through.
    Open,
    /// One of them is blocked, at least.
    Blocked,
    /// One of them is blocked by the program, and let through for a moment.
    Window,
}

thread_local! {
    static THREAD: Thread = const {
        Thread {
            epoch: Cell::new(0),
            client: Cell::new(0),
            number: Cell::new(0),
            ticket: Cell::new(0),
            undo: Cell::new(0),
            bell: Bell::none(),
            depth: Cell::new(0),
            handling: Cell::new(0),
            put_off: AtomicU32::new(0),
            place: Cell::new(0),
            place_good_for: Cell::new(0),
            faults: Cell::new(Faults::Unknown),
            scratch: Scratch::new(),
        }
    };
}

/// The calling thread. It has no destructor, so it may be used at any time of a thread's life and in signal handlers.
#[inline(always)]
pub(crate) fn current() -> &'static Thread {
    // SAFETY: the value has no destructor and lives as long as its thread; the reference is not `Send` and is only used by this thread.
    THREAD.with(|thread| unsafe { &*ptr::from_ref(thread) })
}

impl Thread {
    /// Whether the thread was set up in this process (and not in the one it was forked from).
    #[inline(always)]
    pub(crate) fn ready(&self) -> bool {
        self.epoch.get() == process::epoch() && self.epoch.get() != 0
    }

    /// Its number, 0 before [`Thread::set_up`].
    #[inline(always)]
    pub(crate) fn number(&self) -> u16 {
        self.number.get()
    }

    /// Gives the thread its number, or after a fork says that it still has it. What the daemon gave it, it keeps unless the process is another client now: the
    /// `clients`th. With the control lock held.
    pub(crate) fn set_up(&self, free: &mut Vec<u16>, clients: u64) {
        if self.number.get() == 0 {
            let number = free.pop().unwrap_or_else(|| {
                let next = HIGHEST.load(Ordering::Relaxed).min(MOST as u32 - 1);
                HIGHEST.store(next + 1, Ordering::Release);
                next as u16
            });
            self.number.set(number);
        }
        if self.client.replace(clients) != clients {
            self.ticket.set(0);
            self.bell.take();
            self.undo.set(0);
        }
        self.place_good_for.set(0);
        self.epoch.set(process::epoch());
    }

    /// The undo list that the thread's operations are noted in.
    #[inline(always)]
    pub(crate) fn list(&self, processs: &AtomicU64) -> u64 {
        match self.undo.get() {
            0 => processs.load(Ordering::Relaxed),
            own => own,
        }
    }

    /// The thread ends: its number, ticket and bell, to be given to others.
    pub(crate) fn tear_down(&self) -> (u16, u32, Option<Spare>) {
        self.epoch.set(0);
        (self.number.replace(0), self.ticket.replace(0), self.bell.take())
    }

    /// Publishes that the thread uses what is at `address`; gives what it used before.
    #[inline(always)]
    pub(crate) fn protect(&self, address: *mut ()) -> *mut () {
        let line = &LINES[self.number.get() as usize % MOST];
        let before = line.hazard.load(Ordering::Relaxed);
        line.hazard.store(address, Ordering::Release);
        // The store must be seen before the caller looks again at where it got the address from. Against the reclaiming thread, which
        // calls membarrier between unpublishing and looking here, keeping the compiler in order is enough.
        compiler_fence(Ordering::SeqCst);
        before
    }

    #[inline(always)]
    pub(crate) fn enter(&self) {
        self.depth.set(self.depth.get() + 1);
        compiler_fence(Ordering::SeqCst);
    }

    #[inline(always)]
    pub(crate) fn leave(&self) {
        compiler_fence(Ordering::SeqCst);
        let depth = self.depth.get() - 1;
        self.depth.set(depth);
        compiler_fence(Ordering::SeqCst);
        if depth == 0 && self.put_off.load(Ordering::Relaxed) != 0 {
            crate::signal::deliver(self);
        }
    }

    /// Runs a handler of the program.
    pub(crate) fn handle(&self, handler: impl FnOnce()) {
        self.handling.set(self.handling.get() + 1);
        handler();
        self.handling.set(self.handling.get().saturating_sub(1));
    }

    /// Whether this may be inside a handler, which may have come in the middle of malloc: no memory of the heap can be had then.
    pub(crate) fn may_be_handling(&self) -> bool {
        self.handling.get() != 0
    }

    /// Whether the thread is inside a section.
    pub(crate) fn inside(&self) -> bool {
        self.depth.get() != 0
    }

    /// In a forked child: the sections of the parent go on here, the handlers put off do too.
    pub(crate) fn interrupted(&self) -> bool {
        self.put_off.load(Ordering::Relaxed) != 0
    }
}

/// Whether any thread uses what is at `address`. The caller has unpublished it and called membarrier since.
pub(crate) fn in_use(address: *mut ()) -> bool {
    let highest = HIGHEST.load(Ordering::Acquire) as usize;
    LINES[..highest.min(MOST)]
        .iter()
        .any(|line| line.hazard.load(Ordering::Acquire) == address)
}

/// In a forked child: the other threads and their hazards are gone.
pub(crate) fn forget_others(own: u16) {
    let highest = HIGHEST.load(Ordering::Acquire) as usize;
    for (number, line) in LINES[..highest.min(MOST)].iter().enumerate() {
        if number != own as usize {
            line.hazard.store(ptr::null_mut(), Ordering::Relaxed);
        }
    }
}

/// The section lasts while this lives.
pub(crate) struct Section(&'static Thread);

impl Section {
    #[inline(always)]
    pub(crate) fn enter(thread: &'static Thread) -> Section {
        thread.enter();
        Section(thread)
    }
}

impl Drop for Section {
    #[inline(always)]
    fn drop(&mut self) {
        self.0.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_thread_keeps_what_it_was_given_until_the_process_is_another_client() {
        let kept = std::thread::spawn(|| {
            let (thread, mut numbers) = (current(), Vec::new());
            thread.set_up(&mut numbers, 1);
            thread.ticket.set(7);
            thread.undo.set(9);
            // The process became another user, which the same client asks for.
            thread.set_up(&mut numbers, 1);
            let user = (thread.ticket.get(), thread.undo.get());
            // A daemon without memory of it, or a fork.
            thread.set_up(&mut numbers, 2);
            let client = (thread.ticket.get(), thread.undo.get());
            thread.epoch.set(0);
            thread.number.set(0);
            (user, client)
        });
        assert_eq!(kept.join().unwrap(), ((7, 9), (0, 0)));
    }

    #[test]
    fn numbers_of_threads_that_ended_are_used_again_whoever_the_process_was_meanwhile() {
        let numbers: BTreeSet<u16> = (0..100)
            .map(|_| {
                let thread = std::thread::spawn(|| {
                    drop(process::lock());
                    process::next_epoch();
                    current().number()
                });
                thread.join().unwrap()
            })
            .collect();
        assert!(numbers.len() < 50, "{numbers:?}");
    }
}
