//! The back-end: a log, the registry, its effects on construct memory, sweeps that are tried again.
//!
//! As the daemon does it, without sockets. What survives a crash is the [`Disk`] and construct memory.

use crate::baton::{Answer, BACKEND, Doom, Doomed, Mail, POOL, Sim, Status, What, said};
use crate::ledger::NSEMS;
use crate::memory::Mapped;
use crate::rng::Rng;
use crate::{PROCESSES, Report};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use vshmem_ipc::lock::BACKEND as BACKEND_CLIENT;
use vshmem_ipc::msgq::{MsgError, Queue, ReceiveFlags};
use vshmem_ipc::sem::{Dead, SemSet};
use vshmem_ipc::{Control, LockWait, Me, Owner, Sleeper, Slept, Spin, World};
use vshmem_registry::{Command, Done, Effect, GroupConfig, Registry, Store, Sweep};
use vshmem_wire::{Credentials, Extent, Failure, Kind, Request};
use vshmem_words::{Ordering, Words};

/// What survives a crash, and what the harness wants to know of the live constructs.
pub(crate) struct Disk {
    snapshot: Vec<u8>,
    /// Commands and when; without a command: the last one had memory made, which may be in use since.
    log: Vec<Vec<u8>>,
    /// Extents of the live sets and queues, by serial number.
    pub(crate) live: BTreeMap<u64, Vec<Extent>>,
}

impl Disk {
    pub(crate) fn new(rng: &mut Rng) -> Self {
        let mut group = GroupConfig::new("simulation", Store::Pool { bytes: POOL as u64 });
        group.limits.msgmnb = [2000, 12_000][rng.below(2)];
        let registry = Registry::new(group);
        Disk {
            snapshot: registry.snapshot().unwrap_or_default(),
            log: Vec::new(),
            live: BTreeMap::new(),
        }
    }
}

/// What found a lock held.
#[derive(Debug, Clone, Copy)]
enum Later {
    Sweep(Sweep),
    SetQbytes(u64),
}

impl Later {
    fn serial(self) -> u64 {
        match self {
            Later::Sweep(sweep) => sweep.serial,
            Later::SetQbytes(serial) => serial,
        }
    }
}

/// A life of the back-end.
struct Back<'a> {
    sim: &'a Sim,
    /// None: after the run, with nobody else about.
    thread: Option<usize>,
    registry: Registry,
    later: Vec<Later>,
    /// Effects are carried out a second time, perhaps.
    again: bool,
}

/// The back-end's thread.
pub(crate) fn act(sim: &Sim) {
    sim.enter(BACKEND);
    loop {
        match catch_unwind(AssertUnwindSafe(|| Back::start(sim, Some(BACKEND)).run())) {
            Ok(()) => break,
            Err(payload) => match payload.downcast_ref::<Doomed>() {
                Some(Doomed(Doom::Stop)) => break,
                Some(_) => {}
                None => {
                    sim.fail(said(payload));
                    break;
                }
            },
        }
    }
    sim.leave(BACKEND);
}

impl<'a> Back<'a> {
    /// Reads the log, and does what a former life may have left undone.
    fn start(sim: &'a Sim, thread: Option<usize>) -> Self {
        let (snapshot, log) = {
            let state = sim.state();
            (state.disk.snapshot.clone(), state.disk.log.clone())
        };
        let mut registry = Registry::restore(&snapshot).expect("a snapshot of our own");
        let mut last = Vec::new();
        for entry in &log {
            let (now, command): (u64, Option<Command>) =
                postcard::from_bytes(entry).expect("an entry of our own");
            match command {
                Some(command) => last = registry.apply(now, command).effects,
                None => last.clear(),
            }
        }
        let mut back = Back {
            sim,
            thread,
            registry,
            later: Vec::new(),
            again: true,
        };
        back.note_live();
        let restarted = back.registry.restarted();
        back.carry_out(last);
        back.mend();
        back.carry_out(restarted);
        back.again = false;
        back
    }

    fn run(&mut self) {
        loop {
            let mail = self.sim.state().mail.front().cloned();
            if let Some(Mail { what, .. }) = mail {
                let answer = self.handle(what);
                self.sim.answer(answer);
                self.retry();
            } else if !self.later.is_empty() {
                self.retry();
                self.sim.give_way(BACKEND);
            } else if self.sim.all_left() {
                return;
            } else {
                self.compact();
                self.sim.block(BACKEND, Status::Idle);
            }
        }
    }

