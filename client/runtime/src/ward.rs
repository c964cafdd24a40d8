//! Standing in for another process: a client that makes the calls of a process which cannot make them itself, its *ward*.
//!
//! The daemon is told by a pidfd beside the hello. Constructs then show the ward's pid, and a root stand-in counts as the ward's user. All the rest
//! is the stand-in's own: its memory has the sets and queues, its death is what the daemon waits for. So whoever stands in for a process must die with
//! it, and fork with it if it has segments attached. Segments are mapped where the ward is, by whoever can do that: this module only counts them.

use crate::errno::{Errno, Result};
use crate::mappings;
use crate::process;
use crate::runtime::Runtime;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use vshmem_wire::{Memory, Reply, Request};

static CHANGES: AtomicU32 = AtomicU32::new(0);

/// How often the ward may have become another user.
pub(crate) fn changes() -> u32 {
    CHANGES.load(Ordering::Relaxed)
}

/// The process that this one stands in for.
#[derive(Debug, Default)]
pub(crate) struct Ward {
    now: Option<OwnedFd>,
    /// The one that a forked child of this process will stand in for.
    childs: Option<OwnedFd>,
}

impl Ward {
    /// What goes with a hello.
    pub(crate) fn beside(&self) -> Vec<BorrowedFd<'_>> {
        self.now.iter().map(AsFd::as_fd).collect()
    }

    /// Whether there is one that has ended: then nobody waits for an answer.
    pub(crate) fn ended(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        self.now.as_ref().is_some_and(|pidfd| {
            matches!(poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&now)), Ok(ready) if ready > 0)
        })
    }

    /// This is the child.
    pub(crate) fn forked(&mut self) {
        if let Some(childs) = self.childs.take() {
            self.now = Some(childs);
        }
    }
}

/// A segment that the daemon has counted as attached, to be mapped in the ward.
#[derive(Debug)]
pub struct Counted {
    /// Where its pages are, as much as is to be mapped.
    pub memory: Memory,
    /// What to map them from.
    pub from: OwnedFd,
    /// Whole pages that hold the segment.
    pub bytes: usize,
}

/// Who can do in the ward's memory what only its own threads can. The calling thread is kept from going on until the daemon knows of what was done.
pub trait Hands {
    /// Whether it is in doubt that a segment can be mapped where it is to go: then [`Hands::fits`] is asked before anything shows.
    fn is_doubtful(&self) -> bool;
    /// Whether a segment of so many bytes can be mapped there.
    fn fits(&self, segsz: u64) -> Result<()>;
    /// Puts a segment into the ward's memory; gives where.
    fn map(&self, counted: &Counted) -> Result<usize>;
    /// Takes what lies there (address, bytes) out of it.
    fn unmap(&self, ranges: &[(usize, usize)]) -> Result<()>;
    /// Has the thread make the call that it asked for.
    fn call(&self) -> Result<usize>;
    /// The thread may go on. Segments now lie there: first address, and behind the last.
    fn release(&self, ranges: Vec<(usize, usize)>);
}

impl Runtime {
    /// From now on this process stands in for the one that `pidfd` is for.
    pub fn stand_in_for(&self, pidfd: OwnedFd) {
        if let Some(settings) = &mut process::lock().settings {
            settings.ward.now = Some(pidfd);
        }
    }

    /// The next child that this process forks will stand in for the one that `pidfd` is for.
    pub fn child_stands_in_for(&self, pidfd: Option<OwnedFd>) {
        if let Some(settings) = &mut process::lock().settings {
            settings.ward.childs = pidfd;
        }
    }

    /// The ward may have become another user: the daemon looks at it again.
    pub fn ward_changed(&self) {
        CHANGES.fetch_add(1, Ordering::Relaxed);
        self.identity_changed();
    }

    /// MSGMAX as it is now.
    pub fn longest_message(&self) -> Result<usize> {
        match crate::pages::msgmax() {
            Some(known) => Ok(known),
            None => Ok(self.connect()?.limits.msgmax as usize),
        }
    }

