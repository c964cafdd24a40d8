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
//! | that opens a file | goes on, unless it is one of ours (see [`files`], [`limits`](crate::limits)): then it gets that |
//! | that executes a program | goes on; when the old memory is gone, so are the attachments |
//! | that changes the user | goes on; the stand-in has the daemon look again |
//!
//! One thread does all of it but to take note of the calls ([`crate::hearing`]). Nothing here waits for a program or a stand-in for long: stand-ins wait for
//! what has to be waited for. It ends when nobody is left whose calls it could hear of.
#![allow(unsafe_code)] // fork(2).

mod lives;

use crate::errand::{self, ERRAND, Errand, Order, Outcome};
use crate::files;
use crate::filter::{self, ARCH_64, X32};
use crate::hearing::Heard;
use crate::limits::Limits;
use crate::memory::{self, Image};
use crate::notice::{self, Notice};
use crate::trace::{Held, Pass, Trouble};
use crate::{mapping, stand_in};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::{AsFd, OwnedFd};
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use vshmem_runtime::keys::Keys;
use vshmem_wire::ID_BIT;

/// How often to look whether an execve(2) has been done.
const EXEC_TICK: Duration = Duration::from_millis(1);
/// How long a killed stand-in is waited for.
const DEATH: Duration = Duration::from_secs(2);
/// What an event is about: a number in the upper half, the process in the lower.
const HEARD: u64 = 1 << 32;
const REPORTS: u64 = 2 << 32;
const CHILDREN: u64 = 3 << 32;
const PROCESS: u64 = 4 << 32;
const STAND_IN: u64 = 5 << 32;
const WATCHED: u64 = 6 << 32;

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
    /// It may be executing another program: the memory with the segments, and which thread asked for it.
    executing: Option<(Image, i32)>,
    /// How many processes had ended when its stand-in last had the daemon look after that.
    settled: u64,
}

