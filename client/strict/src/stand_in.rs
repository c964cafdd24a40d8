//! A stand-in: a process that makes the System V calls of another one, which cannot be given a library, as a client of the daemon.
//!
//! It is that client whole: it has the sets and queues mapped, takes their locks, carries the undo list and counts the attachments, and when its process
//! dies the supervisor kills it, which the daemon then sees. So whatever it was in the middle of is repaired as for any client. The segments
//! themselves are mapped in the process; that takes the supervisor.
//!
//! | thread | does |
//! |---|---|
//! | workers | take a call each, make it, answer it; there is always one free |
//! | monitor | ends the wait of a call whose thread has a signal to see to, or is dead |
//!
//! Lock order: a worker's slot is taken alone, and so are the lists.
#![allow(unsafe_code)] // fork(2), signals.

use crate::calls;
use crate::errand::{self, Errand, ORDER, Order};
use crate::memory::{self, Status};
use crate::notice::{self, Notice};
use crate::trace::{AGAIN_WITHOUT_HANDLER, Held, Pass, Trouble};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::Duration;
use vshmem_abi::proc_text::Text;
use vshmem_runtime::Runtime;

/// How often the monitor looks.
const TICK: Duration = Duration::from_millis(2);
/// A call that has waited for so many ticks is looked at each 8 only.
const LONG: u32 = 50;
/// After so many ticks without a waiting call the monitor sleeps.
const IDLE: u32 = 50;
/// What ends a worker's wait.
const NUDGE: i32 = libc::SIGUSR1;

/// What a stand-in works with.
#[derive(Debug)]
pub(crate) struct Means {
    /// The process.
    pub(crate) process: i32,
    /// Where orders come from.
    pub(crate) orders: OwnedFd,
    /// Where errands go to.
    pub(crate) errands: OwnedFd,
    /// Where calls are answered.
    pub(crate) listener: OwnedFd,
}

/// What a worker does.
#[derive(Debug, Default)]
struct Slot {
    worker: i32,
    call: Mutex<Option<Notice>>,
    /// The call's thread is sure to have a signal to see to.
    certain: AtomicBool,
    /// It is one of several that may see to a signal of their process.
    perhaps: AtomicBool,
}

#[derive(Debug)]
struct StandIn {
    means: Means,
    free: AtomicUsize,
    slots: Mutex<Vec<Arc<Slot>>>,
    /// Threads of the process that have a list of what is to undo for themselves.
    lists: Mutex<HashMap<i32, u64>>,
    monitor: Mutex<Option<Thread>>,
    monitor_sleeps: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

extern "C" fn nothing(_: i32) {}

/// The rest of a process that stands in for another one.
pub(crate) fn be(means: Means, pidfd: OwnedFd) -> ! {
    // SAFETY: all-zero is a valid sigaction; the handler does nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        libc::sigaction(NUDGE, &raw const action, std::ptr::null_mut());
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
    }
    Runtime::global().stand_in_for(pidfd);
    serve(means)
}

fn end() -> ! {
    // SAFETY: ends the process, without what the program it was forked from has registered.
    unsafe { libc::_exit(0) }
}

fn serve(means: Means) -> ! {
    let own = Arc::new(StandIn {
        means,
        free: AtomicUsize::new(0),
        slots: Mutex::default(),
        lists: Mutex::default(),
        monitor: Mutex::new(None),
        monitor_sleeps: AtomicBool::new(false),
    });
    let watched = own.clone();
    match std::thread::Builder::new().spawn(move || monitor(&watched)) {
        Ok(thread) => *lock(&own.monitor) = Some(thread.thread().clone()),
        Err(error) => vshmem_runtime::error!("no thread to look for signals with: {error}"),
    }
    own.free.store(1, Ordering::SeqCst);
    work(&own)
}

/// A worker. Counted as free when it begins.
fn work(own: &Arc<StandIn>) -> ! {
    // SAFETY: takes nothing, gives a number.
    let worker = unsafe { libc::gettid() };
    let slot = Arc::new(Slot {
        worker,
        call: Mutex::new(None),
        certain: AtomicBool::new(false),
        perhaps: AtomicBool::new(false),
    });
    lock(&own.slots).push(slot.clone());
    loop {
        let (order, descriptors) = match errand::receive::<Order, ORDER>(&own.means.orders) {
            Ok(Some(order)) => order,
            Ok(None) => end(),
            Err(error) => {
                vshmem_runtime::error!("orders cannot be read: {error}");
                end()
            }
        };
        let patient = own.free.fetch_sub(1, Ordering::SeqCst) != 1 || another(own);
        match order {
            Order::Call {
                notice,
                identity,
                settle,
            } => {
                if settle {
                    let _ = Runtime::global().settle();
                }
                call(own, &slot, &notice, identity, patient);
            }
            Order::Open {
                notice,
                text,
                flags,
                and_kernels,
            } => open(own, &notice, text, flags, and_kernels),
            Order::Executed => {
                Runtime::global().ward_executed();
                end_calls_of_the_dead(own);
                done(own, None);
            }
            Order::Fork { process, shares } => fork(own, process, shares, descriptors),
        }
        own.free.fetch_add(1, Ordering::SeqCst);
    }
}

