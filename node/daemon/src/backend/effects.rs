//! Carrying out what the registry says is to be done to construct memory.
//!
//! Nothing here waits: what finds a construct's lock held is tried again on a timer.

use super::stores::Home;
use super::world::BackWorld;
use super::{Backend, Later};
use std::io;
use std::time::{Duration, Instant};
use vshmem_ipc::Control;
use vshmem_ipc::msgq::{MsgError, Queue};
use vshmem_ipc::sem::{Dead, SemSet};
use vshmem_ipc::{Corrupt, Owner};
use vshmem_port::store::Serial;
use vshmem_registry::{Command, Effect, Sweep};
use vshmem_wire::{Extent, Kind};
use vshmem_words::{Mapping, Words};

/// Pauses between two tries of something that finds a lock held.
const PAUSES: [Duration; 6] = [
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(100),
];

/// So many times a client's word that a construct holds rubbish is taken for nothing, less one.
const CONVINCING: u32 = 3;

/// How a try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tried {
    /// It is done, or there is nothing left to do it to.
    Done,
    /// Somebody holds the lock.
    Busy,
}

impl Backend {
    /// Carries effects out, in order. The error is that of the first [`Effect::Provide`] that failed.
    pub(super) fn carry_out(&mut self, effects: Vec<Effect>) -> io::Result<()> {
        let mut failed = None;
        for effect in effects {
            if let Effect::Provide {
                group,
                huge,
                kind,
                serial,
                extent,
            } = effect
            {
                if let Err(e) = self.provide((group, huge), (kind, Serial(serial)), extent) {
                    if self.lines.allows() {
                        tracing::warn!(serial, ?kind, bytes = extent.bytes, "memory cannot be had: {e}");
                    }
                    failed = Some((serial, e));
                }
                continue;
            }
            if failed.is_some() {
                // What follows builds on the memory that is not there; the registry takes it back.
                continue;
            }
            self.carry_out_one(effect);
        }
        match failed {
            None => Ok(()),
            Some((serial, e)) => {
                let _ = self.apply(Command::NotProvided { serial });
                Err(e)
            }
        }
    }

    fn provide(&mut self, home: Home, what: (Kind, Serial), extent: Extent) -> io::Result<()> {
        if let Some((name, fd)) = self.stores.provide(home, what, extent)? {
            self.keeper.keep(name, fd);
        }
        Ok(())
    }

    fn carry_out_one(&mut self, effect: Effect) {
        match effect {
            Effect::Provide { .. } => {}
            Effect::Format { .. } => self.format(effect),
            // Sets and queues take an extent in when the control word announces it; that it can be mapped is tried here.
            Effect::Grown { serial, extents, .. } => self.with(serial, &extents, |_| ()),
            Effect::Control {
                kind,
                serial,
                control,
            } => self.control(kind, serial, Control(control)),
            Effect::Retire { kind, serial } => self.retire(kind, serial),
            Effect::Sweep(sweep) => self.now_or_later(Later::Sweep(sweep)),
            Effect::SetQbytes { serial, .. } => self.now_or_later(Later::SetQbytes(serial)),
            Effect::SetCtime {
                kind,
                serial,
                seconds,
            } => self.with_known(serial, |words, nsems| match kind {
                Kind::Sem => SemSet::at(words, nsems).set_ctime(seconds),
                Kind::Msg => Queue::at(words).set_ctime(seconds),
                Kind::Shm => {}
            }),
            Effect::Admit {
                group,
                huge,
                serial,
                domain,
                writable,
            } => self.noted("admit", serial, |b| {
                b.stores
                    .home_mut((group, huge))
                    .admit(Serial(serial), domain, writable)
            }),
            Effect::Revoke {
                group,
                huge,
                serial,
                domain,
            } => self.noted("revoke", serial, |b| {
                b.stores
                    .home_mut((group, huge))
                    .revoke(Serial(serial), domain)
                    .map(|_| ())
            }),
            Effect::Release {
                group,
                huge,
                serial,
                extents,
                ..
            } => {
                self.release((group, huge), serial, &extents);
            }
            Effect::Inspect { kind, serial, what } => self.inspect(kind, serial, what),
            Effect::CheckLock { serial, owner, .. } => {
                let mut same = false;
                self.with_known(serial, |words, _| same = Owner::load(words).0 == owner);
                if same {
                    let what = format!("lock word {owner:#x}, which is nobody's");
                    self.declare_corrupt(serial, what);
                }
            }
        }
    }

