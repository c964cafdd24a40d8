//! Small things handed from one party to another, many of them under way at once: what exchange makes by itself, without waiting for each other's turn.
//!
//! Role 1 gives and role 0 takes. Constructs are got and attached once and kept for as long as the worker lives, so that a second run of the same key is exchange and
//! nothing else. Not for how long a handoff takes: whoever gives is ahead of whoever takes.

use crate::sysv::{Message, Queue, Segment, Sem, sembuf};
use anyhow::{Result, bail, ensure};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Slots of the ring in a segment, a cache line each, and where they begin.
const SLOTS: u64 = 32;
const FIRST: usize = 32;
/// How far the giver of semaphores may be ahead.
const AHEAD: i16 = 1000;
/// Bytes of a message.
const BYTES: usize = 64;

#[derive(Clone)]
enum Kept {
    Segment(Rc<Segment>),
    Set(Sem),
    Queue(Queue),
}

thread_local! {
    static KEPT: RefCell<BTreeMap<(String, i32), Kept>> = RefCell::default();
}

fn kept(test: &str, key: i32) -> Result<Kept> {
    let name = (test.to_owned(), key);
    if let Some(found) = KEPT.with_borrow(|kept| kept.get(&name).cloned()) {
        return Ok(found);
    }
    let made = match test {
        "flow_shm" => Kept::Segment(Rc::new(Segment::attach(key, 4096)?)),
        "flow_sem" => Kept::Set(Sem::get(key, 2)?),
        "flow_msg" => Kept::Queue(Queue::get(key)?),
        _ => bail!("no such test: {test}"),
    };
    KEPT.with_borrow_mut(|kept| kept.insert(name, made.clone()));
    Ok(made)
}

/// One party's part of handing over `n` things; how long it took.
pub(crate) fn command(test: &str, role: u32, key: i32, n: u64) -> Result<Duration> {
    let kept = kept(test, key)?;
    let start = Instant::now();
    match (kept, role) {
        (Kept::Segment(segment), 1) => give_words(&segment, n),
        (Kept::Segment(segment), _) => take_words(&segment, n)?,
        (Kept::Set(set), role) => units(set, role, n)?,
        (Kept::Queue(queue), role) => messages(queue, role, n)?,
    }
    Ok(start.elapsed())
}

fn give_words(segment: &Segment, n: u64) {
    let (given, taken) = (segment.line(0), segment.line(1));
    let mut next = given.load(Ordering::Acquire);
    for _ in 0..n {
        while next.wrapping_sub(taken.load(Ordering::Acquire)) >= SLOTS {
            std::hint::spin_loop();
        }
        segment
            .line(FIRST + (next % SLOTS) as usize)
            .store(next, Ordering::Relaxed);
        next = next.wrapping_add(1);
        given.store(next, Ordering::Release);
    }
}

fn take_words(segment: &Segment, n: u64) -> Result<()> {
    let (given, taken) = (segment.line(0), segment.line(1));
    let mut next = taken.load(Ordering::Acquire);
    for _ in 0..n {
        while given.load(Ordering::Acquire) == next {
            std::hint::spin_loop();
        }
        let found = segment
            .line(FIRST + (next % SLOTS) as usize)
            .load(Ordering::Relaxed);
        ensure!(found == next, "word {next} came as {found}");
        next = next.wrapping_add(1);
        taken.store(next, Ordering::Release);
    }
    Ok(())
}

/// Semaphore 0 counts what is there, semaphore 1 how much more may be given.
fn units(set: Sem, role: u32, n: u64) -> Result<()> {
    let one = |number, by| [sembuf(number, by, 0)];
    if role == 1 {
        let (mut room, mut there) = (one(1, -1), one(0, 1));
        for _ in 0..n {
            set.op(&mut room)?;
            set.op(&mut there)?;
        }
        return Ok(());
    }
    set.op(&mut one(1, AHEAD))?;
    let (mut there, mut room) = (one(0, -1), one(1, 1));
    for _ in 0..n {
        set.op(&mut there)?;
        set.op(&mut room)?;
    }
    // All was given: what is left is what there was at first.
    Ok(set.op(&mut one(1, -AHEAD))?)
}

fn messages(queue: Queue, role: u32, n: u64) -> Result<()> {
    let mut message = Message::boxed(1);
    for _ in 0..n {
        if role == 1 {
            queue.send(&message, BYTES)?;
        } else {
            ensure!(
                queue.receive(&mut message, BYTES, 0)? == BYTES,
                "a message was cut"
            );
        }
    }
    Ok(())
}
