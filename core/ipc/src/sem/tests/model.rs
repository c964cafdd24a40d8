//! A plain model of a semaphore set, written as Linux describes it: one list of sleepers in order of arrival, looked at again
//! from the start after every change. Random sequences must give the same in the set and in the model.

use super::*;
use crate::sysv::SEMVMX;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::vec;

const NSEMS: u32 = 3;
const CLIENTS: u32 = 4;

#[derive(Debug, Clone)]
struct Waiter {
    id: usize,
    client: u32,
    ops: Vec<SemBuf>,
    blocking: SemBuf,
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Done,
    Blocked(SemBuf),
    Failed(SemError),
}

#[derive(Debug, Default)]
struct Model {
    values: Vec<u16>,
    pids: Vec<u32>,
    adjust: BTreeMap<(u32, u16), i32>,
    waiters: Vec<Waiter>,
    results: BTreeMap<usize, Result<(), SemError>>,
    otime: u64,
}

impl Model {
    fn attempt(&mut self, client: u32, ops: &[SemBuf]) -> Outcome {
        let (values, adjust) = (self.values.clone(), self.adjust.clone());
        let mut outcome = Outcome::Done;
        for op in ops {
            let value = &mut self.values[op.num as usize];
            let result = i32::from(*value) + i32::from(op.op);
            if op.op == 0 && *value != 0 || result < 0 {
                let blocks = op.flags & IPC_NOWAIT == 0;
                outcome = if blocks {
                    Outcome::Blocked(*op)
                } else {
                    Outcome::Failed(SemError::Again)
                };
                break;
            }
            let mut undone = self.adjust.get(&(client, op.num)).copied().unwrap_or(0);
            if op.flags & SEM_UNDO != 0 {
                undone -= i32::from(op.op);
            }
            if result > i32::from(SEMVMX) || !(-32768..=32767).contains(&undone) {
                outcome = Outcome::Failed(SemError::Range);
                break;
            }
            *value = result as u16;
            self.adjust.insert((client, op.num), undone);
        }
        if outcome == Outcome::Done {
            ops.iter()
                .for_each(|op| self.pids[op.num as usize] = 1000 + client);
        } else {
            (self.values, self.adjust) = (values, adjust);
        }
        outcome
    }

    /// Whether these are one operation on a semaphore that no sleeper names: nobody is looked at after it, since nobody can go on by it. Linux looks all the
    /// same, at those with several operations, and only at which of them they wait may have become another one since they were last looked at.
    fn is_nobodys(&self, ops: &[SemBuf]) -> bool {
        let named = |num| self.waiters.iter().any(|w| w.ops.iter().any(|op| op.num == num));
        matches!(ops, [one] if self.otime != 0 && one.flags & SEM_UNDO == 0 && !named(one.num))
    }

    fn op(&mut self, id: usize, client: u32, ops: &[SemBuf], now: u64) {
        let nobodys = self.is_nobodys(ops);
        match self.attempt(client, ops) {
            Outcome::Done => {
                self.results.insert(id, Ok(()));
                self.otime = now;
                if !nobodys && ops.iter().any(|op| op.op != 0) {
                    let nums: Vec<_> = ops.iter().map(|op| op.num).collect();
                    self.update(&nums, now);
                }
            }
            Outcome::Failed(error) => drop(self.results.insert(id, Err(error))),
            Outcome::Blocked(blocking) => self.waiters.push(Waiter {
                id,
                client,
                ops: ops.to_vec(),
                blocking,
            }),
        }
    }

    /// Tries one sleeper; whether it is gone, and what it touched if it succeeded.
    fn look_at(&mut self, index: usize, now: u64) -> (bool, Option<Vec<u16>>) {
        let waiter = self.waiters[index].clone();
        match self.attempt(waiter.client, &waiter.ops) {
            Outcome::Blocked(op) => {
                self.waiters[index].blocking = op;
                (false, None)
            }
            Outcome::Failed(error) => {
                self.waiters.remove(index);
                self.results.insert(waiter.id, Err(error));
                (true, None)
            }
            Outcome::Done => {
                self.waiters.remove(index);
                self.results.insert(waiter.id, Ok(()));
                self.otime = now;
                (true, Some(waiter.ops.iter().map(|op| op.num).collect()))
            }
        }
    }

