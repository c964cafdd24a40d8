//! A thread that takes note of calls as soon as they are made, whatever the supervisor is at.
//!
//! Until a call is taken note of, a signal with a handler that has no SA_RESTART makes it give EINTR, fork(2) and open(2) too, which no program expects. So
//! nothing is waited for here, and this thread goes before others. What opens none of our files goes on from here; all else is put in a queue.

use crate::files;
use crate::filter::ARCH_64;
use crate::notice::{self, Notice};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What was heard.
#[derive(Debug)]
pub(crate) struct Heard {
    queue: Mutex<VecDeque<Notice>>,
    bell: OwnedFd,
    /// Nobody is left whose calls could be heard of.
    over: AtomicBool,
}

impl Heard {
    /// Starts the thread.
    pub(crate) fn start(listener: OwnedFd) -> io::Result<Arc<Heard>> {
        let heard = Arc::new(Heard {
            queue: Mutex::default(),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            over: AtomicBool::new(false),
        });
        let own = heard.clone();
        std::thread::Builder::new().spawn(move || own.hear(&listener))?;
        Ok(heard)
    }

    /// Can be read from when there is something.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// The bell has been heard.
    pub(crate) fn unring(&self) {
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
    }

    /// The next call.
    pub(crate) fn next(&self) -> Option<Notice> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.pop_front()
    }

    /// Whether nothing more will come.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn hear(&self, listener: &OwnedFd) {
        go_before_others();
        loop {
            match next(listener) {
                Ok(Some(notice)) if goes_on(&notice) => notice::let_go(listener, notice.id),
                Ok(Some(notice)) => {
                    let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
                    queue.push_back(notice);
                    drop(queue);
                    self.ring();
                }
                Ok(None) => {}
                Err(error) => {
                    vshmem_runtime::debug!("no more calls: {error}");
                    self.over.store(true, Ordering::SeqCst);
                    return self.ring();
                }
            }
        }
    }

    fn ring(&self) {
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }
}

/// The next call. An error if there will be none: the kernel tells that to who polls.
fn next(listener: &OwnedFd) -> io::Result<Option<Notice>> {
    let mut listening = [PollFd::new(listener, PollFlags::IN)];
    match poll(&mut listening, None) {
        Ok(_) if listening[0].revents().contains(PollFlags::IN) => notice::next(listener),
        Ok(_) => Err(io::ErrorKind::BrokenPipe.into()),
        Err(rustix::io::Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether a call opens a file that is none of ours, as almost all do.
fn goes_on(notice: &Notice) -> bool {
    notice.arch == ARCH_64 && files::OPEN.contains(&notice.number.into()) && !files::has_name(notice)
}

/// As much as this thread is allowed to.
fn go_before_others() {
    for nice in [-10, -5] {
        if rustix::process::nice(nice).is_ok() {
            return;
        }
    }
}
