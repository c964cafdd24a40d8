//! Which process this is: fork noticed with one load, and the control lock.
//!
//! One page of private memory is marked `MADV_WIPEONFORK`: in a child, however it was made (fork, `_Fork`, clone), it is zero. It holds the
//! process's *epoch*, which everything checked under this process carries a copy of, so a single comparison says "checked, and not before a
//! fork"; and the control lock, which is thereby free in a child even if another thread of the parent held it.
//!
//! Lock order: the control lock is taken inside sections (see [`crate::thread`]) and sometimes while a construct's lock is held (a waiter
//! that asks the daemon); whoever holds it takes no construct's lock.
#![allow(unsafe_code)] // A page of memory behind a pointer; handlers given to pthread_atfork.

use crate::control::{self, State};
use crate::thread::{self, Thread};
use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

#[repr(C)]
struct Page {
    epoch: AtomicU64,
    lock: AtomicU32,
}

/// Stands in until the page exists: its epoch is 0 for ever.
static NO_PAGE: Page = Page {
    epoch: AtomicU64::new(0),
    lock: AtomicU32::new(0),
};
static PAGE: AtomicPtr<Page> = AtomicPtr::new((&raw const NO_PAGE).cast_mut());
/// The last epoch given out, in this process or the ones it was forked from.
static LAST: AtomicU64 = AtomicU64::new(0);

struct Guarded(UnsafeCell<State>);
// SAFETY: only reached through `Locked`, which holds the control lock.
unsafe impl Sync for Guarded {}
static STATE: Guarded = Guarded(UnsafeCell::new(State::new()));

fn page() -> &'static Page {
    // SAFETY: points to a static or to a page that is never unmapped.
    unsafe { &*PAGE.load(Ordering::Acquire) }
}

/// The process's epoch; 0 before the first use and after a fork.
#[inline(always)]
pub(crate) fn epoch() -> u64 {
    page().epoch.load(Ordering::Relaxed)
}

/// Whether neither this process nor the ones it was forked from have used Vshmem yet.
pub(crate) fn never_used() -> bool {
    LAST.load(Ordering::Relaxed) == 0
}

/// From now on nothing counts as checked: this process has become another client.
pub(crate) fn next_epoch() {
    let next = LAST.fetch_add(1, Ordering::Relaxed) + 1;
    page().epoch.store(next, Ordering::Release);
}

/// Exclusive use of the process's state, inside a section.
pub(crate) struct Locked {
    pub(crate) thread: &'static Thread,
}

impl Deref for Locked {
    type Target = State;
    fn deref(&self) -> &State {
        // SAFETY: the control lock is held.
        unsafe { &*STATE.0.get() }
    }
}
impl DerefMut for Locked {
    fn deref_mut(&mut self) -> &mut State {
        // SAFETY: the control lock is held.
        unsafe { &mut *STATE.0.get() }
    }
}
impl Drop for Locked {
    fn drop(&mut self) {
        release(&page().lock);
        self.thread.leave();
    }
}

/// Takes the control lock; sets up process and thread if that has not been done.
pub(crate) fn lock() -> Locked {
    let thread = thread::current();
    thread.enter();
    if ptr::eq(page(), &raw const NO_PAGE) {
        make_page();
    }
    acquire(&page().lock);
    let mut locked = Locked { thread };
    if epoch() == 0 {
        enter_process(&mut locked);
    }
    if !thread.ready() {
        locked.set_up_thread(thread);
    }
    locked
}

