//! The supervisor: hears of the calls of a program and of all that it starts, and says what becomes of each.
//!
//! | a call | what becomes of it |
//! |---|---|
//! | of System V IPC, about a key or an id of Vshmem | goes to the process's stand-in |
//! | the same, about one of the kernel | goes on to the kernel |
//! | the same, by the 32-bit or x32 door | the process is stopped, with a message |
//! | that cuts, moves or protects what is attached | goes to the stand-in, which has the thread make it and counts the pieces |
//! | that makes a process, of one with segments attached | the stand-in forks, too |
//! | that makes a process which shares what is to undo | the stand-in forks, too |
//! | by which a thread leaves that | goes to the stand-in, which has the thread make it and leaves the list for it |
//! | that executes a program | goes on; when the old memory is gone, so are the attachments |
//! | that changes the user | goes on; the stand-in has the daemon look again |
//!
//! One thread does all of it. Nothing here waits for a program or a stand-in for long: stand-ins wait for what has to be waited for. It ends when
//! nobody is left whose calls it could hear of.
#![allow(unsafe_code)] // fork(2), waitpid(2), signalfd(2).

use crate::errand::{self, ERRAND, Errand, Order, Outcome};
use crate::filter::{self, ARCH_64, X32};
use crate::launch::Report;
use crate::memory::{self, Image};
use crate::notice::{self, Notice};
use crate::trace::{Forked, Held, Pass, Trouble};
use crate::{mapping, stand_in};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::{AsFd, OwnedFd};
use std::collections::{HashMap, HashSet};
use std::io;
use std::time::Duration;
use vshmem_runtime::keys::Keys;
use vshmem_wire::ID_BIT;

/// How often to look whether an execve(2) has been done.
const EXEC_TICK: Duration = Duration::from_millis(1);
/// How long a killed stand-in is waited for.
const DEATH: Duration = Duration::from_millis(200);
/// What an event is about: a number in the upper half, the process in the lower.
const LISTENER: u64 = 1 << 32;
const REPORTS: u64 = 2 << 32;
const CHILDREN: u64 = 3 << 32;
const PROCESS: u64 = 4 << 32;
const STAND_IN: u64 = 5 << 32;

/// A process's stand-in, as the supervisor has it.
#[derive(Debug)]
struct StandIn {
    orders: OwnedFd,
    errands: OwnedFd,
    pidfd: OwnedFd,
}

/// A process that has used System V IPC, or whose parent had segments attached.
#[derive(Debug)]
struct Ward {
    pidfd: OwnedFd,
    stand_in: StandIn,
    /// Where segments are attached: first address, and behind the last.
    attached: Vec<(u64, u64)>,
    /// A thread that goes on with this when the daemon knows of what it did.
    held: Option<(Held, i64)>,
    identity: bool,
    /// It may be executing another program: the memory with the segments.
    executing: Option<Image>,
}

/// The supervisor.
#[derive(Debug)]
pub(crate) struct Supervisor {
    listener: OwnedFd,
    pass: u64,
    epoll: OwnedFd,
    /// To the command; `None` once the program has ended.
    reports: Option<OwnedFd>,
    children: OwnedFd,
    /// The program's first process.
    first: i32,
    keys: Keys,
    wards: HashMap<i32, Ward>,
    /// Which process a thread is of.
    threads: HashMap<i32, i32>,
    /// Ids of the kernel that look like Vshmem's: get's number, id.
    kernels: HashSet<(i64, i32)>,
}

fn watch(epoll: &OwnedFd, what: impl AsFd, data: u64) -> io::Result<()> {
    Ok(epoll::add(epoll, what, EventData::new_u64(data), EventFlags::IN)?)
}

