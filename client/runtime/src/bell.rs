//! Bells: how threads of a guest ring other domains, and are rung, past their front-end, where the port can do that.
//!
//! A process gets the *ring line* once, for all of its threads; a thread gets a *bell* when somebody of another kernel has woken it. Who waits on a bell says so in
//! the ticket that it shows, so that whoever wakes it rings the bell. What can go wrong and what becomes of it:
//!
//! | | |
//! |---|---|
//! | no bell is left, the domain has none, the daemon is away | the thread sleeps on its entry of the wait page, as without bells, and asks again later |
//! | a ring is lost | the thread looks by itself ten times a second |
//! | rings are lost again and again (a line that somebody has spoilt) | the thread gives up its bell for a while |
//! | rings come that nobody meant | the thread looks, and sleeps on |
//! | the kernel holds back further rings until those that came were read and written back | who is rung does that; a new owner's bell is made fit by the daemon |
//! | the program closes descriptors that it does not know | the bell's: what is there now is no epoll instance, or one without our data. The line's: it is another file. Both are seen before harm is done |
#![allow(unsafe_code)] // A descriptor's number kept without owning it; a system call that a signal handler may cut short.

use crate::control::State;
use crate::errno::Errno;
use crate::futex::{self, Waited};
use crate::{clock, pages, place, process, raw, socket};
use rustix::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use rustix::net::SendFlags;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use vshmem_wire::bell::Ring;
use vshmem_wire::{Reply, Request};

/// The longest wait for a bell in one piece: a lost ring costs that.
pub(crate) const SLICE: Duration = Duration::from_millis(100);
/// Rings lost one after another after which a bell is given up.
const MOST_LOST: u32 = 3;
/// Sleeps from afar before a thread that was refused a bell, or gave its own up, asks again: doubling.
const PAUSE: u32 = 64;
const LONGEST_PAUSE: u32 = 1 << 16;

/// The ring line: its number, and what it was. It is every process's of this domain, so a forked child goes on with it.
static LINE: AtomicI32 = AtomicI32::new(-1);
static DEVICE: AtomicU64 = AtomicU64::new(0);
static INODE: AtomicU64 = AtomicU64::new(0);
static IS_SOCKET: AtomicBool = AtomicBool::new(false);
/// The ioctl by which the line rings; 0: rings are written to it.
static CALL: AtomicU32 = AtomicU32::new(0);
/// When it was last seen to be that still, in ticks.
static SEEN: AtomicU64 = AtomicU64::new(0);
/// For how long that is taken for granted: looking costs as much as ringing. A program would have to close descriptors that it does not know and open so many
/// others meanwhile that one gets this number, at a system call each.
const SEEN_FOR: u64 = 1000;
/// Rings that had no line before this process asks for one.
static ASK_IN: AtomicU32 = AtomicU32::new(0);

/// A thread's bell.
#[derive(Debug)]
pub(crate) struct Bell {
    /// 0: none.
    number: Cell<u16>,
    epoll: Cell<i32>,
    /// Where rings are to be read and written back: a file of the same kind as the ring line. -1: nowhere.
    device: Cell<i32>,
    lost: Cell<u32>,
    /// Sleeps until it is worth while asking for one.
    ask_in: Cell<u32>,
    pause: Cell<u32>,
}

/// A bell that no thread has: its number, its epoll instance's and its device's.
pub(crate) type Spare = (u16, i32, i32);

impl Bell {
    pub(crate) const fn none() -> Bell {
        Bell {
            number: Cell::new(0),
            epoll: Cell::new(-1),
            device: Cell::new(-1),
            lost: Cell::new(0),
            ask_in: Cell::new(0),
            pause: Cell::new(PAUSE),
        }
    }

    /// Its number, 0 if there is none.
    #[inline(always)]
    pub(crate) fn number(&self) -> u16 {
        self.number.get()
    }

    /// The thread has (or, in a forked child, never had) none any more.
    pub(crate) fn take(&self) -> Option<Spare> {
        let spare = (
            self.number.replace(0),
            self.epoll.replace(-1),
            self.device.replace(-1),
        );
        self.lost.set(0);
        self.ask_in.set(0);
        self.pause.set(PAUSE);
        (spare.0 != 0).then_some(spare)
    }

    /// The thread has been woken from afar without one: gets one, unless there is a reason to wait with that. The caller holds no construct's lock.
    #[cold]
    pub(crate) fn get(&self) {
        let left = self.ask_in.get();
        if left > 0 {
            return self.ask_in.set(left - 1);
        }
        match process::lock().bell() {
            Some((number, epoll, device)) => {
                self.number.set(number);
                self.epoll.set(epoll);
                self.device.set(device);
                self.lost.set(0);
            }
            None => self.wait_with_asking(),
        }
    }

