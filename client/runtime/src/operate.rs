//! One operation on a set or queue: find the attachment, work, and open, grow or let go as the outcome asks.
//!
//! Also the slow way for callers who may not map the construct.
#![allow(unsafe_code)] // A pause that a signal ends.

use crate::attach::{self, Attachment};
use crate::control;
use crate::errno::{Errno, Result};
use crate::futex::{self, Waited};
use crate::process;
use crate::thread::{self, Section, Thread};
use crate::world::Timeout;
use std::sync::atomic::AtomicU32;
use std::time::Duration;
use vshmem_ipc::{Control, Corrupt, State};
use vshmem_wire::request::Behalf;
use vshmem_wire::{Kind, Reply, Request};
use vshmem_words::Mapping;

/// How often an operation may begin anew before its construct counts as broken.
const TRIES: u32 = 200;
const SHORTEST_PAUSE: Duration = Duration::from_micros(500);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// What a piece of work on an attachment came to.
pub(crate) enum Step<T> {
    /// It is over.
    Done(Result<T>),
    /// The attachment is out of date.
    Stale,
    /// The construct must have room for so many bytes more (0: for a slot or record).
    Grow(u64),
    /// The construct was removed; before the operation waited, or while it did.
    Removed { waited: bool },
    /// The construct's memory is rubbish.
    Corrupt(Corrupt),
}

/// Runs `work` on the attachment of `id`, as often as its outcome asks.
#[inline(always)]
pub(crate) fn operate<T>(
    kind: Kind,
    id: i32,
    work: impl FnMut(&Attachment, &'static Thread) -> Step<T>,
) -> Result<T> {
    operate_in(thread::current(), kind, id, work)
}

/// The same for a caller who knows its thread.
#[inline(always)]
pub(crate) fn operate_in<T>(
    thread: &'static Thread,
    kind: Kind,
    id: i32,
    mut work: impl FnMut(&Attachment, &'static Thread) -> Step<T>,
) -> Result<T> {
    let _section = Section::enter(thread);
    let mut asked = false;
    for _ in 0..TRIES {
        let Some(held) = attach::find(kind, id, thread) else {
            attach::open(kind, id, None)?;
            asked = true;
            continue;
        };
        let mut step = work(&held, thread);
        if let Step::Done(result) = step {
            // Who may only do one thing has nothing mapped, and nothing tells it that it may do another by now.
            let doubtful = !asked && held.mapped.is_none() && matches!(result, Err(Errno::EACCES));
            if !doubtful {
                return result;
            }
            asked = true;
            step = Step::Stale;
        }
        let extents = held.control.extents();
        drop(held);
        after(kind, id, extents, &step)?;
    }
    Err(Errno::EIDRM)
}

#[cold]
fn after<T>(kind: Kind, id: i32, extents: u16, step: &Step<T>) -> Result<()> {
    match step {
        Step::Done(_) => Ok(()),
        Step::Stale => attach::open(kind, id, None),
        Step::Grow(wanted) => attach::open(kind, id, Some((*wanted, extents))),
        Step::Removed { waited } => {
            attach::forget(kind, id);
            Err(if *waited { Errno::EIDRM } else { Errno::EINVAL })
        }
        Step::Corrupt(corrupt) => {
            process::lock().report(kind, id, corrupt);
            Err(Errno::EIDRM)
        }
    }
}

/// For work that only reads words: whether the construct still is what the attachment was checked for.
pub(crate) fn check<T>(attachment: &Attachment, words: &Mapping) -> Option<Step<T>> {
    let control = Control::load(words);
    if control == attachment.control && control.state() == State::Live {
        return None;
    }
    Some(match control.state() {
        State::Live => Step::Stale,
        _ => Step::Removed { waited: false },
    })
}

/// One operation done by the daemon on the caller's behalf; it never waits.
pub(crate) fn behalf(id: i32, operation: &Behalf) -> Result<Reply> {
    control::ask(&Request::OnBehalf {
        id,
        operation: operation.clone(),
    })
}

/// An operation done on the caller's behalf again and again while it gives `not_yet`.
pub(crate) fn behalf_waiting(
    thread: &Thread,
    id: i32,
    operation: &Behalf,
    not_yet: Errno,
    timeout: Option<&Timeout>,
) -> Result<Reply> {
    static NEVER: AtomicU32 = AtomicU32::new(0);
    let mut pause = SHORTEST_PAUSE;
    let mut first = true;
    loop {
        match behalf(id, operation) {
            Err(errno) if errno == not_yet => {}
            Err(Errno::EINVAL) if !first => return Err(Errno::EIDRM),
            other => return other,
        }
        first = false;
        let Some(left) = timeout.and_then(Timeout::left) else {
            return Err(not_yet);
        };
        // SAFETY: a static word.
        if unsafe { futex::wait(NEVER.as_ptr(), 0, left.min(pause), &thread.put_off) } == Waited::Interrupted
        {
            return Err(Errno::EINTR);
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