impl Supervisor {
    /// For a program whose first process is `first`.
    pub(crate) fn new(
        listener: OwnedFd,
        pass: u64,
        reports: OwnedFd,
        children: OwnedFd,
        first: i32,
    ) -> io::Result<Supervisor> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        watch(&epoll, &listener, LISTENER)?;
        watch(&epoll, &reports, REPORTS)?;
        watch(&epoll, &children, CHILDREN)?;
        notice::take_turns(&listener);
        let keys = vshmem_runtime::config::keys();
        Ok(Supervisor {
            listener,
            pass,
            epoll,
            reports: Some(reports),
            children,
            first,
            keys: Keys::parse(keys.as_deref()),
            wards: HashMap::new(),
            threads: HashMap::new(),
            kernels: HashSet::new(),
        })
    }

    /// Serves until nobody is left.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(64);
        loop {
            let executing = self.wards.values().any(|ward| ward.executing.is_some());
            let tick = executing.then(|| rustix::time::Timespec {
                tv_sec: 0,
                tv_nsec: EXEC_TICK.subsec_nanos().into(),
            });
            events.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                tick.as_ref(),
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in events.drain(..) {
                let (what, process) = (event.data.u64() >> 32 << 32, event.data.u64() as u32 as i32);
                let flags = event.flags;
                match what {
                    LISTENER if flags.contains(EventFlags::IN) => self.hear()?,
                    LISTENER => {
                        self.end();
                        return Ok(());
                    }
                    REPORTS => self.left_alone(),
                    CHILDREN => self.reap(),
                    PROCESS => self.ended(process),
                    _ => self.errand_of(process),
                }
            }
            if executing {
                self.look_for_executed();
            }
        }
    }

    /// Nobody is left: what remains is dead or dying.
    fn end(&mut self) {
        let all: Vec<i32> = self.wards.keys().copied().collect();
        all.into_iter().for_each(|process| self.ended(process));
        while self.reap_one(0) {}
    }

    fn hear(&mut self) -> io::Result<()> {
        if let Some(notice) = notice::next(&self.listener)? {
            self.decide(&notice);
        }
        Ok(())
    }

    fn whose(&self) -> Pass<'_> {
        Pass {
            listener: self.listener.as_fd(),
            number: self.pass,
        }
    }

    fn let_go(&self, notice: &Notice) {
        notice::let_go(&self.listener, notice.id);
    }

    fn answer(&self, notice: &Notice, result: Result<i64, i32>) {
        notice::answer(&self.listener, notice.id, result);
    }

    fn decide(&mut self, notice: &Notice) {
        let number = i64::from(notice.number);
        if notice.arch != ARCH_64 || notice.number & X32 != 0 {
            return self.stop(notice);
        }
        if filter::IPC.contains(&number) {
            return self.ipc(notice);
        }
        if filter::REMAP.contains(&number) {
            return self.remap(notice);
        }
        let Some(process) = self.process_of(notice.thread) else {
            return self.let_go(notice);
        };
        if number == libc::SYS_unshare {
            return self.leave_undo(notice, process);
        }
        let flags = clone_flags(notice);
        let shares = flags & libc::CLONE_SYSVSEM != 0;
        if shares && flags & libc::CLONE_VM == 0 {
            return self.fork(notice, process, true);
        }
        let Some(ward) = self.wards.get_mut(&process) else {
            return self.let_go(notice);
        };
        // What is executed may have other capabilities.
        ward.identity |= filter::EXEC.contains(&number);
        if filter::IDENTITY.contains(&number) {
            ward.identity = true;
        } else if !ward.attached.is_empty() {
            if !filter::EXEC.contains(&number) {
                if flags & libc::CLONE_VM != 0 {
                    return self.let_go(notice);
                }
                return self.fork(notice, process, false);
            }
            if ward.executing.is_none() {
                ward.executing = Image::of(process).ok();
            }
        }
        self.let_go(notice);
    }

    /// The process of a thread: a thread's number may have been another's before.
    fn process_of(&mut self, thread: i32) -> Option<i32> {
        if let Some(&known) = self.threads.get(&thread)
            && memory::is_thread_of(thread, known)
        {
            return Some(known);
        }
        let process = memory::process_of(thread)?;
        self.threads.insert(thread, process);
        Some(process)
    }

    // System V IPC.

    fn ipc(&mut self, notice: &Notice) {
        let Some(process) = self.process_of(notice.thread) else {
            return self.answer(notice, Err(libc::EINTR));
        };
        match i64::from(notice.number) {
            libc::SYS_shmget | libc::SYS_semget | libc::SYS_msgget if !self.keys.contain(notice.int(0)) => {
                return self.get_from_kernel(notice);
            }
            libc::SYS_shmdt => {
                let here = self.wards.get(&process);
                if here.is_none_or(|ward| ward.attached.is_empty()) {
                    return self.let_go(notice);
                }
            }
            _ if !self.is_ours(notice) => return self.let_go(notice),
            _ => {}
        }
        if let Err(error) = self.order_call(notice, process) {
            vshmem_runtime::error!(
                "no stand-in for {} (process {process}): {error}",
                memory::program_of(process)
            );
            self.answer(notice, Err(libc::ENOSYS));
        }
    }

    /// A call that may touch what is attached.
    fn remap(&mut self, notice: &Notice) {
        let process = self.process_of(notice.thread);
        let ward = process.and_then(|process| self.wards.get(&process));
        let touched = ward.is_some_and(|ward| touches(&ward.attached, notice));
        match process {
            Some(process) if touched && self.order_call(notice, process).is_ok() => {}
            _ => self.let_go(notice),
        }
    }

    /// Whether a call is about an id of Vshmem, or about none: those are Vshmem's, as for the preload library.
    fn is_ours(&self, notice: &Notice) -> bool {
        use vshmem_abi::{msg, sem, shm};
        let (id, command) = (notice.int(0), notice.int(1));
        let (get, by_id) = match i64::from(notice.number) {
            libc::SYS_shmat => (libc::SYS_shmget, true),
            libc::SYS_shmctl => (libc::SYS_shmget, shm::takes_id(command)),
            libc::SYS_semop | libc::SYS_semtimedop => (libc::SYS_semget, true),
            libc::SYS_semctl => (libc::SYS_semget, sem::takes_id(notice.int(2))),
            libc::SYS_msgsnd | libc::SYS_msgrcv => (libc::SYS_msgget, true),
            libc::SYS_msgctl => (libc::SYS_msgget, msg::takes_id(command)),
            _ => return true,
        };
        !by_id || id >= 0 && id & ID_BIT != 0 && !self.kernels.contains(&(get, id))
    }

    /// A key of the kernel. An id that looks like Vshmem's is remembered.
    fn get_from_kernel(&mut self, notice: &Notice) {
        let mut held = match Held::take(self.whose(), notice) {
            Ok(held) => held,
            Err(Trouble::Denied) => return self.let_go(notice),
            Err(Trouble::Gone) => return,
        };
        let Ok(result) = held.call(notice.number.into(), notice.arguments) else {
            return;
        };
        if let Ok(id) = result
            && id as i32 & ID_BIT != 0
        {
            self.kernels.insert((notice.number.into(), id as i32));
        }
        held.let_go(as_return(result));
    }

    fn order_call(&mut self, notice: &Notice, process: i32) -> io::Result<()> {
        if !self.wards.contains_key(&process) {
            self.stand_in_for(process)?;
        }
        if self
            .wards
            .get(&process)
            .is_some_and(|ward| ward.executing.is_some())
        {
            self.look_whether_executed(process);
        }
        let ward = self.wards.get_mut(&process).ok_or(io::ErrorKind::NotFound)?;
        let identity = std::mem::take(&mut ward.identity);
        let order = Order::Call {
            notice: *notice,
            identity,
        };
        errand::send(&ward.stand_in.orders, &order, &[])
    }

    /// Starts a stand-in for a process.
    fn stand_in_for(&mut self, process: i32) -> io::Result<()> {
        let pidfd = memory::open(process)?;
        let (orders, its_orders) = errand::pair()?;
        let (errands, its_errands) = errand::pair()?;
        // SAFETY: this process has one thread.
        let made = unsafe { libc::fork() };
        if made < 0 {
            return Err(io::Error::last_os_error());
        }
        if made == 0 {
            self.become_stand_in(process, its_orders, its_errands, pidfd);
        }
        let stand_in = StandIn {
            orders,
            errands,
            pidfd: memory::open(made)?,
        };
        self.adopt(process, pidfd, stand_in, Vec::new())
    }

    fn become_stand_in(&self, process: i32, orders: OwnedFd, errands: OwnedFd, pidfd: OwnedFd) -> ! {
        let means = || -> io::Result<stand_in::Means> {
            Ok(stand_in::Means {
                process,
                orders,
                errands,
                listener: self.listener.try_clone()?,
            })
        };
        let Ok(means) = means() else {
            // SAFETY: ends the process.
            unsafe { libc::_exit(1) }
        };
        crate::launch::keep_only(&[
            means.orders.as_fd(),
            means.errands.as_fd(),
            means.listener.as_fd(),
            pidfd.as_fd(),
        ]);
        crate::launch::as_before_signals();
        stand_in::be(means, pidfd)
    }

    fn adopt(
        &mut self,
        process: i32,
        pidfd: OwnedFd,
        stand_in: StandIn,
        attached: Vec<(u64, u64)>,
    ) -> io::Result<()> {
        watch(&self.epoll, &pidfd, PROCESS | process as u64)?;
        watch(&self.epoll, &stand_in.errands, STAND_IN | process as u64)?;
        let ward = Ward {
            pidfd,
            stand_in,
            attached,
            held: None,
            identity: false,
            executing: None,
        };
        self.wards.insert(process, ward);
        Ok(())
    }

    /// A call by a door that is not served.
    fn stop(&mut self, notice: &Notice) {
        let process = self.process_of(notice.thread).unwrap_or(notice.thread);
        let door = if notice.arch == ARCH_64 { "x32" } else { "32-bit" };
        let line = format!(
            "vshmem: {} (process {process}): stopped at a {door} System V call (number {}), which would have gone to the kernel; \
             build the program for 64 bits, or run it without --strict\n",
            memory::program_of(process),
            notice.number & !X32,
        );
        let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes());
        match memory::open(process) {
            Ok(pidfd) => memory::kill(&pidfd),
            Err(_) => self.answer(notice, Err(libc::ENOSYS)),
        }
    }

    // Errands.

    fn errand_of(&mut self, process: i32) {
        let Some(ward) = self.wards.get(&process) else {
            return;
        };
        // It may have been run while an order was waited for, in the same round of events.
        if !memory::is_readable(&ward.stand_in.errands, Duration::ZERO) {
            return;
        }
        match errand::receive::<Errand, ERRAND>(&ward.stand_in.errands) {
            Ok(Some((errand, descriptors))) => self.run_errand(process, &errand, descriptors),
            _ => self.stand_in_died(process),
        }
    }

    fn run_errand(&mut self, process: i32, errand: &Errand, descriptors: Vec<OwnedFd>) {
        let whose = self.whose();
        let (outcome, held) = match errand {
            Errand::Attach { notice, .. } => match descriptors.first() {
                Some(from) => mapping::attach(whose, notice, errand, from.as_fd()),
                None => (Err(libc::EPROTO), None),
            },
            Errand::Unmap { notice, ranges } => mapping::unmap(whose, notice, ranges),
            Errand::Call { notice } => mapping::call(whose, notice),
            Errand::Release { attached } => return self.release(process, attached),
            Errand::Done => return,
        };
        if let Some(ward) = self.wards.get_mut(&process) {
            // What its other threads do there from now on is to be heard of.
            if let (Errand::Attach { bytes, .. }, Ok(at)) = (errand, outcome) {
                ward.attached.push((at, at + bytes));
            }
            ward.held = held.map(|held| (held, as_return(outcome)));
            let _ = errand::send::<Outcome>(&ward.stand_in.errands, &outcome, &[]);
        }
    }

    fn release(&mut self, process: i32, attached: &[(u64, u64)]) {
        if let Some(ward) = self.wards.get_mut(&process) {
            ward.attached = attached.to_vec();
            if let Some((held, result)) = ward.held.take() {
                held.let_go(result);
            }
        }
    }

    /// Gives an order and waits until it is carried out; meanwhile errands of the stand-in's other threads are run.
    fn order_and_wait(
        &mut self,
        process: i32,
        order: &Order,
        descriptors: &[&OwnedFd],
    ) -> Option<Vec<OwnedFd>> {
        let beside: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        let ward = self.wards.get(&process)?;
        errand::send(&ward.stand_in.orders, order, &beside).ok()?;
        loop {
            let ward = self.wards.get(&process)?;
            match errand::receive::<Errand, ERRAND>(&ward.stand_in.errands) {
                Ok(Some((Errand::Done, descriptors))) => return Some(descriptors),
                Ok(Some((errand, descriptors))) => self.run_errand(process, &errand, descriptors),
                _ => return None,
            }
        }
    }

    // The life of processes.

    /// A thread leaves the list of what is to undo.
    fn leave_undo(&mut self, notice: &Notice, process: i32) {
        if let Err(error) = self.order_call(notice, process) {
            vshmem_runtime::error!("no stand-in for process {process}: {error}");
            self.let_go(notice);
        }
    }

    /// A process with segments attached, or one whose child is to share what is to undo, makes that child.
    fn fork(&mut self, notice: &Notice, process: i32, shares: bool) {
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
        self.adopt(child, pidfd, stand_in, attached.unwrap_or_default())
    }

    fn look_for_executed(&mut self) {
        let executing = |(process, ward): (&i32, &Ward)| ward.executing.as_ref().map(|_| *process);
        let processes: Vec<i32> = self.wards.iter().filter_map(executing).collect();
        processes
            .into_iter()
            .for_each(|process| self.look_whether_executed(process));
    }

    fn look_whether_executed(&mut self, process: i32) {
        let Some(ward) = self.wards.get_mut(&process) else {
            return;
        };
        if ward.executing.as_ref().is_some_and(Image::ended) {
            ward.executing = None;
            ward.attached.clear();
            self.order_and_wait(process, &Order::Executed, &[]);
        }
    }

    /// A process has ended: its stand-in does, too, whatever it is doing.
    fn ended(&mut self, process: i32) {
        if let Some(ward) = self.wards.remove(&process) {
            memory::kill(&ward.stand_in.pidfd);
            // Whoever waits for the process's end is told of it by the kernel at once: what it asks next is to find nothing of it.
            memory::is_readable(&ward.stand_in.pidfd, DEATH);
            self.threads.retain(|_, of| *of != process);
        }
    }

    /// What a process has attached and may undo was its stand-in's: it cannot go on.
    fn stand_in_died(&mut self, process: i32) {
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
    fn left_alone(&mut self) {
        if self.reports.take().is_some()
            && let Ok(pidfd) = memory::open(self.first)
        {
            memory::kill(&pidfd);
        }
    }

    /// Children that ended: the program's first process, stand-ins, and orphans of the program.
    fn reap(&mut self) {
        let mut space = [0u8; 1024];
        while rustix::io::read(&self.children, &mut space).is_ok_and(|bytes| bytes > 0) {}
        while self.reap_one(libc::WNOHANG) {}
    }

    /// Takes note of one child's end. `false`: there is none.
    fn reap_one(&mut self, how: i32) -> bool {
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

/// With what flags of clone(2) a call makes a process or thread; 0 for all others.
fn clone_flags(notice: &Notice) -> i32 {
    match i64::from(notice.number) {
        libc::SYS_clone => notice.int(0),
        libc::SYS_clone3 => {
            let mut flags = [0; 8];
            match memory::read(notice.thread, notice.word(0), &mut flags) {
                Ok(()) => u64::from_le_bytes(flags) as i32,
                // The kernel will say so, too.
                Err(_) => libc::CLONE_VM,
            }
        }
        _ => 0,
    }
}

/// Whether a call that maps, moves, protects or unmaps may touch one of these.
fn touches(attached: &[(u64, u64)], notice: &Notice) -> bool {
    const PAGE: u64 = 4096;
    let [at, bytes, new_bytes, _, new, _] = notice.arguments;
    let within = |at: u64, bytes: u64| {
        let after = at.saturating_add(bytes.max(1)).saturating_add(PAGE);
        attached
            .iter()
            .any(|&(first, behind)| first < after && at < behind)
    };
    within(at, bytes) || i64::from(notice.number) == libc::SYS_mremap && within(new, new_bytes)
}

/// What a call gives, as the kernel would say it.
pub(crate) fn as_return(result: Result<u64, i32>) -> i64 {
    result.map_or_else(|errno| -i64::from(errno), |value| value as i64)
}
