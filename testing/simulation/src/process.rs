//! What processes do: the client runtime's part, over simulated memory, and a random program.
//!
//! Every process uses the same few keys. It may die, or be replaced by exec, at any access; the harness notes what it was about beforehand and what came of it
//! afterwards, with no step in between.

use crate::baton::{Doom, Doomed, Sim, What, home, said};
use crate::caller::Caller;
use crate::ledger::{Begun, Fate, INITIAL, NSEMS, SetAccount};
use crate::memory::Mapped;
use crate::text::{number_of, text_of};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use vshmem_ipc::Control;
use vshmem_ipc::msgq::{MsgError, Queue, ReceiveFlags};
use vshmem_ipc::sem::{SemError, SemSet};
use vshmem_ipc::sysv::{IPC_NOWAIT, SEM_UNDO, SemBuf};
use vshmem_registry::Done;
use vshmem_wire::stream::Connected;
use vshmem_wire::{Credentials, Extent, Kind, Reply, Request};

/// What a thread's processes do, all together.
const ACTIONS: u32 = 40;
/// Tries of an operation that meets growth, changed permission and the like.
const TRIES: u32 = 40;
const CREAT: i32 = 0o1000;
const EXCL: i32 = 0o2000;
const EINVAL: i32 = 22;
const EEXIST: i32 = 17;
pub(crate) const EIDRM: i32 = 43;
const ENOMEM: i32 = 12;

/// A thread for processes, one after another.
pub(crate) fn act(sim: &Sim, me: usize) {
    sim.enter(me);
    let left = Cell::new(ACTIONS);
    let mut pid = new_pid(sim);
    loop {
        let end = catch_unwind(AssertUnwindSafe(|| live(sim, me, pid, &left)));
        let mut state = sim.state();
        let slot = &mut state.slots[me];
        slot.alive = false;
        slot.maps.clear();
        // A fork changes it.
        pid = slot.pid;
        let fork = slot.fork.take();
        drop(state);
        if let Some(fork) = fork {
            sim.tell(me, What::Abandoned(home(me), fork));
        }
        match end.map_err(|payload| payload.downcast::<Doomed>().map(|doomed| doomed.0)) {
            Ok(()) => {
                sim.state().ledger.living.remove(&pid);
                sim.tell(me, What::Gone(home(me), pid, false));
                break;
            }
            Err(Ok(Doom::Exec)) => {
                sim.tell(me, What::Gone(home(me), pid, true));
            }
            Err(Ok(Doom::Down)) => pid = new_pid(sim),
            Err(Ok(Doom::Die | Doom::Crash)) => {
                sim.tell(me, What::Gone(home(me), pid, false));
                pid = new_pid(sim);
            }
            Err(Ok(Doom::Stop)) => break,
            Err(Err(payload)) => {
                sim.fail(said(payload));
                break;
            }
        }
    }
    sim.leave(me);
}

fn new_pid(sim: &Sim) -> u32 {
    let mut state = sim.state();
    state.pids += 1;
    let pid = state.pids;
    state.ledger.living.insert(pid);
    pid
}

/// One image of a process.
fn live(sim: &Sim, me: usize, pid: u32, left: &Cell<u32>) {
    let mut state = sim.state();
    state.slots[me].alive = true;
    state.slots[me].pid = pid;
    state.slots[me].receiving = None;
    drop(state);
    let mut image = connect(sim, me, pid);
    while left.get() > 0 {
        left.set(left.get() - 1);
        image.act();
        sim.step(me);
    }
}

fn who(pid: u32) -> Credentials {
    Credentials {
        pid,
        start: u64::from(pid),
        uid: 1000,
        gid: 1000,
        ..Credentials::default()
    }
}

fn connect(sim: &Sim, me: usize, pid: u32) -> Image<'_> {
    for _ in 0..100 {
        let up = sim.ask(me, What::Up(home(me)));
        let Ok(Done::Domain { number, space }) = up else {
            panic!("a domain cannot come up: {up:?}");
        };
        if let Ok(Done::Connected(numbers)) = sim.ask(me, What::Connect(home(me), who(pid), None)) {
            return Image {
                sim,
                me,
                pid,
                domain: number,
                space,
                numbers,
                seq: Cell::new(0),
                attached: BTreeMap::new(),
            };
        }
    }
    panic!("a process cannot connect");
}

/// A set or queue, mapped.
#[derive(Debug, Clone)]
struct Attached {
    kind: Kind,
    id: i32,
    serial: u64,
    control: u64,
    extents: Vec<Extent>,
}

