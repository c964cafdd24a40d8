//! What the algorithms need from this process: who calls, how to spin, sleep and wake.
//!
//! One [`Caller`] per operation. In space 0 (the host's kernel) sleepers wait on the word in the construct; in a guest, whose kernel cannot wait on
//! device memory, on their entry of the wait page.
#![allow(unsafe_code)] // Waits on addresses inside mappings.

use crate::attach::Attachment;
use crate::futex::{self, SLICE, Waited};
use crate::thread::Thread;
use crate::{bell, clock, pages, place, socket};
use rustix::fd::BorrowedFd;
use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use vshmem_ipc::{Corrupt, LockWait, Me, Owner, Sleeper, Slept, Spin, World};
use vshmem_wire::bell::Ring;
use vshmem_wire::pages::{FROM_AFAR, FROM_HERE, ticket_and_bell, with_bell};
use vshmem_wire::{Envelope, Kind, Request};
use vshmem_words::{Mapping, Ordering as WordsOrdering, Words};

/// How often a thread may use its place before it looks again where it runs.
const PLACE_GOOD_FOR: u16 = 64;
/// Turns of spinning that only pause.
const BRIEFLY: u32 = 6;
/// Turn at which a spinner asks where it runs, in case it has moved to the CPU of the one it waits for.
const WHERE: u32 = 40;
/// Turns of waiting for a lock that only pause; where a longer spin was asked for, so many for each of its microseconds, up to a bound: the owner may be dead.
const LOCK_PAUSES: u32 = 300;
const LOCK_PAUSES_PER_MICRO: u32 = 20;
const LOCK_MICROS: u32 = 10_000;
/// Sleeps after which the daemon is asked about the owner of a lock, and again each so many.
const LOCK_ASK: u32 = 9;
const LOCK_ASK_AGAIN: u32 = 100;
/// Most that spinning is shortened by, as a power of two.
const SHORTEST: u32 = 4;

/// Longest spin in microseconds where nobody asks for another: about what falling asleep and being woken costs. Between kernels that is a
/// message through two front-ends and the back-end.
const SPIN_HERE: u32 = 50;
const SPIN_ACROSS: u32 = 500;
/// No spin was asked for.
const UNSET: u32 = u32::MAX;
static SPIN_MICROS: AtomicU32 = AtomicU32::new(UNSET);

/// Sets the longest spin.
pub(crate) fn set_spin(micros: Option<u32>) {
    SPIN_MICROS.store(micros.unwrap_or(UNSET), Ordering::Relaxed);
}

/// Turns of waiting for a lock that only pause, with a longest spin of so many microseconds.
const fn lock_pauses(spin: u32) -> u32 {
    let most = if spin > LOCK_MICROS { LOCK_MICROS } else { spin };
    let turns = most * LOCK_PAUSES_PER_MICRO;
    if spin == UNSET || turns < LOCK_PAUSES {
        LOCK_PAUSES
    } else {
        turns
    }
}

const _: () = assert!(lock_pauses(UNSET) == LOCK_PAUSES && lock_pauses(0) == LOCK_PAUSES);
const _: () = assert!(lock_pauses(1000) == 20_000 && lock_pauses(UNSET - 1) == 200_000);

/// How long an operation may take: one for all its repetitions.
#[derive(Debug)]
pub(crate) struct Timeout {
    most: Option<Duration>,
    /// CLOCK_MONOTONIC at which the time is up, in nanoseconds; 0 until it is asked for.
    deadline: Cell<u64>,
    /// Sleeps so far.
    sleeps: Cell<u32>,
}

/// Most that a sleep in one piece is lengthened by, as a power of two: thousands of sleepers that look around four times a second would keep a processor
/// busy. Whoever dies between granting and waking is cleared up after by the back-end, so long sleeps cost nobody anything.
const LONGEST: u32 = if SLICE.as_millis() >= 250 { 4 } else { 0 };

impl Timeout {
    pub(crate) const fn new(most: Option<Duration>) -> Self {
        Timeout {
            most,
            deadline: Cell::new(0),
            sleeps: Cell::new(0),
        }
    }

    /// How long to sleep at most, or None if the time is up.
    pub(crate) fn left(&self) -> Option<Duration> {
        let slice = SLICE * (1 << self.sleeps.get().min(LONGEST));
        let Some(most) = self.most else {
            return Some(slice);
        };
        if most.is_zero() {
            return None;
        }
        let now = clock::nanos();
        if self.deadline.get() == 0 {
            let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
            self.deadline.set(now.saturating_add(nanos).max(1));
        }
        let left = self.deadline.get().saturating_sub(now);
        (left != 0).then(|| Duration::from_nanos(left).min(slice))
    }
}