    fn zeros(&mut self, nums: &[u16], now: u64) {
        if !nums.iter().any(|&num| self.values[num as usize] == 0) {
            return;
        }
        for single in [true, false] {
            let mut index = 0;
            while index < self.waiters.len() {
                let ops = &self.waiters[index].ops;
                let wanted = ops.iter().all(|op| op.op == 0) && (ops.len() == 1) == single;
                if !(wanted && self.look_at(index, now).0) {
                    index += 1;
                }
            }
        }
    }

    fn update(&mut self, nums: &[u16], now: u64) {
        self.zeros(nums, now);
        'again: loop {
            let mut index = 0;
            while index < self.waiters.len() {
                if self.waiters[index].ops.iter().all(|op| op.op == 0) {
                    index += 1;
                    continue;
                }
                let (gone, touched) = self.look_at(index, now);
                if let Some(touched) = touched {
                    self.zeros(&touched, now);
                    continue 'again;
                }
                index += usize::from(!gone);
            }
            return;
        }
    }

    fn all(&self) -> Vec<u16> {
        (0..NSEMS as u16).collect()
    }

    fn set(&mut self, num: u16, value: u16, client: u32) {
        self.values[num as usize] = value;
        self.pids[num as usize] = 1000 + client;
        self.adjust.retain(|key, _| key.1 != num);
    }

    fn die(&mut self, client: u32, now: u64) {
        self.waiters.retain(|waiter| waiter.client != client);
        let mut any = false;
        for num in self.all() {
            let adjust = self.adjust.remove(&(client, num)).unwrap_or(0);
            if adjust != 0 {
                let value = i32::from(self.values[num as usize]) + adjust;
                self.values[num as usize] = value.clamp(0, SEMVMX.into()) as u16;
                self.pids[num as usize] = 1000 + client;
                any = true;
            }
        }
        if any {
            self.otime = now;
            self.update(&self.all(), now);
        }
    }

    fn count(&self, num: u16, zero: bool) -> u32 {
        let blocks = |w: &&Waiter| w.blocking.num == num && (w.blocking.op == 0) == zero;
        self.waiters.iter().filter(blocks).count() as u32
    }
}

#[derive(Debug, Clone)]
enum Step {
    Op(u32, Vec<SemBuf>),
    Signal(prop::sample::Index),
    Set(u32, u16, u16),
    SetAll(u32, Vec<u16>),
    Die(u32),
}

fn ops() -> impl Strategy<Value = Vec<SemBuf>> {
    let flags = prop_oneof![6 => Just(0), 2 => Just(SEM_UNDO), 1 => Just(IPC_NOWAIT), 1 => Just(IPC_NOWAIT | SEM_UNDO)];
    let amount = prop_oneof![8 => -3i16..=3, 1 => Just(32767), 1 => Just(-32768)];
    let one = (0..NSEMS as u16, amount, flags).prop_map(|(num, op, flags)| SemBuf { num, op, flags });
    prop_oneof![
        5 => prop::collection::vec(one.clone(), 1),
        4 => prop::collection::vec(one.clone(), 2..4),
        1 => prop::collection::vec(one, 9..20),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let client = 2..2 + CLIENTS;
    let value = || prop_oneof![9 => 0u16..4, 1 => Just(SEMVMX)];
    prop_oneof![
        12 => (client.clone(), ops()).prop_map(|(client, ops)| Step::Op(client, ops)),
        2 => any::<prop::sample::Index>().prop_map(Step::Signal),
        1 => (client.clone(), 0..NSEMS as u16, value()).prop_map(|(c, num, value)| Step::Set(c, num, value)),
        1 => (client.clone(), prop::collection::vec(value(), NSEMS as usize)).prop_map(|(c, v)| Step::SetAll(c, v)),
        1 => client.prop_map(Step::Die),
    ]
}

/// The set and the model, driven together.
struct Both<'a> {
    set: SemSet<'a, Heap>,
    model: Model,
    worlds: Vec<Puppet>,
    asleep: BTreeMap<usize, (u32, usize)>,
    now: u64,
}