    fn release(&mut self, home: Home, serial: u64, extents: &[Extent]) {
        self.mappings.drop_one(&mut self.stores, serial);
        self.suspicions.remove(&serial);
        self.heap.went();
        self.later.retain(|(_, _, work)| work.serial() != serial);
        self.noted("release", serial, |b| {
            if let Some(name) = b.stores.release(home, Serial(serial), extents)? {
                b.keeper.drop_kept(name);
            }
            Ok(())
        });
    }

    fn format(&mut self, effect: Effect) {
        let Effect::Format {
            kind,
            serial,
            nsems,
            qbytes,
            ctime,
            extents,
        } = effect
        else {
            return;
        };
        self.with(serial, &extents, |words| {
            if Control::load(words) != Control(0) {
                return;
            }
            // A former life may have been killed in the middle of this.
            words.zero(0, words.len());
            if kind == Kind::Sem {
                SemSet::format(words, nsems);
                SemSet::at(words, nsems).set_ctime(ctime);
            } else {
                Queue::format(words, qbytes);
                Queue::at(words).set_ctime(ctime);
            }
        });
    }

    fn noted(&mut self, what: &str, serial: u64, act: impl FnOnce(&mut Self) -> io::Result<()>) {
        if let Err(e) = act(self)
            && self.lines.allows()
        {
            tracing::error!(serial, "{what}: {e}");
        }
    }

    /// Does something with the memory of a construct that the registry knows, and says so in the log if it cannot be mapped.
    pub(super) fn with<R: Default>(
        &mut self,
        serial: u64,
        extents: &[Extent],
        act: impl FnOnce(&Mapping) -> R,
    ) -> R {
        let Some(group) = self.registry.construct(serial).map(|c| c.group) else {
            return R::default();
        };
        let pool = self.pools.get(&group);
        match self
            .mappings
            .get(&mut self.stores, pool, (group, serial), extents)
        {
            Ok(words) => act(words),
            Err(e) => {
                tracing::error!(serial, "a construct cannot be mapped: {e}");
                R::default()
            }
        }
    }

    /// The same with a construct that the registry knows; the number of its semaphores goes along.
    pub(super) fn with_known<R: Default>(&mut self, serial: u64, act: impl FnOnce(&Mapping, u32) -> R) -> R {
        let Some((extents, nsems)) = self
            .registry
            .construct(serial)
            .map(|c| (c.extents.to_vec(), c.nsems))
        else {
            return R::default();
        };
        self.with(serial, &extents, |words| act(words, nsems))
    }

    fn control(&mut self, kind: Kind, serial: u64, control: Control) {
        let rung = self.with_known(serial, |words, _| {
            let before = Control::load(words);
            control.store(words);
            let world = BackWorld::new(words);
            // Whoever waits in a queue whose permissions changed has to ask again whether it may.
            if kind == Kind::Msg && before.0 != 0 && permission(before) != permission(control) {
                Queue::at(words).recheck(&world);
            }
            world.rung()
        });
        self.ring_all(rung);
    }

    fn retire(&mut self, kind: Kind, serial: u64) {
        self.later.retain(|(_, _, work)| work.serial() != serial);
        let rung = self.with_known(serial, |words, nsems| {
            let world = BackWorld::new(words);
            match kind {
                Kind::Sem => SemSet::at(words, nsems).remove(&world),
                Kind::Msg => Queue::at(words).remove(&world),
                Kind::Shm => {}
            }
            world.rung()
        });
        self.ring_all(rung);
    }

    /// A client says that a construct holds rubbish: believed where it is borne out. What cannot be seen from here is believed when it is said
    /// again and again: only who may write there can say it, and nobody is served by a construct that fails its users.
    fn inspect(&mut self, kind: Kind, serial: u64, what: String) {
        let found = self.with_known(serial, |words, nsems| match kind {
            Kind::Sem => SemSet::open(words, nsems).err(),
            Kind::Msg => Queue::open(words).and_then(|queue| queue.audit()).err(),
            Kind::Shm => None,
        });
        match found {
            Some(corrupt) => self.declare_corrupt(serial, describe(&corrupt)),
            None => {
                let times = self.suspicions.entry(serial).or_insert(0);
                *times += 1;
                if *times >= CONVINCING {
                    self.declare_corrupt(serial, what);
                }
            }
        }
    }

    /// Retires a construct that holds rubbish.
    pub(super) fn declare_corrupt(&mut self, serial: u64, what: String) {
        self.suspicions.remove(&serial);
        if self.lines.allows() {
            tracing::error!(serial, "construct is corrupt: {what}");
        }
        let _ = self.apply(Command::DeclareCorrupt { serial, what });
    }

