//! Threads, each a client with its own view of how much is mapped, while the queue grows, limits change, signals come and sweeps run: every message
//! arrives exactly once, and nobody sleeps for ever.

use crate::partly::Partly;
use crate::player::{CONTROL, queue_memory};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};
use vshmem_ipc::msgq::{MsgError, Queue, ReceiveFlags};
use vshmem_ipc::{LockWait, Me, Owner, Sleeper, Slept, Spin, World};
use vshmem_words::{Heap, Ordering, Words};

/// One futex for all.
#[derive(Default)]
struct Futex {
    gate: Mutex<()>,
    bell: Condvar,
}

struct Thread<'a> {
    client: u32,
    heap: &'a Heap,
    futex: &'a Futex,
    seed: Cell<u64>,
}

impl Thread<'_> {
    fn random(&self, below: u64) -> u64 {
        let mut x = self.seed.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.seed.set(x);
        x % below
    }
}

impl World for Thread<'_> {
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
    fn spin(&self, turn: u32, _: u16) -> Spin {
        if u64::from(turn) > self.random(60) {
            Spin::Enough
        } else {
            Spin::Again
        }
    }
    fn lock_wait(&self, _: Owner, _: u32) -> LockWait {
        std::thread::yield_now();
        if self.client == 1 {
            LockWait::Busy
        } else {
            LockWait::Again
        }
    }
    fn sleep(&self, at: usize, expected: u32) -> Slept {
        if self.random(16) == 0 {
            return Slept::Interrupted;
        }
        let guard = self.futex.gate.lock().unwrap();
        let asleep = |(): &mut ()| self.heap.load32(at, Ordering::SeqCst) == expected;
        let (_guard, late) = self
            .futex
            .bell
            .wait_timeout_while(guard, Duration::from_secs(20), asleep)
            .unwrap();
        assert!(!late.timed_out(), "a wake-up was lost");
        Slept::Look
    }
    fn wake(&self, _: Sleeper) {
        let _guard = self.futex.gate.lock().unwrap();
        self.futex.bell.notify_all();
    }
}

/// A client's mapping and its calls, repeated as the client runtime would.
struct Client<'a> {
    thread: Thread<'a>,
    mapped: Partly<'a>,
}

impl<'a> Client<'a> {
    fn new(client: u32, heap: &'a Heap, futex: &'a Futex) -> Self {
        let thread = Thread {
            client,
            heap,
            futex,
            seed: Cell::new(u64::from(client) * 0x9e37_79b9),
        };
        let mapped = Partly {
            inner: heap,
            mapped: Cell::new(heap.len()),
            later: None,
        };
        Client { thread, mapped }
    }
    fn repeat<T>(&self, call: impl Fn() -> Result<T, MsgError>) -> T {
        loop {
            match call() {
                Ok(done) => return done,
                Err(MsgError::Interrupted) => {}
                Err(MsgError::Stale) => self.mapped.mapped.set(self.thread.heap.len()),
                Err(MsgError::NeedExtent(wanted)) => {
                    let heap = self.thread.heap;
                    heap.grow(heap.len() + wanted.next_multiple_of(4096) + 4096);
                    self.mapped.mapped.set(heap.len());
                }
                Err(error) => panic!("client {}: {error:?}", self.thread.client),
            }
        }
    }
    fn send(&self, mtype: i64, text: &[u8]) {
        self.repeat(|| Queue::at(&self.mapped).send(&self.thread, CONTROL, mtype, text, false));
    }
    fn receive(&self, msgtyp: i64) -> Vec<u8> {
        let into = std::cell::RefCell::new(vec![0; 4000]);
        let flags = ReceiveFlags::default();
        let got = self.repeat(|| {
            Queue::at(&self.mapped).receive(&self.thread, CONTROL, &mut into.borrow_mut(), msgtyp, flags)
        });
        into.into_inner()[..got.len].to_vec()
    }
}

const EACH: u64 = 400;

#[test]
fn every_message_arrives_once_while_everything_happens() {
    let heap = queue_memory(3000);
    let futex = Futex::default();
    let (sum, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let expected: u64 = (0..3 * EACH).sum();
    let started = Instant::now();
    std::thread::scope(|scope| {
        for i in 0..3 {
            let (heap, futex, sum) = (&heap, &futex, &sum);
            scope.spawn(move || {
                let client = Client::new(10 + i, heap, futex);
                for n in 0..EACH {
                    let number = u64::from(i) * EACH + n;
                    let len = [8, 60, 700, 1500, 2900][client.thread.random(5) as usize];
                    let mut text = vec![number as u8; len];
                    text[..8].copy_from_slice(&number.to_le_bytes());
                    client.send(i64::from(i) + 1, &text);
                }
            });
            scope.spawn(move || {
                let client = Client::new(20 + i, heap, futex);
                for _ in 0..EACH {
                    let text = client.receive(i64::from(i) + 1);
                    let number = u64::from_le_bytes(text[..8].try_into().unwrap());
                    assert!(
                        text[8..].iter().all(|&byte| byte == number as u8),
                        "a text is whole"
                    );
                    sum.fetch_add(number, Relaxed);
                }
            });
        }
        let (heap, futex, stop, sum) = (&heap, &futex, &stop, &sum);
        scope.spawn(move || {
            let back_end = Client::new(1, heap, futex);
            while !stop.load(Relaxed) && sum.load(Relaxed) < expected {
                let _ = Queue::at(heap).set_qbytes(&back_end.thread, 2900 + back_end.thread.random(4000));
                let _ = Queue::at(heap).sweep(&back_end.thread, 99);
                std::thread::sleep(Duration::from_millis(1));
                if started.elapsed() > Duration::from_secs(60) {
                    stop.store(true, Relaxed);
                }
            }
        });
    });
    assert_eq!(sum.into_inner(), expected);
    Queue::at(&heap).audit().unwrap();
    assert_eq!(Queue::at(&heap).stat().qnum, 0);
}
