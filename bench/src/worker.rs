//! The measured loops: a program that reads commands and runs them through libc's System V calls.
//!
//! A command is a line `TEST ROLE KEY ITERATIONS`; the answer is a line `ok NANOSECONDS` (of the whole loop) or `error WORDS`. Tests with
//! two parties are sent to two workers; role 0 starts and measures, role 1 answers. `remove` takes the constructs of a key away.

use crate::sysv::{Message, Queue, Segment, Sem, await_value, sembuf};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use vshmem_words::Words;

/// Slots of the bare ring that `msg_stream_64k` is compared with.
const RING: u64 = 8;
/// Bytes of a message in the stream.
const CHUNK: usize = 65536;

/// Reads commands from standard input until it ends.
pub fn worker() -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "ready")?;
    out.flush()?;
    for line in std::io::stdin().lock().lines() {
        match command(&line?) {
            Ok(took) => writeln!(out, "ok {}", took.as_nanos())?,
            Err(error) => writeln!(out, "error {error:#}")?,
        }
        out.flush()?;
    }
    Ok(())
}

fn command(line: &str) -> Result<Duration> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [test, role, key, iterations] = words[..] else {
        bail!("not a command: {line}")
    };
    let role: u32 = role.parse().context("role")?;
    let key: i32 = key.parse().context("key")?;
    let n: u64 = iterations.parse().context("iterations")?;
    match test {
        "shm_pingpong" => shm_pingpong(role, key, n),
        "sem_uncontended" => sem_uncontended(key, n, 0),
        "sem_undo_uncontended" => sem_uncontended(key, n, libc::SEM_UNDO),
        "sem_array_4" => sem_array(key, n),
        "msg_pair_64" => msg_pair(key, n),
        "sem_handoff" => sem_handoff(role, key, n),
        "msg_pingpong_64" => msg_pingpong(role, key, n),
        "msg_stream_64k" => msg_stream(role, key, n),
        "ring_stream_64k" => ring_stream(role, key, n),
        "attach_cycle" => attach_cycle(key, n),
        "attach_cycle_get" => attach_step(0, key, n),
        "attach_cycle_attach" => attach_step(1, key, n),
        "attach_cycle_detach" => attach_step(2, key, n),
        "attach_cycle_remove" => attach_step(3, key, n),
        "tcp_pingpong_64" => tcp_pingpong(role, key, n),
        "request" => request(n),
        "spin" => Ok(spin(n)),
        "remove" => remove(key),
        flow if flow.starts_with("flow_") => crate::flow::command(flow, role, key, n),
        scale if scale.starts_with("scale_") => crate::scale::worker::command(scale, role, key, n),
        _ => bail!("no such test: {test}"),
    }
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

/// Rounds that two parties make before the clock starts, so that neither's start-up, page faults and first scheduling are measured.
const TOGETHER: u64 = 200;

/// Times `n` rounds of a loop with two parties, after some that are not measured. `step` is given the round's number, from 1.
fn timed_rounds(n: u64, mut step: impl FnMut(u64) -> Result<()>) -> Result<Duration> {
    for i in 1..=TOGETHER {
        step(i)?;
    }
    timed(|| (TOGETHER + 1..=TOGETHER + n).try_for_each(step))
}

/// A cache line each way: role 0 writes i and waits for i to come back.
fn shm_pingpong(role: u32, key: i32, n: u64) -> Result<Duration> {
    let segment = Segment::attach(key, 4096)?;
    let (mine, yours) = if role == 0 { (0, 1) } else { (1, 0) };
    let base = segment.line(mine).load(Ordering::Relaxed);
    timed_rounds(n, |i| {
        if role == 0 {
            segment.line(mine).store(base + i, Ordering::Release);
            await_value(segment.line(yours), base + i);
        } else {
            await_value(segment.line(yours), base + i);
            segment.line(mine).store(base + i, Ordering::Release);
        }
        Ok(())
    })
}

/// A loop with nothing in it: what a machine does by itself while a program runs.
fn spin(n: u64) -> Duration {
    let start = Instant::now();
    (0..n).for_each(|turn| {
        std::hint::black_box(turn);
    });
    start.elapsed()
}

fn sem_uncontended(key: i32, n: u64, flags: i32) -> Result<Duration> {
    let set = Sem::get(key, 4)?;
    let (mut up, mut down) = ([sembuf(0, 1, flags)], [sembuf(0, -1, flags)]);
    timed(|| {
        for _ in 0..n / 2 {
            set.op(&mut up)?;
            set.op(&mut down)?;
        }
        Ok(())
    })
}

fn sem_array(key: i32, n: u64) -> Result<Duration> {
    let set = Sem::get(key, 4)?;
    let mut up = [0, 1, 2, 3].map(|i| sembuf(i, 1, 0));
    let mut down = [0, 1, 2, 3].map(|i| sembuf(i, -1, 0));
    timed(|| {
        for _ in 0..n / 2 {
            set.op(&mut up)?;
            set.op(&mut down)?;
        }
        Ok(())
    })
}

fn msg_pair(key: i32, n: u64) -> Result<Duration> {
    let queue = Queue::get(key)?;
    let (out, mut into) = (Message::boxed(1), Message::boxed(1));
    timed(|| {
        for _ in 0..n {
            queue.send(&out, 64)?;
            queue.receive(&mut into, 64, 0)?;
        }
        Ok(())
    })
}

fn sem_handoff(role: u32, key: i32, n: u64) -> Result<Duration> {
    let set = Sem::get(key, 2)?;
    let (mine, yours) = if role == 0 { (0, 1) } else { (1, 0) };
    let (mut give, mut take) = ([sembuf(mine, 1, 0)], [sembuf(yours, -1, 0)]);
    timed_rounds(n, |_| {
        if role == 0 {
            set.op(&mut give)?;
            set.op(&mut take)?;
        } else {
            set.op(&mut take)?;
            set.op(&mut give)?;
        }
        Ok(())
    })
}