impl Both<'_> {
    fn world(&self, client: u32) -> &Puppet {
        &self.worlds[client as usize]
    }

    fn step(&mut self, id: usize, step: Step) {
        self.now += 1;
        self.worlds.iter().for_each(|world| world.now.set(self.now));
        match step {
            Step::Op(client, ops) => {
                self.model.op(id, client, &ops, self.now);
                match start(&self.set, self.world(client), &ops) {
                    Stand::Ended(result) => self.ended(id, result),
                    Stand::Asleep(at) => drop(self.asleep.insert(id, (client, at))),
                }
            }
            Step::Signal(index) if !self.asleep.is_empty() => {
                let id = *index.get(&self.asleep.keys().copied().collect::<Vec<_>>());
                let (client, at) = self.asleep.remove(&id).unwrap();
                self.model.waiters.retain(|waiter| waiter.id != id);
                let result = end(&self.set, self.world(client), at, Slept::Interrupted);
                assert_eq!(result, Err(SemError::Interrupted));
            }
            Step::Signal(_) => {}
            Step::Set(client, num, value) => {
                self.model.set(num, value, client);
                self.model.update(&self.model.all(), self.now);
                let world = self.world(client);
                self.set.set_value(world, CONTROL, num.into(), value).unwrap();
            }
            Step::SetAll(client, values) => {
                (0..)
                    .zip(&values)
                    .for_each(|(num, &value)| self.model.set(num, value, client));
                self.model.update(&self.model.all(), self.now);
                self.set.set_all(self.world(client), CONTROL, &values).unwrap();
            }
            Step::Die(client) => {
                self.model.die(client, self.now);
                kill(&self.set, &self.worlds[1], self.world(client));
                self.asleep.retain(|_, (of, _)| *of != client);
            }
        }
        self.compare();
    }

    fn ended(&mut self, id: usize, result: Result<(), SemError>) {
        assert_eq!(self.model.results.remove(&id), Some(result), "operation {id}");
    }

    fn compare(&mut self) {
        for (id, (client, at)) in self.asleep.clone() {
            match look(&self.set, self.world(client), at) {
                Stand::Ended(result) => {
                    self.asleep.remove(&id);
                    self.ended(id, result);
                }
                Stand::Asleep(_) => assert!(!self.model.results.contains_key(&id), "{id} should go on"),
            }
        }
        assert!(self.model.results.is_empty());
        let mut values = vec![0; NSEMS as usize];
        self.set.values(&mut values);
        assert_eq!(values, self.model.values);
        for num in 0..NSEMS {
            assert_eq!(self.set.pid(self.world(1), num).1, self.model.pids[num as usize]);
            assert_eq!(
                self.set.ncnt(num),
                self.model.count(num as u16, false),
                "semncnt of {num}"
            );
            assert_eq!(
                self.set.zcnt(num),
                self.model.count(num as u16, true),
                "semzcnt of {num}"
            );
            let touched = self
                .model
                .waiters
                .iter()
                .any(|w| w.ops.iter().any(|op| u32::from(op.num) == num));
            let word = self.set.get64(super::super::layout::word_at(num));
            assert_eq!(word & super::super::layout::WAITERS != 0, touched);
            assert_eq!(word & super::super::layout::LOCKED, 0);
        }
        assert_eq!(self.set.sleepers() as usize, self.model.waiters.len());
        assert_eq!(self.set.times().0, self.model.otime);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_set_does_what_the_model_does(steps in prop::collection::vec(step(), 1..60)) {
        let heap = made(NSEMS);
        heap.grow(heap.len() + SemSet::<Heap>::extent_bytes(NSEMS));
        let mut both = Both {
            set: SemSet::at(&heap, NSEMS),
            model: Model {
                values: vec![0; NSEMS as usize],
                pids: vec![0; NSEMS as usize],
                ..Model::default()
            },
            worlds: (0..2 + CLIENTS).map(Puppet::new).collect(),
            asleep: BTreeMap::new(),
            now: 100,
        };
        for (id, step) in steps.into_iter().enumerate() {
            both.step(id, step);
        }
    }
}