    /// shmat(2) for the ward. What another segment covers there is no longer attached.
    pub fn shmat_in_ward(&self, id: i32, flags: i32, hands: &dyn Hands) -> Result<usize> {
        let read_only = flags & libc::SHM_RDONLY != 0;
        let exec = flags & libc::SHM_EXEC != 0;
        let mut state = process::lock();
        if hands.is_doubtful()
            && let Some(segsz) = crate::shm::size_of_segment(&mut state, id)
        {
            hands.fits(segsz)?;
        }
        let request = Request::ShmAttach { id, read_only, exec };
        let (reply, descriptors) = state.request(&request, &[]).map_err(|f| Errno(f.errno))?;
        let Reply::Attached { memory, segsz } = reply else {
            return Err(Errno::EPROTO);
        };
        let made = descriptors
            .into_iter()
            .next()
            .ok_or(Errno::EPROTO)
            .and_then(|from| {
                let (memory, bytes) = crate::shm::needed(memory, segsz)?;
                let counted = Counted { memory, from, bytes };
                hands.map(&counted).map(|at| (at, bytes))
            });
        let result = match made {
            Ok((at, bytes)) => {
                if flags & libc::SHM_REMAP != 0 {
                    mappings::gone(&mut state, at, bytes);
                }
                let mut protection = libc::PROT_READ;
                protection |= if read_only { 0 } else { libc::PROT_WRITE };
                protection |= if exec { libc::PROT_EXEC } else { 0 };
                state.segments.attached(at, bytes, protection, segsz as usize, id);
                Ok(at)
            }
            Err(errno) => {
                let _ = state.ask(&Request::ShmDetach { id });
                Err(errno)
            }
        };
        hands.release(state.segments.ranges());
        result
    }

    /// shmdt(2) for the ward. `false`: no segment of Vshmem is attached there.
    pub fn shmdt_in_ward(&self, address: usize, hands: &dyn Hands) -> Result<bool> {
        let mut state = process::lock();
        let pieces = state.segments.attachment(address);
        if pieces.is_empty() {
            return Ok(false);
        }
        let ranges: Vec<_> = pieces.iter().map(|piece| (piece.at, piece.bytes)).collect();
        let result = hands.unmap(&ranges);
        if result.is_ok() {
            for (at, bytes) in ranges {
                mappings::gone(&mut state, at, bytes);
            }
        }
        hands.release(state.segments.ranges());
        result.map(|()| true)
    }

    /// A call by which the ward may cut, move or protect what it has attached.
    pub fn remap_in_ward(&self, remapping: mappings::Remapping, hands: &dyn Hands) -> Result<usize> {
        let mut state = process::lock();
        let result = hands.call();
        if let Ok(result) = result {
            mappings::done(&mut state, remapping, result);
        }
        hands.release(state.segments.ranges());
        result
    }

    /// unshare(2) by a thread of the ward that has the list `own` for itself (0: none), and is `alone`: the list that it has for itself from then on.
    pub fn leave_undo_in_ward(&self, own: u64, alone: bool, hands: &dyn Hands) -> Option<u64> {
        let mut state = process::lock();
        let mut new = None;
        if hands.call().is_ok() {
            state.thread.undo.set(own);
            match state.leave_undo_as(true, alone) {
                Ok(()) => new = Some(state.thread.undo.get()).filter(|list| *list != 0),
                Err(errno) => crate::debug!("what is to undo stays: {errno}"),
            }
            state.thread.undo.set(0);
        }
        hands.release(state.segments.ranges());
        new
    }

    /// A thread of the ward that had this list for itself has ended.
    pub fn end_list(&self, list: u64) {
        let mut state = process::lock();
        state.thread.undo.set(list);
        if let Err(errno) = state.leave_undo_as(false, false) {
            crate::debug!("what is to undo stays: {errno}");
        }
        state.thread.undo.set(0);
    }

    /// What the calling thread does next is done for a thread of the ward that has this list of what is to undo; 0: the process's.
    pub fn use_list(&self, list: u64) {
        crate::thread::current().undo.set(list);
    }

    /// Whether the next child that this process forks shares what is to undo.
    pub fn next_child_shares(&self, shares: bool) {
        process::next_child_shares(shares);
    }

    /// The ward executes another program: nothing is attached any more.
    pub fn ward_executed(&self) {
        let mut state = process::lock();
        mappings::gone(&mut state, 0, usize::MAX);
    }
}