fn msg_pingpong(role: u32, key: i32, n: u64) -> Result<Duration> {
    let queue = Queue::get(key)?;
    let (mine, yours) = if role == 0 { (1, 2) } else { (2, 1) };
    let (out, mut into) = (Message::boxed(mine), Message::boxed(1));
    timed_rounds(n, |_| {
        if role == 0 {
            queue.send(&out, 64)?;
        }
        queue.receive(&mut into, 64, yours)?;
        if role == 1 {
            queue.send(&out, 64)?;
        }
        Ok(())
    })
}

/// Role 1 sends n messages of 64 KiB, role 0 receives them and measures.
fn msg_stream(role: u32, key: i32, n: u64) -> Result<Duration> {
    let queue = Queue::get(key)?;
    let mut message = Message::boxed(1);
    if role == 0 {
        queue.set_qbytes(RING * CHUNK as u64)?;
        // The first message starts the clock, so that neither side's start-up is measured.
        queue.receive(&mut message, CHUNK, 0)?;
    } else {
        queue.send(&message, CHUNK)?;
    }
    timed(|| {
        for _ in 0..n {
            if role == 0 {
                queue.receive(&mut message, CHUNK, 0).map(drop)?
            } else {
                queue.send(&message, CHUNK)?
            }
        }
        Ok(())
    })
}

/// The obvious twin of the stream: one producer, one consumer, eight slots, two counters, the same copy routine.
fn ring_stream(role: u32, key: i32, n: u64) -> Result<Duration> {
    let segment = Segment::attach(key, 4096 + RING as usize * CHUNK)?;
    let memory = segment.words();
    let (head, tail) = (segment.line(0), segment.line(1));
    let mut message = Message::boxed(1);
    let mut next = if role == 0 {
        tail.load(Ordering::Acquire)
    } else {
        head.load(Ordering::Acquire)
    };
    let mut step = || {
        let slot = 4096 + (next % RING) as usize * CHUNK;
        if role == 0 {
            while head.load(Ordering::Acquire) == next {
                std::hint::spin_loop();
            }
            memory.copy_out(slot, &mut message.text);
            next += 1;
            tail.store(next, Ordering::Release);
        } else {
            while next - tail.load(Ordering::Acquire) == RING {
                std::hint::spin_loop();
            }
            memory.copy_in(slot, &message.text);
            next += 1;
            head.store(next, Ordering::Release);
        }
    };
    step();
    timed(|| {
        (0..n).for_each(|_| step());
        Ok(())
    })
}

/// Get, attach, detach, remove: the whole cycle.
fn attach_cycle(key: i32, n: u64) -> Result<Duration> {
    timed(|| {
        for _ in 0..n {
            let segment = Segment::attach(key, 4096)?;
            segment.remove()?;
        }
        Ok(())
    })
}

/// Where the time of the cycle goes: the sum of one of its steps (0 get, 1 attach, 2 detach, 3 remove).
fn attach_step(step: usize, key: i32, n: u64) -> Result<Duration> {
    let mut spent = [Duration::ZERO; 4];
    for _ in 0..n {
        let mut at = Instant::now();
        let mut lap = |index: usize| {
            let now = Instant::now();
            spent[index] += now - at;
            at = now;
        };
        let id = Segment::get(key, 4096)?;
        lap(0);
        let segment = Segment::attach_id(id, 4096)?;
        lap(1);
        drop(segment);
        lap(2);
        Segment::remove_id(id)?;
        lap(3);
    }
    Ok(spent[step])
}

/// TCP between two domains: role 1 listens; role 0 connects to the address in `VSHMEM_BENCH_PEER` (default loopback).
fn tcp_pingpong(role: u32, port: i32, n: u64) -> Result<Duration> {
    let port = u16::try_from(port & 0xffff).unwrap_or(5000);
    let mut stream = if role == 1 {
        TcpListener::bind(("0.0.0.0", port))?.accept()?.0
    } else {
        let peer = std::env::var("VSHMEM_BENCH_PEER").unwrap_or_else(|_| "127.0.0.1".into());
        connect(&peer, port)?
    };
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut buffer = [0u8; 64];
    timed_rounds(n, |_| {
        if role == 0 {
            stream.write_all(&buffer)?;
        }
        stream.read_exact(&mut buffer)?;
        if role == 1 {
            stream.write_all(&buffer)?;
        }
        Ok(())
    })
}

/// A request that the back-end answers at once: from a guest it goes by the front-end and the port's byte stream, and comes back.
fn request(n: u64) -> Result<Duration> {
    let runtime = vshmem_runtime::Runtime::global();
    timed(|| {
        for _ in 0..n {
            runtime
                .request(&vshmem_runtime::wire::Request::Ping)
                .map_err(|f| anyhow::anyhow!("{f:?}"))?;
        }
        Ok(())
    })
}

fn connect(peer: &str, port: u16) -> Result<TcpStream> {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        match TcpStream::connect((peer, port)) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > until => return Err(error).context("TCP"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Takes the constructs of a key away.
pub(crate) fn remove(key: i32) -> Result<Duration> {
    timed(|| {
        if let Ok(set) = Sem::get(key, 0) {
            set.remove()?;
        }
        if let Ok(queue) = Queue::get(key) {
            queue.remove()?;
        }
        if let Ok(segment) = Segment::attach(key, 0) {
            segment.remove()?;
        }
        Ok(())
    })
}