    /// After a restart: ends what a former life was doing in a construct when it was killed, and wakes everybody there who may not have
    /// heard that he was let go on.
    pub(super) fn mend_all(&mut self) {
        let all: Vec<_> = self
            .registry
            .constructs()
            .filter(|c| c.live && c.kind != Kind::Shm)
            .map(|c| (c.kind, c.serial))
            .collect();
        for (kind, serial) in all {
            let (held, rung) = self.with_known(serial, |words, nsems| {
                let world = BackWorld::new(words);
                let held = Owner::load(words).client() == vshmem_ipc::lock::BACKEND;
                match kind {
                    Kind::Sem => SemSet::at(words, nsems).ring(&world),
                    Kind::Msg => Queue::at(words).recheck(&world),
                    Kind::Shm => {}
                }
                (held, world.rung())
            });
            self.ring_all(rung);
            if held {
                let sweep = Sweep {
                    kind,
                    serial,
                    client: vshmem_ipc::lock::BACKEND,
                    undo: None,
                };
                self.now_or_later(Later::Sweep(sweep));
            }
        }
    }

    fn now_or_later(&mut self, work: Later) {
        if self.attempt(work) == Tried::Busy {
            self.later.push((Instant::now() + PAUSES[0], 0, work));
        }
    }

    /// Tries again what is due.
    pub(super) fn retry(&mut self) {
        let now = Instant::now();
        let due: Vec<_> = self
            .later
            .iter()
            .copied()
            .filter(|(at, _, _)| *at <= now)
            .collect();
        self.later.retain(|(at, _, _)| *at > now);
        for (_, tries, work) in due {
            if self.attempt(work) == Tried::Busy {
                let tries = (tries + 1).min(PAUSES.len() - 1);
                self.later.push((Instant::now() + PAUSES[tries], tries, work));
            }
        }
    }

    fn attempt(&mut self, work: Later) -> Tried {
        if !self.registry.construct(work.serial()).is_some_and(|c| c.live) {
            return Tried::Done;
        }
        match work {
            Later::Sweep(sweep) => self.sweep(sweep),
            Later::SetQbytes(serial) => self.set_qbytes(serial),
        }
    }

    fn sweep(&mut self, sweep: Sweep) -> Tried {
        let dead = Dead {
            client: sweep.client,
            undo: sweep.undo,
        };
        let (outcome, rung) = self.with_known(sweep.serial, |words, nsems| {
            let world = BackWorld::new(words);
            let outcome = match sweep.kind {
                Kind::Sem => SemSet::at(words, nsems).sweep(&world, dead),
                Kind::Msg => Queue::at(words).sweep(&world, sweep.client),
                Kind::Shm => Ok(vshmem_ipc::Sweep::Done),
            };
            (Some(outcome), world.rung())
        });
        self.ring_all(rung);
        match outcome {
            Some(Ok(vshmem_ipc::Sweep::Busy)) => return Tried::Busy,
            Some(Ok(vshmem_ipc::Sweep::Done)) => {}
            Some(Err(corrupt)) => self.declare_corrupt(sweep.serial, describe(&corrupt)),
            // It could not be mapped (no memory for a moment, say): once more later.
            None => return Tried::Busy,
        }
        let _ = self.apply(Command::Swept(sweep));
        Tried::Done
    }

    /// Tells a queue its limit: the one that it has now, which may have changed again since this was to be done.
    fn set_qbytes(&mut self, serial: u64) -> Tried {
        let Some(qbytes) = self.registry.construct(serial).map(|c| c.qbytes) else {
            return Tried::Done;
        };
        let (outcome, rung) = self.with_known(serial, |words, _| {
            let world = BackWorld::new(words);
            (Some(Queue::at(words).set_qbytes(&world, qbytes)), world.rung())
        });
        self.ring_all(rung);
        match outcome {
            None | Some(Err(MsgError::LockBusy)) => return Tried::Busy,
            Some(Err(MsgError::Corrupt(corrupt))) => self.declare_corrupt(serial, describe(&corrupt)),
            Some(Ok(()) | Err(_)) => {}
        }
        Tried::Done
    }
}

/// The permission generation in a control word.
fn permission(control: Control) -> u16 {
    (control.0 >> 8) as u16
}

/// A corruption in words.
pub(super) fn describe(corrupt: &Corrupt) -> String {
    format!(
        "{} is {:#x}, at most {:#x} is right",
        corrupt.what, corrupt.found, corrupt.allowed
    )
}
