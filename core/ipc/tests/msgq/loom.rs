//! The wait protocols under loom: two threads in every interleaving (up to two or three preemptions) with weak memory.
//!
//! The words that are read without the lock are loom's atomics: control word, lock, state and block of the first slots, tags of the first
//! blocks; and two that only the lock protects, to show that it does. The rest is plain memory, which loom takes for sequentially
//! consistent. A futex is loom's mutex and condition variable: a wake-up that is lost shows as a deadlock.
//!
//! Loom treats sequentially consistent accesses as acquire and release only; fences around them restore what the language promises.

use crate::player::CONTROL;
use loom::sync::atomic::{AtomicU32, AtomicU64, fence};
use loom::sync::{Arc, Condvar, Mutex};
use vshmem_ipc::msgq::{MsgError, Queue, ReceiveFlags};
use vshmem_ipc::{LockWait, Me, Owner, Sleeper, Slept, Spin, State, Sweep, World};
use vshmem_words::{Heap, Ordering, Words};

/// Offsets of 64-bit words that loom sees: control, lock, tags of the first two blocks of one unit each or of any size.
const WIDE: [usize; 4] = [8, 16, 1664, 1728];
/// Offsets of 32-bit words that loom sees: messages counted, first message, state and block of the first two slots.
const NARROW: [usize; 6] = [48, 56, 640, 704, 680, 744];

struct Modelled {
    plain: Heap,
    wide: [AtomicU64; 4],
    narrow: [AtomicU32; 6],
    futex: (Mutex<()>, Condvar),
}

impl Modelled {
    /// A formatted queue, as it stands in a heap, under loom's eyes.
    fn new(qbytes: u64) -> Arc<Self> {
        let plain = crate::player::queue_memory(qbytes);
        let wide = WIDE.map(|at| AtomicU64::new(plain.load64(at, Ordering::Relaxed)));
        let narrow = NARROW.map(|at| AtomicU32::new(plain.load32(at, Ordering::Relaxed)));
        Arc::new(Modelled {
            plain,
            wide,
            narrow,
            futex: (Mutex::new(()), Condvar::new()),
        })
    }
    fn narrow(&self, at: usize) -> Option<&AtomicU32> {
        NARROW.iter().position(|&n| n == at).map(|i| &self.narrow[i])
    }
    fn wide(&self, at: usize) -> Option<&AtomicU64> {
        WIDE.iter().position(|&n| n == at).map(|i| &self.wide[i])
    }
}

/// An access with the fences that make loom take "sequentially consistent" at its word.
fn ordered<T>(order: Ordering, access: impl FnOnce() -> T) -> T {
    if order != Ordering::SeqCst {
        return access();
    }
    fence(Ordering::SeqCst);
    let result = access();
    fence(Ordering::SeqCst);
    result
}

impl Words for Modelled {
    fn len(&self) -> usize {
        self.plain.len()
    }
    fn load32(&self, at: usize, order: Ordering) -> u32 {
        match self.narrow(at) {
            Some(word) => ordered(order, || word.load(order)),
            None => self.plain.load32(at, order),
        }
    }
    fn store32(&self, at: usize, value: u32, order: Ordering) {
        match self.narrow(at) {
            Some(word) => ordered(order, || word.store(value, order)),
            None => self.plain.store32(at, value, order),
        }
    }
    fn compare_exchange32(&self, at: usize, c: u32, n: u32, s: Ordering, f: Ordering) -> Result<u32, u32> {
        match self.narrow(at) {
            Some(word) => ordered(s, || word.compare_exchange(c, n, s, f)),
            None => self.plain.compare_exchange32(at, c, n, s, f),
        }
    }
    fn load64(&self, at: usize, order: Ordering) -> u64 {
        match self.wide(at) {
            Some(word) => ordered(order, || word.load(order)),
            None => self.plain.load64(at, order),
        }
    }
    fn store64(&self, at: usize, value: u64, order: Ordering) {
        match self.wide(at) {
            Some(word) => ordered(order, || word.store(value, order)),
            None => self.plain.store64(at, value, order),
        }
    }
    fn compare_exchange64(&self, at: usize, c: u64, n: u64, s: Ordering, f: Ordering) -> Result<u64, u64> {
        match self.wide(at) {
            Some(word) => ordered(s, || word.compare_exchange(c, n, s, f)),
            None => self.plain.compare_exchange64(at, c, n, s, f),
        }
    }
    fn copy_out(&self, at: usize, into: &mut [u8]) -> bool {
        self.plain.copy_out(at, into)
    }
    fn copy_in(&self, at: usize, from: &[u8]) -> bool {
        self.plain.copy_in(at, from)
    }
    fn zero(&self, at: usize, bytes: usize) -> bool {
        self.plain.zero(at, bytes)
    }
}

/// One thread. With `signalled`, its first sleep ends by a signal at once.
struct Thread {
    words: Arc<Modelled>,
    client: u32,
    signalled: bool,
}

fn thread(words: &Arc<Modelled>, client: u32) -> Thread {
    Thread {
        words: Arc::clone(words),
        client,
        signalled: false,
    }
}