    fn compact(&mut self) {
        let mut state = self.sim.state();
        if state.disk.log.len() > 20 && state.rng.one_in(4) {
            state.disk.snapshot = self.registry.snapshot().expect("a snapshot");
            state.disk.log.clear();
        }
    }

    fn step(&self) {
        if let Some(thread) = self.thread {
            self.sim.step(thread);
        }
    }

    fn handle(&mut self, what: What) -> Answer {
        let number = |registry: &Registry, name| registry.domain(name).unwrap_or(0);
        match what {
            What::Up(name) => {
                let up = Command::DomainUp {
                    name: name.into(),
                    port: "simulated".into(),
                    own_space: name != "host",
                };
                let answer = self.apply(up);
                self.sim.state().ledger.up.insert(name);
                answer
            }
            What::Down(name) => self.apply(Command::DomainDown {
                domain: number(&self.registry, name),
            }),
            What::Connect(name, who, fork) => self.apply(Command::Connect {
                domain: number(&self.registry, name),
                who,
                resume: None,
                fork,
            }),
            What::Fork(client, fork) => self.apply(Command::ForkPrepare { client, fork }),
            What::Abandoned(name, fork) => self.apply(Command::ForkAbandoned {
                domain: number(&self.registry, name),
                fork,
            }),
            What::Request(client, seq, body) => self.apply(Command::Request { client, seq, body }),
            What::Gone(name, pid, exec) => {
                let domain = number(&self.registry, name);
                let its = |c: &vshmem_registry::ClientView| {
                    c.domain == domain && c.pid == pid && (c.alive || !exec)
                };
                let client = self.registry.clients().filter(its).map(|c| c.client).max();
                match client {
                    Some(client) => self.apply(Command::Gone { client, exec }),
                    None => Ok(Done::Nothing),
                }
            }
        }
    }

    fn apply(&mut self, command: Command) -> Answer {
        self.step();
        let now = {
            let mut state = self.sim.state();
            state.seconds += 1;
            let now = state.seconds;
            let entry = postcard::to_allocvec(&(now, Some(&command))).expect("an entry");
            state.disk.log.push(entry);
            now
        };
        self.step();
        let text = format!("{command:?}");
        let outcome = self.registry.apply(now, command);
        self.sim.trace(BACKEND, || format!("{text} gives {outcome:?}"));
        if let Err(wrong) = self.registry.check_invariants() {
            panic!("{wrong}, after {text}");
        }
        self.note_live();
        let provides = outcome
            .effects
            .iter()
            .any(|effect| matches!(effect, Effect::Provide { .. }));
        self.carry_out(outcome.effects);
        if provides {
            // From here on it may be in use.
            let entry = postcard::to_allocvec(&(now, None::<&Command>)).expect("an entry");
            self.sim.state().disk.log.push(entry);
        }
        outcome.reply
    }

