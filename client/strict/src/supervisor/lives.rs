//! The life of processes: what becomes of their stand-ins when they fork, execute another program, and end.
#![allow(unsafe_code)] // waitpid(2).

use super::{DEATH, StandIn, Supervisor, WATCHED, Ward, watch};
use crate::errand::{self, Order};
use crate::launch::Report;
use crate::memory::{self, Image};
use crate::notice::Notice;
use crate::trace::{Forked, Held, Trouble};
use std::io;
use std::time::Duration;

impl Supervisor {
    /// A thread leaves the list of what is to undo.
    pub(super) fn leave_undo(&mut self, notice: &Notice, process: i32) {
        if let Err(error) = self.order_call(notice, process) {
            vshmem_runtime::error!("no stand-in for process {process}: {error}");
            self.let_go(notice);
        }
    }

    /// Whose memory a process uses: its own, or that of the one which made it with CLONE_VM (vfork(2) does), for which segments are counted then.
    pub(super) fn whose_memory(&self, process: i32) -> i32 {
        let mut owner = process;
        // What has made it may have been made so, too.
        for _ in 0..8 {
            match memory::parent_of(owner) {
                Some(parent) if parent > 1 && memory::is_shared(owner, parent) => owner = parent,
                _ => break,
            }
        }
        owner
    }

    /// A process with segments attached, or one whose child is to share what is to undo, makes that child.
    pub(super) fn fork(&mut self, notice: &Notice, process: i32, shares: bool) {
        if !self.wards.contains_key(&process)
            && let Err(error) = self.stand_in_for(process)
        {
            vshmem_runtime::error!("no stand-in for process {process}: {error}");
            return self.let_go(notice);
        }
        let held = match Held::take(self.whose(), notice) {
            Ok(held) => held,
            Err(Trouble::Gone) => return,
            Err(Trouble::Denied) => {
                vshmem_runtime::error!(
                    "process {process} is being traced: what its child has attached is not counted, and it shares nothing that is to undo"
                );
                return self.let_go(notice);
            }
        };
        if let Ok(Forked::Child(child)) = held.fork(notice.number.into(), notice.arguments) {
            if let Err(error) = self.forked(process, child.process, shares) {
                vshmem_runtime::error!("process {}: no stand-in: {error}", child.process);
            }
            child.let_go();
        }
    }

    fn forked(&mut self, parent: i32, child: i32, shares: bool) -> io::Result<()> {
        let pidfd = memory::open(child)?;
        let (orders, its_orders) = errand::pair()?;
        let (errands, its_errands) = errand::pair()?;
        let order = Order::Fork {
            process: child,
            shares,
        };
        let beside = [&pidfd, &its_orders, &its_errands];
        let made = self.order_and_wait(parent, &order, &beside);
        let its = made.and_then(|descriptors| descriptors.into_iter().next());
        let stand_in = StandIn {
            orders,
            errands,
            pidfd: its.ok_or(io::ErrorKind::OutOfMemory)?,
        };
        let attached = self.wards.get(&parent).map(|ward| ward.attached.clone());
        let settled = self.wards.get(&parent).map_or(0, |ward| ward.settled);
        self.adopt(child, pidfd, stand_in, attached.unwrap_or_default(), settled)
    }

    pub(super) fn look_for_executed(&mut self) {
        let executing = |(process, ward): (&i32, &Ward)| ward.executing.as_ref().map(|_| *process);
        let processes: Vec<i32> = self.wards.iter().filter_map(executing).collect();
        processes
            .into_iter()
            .for_each(|process| self.look_whether_executed(process));
    }

    pub(super) fn look_whether_executed(&mut self, process: i32) {
        let Some(ward) = self.wards.get_mut(&process) else {
            return;
        };
        if ward.executing.as_ref().is_some_and(|(image, _)| image.ended()) {
            ward.executing = None;
            ward.attached.clear();
            self.order_and_wait(process, &Order::Executed, &[]);
        }
    }

    /// A process executes another program. Who waits for its end is to find all of it dealt with, even if it never was a ward.
    pub(super) fn executes(&mut self, notice: &Notice, process: i32) {
        if let Some(ward) = self.wards.get_mut(&process) {
            // What is executed may have other capabilities.
            ward.identity = true;
            let matters = !ward.attached.is_empty() || memory::threads_of(process) > 1;
            if matters && ward.executing.is_none() {
                ward.executing = Image::of(process).ok().map(|image| (image, notice.thread));
            }
        } else if !self.watched.contains_key(&process)
            && let Ok(pidfd) = memory::open(process)
            && watch(&self.epoll, &pidfd, WATCHED | process as u64).is_ok()
        {
            self.watched.insert(process, pidfd);
        }
        self.let_go(notice);
    }

    /// A process that only its end was waited for of.
    pub(super) fn watched_ended(&mut self, process: i32) {
        if self.watched.remove(&process).is_some() {
            self.deaths += 1;
        }
    }

    /// A process has ended: its stand-in does, too, whatever it is doing.
    pub(super) fn ended(&mut self, process: i32) {
        self.limits.look();
        if let Some(ward) = self.wards.remove(&process) {
            self.deaths += 1;
            memory::kill(&ward.stand_in.pidfd);
            // Whoever waits for the process's end is told of it by the kernel at once: what it asks next is to find nothing of it.
            memory::is_readable(&ward.stand_in.pidfd, DEATH);
            self.threads.retain(|_, of| *of != process);
        }
    }

    /// What a process has attached and may undo was its stand-in's: it cannot go on.
    pub(super) fn stand_in_died(&mut self, process: i32) {
        if let Some(ward) = self.wards.get(&process) {
            // Its own end is the usual reason, of which one may hear later.
            if !memory::is_readable(&ward.pidfd, Duration::ZERO) {
                vshmem_runtime::error!(
                    "{} (process {process}): its stand-in has died, so it is ended",
                    memory::program_of(process)
                );
                memory::kill(&ward.pidfd);
            }
            self.ended(process);
        }
    }

    /// The command has ended before the program: so does the program, as it would if it had been executed by it.
    pub(super) fn left_alone(&mut self) {
        if self.reports.take().is_some()
            && let Ok(pidfd) = memory::open(self.first)
        {
            memory::kill(&pidfd);
        }
    }

    /// Children that ended: the program's first process, stand-ins, and orphans of the program.
    pub(super) fn reap(&mut self) {
        let mut space = [0u8; 1024];
        while rustix::io::read(&self.children, &mut space).is_ok_and(|bytes| bytes > 0) {}
        while self.reap_one(libc::WNOHANG) {}
    }

    /// Takes note of one child's end. `false`: there is none.
    pub(super) fn reap_one(&mut self, how: i32) -> bool {
        let mut status = 0;
        // SAFETY: an int of ours.
        let process = unsafe { libc::waitpid(-1, &raw mut status, how) };
        if process == self.first
            && let Some(reports) = self.reports.take()
        {
            let _ = errand::send(&reports, &Report::Ended(status), &[]);
        }
        process > 0
    }
}