impl World for Thread {
    fn me(&self) -> Me {
        Me {
            client: self.client,
            thread: 1,
            ..Me::default()
        }
    }
    fn seconds(&self) -> u64 {
        0
    }
    fn spin(&self, _: u32, _: u16) -> Spin {
        Spin::Enough
    }
    fn lock_wait(&self, _: Owner, _: u32) -> LockWait {
        if self.client == 1 {
            return LockWait::Busy;
        }
        loom::thread::yield_now();
        LockWait::Again
    }
    fn sleep(&self, at: usize, expected: u32) -> Slept {
        if self.signalled {
            return Slept::Interrupted;
        }
        let guard = self.words.futex.0.lock().unwrap();
        if self.words.load32(at, Ordering::SeqCst) == expected {
            drop(self.words.futex.1.wait(guard).unwrap());
        }
        Slept::Look
    }
    fn wake(&self, _: Sleeper) {
        let _guard = self.words.futex.0.lock().unwrap();
        self.words.futex.1.notify_all();
    }
}

impl Thread {
    fn send(&self, mtype: i64, text: &[u8]) -> Result<(), MsgError> {
        Queue::at(&*self.words).send(self, CONTROL, mtype, text, false)
    }
    fn receive(&self, nowait: bool) -> Result<(i64, Vec<u8>), MsgError> {
        let mut into = vec![0; 1100];
        let flags = ReceiveFlags {
            nowait,
            ..ReceiveFlags::default()
        };
        let got = Queue::at(&*self.words).receive(self, CONTROL, &mut into, 0, flags)?;
        into.truncate(got.len);
        Ok((got.mtype, into))
    }
}

fn model(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(body);
}

fn long(byte: u8) -> Vec<u8> {
    vec![byte; 1030]
}

#[test]
fn a_waiting_receiver_is_woken() {
    model(3, || {
        let words = Modelled::new(100);
        let (one, two) = (thread(&words, 2), thread(&words, 3));
        let other = loom::thread::spawn(move || two.send(5, b"x").unwrap());
        assert_eq!(one.receive(false), Ok((5, b"x".to_vec())));
        other.join().unwrap();
        Queue::at(&*words).audit().unwrap();
    });
}

#[test]
fn a_waiting_sender_is_woken() {
    model(3, || {
        let words = Modelled::new(1);
        let (one, two) = (thread(&words, 2), thread(&words, 3));
        one.send(1, b"a").unwrap();
        let other = loom::thread::spawn(move || two.receive(false).unwrap());
        one.send(2, b"b").unwrap();
        assert_eq!(other.join().unwrap(), (1, b"a".to_vec()));
        assert_eq!(one.receive(true), Ok((2, b"b".to_vec())));
        Queue::at(&*words).audit().unwrap();
    });
}

#[test]
fn a_long_message_is_reserved_filled_and_committed_while_another_receives() {
    model(2, || {
        let words = Modelled::new(4000);
        let (one, two) = (thread(&words, 2), thread(&words, 3));
        let other = loom::thread::spawn(move || two.send(5, &long(7)).unwrap());
        assert_eq!(one.receive(false), Ok((5, long(7))));
        other.join().unwrap();
        Queue::at(&*words).audit().unwrap();
    });
}

#[test]
fn long_messages_in_both_directions_at_once() {
    model(2, || {
        let words = Modelled::new(1030);
        let (one, two) = (thread(&words, 2), thread(&words, 3));
        one.send(1, &long(1)).unwrap();
        let other = loom::thread::spawn(move || two.receive(false).unwrap());
        one.send(2, &long(2)).unwrap();
        assert_eq!(other.join().unwrap(), (1, long(1)));
        assert_eq!(one.receive(true), Ok((2, long(2))));
        Queue::at(&*words).audit().unwrap();
    });
}

#[test]
fn removal_reaches_a_receiver_that_is_about_to_sleep() {
    model(3, || {
        let words = Modelled::new(100);
        let (one, back_end) = (thread(&words, 2), thread(&words, 1));
        let other = loom::thread::spawn(move || {
            CONTROL.with_state(State::Removed).store(&*back_end.words);
            Queue::at(&*back_end.words).remove(&back_end);
        });
        assert_eq!(one.receive(false), Err(MsgError::Removed));
        other.join().unwrap();
    });
}

#[test]
fn a_signal_and_a_grant_at_once_lose_no_message() {
    model(3, || {
        let words = Modelled::new(100);
        let (mut one, two) = (thread(&words, 2), thread(&words, 3));
        one.signalled = true;
        let other = loom::thread::spawn(move || two.send(5, b"x").unwrap());
        let got = one.receive(false);
        other.join().unwrap();
        let left = one.receive(true);
        match got {
            Ok(_) => assert_eq!(left, Err(MsgError::NoMessage)),
            Err(error) => {
                assert_eq!(error, MsgError::Interrupted);
                assert_eq!(left, Ok((5, b"x".to_vec())));
            }
        }
        Queue::at(&*words).audit().unwrap();
    });
}

#[test]
fn a_sweep_beside_living_users_loses_nothing() {
    model(2, || {
        let words = Modelled::new(100);
        let (one, two, back_end) = (thread(&words, 2), thread(&words, 3), thread(&words, 1));
        let other = loom::thread::spawn(move || {
            let swept = Queue::at(&*back_end.words).sweep(&back_end, 9).unwrap();
            assert!(matches!(swept, Sweep::Done | Sweep::Busy));
            two.send(5, b"x").unwrap();
        });
        assert_eq!(one.receive(false), Ok((5, b"x".to_vec())));
        other.join().unwrap();
        Queue::at(&*words).audit().unwrap();
    });
}