/// A process image.
pub(crate) struct Image<'a> {
    pub(crate) sim: &'a Sim,
    pub(crate) me: usize,
    pub(crate) pid: u32,
    pub(crate) domain: u16,
    pub(crate) space: u16,
    pub(crate) numbers: Connected,
    seq: Cell<u64>,
    attached: BTreeMap<(Kind, i32), Attached>,
}

/// What came of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Did {
    Yes,
    /// Nothing happened: it would have had to wait, or was interrupted.
    No,
    /// The construct is gone, or cannot be used yet.
    Gone,
}

impl Image<'_> {
    fn below(&self, bound: usize) -> usize {
        self.sim.below(bound)
    }

    pub(crate) fn request(&self, body: Request) -> Result<Done, i32> {
        self.seq.set(self.seq.get() + 1);
        let what = What::Request(self.numbers.client, self.seq.get(), body);
        self.sim.ask(self.me, what).map_err(|failure| failure.errno)
    }

    fn act(&mut self) {
        let key = 1 + self.below(2) as i32;
        match self.below(20) {
            0..=2 => self.mutex(key),
            3..=4 => self.tokens(key),
            5..=7 => self.transfer(key),
            8 => {
                let wait = if self.below(2) == 0 { IPC_NOWAIT } else { 0 };
                self.semop(key, &[op(0, 0, wait)]);
            }
            9..=11 => (0..=self.below(4)).for_each(|_| self.send(key)),
            12..=15 => (0..=self.below(4)).for_each(|_| self.receive(key)),
            16 => self.segment(),
            17 if self.below(2) == 0 => self.remove(key),
            18 => self.set(key),
            19 if self.below(2) == 0 => self.fork(),
            _ => self.close(key),
        }
    }

    // ---- sets ----------------------------------------------------------------------------------------------------

    fn mutex(&mut self, key: i32) {
        if self.semop(key, &[op(0, -1, SEM_UNDO)]) != Did::Yes {
            return;
        }
        let serial = self.attached[&(Kind::Sem, key)].serial;
        let came = self.sim.state().ledger.come_in(serial, self.pid);
        if let Err(wrong) = came {
            panic!("{wrong}");
        }
        for _ in 0..self.below(20) {
            self.sim.step(self.me);
        }
        if self.below(4) == 0 {
            self.transfer(key);
        }
        if let Some(set) = self.sim.state().ledger.sets.get_mut(&serial) {
            set.inside = None;
        }
        if self
            .attached
            .get(&(Kind::Sem, key))
            .is_some_and(|a| a.serial == serial)
        {
            self.semop(key, &[op(0, 1, SEM_UNDO)]);
        }
    }

    fn tokens(&mut self, key: i32) {
        let n = 1 + self.below(3) as i16;
        if self.semop(key, &[op(1, -n, SEM_UNDO)]) != Did::Yes {
            return;
        }
        let serial = self.attached[&(Kind::Sem, key)].serial;
        if self.below(2) == 0 {
            self.send(key);
        }
        // Now and then they are kept: undo gives them back.
        let same = self
            .attached
            .get(&(Kind::Sem, key))
            .is_some_and(|a| a.serial == serial);
        if same && self.below(4) != 0 {
            let back = self.semop(key, &[op(1, n, SEM_UNDO)]);
            assert_ne!(back, Did::No, "giving back never waits");
        }
    }

    fn transfer(&mut self, key: i32) {
        let n = 1 + self.below(4) as i16;
        let wait = if self.below(2) == 0 { IPC_NOWAIT } else { 0 };
        let (from, to) = if self.below(2) == 0 { (2, 3) } else { (3, 2) };
        self.semop(key, &[op(from, -n, wait), op(to, n, wait)]);
    }

    fn semop(&mut self, key: i32, ops: &[SemBuf]) -> Did {
        for _ in 0..TRIES {
            let Some(attached) = self.open(Kind::Sem, key) else {
                return Did::Gone;
            };
            if !self.begun(&attached) {
                return Did::Gone;
            }
            let result = self.on_set(&attached, |set, world, control| set.op(world, control, ops));
            match self.settle_sem(&attached, key, result) {
                Some(Did::Yes) => {
                    self.sim.state().report.semops += 1;
                    return Did::Yes;
                }
                Some(did) => return did,
                None => {}
            }
        }
        Did::Gone
    }

    fn on_set<R>(
        &self,
        attached: &Attached,
        act: impl FnOnce(&SemSet<'_, Mapped<'_>>, &Caller<'_, '_>, Control) -> R,
    ) -> R {
        let words = Mapped::new(self.sim, Some(self.me), &attached.extents);
        let world = self.caller(attached, &words);
        act(&SemSet::at(&words, NSEMS), &world, Control(attached.control))
    }

    /// None: try again.
    fn settle_sem(&mut self, attached: &Attached, key: i32, result: Result<(), SemError>) -> Option<Did> {
        match result {
            Ok(()) => Some(Did::Yes),
            Err(SemError::Again | SemError::Interrupted) => Some(Did::No),
            Err(SemError::Removed) => {
                self.drop(Kind::Sem, key);
                Some(Did::Gone)
            }
            Err(SemError::Stale | SemError::LockBusy) => self.reopen(attached, key),
            Err(SemError::NeedExtent) => self.grow(attached, key, 0),
            Err(error) => panic!("an operation on a set gave {error:?}"),
        }
    }

    /// Whether a set's values have been set; its creator sets them.
    fn begun(&mut self, attached: &Attached) -> bool {
        let begun = self
            .sim
            .state()
            .ledger
            .sets
            .get(&attached.serial)
            .map(|set| set.begun);
        if begun == Some(Begun::Yes) {
            return true;
        }
        // Its creator may be dead, or be at it.
        if self.below(10) == 0 {
            let _ = self.request(Request::Remove {
                kind: Kind::Sem,
                id: attached.id,
            });
        }
        false
    }

    fn begin_set(&mut self, attached: &Attached) {
        let account = SetAccount {
            begun: Begun::Perhaps,
            inside: None,
        };
        self.sim.state().ledger.sets.insert(attached.serial, account);
        let mut attached = attached.clone();
        for _ in 0..TRIES {
            let result = self.on_set(&attached, |set, world, control| {
                set.set_all(world, control, &INITIAL)
            });
            match result {
                Ok(()) => {
                    if let Some(set) = self.sim.state().ledger.sets.get_mut(&attached.serial) {
                        set.begun = Begun::Yes;
                    }
                    return;
                }
                Err(SemError::Stale | SemError::LockBusy) => match self.refreshed(&attached) {
                    Some(again) => attached = again,
                    None => return,
                },
                Err(SemError::Removed) => return,
                Err(error) => panic!("setting all values gave {error:?}"),
            }
        }
    }

    // ---- queues --------------------------------------------------------------------------------------------------

    fn send(&mut self, key: i32) {
        let number = {
            let mut state = self.sim.state();
            state.ledger.messages += 1;
            state.ledger.messages
        };
        let text = text_of(number, self.below(1500));
        let mtype = 1 + self.below(3) as i64;
        let nowait = self.below(3) == 0;
        for _ in 0..TRIES {
            let Some(attached) = self.open(Kind::Msg, key) else {
                return;
            };
            let note = |fate| {
                let mut state = self.sim.state();
                let account = state.ledger.queues.entry(attached.serial).or_default();
                account
                    .messages
                    .entry(number)
                    .and_modify(|f| {
                        // Whoever received it was quicker to say so.
                        if *f != Fate::Received {
                            *f = fate;
                        }
                    })
                    .or_insert(fate);
            };
            note(Fate::Perhaps);
            let words = Mapped::new(self.sim, Some(self.me), &attached.extents);
            let world = self.caller(&attached, &words);
            self.sim.trace(self.me, || {
                format!("send {number} of {} in {}", text.len(), attached.serial)
            });
            let result = Queue::at(&words).send(&world, Control(attached.control), mtype, &text, nowait);
            self.sim.trace(self.me, || format!("sent {result:?}"));
            note(match result {
                Ok(()) => Fate::Sent,
                // It waited, and could not look whether somebody took it at last: the queue was removed.
                Err(MsgError::LockBusy) => Fate::Perhaps,
                Err(_) => Fate::Failed,
            });
            match result {
                Ok(()) => return,
                Err(error) => {
                    let fate = self.sim.state().ledger.queues[&attached.serial].messages[&number];
                    assert!(
                        fate != Fate::Received || error == MsgError::LockBusy,
                        "a message that failed with {error:?} was received"
                    );
                    if fate == Fate::Received {
                        return;
                    }
                    if self.settle_msg(&attached, key, error).is_some() {
                        return;
                    }
                }
            }
        }
    }

    fn receive(&mut self, key: i32) {
        let msgtyp = [0, 0, 1, 2, -2, -3][self.below(6)];
        let flags = ReceiveFlags {
            nowait: self.below(2) == 0,
            except: self.below(4) == 0,
            ..ReceiveFlags::default()
        };
        let mut text = [0; 4096];
        for _ in 0..TRIES {
            let Some(attached) = self.open(Kind::Msg, key) else {
                return;
            };
            self.sim.state().slots[self.me].receiving = Some(attached.serial);
            let words = Mapped::new(self.sim, Some(self.me), &attached.extents);
            let world = self.caller(&attached, &words);
            let result =
                Queue::at(&words).receive(&world, Control(attached.control), &mut text, msgtyp, flags);
            self.sim.state().slots[self.me].receiving = None;
            self.sim.trace(self.me, || format!("received {result:?}"));
            match result {
                Ok(received) => {
                    let noted = number_of(&text[..received.len]).and_then(|number| {
                        let mut state = self.sim.state();
                        state.report.messages += 1;
                        state
                            .ledger
                            .queues
                            .entry(attached.serial)
                            .or_default()
                            .received(number)
                    });
                    return noted.unwrap_or_else(|wrong| panic!("{wrong}"));
                }
                Err(error) => {
                    if self.settle_msg(&attached, key, error).is_some() {
                        return;
                    }
                }
            }
        }
    }

    /// None: try again.
    fn settle_msg(&mut self, attached: &Attached, key: i32, error: MsgError) -> Option<Did> {
        match error {
            MsgError::Again | MsgError::NoMessage | MsgError::Interrupted => Some(Did::No),
            MsgError::Removed => {
                self.drop(Kind::Msg, key);
                Some(Did::Gone)
            }
            MsgError::Stale | MsgError::LockBusy => self.reopen(attached, key),
            MsgError::NeedExtent(bytes) => self.grow(attached, key, bytes as u64),
            MsgError::TooBig | MsgError::Fault | MsgError::Corrupt(_) => {
                panic!("an operation on a queue gave {error:?}")
            }
        }
    }

    // ---- the rest ------------------------------------------------------------------------------------------------

    /// Attaches and detaches a segment, or dies with it.
    fn segment(&mut self) {
        let get = Request::ShmGet {
            key: 1,
            size: 10_000,
            flags: CREAT | 0o600,
        };
        let Ok(Done::Reply(Reply::Id(id))) = self.request(get) else {
            panic!("a segment cannot be had");
        };
        let attach = Request::ShmAttach {
            id,
            read_only: false,
            exec: false,
        };
        match self.request(attach) {
            Ok(Done::WithMemory { serial, .. }) => {
                self.sim.state().slots[self.me].maps.insert(serial);
                if self.below(3) == 0 {
                    let removed = self.request(Request::Remove { kind: Kind::Shm, id });
                    assert!(
                        removed.is_ok(),
                        "an attached segment can be removed, twice if need be"
                    );
                }
                if self.below(2) == 0 {
                    self.sim.state().slots[self.me].maps.remove(&serial);
                    let detached = self.request(Request::ShmDetach { id });
                    assert!(
                        detached.is_ok(),
                        "an attached segment can be detached: {detached:?}"
                    );
                }
            }
            other => assert_eq!(other, Err(EINVAL), "it was removed meanwhile"),
        }
    }

    /// Forks; the parent ends, and this goes on as the child, with all that was mapped.
    fn fork(&mut self) {
        let fork = {
            let mut state = self.sim.state();
            state.ledger.forks += 1;
            state.ledger.forks
        };
        // Whoever ends from here on leaves a fork without a child.
        self.sim.state().slots[self.me].fork = Some(fork);
        let prepared = self.sim.ask(self.me, What::Fork(self.numbers.client, fork));
        assert!(prepared.is_ok(), "a fork cannot be prepared: {prepared:?}");
        let parent = std::mem::replace(&mut self.pid, new_pid(self.sim));
        let mut state = self.sim.state();
        state.slots[self.me].pid = self.pid;
        state.ledger.living.remove(&parent);
        drop(state);
        self.sim.tell(self.me, What::Gone(home(self.me), parent, false));
        let connected = self
            .sim
            .ask(self.me, What::Connect(home(self.me), who(self.pid), Some(fork)));
        let Ok(Done::Connected(numbers)) = connected else {
            panic!("the child of a fork cannot connect: {connected:?}");
        };
        self.numbers = numbers;
        self.seq.set(0);
        let mut state = self.sim.state();
        state.slots[self.me].fork = None;
        state.report.forks += 1;
    }

    fn remove(&mut self, key: i32) {
        let kind = [Kind::Sem, Kind::Msg][self.below(2)];
        if let Some(attached) = self.attached.get(&(kind, key)) {
            let id = attached.id;
            let removed = self.request(Request::Remove { kind, id });
            assert!(matches!(removed, Ok(_) | Err(EINVAL)), "{removed:?}");
        }
    }

    fn set(&mut self, key: i32) {
        let kind = [Kind::Sem, Kind::Msg][self.below(2)];
        let qbytes = Some([500, 1000, 1900][self.below(3)]);
        if let Some(attached) = self.attached.get(&(kind, key)) {
            let request = Request::Set {
                kind,
                id: attached.id,
                uid: 1000,
                gid: 1000,
                mode: 0o600,
                qbytes,
            };
            let set = self.request(request);
            assert!(matches!(set, Ok(_) | Err(EINVAL)), "{set:?}");
        }
    }

    fn close(&mut self, key: i32) {
        let kind = [Kind::Sem, Kind::Msg][self.below(2)];
        self.drop(kind, key);
    }

    // ---- attachments ---------------------------------------------------------------------------------------------

    /// The set or queue of a key, made if there is none.
    fn open(&mut self, kind: Kind, key: i32) -> Option<Attached> {
        if let Some(attached) = self.attached.get(&(kind, key)) {
            return Some(attached.clone());
        }
        let mut made = true;
        let mut id = self.get(kind, key, CREAT | EXCL | 0o600);
        if id == Err(EEXIST) {
            made = false;
            id = self.get(kind, key, 0o600);
        }
        // It was removed in between, perhaps.
        let attached = self.map(kind, id.ok()?)?;
        self.attached.insert((kind, key), attached.clone());
        if made && kind == Kind::Sem {
            self.begin_set(&attached);
        }
        Some(attached)
    }

    fn get(&self, kind: Kind, key: i32, flags: i32) -> Result<i32, i32> {
        let request = match kind {
            Kind::Sem => Request::SemGet {
                key,
                nsems: NSEMS as i32,
                flags,
            },
            _ => Request::MsgGet { key, flags },
        };
        match self.request(request)? {
            Done::Reply(Reply::Id(id)) => Ok(id),
            other => panic!("an id was asked for, and {other:?} is the answer"),
        }
    }

    fn map(&self, kind: Kind, id: i32) -> Option<Attached> {
        self.mapped(kind, id, self.request(Request::Open { kind, id }).ok()?)
    }

    fn mapped(&self, kind: Kind, id: i32, done: Done) -> Option<Attached> {
        let Done::WithMemory {
            serial,
            reply:
                Reply::Opened {
                    control,
                    memory: Some(memory),
                    ..
                },
            ..
        } = done
        else {
            panic!("memory was asked for, and {done:?} is the answer");
        };
        self.sim.state().slots[self.me].maps.insert(serial);
        Some(Attached {
            kind,
            id,
            serial,
            control,
            extents: memory.extents,
        })
    }

    /// The same construct under its present control word; None if it was removed.
    fn refreshed(&self, attached: &Attached) -> Option<Attached> {
        self.sim.give_way(self.me);
        self.map(attached.kind, attached.id)
    }

    fn reopen(&mut self, attached: &Attached, key: i32) -> Option<Did> {
        match self.refreshed(attached) {
            Some(again) => {
                self.attached.insert((again.kind, key), again);
                None
            }
            None => {
                self.drop(attached.kind, key);
                Some(Did::Gone)
            }
        }
    }

    fn grow(&mut self, attached: &Attached, key: i32, wanted: u64) -> Option<Did> {
        let (kind, id) = (attached.kind, attached.id);
        let request = Request::Grow {
            kind,
            id,
            wanted,
            have: attached.extents.len() as u16,
        };
        match self.request(request) {
            Ok(done) => {
                let again = self.mapped(kind, id, done)?;
                self.attached.insert((kind, key), again);
                None
            }
            Err(ENOMEM) => Some(Did::No),
            Err(errno) => {
                assert_eq!(errno, EINVAL, "it was removed");
                self.drop(kind, key);
                Some(Did::Gone)
            }
        }
    }

    /// Unmaps and closes.
    fn drop(&mut self, kind: Kind, key: i32) {
        if let Some(attached) = self.attached.remove(&(kind, key)) {
            self.sim.state().slots[self.me].maps.remove(&attached.serial);
            let id = attached.id;
            let closed = self.request(Request::Close { kind, id });
            assert!(closed.is_ok(), "what is open can be closed: {closed:?}");
        }
    }

    fn caller<'b>(&'b self, attached: &Attached, words: &'b Mapped<'b>) -> Caller<'b, 'b> {
        Caller {
            image: self,
            kind: attached.kind,
            id: attached.id,
            serial: attached.serial,
            words,
        }
    }
}

fn op(num: u16, op: i16, flags: i16) -> SemBuf {
    SemBuf { num, op, flags }
}