    fn note_live(&self) {
        let live = self
            .registry
            .constructs()
            .filter(|c| c.live && c.kind != Kind::Shm);
        self.sim.state().disk.live = live.map(|c| (c.serial, c.extents.to_vec())).collect();
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            self.step();
            self.carry_out_one(effect);
        }
    }

    fn carry_out_one(&mut self, effect: Effect) {
        match effect {
            Effect::Provide { extent, .. } if !self.again => {
                assert!(
                    self.is_zero(extent),
                    "memory of {extent:?} is given out and not zeroed"
                );
            }
            Effect::Provide { extent, .. } => {
                // As stores do it.
                let words = Mapped::new(self.sim, self.thread, &[extent]);
                words.zero(0, words.len());
            }
            Effect::Grown { .. } | Effect::Admit { .. } | Effect::Revoke { .. } => {}
            Effect::Format {
                kind,
                nsems,
                qbytes,
                extents,
                ..
            } => {
                let words = Mapped::new(self.sim, self.thread, &extents);
                if Control::load(&words) != Control(0) {
                    return;
                }
                // A former life may have been killed in the middle of this.
                words.zero(0, words.len());
                match kind {
                    Kind::Sem => SemSet::format(&words, nsems),
                    _ => Queue::format(&words, qbytes),
                }
            }
            Effect::Control {
                kind,
                serial,
                control,
            } => self.with(serial, |words, world| {
                let before = Control::load(words);
                Control(control).store(words);
                if kind == Kind::Msg && before.0 != 0 {
                    Queue::at(words).recheck(world);
                }
            }),
            Effect::Retire { kind, serial } => {
                self.later.retain(|work| work.serial() != serial);
                self.sim.state().report.removals += 1;
                self.with(serial, |words, world| match kind {
                    Kind::Sem => SemSet::at(words, NSEMS).remove(world),
                    _ => Queue::at(words).remove(world),
                });
            }
            Effect::Sweep(sweep) => self.now_or_later(Later::Sweep(sweep)),
            Effect::SetQbytes { serial, .. } => self.now_or_later(Later::SetQbytes(serial)),
            Effect::SetCtime {
                kind,
                serial,
                seconds,
            } => self.with(serial, |words, _| match kind {
                Kind::Sem => SemSet::at(words, NSEMS).set_ctime(seconds),
                _ => Queue::at(words).set_ctime(seconds),
            }),
            Effect::Release { serial, extents, .. } => self.release(serial, &extents),
            Effect::Inspect { what, .. } => panic!("a client found rubbish, and nobody writes any: {what}"),
            Effect::CheckLock { serial, owner, .. } => self.with(serial, |words, _| {
                assert_ne!(Owner::load(words).0, owner, "a lock is held by nobody who could");
            }),
        }
    }

    fn release(&mut self, serial: u64, extents: &[Extent]) {
        self.later.retain(|work| work.serial() != serial);
        for (thread, slot) in self.sim.state().slots.iter().enumerate() {
            assert!(
                !slot.maps.contains(&serial),
                "construct {serial} is given back, and thread {thread} maps it"
            );
        }
        for extent in extents {
            self.step();
            self.sim.pool.zero(extent.offset as usize, extent.bytes as usize);
        }
    }

    fn is_zero(&self, extent: Extent) -> bool {
        let end = extent.offset + extent.bytes;
        (extent.offset..end)
            .step_by(8)
            .all(|at| self.sim.pool.load64(at as usize, Ordering::Relaxed) == 0)
    }

    /// Does something to the memory of a set or queue that exists.
    fn with<R: Default>(&self, serial: u64, act: impl FnOnce(&Mapped<'_>, &BackWorld<'_>) -> R) -> R {
        let Some(construct) = self.registry.construct(serial) else {
            return R::default();
        };
        let words = Mapped::new(self.sim, self.thread, construct.extents);
        let world = BackWorld {
            sim: self.sim,
            serial,
        };
        act(&words, &world)
    }

    /// After a restart: ends what a former life was doing when it was killed.
    fn mend(&mut self) {
        let live = self
            .registry
            .constructs()
            .filter(|c| c.live && c.kind != Kind::Shm);
        let all: Vec<(Kind, u64)> = live.map(|c| (c.kind, c.serial)).collect();
        for (kind, serial) in all {
            let held = self.with(serial, |words, world| {
                match kind {
                    Kind::Sem => SemSet::at(words, NSEMS).ring(world),
                    _ => Queue::at(words).recheck(world),
                }
                Owner::load(words).client() == BACKEND_CLIENT
            });
            if held {
                self.now_or_later(Later::Sweep(Sweep {
                    kind,
                    serial,
                    client: BACKEND_CLIENT,
                    undo: None,
                }));
            }
        }
    }

    fn now_or_later(&mut self, work: Later) {
        if !self.attempt(work) {
            self.later.push(work);
        }
    }

    fn retry(&mut self) {
        for work in std::mem::take(&mut self.later) {
            if !self.attempt(work) {
                self.later.push(work);
            }
        }
    }

    /// Whether it is done.
    fn attempt(&mut self, work: Later) -> bool {
        self.sim.trace(BACKEND, || format!("{work:?}"));
        if !self.registry.construct(work.serial()).is_some_and(|c| c.live) {
            return true;
        }
        match work {
            Later::Sweep(sweep) => {
                let dead = Dead {
                    client: sweep.client,
                    undo: sweep.undo,
                };
                let swept = self.with(sweep.serial, |words, world| match sweep.kind {
                    Kind::Sem => Some(SemSet::at(words, NSEMS).sweep(world, dead)),
                    _ => Some(Queue::at(words).sweep(world, sweep.client)),
                });
                match swept {
                    Some(Ok(vshmem_ipc::Sweep::Done)) => {}
                    Some(Ok(vshmem_ipc::Sweep::Busy)) => return false,
                    other => panic!("a sweep gave {other:?}"),
                }
                if sweep.client != BACKEND_CLIENT {
                    let _ = self.apply(Command::Swept(sweep));
                }
            }
            Later::SetQbytes(serial) => {
                // The limit that it has now: it may have changed again since this was to be done.
                let qbytes = self.registry.construct(serial).map_or(0, |c| c.qbytes);
                match self.with(serial, |words, world| {
                    Some(Queue::at(words).set_qbytes(world, qbytes))
                }) {
                    Some(Ok(())) => {}
                    Some(Err(MsgError::LockBusy)) => return false,
                    other => panic!("set_qbytes gave {other:?}"),
                }
            }
        }
        true
    }
}

