//! Queues in the memory of one process: a pair of send and receive, receive by type, and a stream of long messages between two threads beside
//! its obvious bound, a ring of eight slots that copies with the same routine and does nothing else.
//!
//! The kernel's own queues are measured in `bench/`, between processes.
#![allow(unsafe_code)] // `Mapping::new` over leaked memory: the data path that clients use.

use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::{black_box, spin_loop};
use std::time::Instant;
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

const WINDOWS: u32 = 40;
const WINDOW: u32 = 100;

/// Bytes per nanosecond from one thread to the other, in the best of many short windows: whatever else runs on the machine spoils the others.
fn stream(send: impl Fn(u32, &[u8]) + Send, receive: impl Fn(u32, &mut [u8])) -> f64 {
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let text = vec![7u8; LONG];
            (0..WINDOWS * WINDOW).for_each(|i| send(i, black_box(&text)));
        });
        let mut into = vec![0u8; LONG];
        let mut window = |w: u32| {
            let start = Instant::now();
            (0..WINDOW).for_each(|i| receive(w * WINDOW + i, black_box(&mut into)));
            start.elapsed().as_nanos()
        };
        let best = (0..WINDOWS).map(&mut window).min().unwrap_or(1);
        (LONG * WINDOW as usize) as f64 / best as f64
    })
}

fn stream_ring() -> f64 {
    let ring = Ring(memory(128 + 8 * LONG));
    let other = Ring(ring.0);
    stream(
        move |i, text| ring.send(i, text),
        move |i, into| other.receive(i, into),
    )
}

fn stream_queue() -> f64 {
    let words = queue(1 << 20, 8 * LONG as u64);
    let (queue, other) = (Queue::at(words), Queue::at(words));
    stream(
        move |_, text| queue.send(&Spinner(2), CONTROL, 1, text, false).unwrap(),
        move |_, into| {
            other.receive(&Spinner(3), CONTROL, into, 0, WAIT).unwrap();
        },
    )
}

fn streams(_: &mut Criterion) {
    let mut ratios: Vec<f64> = (0..15)
        .map(|_| {
            let (ring, queue) = (stream_ring(), stream_queue());
            println!("stream_64k  ring {ring:5.2} GB/s  queue {queue:5.2} GB/s");
            queue / ring
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