    fn wait_with_asking(&self) {
        let pause = self.pause.get();
        self.ask_in.set(pause);
        self.pause.set((pause * 2).min(LONGEST_PAUSE));
    }

    /// The bell is of no use. Its descriptor is left open if it still is ours, which cannot be told for sure: closing could hit the program's own.
    fn give_up(&self) {
        crate::debug!("bell {} is given up", self.number.get());
        self.number.set(0);
        self.epoll.set(-1);
        self.device.set(-1);
        self.lost.set(0);
        self.wait_with_asking();
    }

    /// Waits for a ring, for no longer than `left`, unless `flag` is or becomes set by a handler of this thread.
    pub(crate) fn wait(&self, left: Duration, flag: &AtomicU32) -> Waited {
        match futex::wait_for_event(self.epoll.get(), left.min(SLICE), flag) {
            Ok(Some(data)) if data == u64::from(self.number.get()) && self.take_rings() => Waited::Woken,
            Ok(None) => Waited::TimedOut,
            Err(libc::EINTR) => Waited::Interrupted,
            // Another one's descriptor by now, closed, or a kernel that cannot do this.
            Ok(Some(_)) | Err(_) => {
                self.give_up();
                Waited::Unfit
            }
        }
    }

    /// Reads the rings that came and writes them back, where that is to be done. `false`: the device is not ours any more.
    fn take_rings(&self) -> bool {
        let number = self.device.get();
        if number < 0 {
            return true;
        }
        // SAFETY: whether the number is still ours is looked at before anything is read; for an instant after that see `ring`.
        let device = unsafe { BorrowedFd::borrow_raw(number) };
        let (same, inode) = (DEVICE.load(Ordering::Relaxed), INODE.load(Ordering::Relaxed));
        if !socket::is_still(device, same, inode) {
            return false;
        }
        let mut rings = [0u8; 256];
        if let Ok(bytes) = rustix::io::read(device, &mut rings) {
            let _ = rustix::io::write(device, &rings[..bytes]);
        }
        true
    }

    /// Whether a ring came as it should, or the thread noticed by itself that it is awaited.
    pub(crate) fn came(&self, in_time: bool) {
        if in_time {
            self.lost.set(0);
            return;
        }
        self.lost.set(self.lost.get() + 1);
        if self.lost.get() >= MOST_LOST {
            self.give_up();
        }
    }
}