/// The back-end as the algorithms see it.
struct BackWorld<'a> {
    sim: &'a Sim,
    serial: u64,
}

impl World for BackWorld<'_> {
    fn me(&self) -> Me {
        Me {
            client: BACKEND_CLIENT,
            thread: 1,
            place: Me::NOWHERE,
            ..Me::default()
        }
    }
    fn seconds(&self) -> u64 {
        self.sim.state().seconds
    }
    fn spin(&self, _: u32, _: u16) -> Spin {
        Spin::Enough
    }
    fn lock_wait(&self, _: Owner, _: u32) -> LockWait {
        LockWait::Busy
    }
    fn sleep(&self, _: usize, _: u32) -> Slept {
        Slept::TimedOut
    }
    fn wake(&self, sleeper: Sleeper) {
        if !std::thread::panicking() {
            self.sim.wake(self.serial, sleeper);
        }
    }
}

/// After the run: everybody is dead, and the accounts are settled.
pub(crate) fn finish(sim: &Sim) -> Result<Report, String> {
    if let Some(wrong) = sim.state().failed.clone() {
        return Err(wrong);
    }
    settle(sim)?;
    Ok(sim.state().report)
}

fn settle(sim: &Sim) -> Result<(), String> {
    let mut back = Back::start(sim, None);
    if let Some(client) = back.registry.clients().next() {
        return Err(format!("{client:?} is remembered, and all are dead and swept"));
    }
    let live = back.registry.constructs().filter(|c| c.live);
    let live: Vec<(Kind, i32, u64)> = live.map(|c| (c.kind, c.id, c.serial)).collect();
    for &(kind, _, serial) in &live {
        let settled = back.with(serial, |words, world| {
            Some(match kind {
                Kind::Shm => Ok(()),
                Kind::Sem => {
                    let mut values = [0; NSEMS as usize];
                    SemSet::at(words, NSEMS).values(&mut values);
                    sim.state().ledger.check_set(serial, &values)
                }
                Kind::Msg => drain(sim, serial, words, world),
            })
        });
        settled.unwrap_or(Ok(()))?;
    }
    let _ = back.handle(What::Up("host"));
    let root = Credentials {
        pid: 1,
        caps: 15,
        ..Credentials::default()
    };
    let Ok(Done::Connected(root)) = back.handle(What::Connect("host", root, None)) else {
        return Err("root cannot connect".into());
    };
    for (seq, (kind, id, _)) in live.into_iter().enumerate() {
        let request = What::Request(root.client, seq as u64 + 1, Request::Remove { kind, id });
        let removed: Result<Done, Failure> = back.handle(request);
        removed.map_err(|failure| format!("{kind:?} {id} cannot be removed: {failure:?}"))?;
    }
    if back.registry.bytes_used() != 0 {
        return Err(format!(
            "{} bytes are in use in the end",
            back.registry.bytes_used()
        ));
    }
    let all = Extent {
        offset: 0,
        bytes: POOL as u64,
    };
    if back.is_zero(all) {
        Ok(())
    } else {
        Err("memory is not zeroed in the end".into())
    }
}

/// Receives everything that is left in a queue.
fn drain(sim: &Sim, serial: u64, words: &Mapped<'_>, world: &BackWorld<'_>) -> Result<(), String> {
    let queue = Queue::at(words);
    queue
        .audit()
        .map_err(|corrupt| format!("queue {serial}: {corrupt:?}"))?;
    let nowait = ReceiveFlags {
        nowait: true,
        ..ReceiveFlags::default()
    };
    let mut text = [0; 8192];
    let control = Control::load(words);
    loop {
        match queue.receive(world, control, &mut text, 0, nowait) {
            Ok(received) => {
                let number = crate::text::number_of(&text[..received.len])?;
                let mut state = sim.state();
                state.ledger.queues.entry(serial).or_default().received(number)?;
            }
            Err(MsgError::NoMessage) => break,
            Err(error) => return Err(format!("draining queue {serial} gave {error:?}")),
        }
    }
    let state = sim.state();
    state
        .ledger
        .queues
        .get(&serial)
        .map_or(Ok(()), |account| account.check_empty())
}

const _: () = assert!(PROCESSES >= 3, "a thread for each domain");