/// The world of one operation.
pub(crate) struct Caller<'a> {
    kind: Kind,
    attachment: &'a Attachment,
    words: &'a Mapping,
    thread: &'a Thread,
    timeout: &'a Timeout,
    /// The bell that this operation shows and sleeps on; 0: the wait page.
    bell: u16,
    /// When spinning began and for how long it may go on, in ticks.
    started: Cell<u64>,
    budget: Cell<u64>,
    spun: Cell<bool>,
    slept: Cell<bool>,
    /// It slept or rang in a guest, so that a bell or the ring line may be of use the next time; and whether it rang by the daemon.
    wants: Cell<bool>,
    rang: Cell<bool>,
}

impl<'a> Caller<'a> {
    #[inline(always)]
    pub(crate) fn new(
        kind: Kind,
        attachment: &'a Attachment,
        words: &'a Mapping,
        thread: &'a Thread,
        timeout: &'a Timeout,
    ) -> Self {
        let bell = thread.bell.number();
        let bell = if bell != 0 && attachment.from_afar.load(Ordering::Relaxed) {
            bell
        } else {
            0
        };
        Caller {
            bell,
            kind,
            attachment,
            words,
            thread,
            timeout,
            started: Cell::new(0),
            budget: Cell::new(0),
            spun: Cell::new(false),
            slept: Cell::new(false),
            wants: Cell::new(false),
            rang: Cell::new(false),
        }
    }

    /// Whether the operation had to wait; lets the next one learn from how.
    #[inline(always)]
    pub(crate) fn finish(&self) -> bool {
        if self.spun.get() {
            let shorter = &self.attachment.shorter;
            let now = shorter.load(Ordering::Relaxed);
            let next = if self.slept.get() {
                (now + 1).min(SHORTEST)
            } else {
                0
            };
            if next != now {
                shorter.store(next, Ordering::Relaxed);
            }
        }
        if self.wants.get() {
            self.arrange_bells();
        }
        self.spun.get() || self.slept.get()
    }

    /// Who is woken from afar gets a bell of its own for the next time, and so does who rings.
    #[cold]
    fn arrange_bells(&self) {
        if self.thread.bell.number() == 0 && self.attachment.from_afar.load(Ordering::Relaxed) {
            self.thread.bell.get();
        }
        if self.rang.get() {
            bell::get_line();
        }
    }

    #[inline(always)]
    fn place(&self) -> u16 {
        let thread = self.thread;
        match thread.place_good_for.get() {
            0 => self.look_where(),
            left => {
                thread.place_good_for.set(left - 1);
                thread.place.get()
            }
        }
    }

    fn look_where(&self) -> u16 {
        let identity = self.attachment.identity;
        let place = place::now(identity.space, identity.domain);
        self.thread.place.set(place);
        self.thread.place_good_for.set(PLACE_GOOD_FOR);
        place
    }

    /// The first turns: a partner on another CPU that is about to act is met here, before anybody has asked where anybody runs and what time
    /// it is, which takes longer than the whole handoff.
    fn spin_briefly(&self, turn: u32) -> Spin {
        let never = SPIN_MICROS.load(Ordering::Relaxed) == 0;
        if turn == 0 {
            if never || self.timeout.most.is_some_and(|most| most.is_zero()) {
                return Spin::Enough;
            }
            self.spun.set(true);
        }
        core::hint::spin_loop();
        Spin::Again
    }

    /// Whether this thread runs at `place` now.
    fn is_here(&self, place: u16) -> bool {
        let here = self.look_where();
        here == place && here != Me::NOWHERE
    }

    /// Decides whether and how long to spin for somebody who was last seen at `last`.
    fn begin_spin(&self, last: u16) -> Spin {
        let attachment = self.attachment;
        let most = match SPIN_MICROS.load(Ordering::Relaxed) {
            UNSET if attachment.identity.space == 0 && !attachment.rings.load(Ordering::Relaxed) => SPIN_HERE,
            UNSET => SPIN_ACROSS,
            asked => asked,
        };
        // Where the thread was last seen to run is good enough unless it says that spinning is pointless; asking costs as much as a handoff.
        if most == 0 || last == self.thread.place.get() && self.is_here(last) {
            return Spin::Enough;
        }
        let now = place::ticks();
        // Where spinning has not helped for a while it is cut short, but now and then tried in full: the others may by now be as fast as
        // spinning would make them.
        let in_full = (now >> 5).is_multiple_of(16);
        let shorter = if in_full {
            0
        } else {
            attachment.shorter.load(Ordering::Relaxed)
        };
        self.budget
            .set((u64::from(most) * clock::ticks_per_micro()) >> shorter);
        self.started.set(now);
        Spin::Again
    }

