//! After a child's end: the daemon looks after deaths before it answers, so one answer tells that those are dealt with that came before the question.
//!
//! Programs wait for their children in handlers of SIGCHLD, which may have come in the middle of malloc, in this thread or while another one that holds the control lock
//! waits for what this one was doing. There the question is asked without memory of the heap, and not at all where the lock is not to be had soon.

use crate::control::State;
use crate::errno::{Errno, Result};
use crate::{process, thread};
use std::time::Duration;
use vshmem_wire::Request;

/// How long a daemon may take, a restarted one too.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long another thread of the process may take.
const LOCK: Duration = Duration::from_millis(200);

/// Waits until what ended before is dealt with, as far as the calling thread can tell the difference: one that is to be set up anew asks the daemon before its next
/// operation anyhow.
pub(crate) fn settle() -> Result<()> {
    let thread = thread::current();
    if process::never_used() || !thread.ready() {
        return Ok(());
    }
    if thread.may_be_handling() {
        let asked = process::lock_within(LOCK).is_some_and(|mut state| ping(&mut state));
        return if asked { Ok(()) } else { Err(Errno::EAGAIN) };
    }
    let mut state = process::lock();
    if state.existing().is_none() {
        return Ok(());
    }
    match state.request_for(&Request::Ping, &[], Some(PATIENCE)) {
        Ok(_) => Ok(()),
        Err(failure) => Err(Errno(failure.errno)),
    }
}

fn ping(state: &mut State) -> bool {
    state
        .existing()
        .is_none_or(|connection| connection.ping(PATIENCE))
}