/// Takes the control lock for a thread that has been set up, if it is to be had within that time.
pub(crate) fn lock_within(patience: Duration) -> Option<Locked> {
    let thread = thread::current();
    thread.enter();
    let until = std::time::Instant::now() + patience;
    // Acquire: [control lock].
    while !thread.ready()
        || page()
            .lock
            .compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
    {
        if !thread.ready() || std::time::Instant::now() >= until {
            thread.leave();
            return None;
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    Some(Locked { thread })
}

fn enter_process(state: &mut State) {
    if LAST.load(Ordering::Relaxed) == 0 {
        control::prepare_program(state);
        register_handlers();
    } else {
        state.forked();
    }
    next_epoch();
}

fn make_page() {
    use rustix::mm::{Advice, MapFlags, ProtFlags};
    let flags = MapFlags::PRIVATE;
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping, of nobody's memory.
    let made = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), 4096, protection, flags) };
    let Ok(made) = made else { return }; // Without memory for one page, NO_PAGE does until the first fork.
    // SAFETY: our own page.
    let wiped = unsafe { rustix::mm::madvise(made, 4096, Advice::LinuxWipeOnFork) };
    if wiped.is_err() {
        crate::debug!("no MADV_WIPEONFORK here: only fork() itself is noticed");
    }
    let none = (&raw const NO_PAGE).cast_mut();
    if PAGE
        .compare_exchange(none, made.cast(), Ordering::AcqRel, Ordering::Acquire)
        .is_err()
    {
        // SAFETY: another thread was faster; nobody has seen this page.
        let _ = unsafe { rustix::mm::munmap(made, 4096) };
    }
}

// The control lock. 0: free; 1: held; 2: held, and somebody sleeps. Not robust: it belongs to this process alone.

fn acquire(word: &AtomicU32) {
    for _ in 0..100 {
        // Acquire: [control lock] pairs with the release in `release`.
        if word
            .compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
        {
            return;
        }
        core::hint::spin_loop();
    }
    static NEVER: AtomicU32 = AtomicU32::new(0);
    while word.swap(2, Ordering::Acquire) != 0 {
        // SAFETY: the word is in a page that stays mapped.
        unsafe { crate::futex::wait(word.as_ptr(), 2, Duration::from_secs(1), &NEVER) };
    }
}

fn release(word: &AtomicU32) {
    // Release: [control lock].
    if word.swap(0, Ordering::Release) == 2 {
        crate::futex::wake(word.as_ptr(), 1);
    }
}

// Fork. The prepare handler keeps the control lock over the fork, so that the child finds the state whole.

static PREPARED: AtomicBool = AtomicBool::new(false);

fn register_handlers() {
    // SAFETY: the three functions are `extern "C"`, take nothing and do not unwind.
    let result =
        unsafe { libc::pthread_atfork(Some(before_fork), Some(after_in_parent), Some(after_in_child)) };
    if result != 0 {
        crate::error!("pthread_atfork failed with {result}: attachments of children will not be counted");
    }
}

static NEXT_SHARES: AtomicBool = AtomicBool::new(false);

/// Whether the next child that fork() makes is to share this process's undo list.
pub(crate) fn next_child_shares(shares: bool) {
    if shares {
        // The handlers must be there.
        drop(lock());
    }
    NEXT_SHARES.store(shares, Ordering::Relaxed);
}

extern "C" fn before_fork() {
    if epoch() == 0 {
        return;
    }
    prepare(NEXT_SHARES.swap(false, Ordering::Relaxed));
}

fn prepare(shares: bool) {
    let mut locked = lock();
    locked.before_fork(shares);
    std::mem::forget(locked);
    PREPARED.store(true, Ordering::Relaxed);
}

/// In the child of [`fork_sharing`], where `make` does not return.
pub(crate) fn forked_sharing() {
    after_in_child();
}

/// Makes a child by `make`, which tells the two apart by whether it gives 0, as fork does; the child shares this process's undo list.
pub(crate) fn fork_sharing(make: impl FnOnce() -> isize) -> isize {
    prepare(true);
    let made = make();
    if made == 0 {
        after_in_child();
    } else {
        after_in_parent();
    }
    made
}

extern "C" fn after_in_parent() {
    if PREPARED.swap(false, Ordering::Relaxed) {
        let mut locked = Locked {
            thread: thread::current(),
        };
        locked.after_fork_in_parent();
    }
}

extern "C" fn after_in_child() {
    if !PREPARED.swap(false, Ordering::Relaxed) {
        return;
    }
    // Where the page was not wiped, it is done here.
    page().epoch.store(0, Ordering::Relaxed);
    page().lock.store(1, Ordering::Relaxed);
    let mut locked = Locked {
        thread: thread::current(),
    };
    locked.after_fork_in_child();
    next_epoch();
    let thread = locked.thread;
    locked.set_up_thread(thread);
}