    /// The 32-bit word at an offset of the construct, for the kernel.
    fn word(&self, at: usize) -> Option<*const u32> {
        let fits = at.is_multiple_of(4) && at.checked_add(4).is_some_and(|end| end <= self.words.len());
        fits.then(|| self.words.base().wrapping_add(at).cast_const().cast())
    }

    fn sleep_on(&self, at: usize, expected: u32, left: Duration) -> Waited {
        let pause = || {
            std::thread::sleep(left.min(Duration::from_millis(1)));
            Waited::Woken
        };
        let Some(word) = self.word(at) else { return pause() };
        let same = || self.words.load32(at, WordsOrdering::SeqCst) == expected;
        if self.attachment.identity.space == 0 {
            if self.has_bell() {
                return self.wait_for_bell(left, same);
            }
            // SAFETY: inside the mapping, which stays while the attachment is held.
            return match unsafe { futex::wait(word, expected, left, &self.thread.put_off) } {
                Waited::Unfit => {
                    // Memory of another machine: a bell, if the host has one to give.
                    self.wants.set(true);
                    self.attachment.from_afar.store(true, Ordering::Relaxed);
                    pause()
                }
                other => other,
            };
        }
        let (Some(entry), Some(mapped)) = (pages::entry(self.thread.ticket.get()), &self.attachment.mapped)
        else {
            return pause();
        };
        self.wants.set(true);
        let sequence = entry.announce(expected, mapped.place(at));
        let waited = if !same() {
            Waited::Woken
        } else if self.has_bell() {
            self.wait_for_bell(left, same)
        } else {
            // A bell that was given up while its number is shown: nobody wakes this entry, so for this once it looks by itself.
            let left = if self.bell == 0 {
                left
            } else {
                left.min(bell::SLICE)
            };
            // SAFETY: the wait page stays mapped.
            unsafe { futex::wait(entry.sequence().as_ptr(), sequence, left, &self.thread.put_off) }
        };
        match entry.withdraw() {
            FROM_AFAR => self.attachment.from_afar.store(true, Ordering::Relaxed),
            FROM_HERE => self.attachment.from_afar.store(false, Ordering::Relaxed),
            _ => {}
        }
        if waited == Waited::Unfit {
            Waited::Woken
        } else {
            waited
        }
    }

    /// Whether this operation shows a bell that its thread still has.
    fn has_bell(&self) -> bool {
        self.bell != 0 && self.bell == self.thread.bell.number()
    }

    /// Waits for the bell, as long as the watched word is the same.
    fn wait_for_bell(&self, left: Duration, same: impl Fn() -> bool) -> Waited {
        if !same() {
            return Waited::Woken;
        }
        let waited = self.thread.bell.wait(left, &self.thread.put_off);
        match waited {
            Waited::Woken => self.thread.bell.came(true),
            Waited::TimedOut if !same() => self.thread.bell.came(false),
            // The bell was given up: looked again.
            Waited::Unfit => return Waited::Woken,
            _ => {}
        }
        waited
    }

    /// Asks the daemon whether the owner of the lock lives.
    #[cold]
    fn ask_about(&self, owner: Owner) -> LockWait {
        let request = Request::LockStuck {
            kind: self.kind,
            id: self.attachment.id,
            owner: owner.0,
        };
        crate::debug!(
            "{:?} {}: lock held for long by {:x}",
            self.kind,
            self.attachment.id,
            owner.0
        );
        match crate::control::ask(&request) {
            Err(crate::Errno::EIDRM) => LockWait::Corrupt(Corrupt {
                what: "lock owner",
                found: owner.0,
                allowed: 0,
            }),
            _ => LockWait::Again,
        }
    }
}

