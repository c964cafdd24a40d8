//! Queues in the memory of one process: a pair of send and receive, receive by type, and a stream of long messages between two threads beside
//! its obvious bound, a ring of eight slots that copies with the same routine and does nothing else.
//!
//! The kernel's own queues are measured in `bench/`, between processes.
#![allow(unsafe_code)] // `Mapping::new` over leaked memory: the data path that clients use.

use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::{black_box, spin_loop};
use std::time::{Duration, Instant};
use vshmem_ipc::msgq::{Queue, ReceiveFlags};
use vshmem_ipc::{Control, LockWait, Me, Owner, Sleeper, Slept, Spin, State, World};
use vshmem_words::{Mapping, Ordering, Words};

const CONTROL: Control = Control::new(State::Live, 1, 1, 1);
const NOWAIT: ReceiveFlags = ReceiveFlags {
    nowait: true,
    noerror: false,
    except: false,
    copy: false,
};
const WAIT: ReceiveFlags = ReceiveFlags {
    nowait: false,
    ..NOWAIT
};

/// A client thread that spins as long as it likes.
struct Spinner(u32);

impl World for Spinner {
    #[inline(always)]
    fn me(&self) -> Me {
        Me {
            client: self.0,
            thread: 1,
            domain: 1,
            pid: self.0,
            place: self.0 as u16,
            ..Me::default()
        }
    }
    #[inline(always)]
    fn seconds(&self) -> u64 {
        1
    }
    fn spin(&self, turn: u32, _: u16) -> Spin {
        if turn % 10_000 == 9_999 {
            std::thread::yield_now();
        }
        spin_loop();
        Spin::Again
    }
    fn lock_wait(&self, _: Owner, turn: u32) -> LockWait {
        if turn % 1000 == 999 {
            std::thread::yield_now();
        }
        spin_loop();
        LockWait::Again
    }
    fn sleep(&self, _: usize, _: u32) -> Slept {
        std::thread::yield_now();
        Slept::Look
    }
    fn wake(&self, _: Sleeper) {}
}

fn memory(bytes: usize) -> &'static Mapping {
    let words = Box::leak(vec![0u64; bytes / 8].into_boxed_slice());
    // SAFETY: leaked, so it stays; the only reference to it ends here.
    Box::leak(Box::new(unsafe {
        Mapping::new(words.as_mut_ptr().cast(), bytes)
    }))
}

fn queue(bytes: usize, qbytes: u64) -> &'static Mapping {
    let words = memory(bytes);
    Queue::format(words, qbytes);
    CONTROL.store(words);
    words
}

fn pair(c: &mut Criterion, name: &str, len: usize) {
    let queue = Queue::at(queue(1 << 16, 1 << 20));
    let me = Spinner(2);
    let text = vec![7u8; len];
    let mut into = vec![0u8; len];
    c.bench_function(name, |b| {
        b.iter(|| {
            queue.send(&me, CONTROL, 1, black_box(&text), true).unwrap();
            queue
                .receive(&me, CONTROL, black_box(&mut into), 0, NOWAIT)
                .unwrap()
        });
    });
}

fn pairs(c: &mut Criterion) {
    pair(c, "pair_64", 64);
    pair(c, "pair_8k", 8192);
}

fn by_type(c: &mut Criterion) {
    let queue = Queue::at(queue(8 << 20, 1 << 20));
    let me = Spinner(2);
    let mtype = |i: u64| (i * 7919 % 1000 + 1) as i64;
    for i in 0..10_000 {
        queue.send(&me, CONTROL, mtype(i), &[1; 64], true).unwrap();
    }
    let mut into = [0u8; 64];
    let mut i = 0;
    for (name, sign, except) in [
        ("type_exact_10000", 1, false),
        ("type_lowest_10000", -1, false),
        ("type_except_10000", 1, true),
    ] {
        let flags = ReceiveFlags { except, ..NOWAIT };
        c.bench_function(name, |b| {
            b.iter(|| {
                i += 1;
                let wanted = if sign < 0 { -1000 } else { mtype(i * 31) };
                let got = queue.receive(&me, CONTROL, &mut into, wanted, flags).unwrap();
                queue.send(&me, CONTROL, got.mtype, &into, true).unwrap();
            });
        });
    }
}

const LONG: usize = 65536;

/// A ring of eight slots: two counters and the copies.
struct Ring(&'static Mapping);

impl Ring {
    fn wait(&self, at: usize, beyond: u32) {
        let mut turn = 0u32;
        while (self.0.load32(at, Ordering::Acquire).wrapping_sub(beyond) as i32) <= 0 {
            turn += 1;
            if turn.is_multiple_of(10_000) {
                std::thread::yield_now();
            }
            spin_loop();
        }
    }
    fn send(&self, i: u32, text: &[u8]) {
        self.wait(64, i.wrapping_sub(8));
        self.0.copy_in(128 + (i % 8) as usize * LONG, text);
        self.0.store32(0, i + 1, Ordering::Release);
    }
    fn receive(&self, i: u32, into: &mut [u8]) {
        self.wait(0, i);
        self.0.copy_out(128 + (i % 8) as usize * LONG, into);
        self.0.store32(64, i + 1, Ordering::Release);
    }
}

/// Time in which `count` messages go from one thread to the other.
fn stream(count: u64, send: impl Fn(u32, &[u8]) + Send, receive: impl Fn(u32, &mut [u8])) -> Duration {
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let text = vec![7u8; LONG];
            (0..count).for_each(|i| send(i as u32, black_box(&text)));
        });
        let mut into = vec![0u8; LONG];
        receive(0, &mut into);
        let start = Instant::now();
        (1..count).for_each(|i| receive(i as u32, black_box(&mut into)));
        start.elapsed()
    })
}

fn stream_ring(count: u64) -> Duration {
    let ring = Ring(memory(128 + 8 * LONG));
    let (a, b) = (Ring(ring.0), ring);
    stream(
        count,
        move |i, text| a.send(i, text),
        move |i, into| b.receive(i, into),
    )
}

fn stream_queue(count: u64) -> Duration {
    let words = queue(1 << 20, 8 * LONG as u64);
    let (queue, again) = (Queue::at(words), Queue::at(words));
    stream(
        count,
        move |_, text| queue.send(&Spinner(2), CONTROL, 1, text, false).unwrap(),
        move |_, into| {
            again.receive(&Spinner(3), CONTROL, into, 0, WAIT).unwrap();
        },
    )
}

fn streams(_: &mut Criterion) {
    let mut ratios: Vec<f64> = (0..21)
        .map(|_| {
            const COUNT: u64 = 2000;
            let ring = stream_ring(COUNT);
            let queue = stream_queue(COUNT);
            let rate = |time: Duration| LONG as f64 * (COUNT - 1) as f64 / time.as_secs_f64() / 1e9;
            println!(
                "stream_64k  ring {:5.2} GB/s  queue {:5.2} GB/s",
                rate(ring),
                rate(queue)
            );
            ring.as_secs_f64() / queue.as_secs_f64()
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    println!(
        "stream_64k  median ratio queue to ring {:.3}",
        ratios[ratios.len() / 2]
    );
}

criterion_group!(msgq, pairs, by_type, streams);
criterion_main!(msgq);