/// There is always one more worker than calls, unless there cannot be: then none of them may wait.
fn another(own: &Arc<StandIn>) -> bool {
    own.free.fetch_add(1, Ordering::SeqCst);
    let next = own.clone();
    let made = std::thread::Builder::new().spawn(move || work(&next));
    if let Err(error) = &made {
        static SAID: AtomicBool = AtomicBool::new(false);
        own.free.fetch_sub(1, Ordering::SeqCst);
        if !SAID.swap(true, Ordering::Relaxed) {
            vshmem_runtime::error!(
                "no thread for another call: {error}; calls that would have to wait fail (raise `ulimit -u`)"
            );
        }
    }
    made.is_ok()
}

/// Threads that another one's execve(2) has ended take part in nothing any more.
fn end_calls_of_the_dead(own: &StandIn) {
    const LOOKS: u32 = 100;
    for _ in 0..LOOKS {
        let mut left = false;
        for slot in lock(&own.slots).clone() {
            let call = lock(&slot.call);
            let is_dead = |notice: &Notice| !notice::waits(&own.means.listener, notice.id);
            if call.as_ref().is_some_and(is_dead) {
                left = true;
                nudge(&slot);
            }
        }
        if !left {
            return;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Ends a worker's wait. Its slot is locked: it is still at that call.
fn nudge(slot: &Slot) {
    // SAFETY: numbers.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), slot.worker, NUDGE) };
}

fn call(own: &StandIn, slot: &Slot, notice: &Notice, identity: bool, patient: bool) {
    slot.certain.store(false, Ordering::SeqCst);
    slot.perhaps.store(false, Ordering::SeqCst);
    *lock(&slot.call) = Some(*notice);
    if own.monitor_sleeps.load(Ordering::SeqCst)
        && let Some(monitor) = &*lock(&own.monitor)
    {
        monitor.unpark();
    }
    if identity {
        Runtime::global().ward_changed();
    }
    let list = lock(&own.lists).get(&notice.thread).copied().unwrap_or(0);
    if [libc::SYS_unshare, libc::SYS_setns].contains(&notice.number.into()) {
        if let Some(new) = calls::leave_undo(notice, own.means.errands.as_fd(), list) {
            lock(&own.lists).insert(notice.thread, new);
        }
        *lock(&slot.call) = None;
        return;
    }
    Runtime::global().use_list(list);
    let kernel = || notice::let_go(&own.means.listener, notice.id);
    let result = calls::make(notice, own.means.errands.as_fd(), patient, kernel);
    // From here on no nudge is sent; one that was is seen by the next system call, which begins anew.
    *lock(&slot.call) = None;
    if let Some(mut result) = result {
        // As in Linux, queues are waited at again if the thread was only stopped for a while. (Semaphores are not.)
        let queue = [libc::SYS_msgsnd, libc::SYS_msgrcv].contains(&notice.number.into());
        if result == Err(libc::EINTR) && queue && slot.certain.load(Ordering::SeqCst) {
            result = Err(AGAIN_WITHOUT_HANDLER);
        }
        if result == Err(libc::EINTR) && slot.perhaps.load(Ordering::SeqCst) && sees_to_it(own, notice) {
            return;
        }
        notice::answer(&own.means.listener, notice.id, result);
    }
}

/// The process opens a file that says this.
fn open(own: &StandIn, notice: &Notice, text: Text, flags: i32, and_kernels: bool) {
    let listener = &own.means.listener;
    let file = text.file(and_kernels, true).and_then(|file| {
        // It can only be read.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        Ok(rustix::fs::open(
            path,
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?)
    });
    match file {
        Ok(file) => notice::give_instead(listener, notice.id, file, flags),
        Err(errno) => {
            notice::answer(listener, notice.id, Err(errno.0));
        }
    }
}

/// Has a thread look for signals of its process, which the kernel may have meant for another one: if there is none it waits on. `false`: it cannot be held.
fn sees_to_it(own: &StandIn, notice: &Notice) -> bool {
    let by = Pass {
        listener: own.means.listener.as_fd(),
        number: 0,
    };
    match Held::take(by, notice) {
        Ok(held) => held.let_go_again(),
        Err(Trouble::Denied) => return false,
        Err(Trouble::Gone) => {}
    }
    true
}

fn done(own: &StandIn, child: Option<&OwnedFd>) {
    let beside: Vec<_> = child.iter().map(AsFd::as_fd).collect();
    if errand::send(&own.means.errands, &Errand::Done, &beside).is_err() {
        end();
    }
}

/// The process has forked, and attachments count for the child as well.
fn fork(own: &StandIn, process: i32, shares: bool, descriptors: Vec<OwnedFd>) {
    let mut descriptors = descriptors.into_iter();
    let (Some(pidfd), Some(orders), Some(errands)) =
        (descriptors.next(), descriptors.next(), descriptors.next())
    else {
        return done(own, None);
    };
    Runtime::global().child_stands_in_for(Some(pidfd));
    Runtime::global().use_list(0);
    Runtime::global().next_child_shares(shares);
    // SAFETY: the child goes on in this thread and uses nothing that another thread of the parent may have had locked.
    match unsafe { libc::fork() } {
        0 => {
            let means = Means {
                process,
                orders,
                errands,
                listener: reopen(&own.means.listener),
            };
            for parents in [&own.means.orders, &own.means.errands] {
                // SAFETY: the child's copies; what owns them in memory is the parent's and is not used here any more.
                unsafe { libc::close(parents.as_raw_fd()) };
            }
            serve(means)
        }
        child => {
            Runtime::global().child_stands_in_for(None);
            let child = if child > 0 { memory::open(child).ok() } else { None };
            done(own, child.as_ref());
        }
    }
}

fn reopen(descriptor: &OwnedFd) -> OwnedFd {
    descriptor.try_clone().unwrap_or_else(|_| end())
}

/// What the monitor knows of a call that waits.
struct Seen {
    ticks: u32,
    status: Option<Status>,
    signalled: bool,
}

/// Whether a call's wait is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    No,
    /// Its thread is dead.
    Dead,
    /// Its thread must see to a signal.
    Signalled,
    /// Its thread, or another one, must see to a signal of the process.
    Perhaps,
}

fn monitor(own: &StandIn) {
    let mut seen: HashMap<u64, Seen> = HashMap::new();
    let mut idle = 0;
    loop {
        std::thread::sleep(TICK);
        let slots = lock(&own.slots).clone();
        let mut waiting = Vec::new();
        // One signal of a process ends one wait.
        let mut one_has_it = false;
        for slot in slots {
            let call = lock(&slot.call);
            if let Some(notice) = &*call {
                waiting.push(notice.id);
                let known = seen.entry(notice.id).or_insert(Seen {
                    ticks: 0,
                    status: None,
                    signalled: false,
                });
                let over = is_over(own, notice, known);
                if over == Over::No || over == Over::Perhaps && one_has_it {
                    continue;
                }
                one_has_it |= over == Over::Perhaps;
                slot.certain.store(over == Over::Signalled, Ordering::SeqCst);
                slot.perhaps.store(over == Over::Perhaps, Ordering::SeqCst);
                nudge(&slot);
            }
        }
        seen.retain(|id, _| waiting.contains(id));
        let busy = !waiting.is_empty() || apply_lists(own);
        idle = if busy { 0 } else { idle + 1 };
        if idle > IDLE {
            own.monitor_sleeps.store(true, Ordering::SeqCst);
            let none = || lock(&own.slots).iter().all(|slot| lock(&slot.call).is_none());
            if none() {
                std::thread::park();
            }
            own.monitor_sleeps.store(false, Ordering::SeqCst);
            idle = 0;
        }
    }
}

/// Applies the lists of threads that have ended. Whether there are some of others.
fn apply_lists(own: &StandIn) -> bool {
    let mut lists = lock(&own.lists);
    let mut ended = Vec::new();
    lists.retain(|thread, list| {
        let lives = memory::is_thread_of(*thread, own.means.process);
        if !lives {
            ended.push(*list);
        }
        lives
    });
    let left = !lists.is_empty();
    drop(lists);
    for list in ended {
        Runtime::global().end_list(list);
    }
    left
}

/// Whether a call's wait is over. As in Linux a signal of the process is the first thread's, unless that blocks it; whose it is then is seen by who has
/// not taken it for two looks.
fn is_over(own: &StandIn, notice: &Notice, seen: &mut Seen) -> Over {
    seen.ticks += 1;
    // At the first look it has only just begun, most likely.
    if seen.ticks == 1 || seen.ticks > LONG && !seen.ticks.is_multiple_of(8) {
        return Over::No;
    }
    if !notice::waits(&own.means.listener, notice.id) {
        return Over::Dead;
    }
    let process = own.means.process;
    if seen.status.is_none() {
        seen.status = Status::of(process, notice.thread).ok();
    }
    let Some(signals) = seen.status.as_ref().map(Status::signals) else {
        return Over::No;
    };
    if signals.own != 0 || signals.shared != 0 && signals.alone {
        return Over::Signalled;
    }
    let firsts = notice.thread == process
        || Status::of(process, process).is_ok_and(|first| signals.shared & first.signals().blocked != 0);
    let before = seen.signalled;
    seen.signalled = signals.shared != 0 && firsts;
    if before && seen.signalled {
        Over::Perhaps
    } else {
        Over::No
    }
}