impl World for Caller<'_> {
    #[inline(always)]
    fn me(&self) -> Me {
        let identity = self.attachment.identity;
        Me {
            client: identity.client,
            thread: self.thread.number(),
            domain: identity.domain,
            pid: identity.pid,
            undo: self.thread.list(&identity.undo),
            space: identity.space,
            ticket: with_bell(self.thread.ticket.get(), self.bell),
            place: self.place(),
        }
    }

    #[inline(always)]
    fn holder(&self) -> (u32, u16) {
        (self.attachment.identity.client, self.thread.number())
    }

    #[inline(always)]
    fn seconds(&self) -> u64 {
        clock::seconds()
    }

    fn spin(&self, turn: u32, last: u16) -> Spin {
        if self.thread.interrupted() {
            return Spin::Interrupted;
        }
        if turn < BRIEFLY {
            return self.spin_briefly(turn);
        }
        if turn == BRIEFLY {
            return self.begin_spin(last);
        }
        if turn == WHERE && self.is_here(last) {
            return Spin::Enough;
        }
        if turn.is_multiple_of(16) && place::ticks().wrapping_sub(self.started.get()) > self.budget.get() {
            return Spin::Enough;
        }
        core::hint::spin_loop();
        Spin::Again
    }

    fn lock_wait(&self, owner: Owner, turn: u32) -> LockWait {
        let pauses = lock_pauses(SPIN_MICROS.load(Ordering::Relaxed));
        if turn < pauses {
            core::hint::spin_loop();
            return LockWait::Again;
        }
        let sleeps = turn - pauses;
        if sleeps == LOCK_ASK || sleeps > LOCK_ASK && sleeps.is_multiple_of(LOCK_ASK_AGAIN) {
            return self.ask_about(owner);
        }
        std::thread::sleep(Duration::from_micros((50 << sleeps.min(5)).min(1000)));
        LockWait::Again
    }

    fn sleep(&self, at: usize, expected: u32) -> Slept {
        self.slept.set(true);
        if self.thread.interrupted() {
            return Slept::Interrupted;
        }
        let Some(left) = self.timeout.left() else {
            return Slept::TimedOut;
        };
        self.timeout
            .sleeps
            .set(self.timeout.sleeps.get().saturating_add(1));
        match self.sleep_on(at, expected, left) {
            Waited::Interrupted => Slept::Interrupted,
            Waited::TimedOut if self.timeout.left().is_none() => Slept::TimedOut,
            _ => Slept::Look,
        }
    }

    fn wake(&self, sleeper: Sleeper) {
        let identity = self.attachment.identity;
        let (ticket, bell) = ticket_and_bell(sleeper.ticket);
        if sleeper.space != identity.space {
            self.ring(sleeper, bell);
        } else if sleeper.space == 0 {
            if bell != 0 {
                self.ring(sleeper, bell);
            } else if let Some(word) = self.word(sleeper.at) {
                futex::wake(word, i32::MAX);
            }
        } else if let Some(entry) = pages::entry(ticket) {
            entry.woken_here();
            entry.sequence().fetch_add(1, Ordering::SeqCst);
            futex::wake(entry.sequence().as_ptr(), i32::MAX);
            if bell != 0 {
                self.ring(sleeper, bell);
            }
        }
    }
}

impl Caller<'_> {
    /// Has sleepers woken whom this process cannot wake itself: by the ring line, or else by the daemon. A hint that may get lost, so nothing is waited for.
    #[cold]
    fn ring(&self, sleeper: Sleeper, bell: u16) {
        let identity = self.attachment.identity;
        self.attachment.rings.store(true, Ordering::Relaxed);
        let at = self
            .attachment
            .mapped
            .as_ref()
            .map_or(u64::MAX, |m| m.place(sleeper.at));
        let space = sleeper.space;
        if bell::ring(&Ring { space, bell, at }) {
            return;
        }
        self.wants.set(true);
        self.rang.set(true);
        let number = identity.socket.load(Ordering::Relaxed);
        if number < 0 {
            return;
        }
        let ring = Envelope {
            seq: 0,
            body: Request::Ring { space, at, bell },
        };
        let mut buffer = [0; 64];
        let Some(bytes) = vshmem_wire::codec::encode_into(&ring, &mut buffer) else {
            return;
        };
        // SAFETY: a number that may have been closed or be somebody else's by now is noticed by `is_still`; in the instant after that a wrong
        // socket might get a datagram of a few bytes, which is what a program that closes unknown descriptors has to live with.
        let socket = unsafe { BorrowedFd::borrow_raw(number) };
        let (device, inode) = (
            identity.device.load(Ordering::Relaxed),
            identity.inode.load(Ordering::Relaxed),
        );
        if socket::is_still(socket, device, inode) {
            socket::hint(socket, bytes);
        }
    }
}