/// The supervisor.
#[derive(Debug)]
pub(crate) struct Supervisor {
    listener: OwnedFd,
    heard: Arc<Heard>,
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
    /// Processes that are no wards, and have executed a program.
    watched: HashMap<i32, OwnedFd>,
    /// How many processes have ended.
    deaths: u64,
    limits: Limits,
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
        notice::take_turns(&listener);
        let heard = Heard::start(listener.try_clone()?)?;
        watch(&epoll, heard.bell(), HEARD)?;
        watch(&epoll, &reports, REPORTS)?;
        watch(&epoll, &children, CHILDREN)?;
        let keys = vshmem_runtime::config::keys();
        Ok(Supervisor {
            listener,
            heard,
            pass,
            epoll,
            reports: Some(reports),
            children,
            first,
            keys: Keys::parse(keys.as_deref()),
            wards: HashMap::new(),
            threads: HashMap::new(),
            kernels: HashSet::new(),
            watched: HashMap::new(),
            deaths: 0,
            limits: Limits::default(),
        })
    }

    /// Serves until nobody is left.
    pub(crate) fn run(mut self) -> io::Result<()> {
        loop {
            let executing = self.wards.values().any(|ward| ward.executing.is_some());
            let tick = [executing.then_some(EXEC_TICK), self.limits.tick()];
            let events = self.events(tick.into_iter().flatten().min())?;
            for (what, process) in events {
                self.event(what, process);
            }
            while let Some(notice) = self.heard.next() {
                self.decide(&notice);
            }
            if self.heard.is_over() {
                self.end();
                return Ok(());
            }
            if executing {
                self.look_for_executed();
            }
            self.limits.look();
        }
    }

    /// What has happened: what it is about, whose it is.
    fn events(&self, within: Option<Duration>) -> io::Result<Vec<(u64, i32)>> {
        let within = within.and_then(|time| rustix::time::Timespec::try_from(time).ok());
        let mut events = Vec::with_capacity(64);
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut events),
            within.as_ref(),
        ) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let event = |event: epoll::Event| {
            let data = event.data.u64();
            (data >> 32 << 32, data as u32 as i32)
        };
        Ok(events.into_iter().map(event).collect())
    }

    fn event(&mut self, what: u64, process: i32) {
        match what {
            HEARD => self.heard.unring(),
            REPORTS => self.left_alone(),
            CHILDREN => self.reap(),
            PROCESS => self.ended(process),
            WATCHED => self.watched_ended(process),
            _ => self.errand_of(process),
        }
    }

    /// Sees to what had ended before a call was made: whoever makes it may know of that.
    fn see_to_the_dead(&mut self) {
        for (what, process) in self.events(Some(Duration::ZERO)).unwrap_or_default() {
            if what == PROCESS || what == WATCHED {
                self.event(what, process);
            }
        }
    }

    /// Nobody is left: what remains is dead or dying.
    fn end(&mut self) {
        let all: Vec<i32> = self.wards.keys().copied().collect();
        all.into_iter().for_each(|process| self.ended(process));
        while self.reap_one(0) {}
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
            return self.other_door(notice);
        }
        if files::OPEN.contains(&number) {
            return self.open(notice);
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
        if number == libc::SYS_setns && !memory::is_ipc_namespace(notice) {
            return self.let_go(notice);
        }
        if number == libc::SYS_unshare || number == libc::SYS_setns {
            return self.leave_undo(notice, process);
        }
        let flags = clone_flags(notice);
        let shares = flags & libc::CLONE_SYSVSEM != 0;
        if shares && flags & libc::CLONE_VM == 0 {
            return self.fork(notice, process, true);
        }
        if filter::EXEC.contains(&number) {
            return self.executes(notice, process);
        }
        let Some(ward) = self.wards.get_mut(&process) else {
            return self.let_go(notice);
        };
        if filter::IDENTITY.contains(&number) {
            ward.identity = true;
        } else if !ward.attached.is_empty() && flags & libc::CLONE_VM == 0 {
            return self.fork(notice, process, false);
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
        if self.wards.contains_key(&process) {
            self.threads.insert(thread, process);
        }
        Some(process)
    }

    /// A file is opened: if it is one of ours, the program gets another one.
    fn open(&mut self, notice: &Notice) {
        let asked = files::asked(notice);
        let Some((asked, process)) = asked.zip(self.process_of(notice.thread)) else {
            return self.let_go(notice);
        };
        self.see_to_the_dead();
        if !asked.for_writing() {
            self.limits.look();
            let order = Order::Open {
                notice: *notice,
                text: asked.text,
                flags: asked.flags,
                and_kernels: !self.keys.are_all(),
            };
            if let Err(error) = self.order(process, &order) {
                self.no_stand_in(notice, process, &error);
            }
            return;
        }
        // The kernel says the same to whoever is not root.
        let file = memory::is_root(notice.thread)
            .then(|| self.limits.open(asked))
            .flatten();
        match file {
            None => self.let_go(notice),
            Some(Ok(file)) => notice::give_instead(&self.listener, notice.id, file, asked.flags),
            Some(Err(error)) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                self.answer(notice, Err(errno));
            }
        }
    }

    fn no_stand_in(&self, notice: &Notice, process: i32, error: &io::Error) {
        vshmem_runtime::error!(
            "no stand-in for {} (process {process}): {error}",
            memory::program_of(process)
        );
        self.answer(notice, Err(libc::ENOMEM));
    }

    // System V IPC.

    fn ipc(&mut self, notice: &Notice) {
        self.see_to_the_dead();
        self.limits.look();
        let Some(mut process) = self.process_of(notice.thread) else {
            return self.answer(notice, Err(libc::EINTR));
        };
        match i64::from(notice.number) {
            libc::SYS_shmget | libc::SYS_semget | libc::SYS_msgget if !self.keys.contain(notice.int(0)) => {
                return self.get_from_kernel(notice);
            }
            libc::SYS_shmdt => {
                process = self.whose_memory(process);
                let here = self.wards.get(&process);
                if here.is_none_or(|ward| ward.attached.is_empty()) {
                    return self.let_go(notice);
                }
            }
            _ if !self.is_ours(notice) => return self.let_go(notice),
            _ => {}
        }
        let process = match i64::from(notice.number) {
            libc::SYS_shmat => self.whose_memory(process),
            _ => process,
        };
        if let Err(error) = self.order_call(notice, process) {
            self.no_stand_in(notice, process, &error);
        }
    }

    /// A call that may touch what is attached.
    fn remap(&mut self, notice: &Notice) {
        let process = self.process_of(notice.thread);
        let process = process.map(|process| self.whose_memory(process));
        let ward = process.and_then(|process| self.wards.get(&process));
        let touched = ward.is_some_and(|ward| touches(&ward.attached, notice));
        if touched && i64::from(notice.number) == libc::SYS_remap_file_pages {
            // The kernel would show what lies at that place in the file that holds the segment: another's memory, mostly.
            return self.answer(notice, Err(libc::EINVAL));
        }
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
        match id & ID_BIT != 0 {
            _ if !by_id => true,
            true => id >= 0 && !self.kernels.contains(&(get, id)),
            // One that somebody asked for (`shm_next_id`), if no key is the kernel's.
            false => id >= 0 && self.keys.are_all(),
        }
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
        let ward = self.ward(process)?;
        if let Some((_, thread)) = ward.executing {
            self.look_whether_executed(process);
            let ward = self.ward(process)?;
            if thread == notice.thread {
                // It came to nothing.
                ward.executing = None;
            }
        }
        let deaths = self.deaths;
        let ward = self.ward(process)?;
        let order = Order::Call {
            notice: *notice,
            identity: std::mem::take(&mut ward.identity),
            settle: std::mem::replace(&mut ward.settled, deaths) != deaths,
        };
        errand::send(&ward.stand_in.orders, &order, &[])
    }

    fn order(&mut self, process: i32, order: &Order) -> io::Result<()> {
        errand::send(&self.ward(process)?.stand_in.orders, order, &[])
    }

    /// A process that has a stand-in, from now on at least.
    fn ward(&mut self, process: i32) -> io::Result<&mut Ward> {
        if !self.wards.contains_key(&process) {
            self.stand_in_for(process)?;
        }
        self.wards.get_mut(&process).ok_or(io::ErrorKind::NotFound.into())
    }

    /// Starts a stand-in for a process.
    fn stand_in_for(&mut self, process: i32) -> io::Result<()> {
        let pidfd = memory::open(process)?;
        let (orders, its_orders) = errand::pair()?;
        let (errands, its_errands) = errand::pair()?;
        // SAFETY: the other thread has nothing locked that the child uses.
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
        self.watched.remove(&process);
        self.adopt(process, pidfd, stand_in, Vec::new(), self.deaths)
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
        settled: u64,
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
            settled,
        };
        self.wards.insert(process, ward);
        Ok(())
    }

    /// A call by a door that is not served.
    fn other_door(&mut self, notice: &Notice) {
        let number = i64::from(notice.number & !X32);
        if notice.arch == ARCH_64 && !filter::IPC.contains(&number) {
            return self.let_go(notice);
        }
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