/// Rings by the line. `false`: it has to be done by the daemon.
pub(crate) fn ring(ring: &Ring) -> bool {
    let number = LINE.load(Ordering::Acquire);
    if number < 0 {
        return false;
    }
    // SAFETY: a number that may be somebody else's by now is noticed by `is_still`; for a moment after that a wrong file might get a few bytes,
    // which is what a program that closes unknown descriptors has to live with.
    let line = unsafe { BorrowedFd::borrow_raw(number) };
    let now = place::ticks();
    if now.wrapping_sub(SEEN.load(Ordering::Relaxed)) > SEEN_FOR * clock::ticks_per_micro() {
        let (device, inode) = (DEVICE.load(Ordering::Relaxed), INODE.load(Ordering::Relaxed));
        if !socket::is_still(line, device, inode) {
            LINE.store(-1, Ordering::Relaxed);
            return false;
        }
        SEEN.store(now, Ordering::Relaxed);
    }
    let call = CALL.load(Ordering::Relaxed);
    if call != 0 {
        return match pages::door(ring.space, ring.bell) {
            Some(door) => ring_by_call(number, call, door),
            None => false,
        };
    }
    let bytes = ring.write();
    let written = if IS_SOCKET.load(Ordering::Relaxed) {
        rustix::net::send(line, &bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
    } else {
        rustix::io::write(line, &bytes)
    };
    written == Ok(bytes.len())
}

fn ring_by_call(line: i32, call: u32, door: u32) -> bool {
    let address = (&raw const door) as usize;
    // SAFETY: the daemon says that this call reads 32 bits at the address; a file of another kind knows no such call.
    let result = unsafe { raw::call4(libc::SYS_ioctl, line as usize, call as usize, address, 0) };
    result >= 0
}

/// Gets the ring line, if this process has none and the domain has one. The caller holds no construct's lock.
#[cold]
pub(crate) fn get_line() {
    if LINE.load(Ordering::Relaxed) >= 0 {
        return;
    }
    let left = ASK_IN.load(Ordering::Relaxed);
    if left > 0 {
        return ASK_IN.store(left - 1, Ordering::Relaxed);
    }
    ASK_IN.store(LONGEST_PAUSE, Ordering::Relaxed);
    process::lock().line();
}

fn take_line(line: OwnedFd, call: u32) {
    if LINE.load(Ordering::Relaxed) >= 0 {
        return;
    }
    let Ok(stat) = rustix::fs::fstat(&line) else {
        return;
    };
    let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    DEVICE.store(stat.st_dev, Ordering::Relaxed);
    INODE.store(stat.st_ino, Ordering::Relaxed);
    CALL.store(call, Ordering::Relaxed);
    IS_SOCKET.store(kind == rustix::fs::FileType::Socket, Ordering::Relaxed);
    // Release: pairs with the acquire in `ring`.
    LINE.store(socket::high(line).into_raw_fd(), Ordering::Release);
}

impl State {
    fn line(&mut self) {
        if let Ok((Reply::Bell { call, .. }, descriptors)) = self.request(&Request::Bell { wait: false }, &[])
        {
            let line = descriptors.into_iter().next();
            line.into_iter().for_each(|line| take_line(line, call));
        }
    }

    /// A bell for a thread.
    fn bell(&mut self) -> Option<Spare> {
        if let Some(spare) = self.bells.pop() {
            return Some(spare);
        }
        match self.request(&Request::Bell { wait: true }, &[]) {
            Ok((Reply::Bell { bell, call }, descriptors)) => {
                let mut descriptors = descriptors.into_iter();
                let line = descriptors.next();
                line.into_iter().for_each(|line| take_line(line, call));
                let waits = socket::high(descriptors.next()?);
                let device = descriptors
                    .next()
                    .map_or(-1, |device| socket::high(device).into_raw_fd());
                crate::debug!("bell {bell}, descriptor {}", waits.as_raw_fd());
                (bell != 0).then(|| (bell, waits.into_raw_fd(), device))
            }
            Ok(_) => None,
            Err(failure) => {
                crate::debug!("no bell: {}", Errno(failure.errno));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::epoll;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    static NOBODY: AtomicU32 = AtomicU32::new(0);
    const SHORT: Duration = Duration::from_millis(5);

    fn bell(number: u16, data: u64) -> (Bell, UnixStream, UnixStream) {
        let (host, guest) = UnixStream::pair().unwrap();
        let waits = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&waits, &guest, epoll::EventData::new_u64(data), flags).unwrap();
        let bell = Bell::none();
        bell.number.set(number);
        bell.epoll.set(waits.into_raw_fd());
        (bell, host, guest)
    }

    #[test]
    fn each_ring_ends_one_wait_whether_it_came_before_or_during_it() {
        let (bell, mut host, _guest) = bell(7, 7);
        assert_eq!(bell.wait(SHORT, &NOBODY), Waited::TimedOut);
        host.write_all(&[1]).unwrap();
        assert_eq!(bell.wait(SHORT, &NOBODY), Waited::Woken);
        assert_eq!(bell.wait(SHORT, &NOBODY), Waited::TimedOut);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(SHORT);
                host.write_all(&[1]).unwrap();
            });
            // In pieces of a tenth of a second.
            let woken = (0..200).any(|_| bell.wait(Duration::from_secs(20), &NOBODY) == Waited::Woken);
            assert!(woken);
        });
    }

    #[test]
    fn a_handler_that_was_put_off_ends_the_wait() {
        let (bell, _host, _guest) = bell(7, 7);
        let flag = AtomicU32::new(1);
        assert_eq!(bell.wait(Duration::from_secs(20), &flag), Waited::Interrupted);
    }

    #[test]
    fn a_descriptor_that_is_no_bell_of_ours_is_given_up() {
        let (foreign, mut host, _guest) = bell(7, 8);
        host.write_all(&[1]).unwrap();
        assert_eq!(foreign.wait(SHORT, &NOBODY), Waited::Unfit);
        assert_eq!(foreign.number(), 0);
        let (_reader, writer) = UnixStream::pair().unwrap();
        let (file, _host, _guest) = bell(7, 7);
        file.epoll.set(writer.as_raw_fd());
        assert_eq!(file.wait(SHORT, &NOBODY), Waited::Unfit);
        let (closed, _host, _guest) = bell(7, 7);
        closed.epoll.set(-1);
        assert_eq!(closed.wait(SHORT, &NOBODY), Waited::Unfit);
    }

    #[test]
    fn a_bell_whose_rings_get_lost_is_given_up_and_asked_for_later() {
        let (bell, _host, _guest) = bell(7, 7);
        for in_time in [false, false, true, false, false] {
            bell.came(in_time);
        }
        assert_eq!(bell.number(), 7);
        bell.came(false);
        assert_eq!(bell.number(), 0);
        assert_eq!(bell.ask_in.get(), PAUSE);
    }
}
