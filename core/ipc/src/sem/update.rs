//! Who may go on: after a change, the waker does the operations of every sleeper that can proceed now.
//!
//! The order is Linux's (`do_smart_update` in ipc/sem.c): sleepers that wait for zero first, then the rest first come, first served, among
//! those that can proceed; after each one that altered something, again from the start. Sleepers of one operation stand in queues of their
//! semaphore, so that a change of one semaphore looks at nobody else's; those of several stand in one queue, looked at on every change.
//!
//! Each sleeper let go on is one journal step: its operations, its adjustments and its state. All of it happens with the set's lock held.

use super::SemSet;
use super::journal::Commit;
use super::layout::{ALTER_AT, CONST_AT, side, side_at, slot, word_at};
use super::plan::{Plan, Verdict};
use super::slot::{Slot, queued, state};
use crate::sysv::{IPC_NOWAIT, SEM_UNDO, SEMOPM, SemBuf};
use crate::{Corrupt, Sleeper, World};
use vshmem_words::Words;

/// Wakes that are owed: given when this is dropped, which is after the lock's guard, made later, was; earlier only if there is no more room.
pub(super) struct Wakes<'w, Wd: World> {
    pub(super) world: &'w Wd,
    pub(super) now: u64,
    /// Made when the first wake is owed: most operations owe none, and should not pay for clearing it.
    owed: Option<Owed>,
}

struct Owed {
    list: [Sleeper; 16],
    len: usize,
}

impl<'w, Wd: World> Wakes<'w, Wd> {
    #[inline(always)]
    pub(super) fn new(world: &'w Wd) -> Self {
        Wakes {
            world,
            now: world.seconds(),
            owed: None,
        }
    }

    pub(super) fn owe(&mut self, sleeper: Sleeper) {
        let owed = self.owed.get_or_insert(Owed {
            list: [sleeper; 16],
            len: 0,
        });
        if owed.len == owed.list.len() {
            owed.pay(self.world);
        }
        if let Some(place) = owed.list.get_mut(owed.len) {
            *place = sleeper;
            owed.len += 1;
        }
    }
}

impl Owed {
    #[cold]
    fn pay(&mut self, world: &impl World) {
        self.list
            .iter()
            .take(self.len)
            .for_each(|sleeper| world.wake(*sleeper));
        self.len = 0;
    }
}

impl<Wd: World> Drop for Wakes<'_, Wd> {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(owed) = &mut self.owed {
            owed.pay(self.world);
        }
    }
}

/// Semaphores that changed: a short list, or all of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Changed {
    list: [(u16, bool); 16],
    len: usize,
    all: bool,
}

impl Changed {
    pub(super) const NONE: Changed = Changed {
        list: [(0, false); 16],
        len: 0,
        all: false,
    };
    pub(super) const ALL: Changed = Changed {
        all: true,
        ..Changed::NONE
    };

    pub(super) fn of(ops: &[SemBuf]) -> Self {
        let mut changed = Changed::NONE;
        ops.iter().for_each(|op| changed.add(op.num, op.op > 0));
        changed
    }

    /// Adds a semaphore; `up` if it was incremented.
    pub(super) fn add(&mut self, num: u16, up: bool) {
        if let Some(known) = self.list.iter_mut().take(self.len).find(|k| k.0 == num) {
            known.1 |= up;
        } else if let Some(place) = self.list.get_mut(self.len) {
            *place = (num, up);
            self.len += 1;
        } else {
            self.all = true;
        }
    }

    fn join(&mut self, other: &Changed) {
        self.all |= other.all;
        other.list.iter().take(other.len).for_each(|k| self.add(k.0, k.1));
    }

    /// The semaphores, each with whether it was incremented.
    fn each(&self, nsems: u32) -> impl Iterator<Item = (u32, bool)> + '_ {
        let listed = self.list.iter().take(if self.all { 0 } else { self.len });
        let all = 0..if self.all { nsems } else { 0 };
        listed
            .map(|k| (u32::from(k.0), k.1))
            .chain(all.map(|num| (num, true)))
    }
}

/// What became of a sleeper that was looked at.
enum Attempt {
    /// It stays.
    Blocked,
    /// It left without changing anything.
    Left,
    /// Its operations are done; they touched these.
    Done(Changed),
}

impl<W: Words> SemSet<'_, W> {
    /// Lets go on whoever can, after `changed` changed.
    pub(super) fn update<Wd: World>(
        &self,
        wakes: &mut Wakes<Wd>,
        mut changed: Changed,
    ) -> Result<(), Corrupt> {
        self.let_zeros(wakes, &changed)?;
        if self.get32(ALTER_AT) != 0 {
            return self.let_in_order(wakes, &mut changed);
        }
        for (num, _) in changed.each(self.nsems).filter(|k| k.1) {
            self.let_decrements(wakes, num)?;
        }
        Ok(())
    }

    fn at_zero(&self, num: u32) -> bool {
        self.get64(word_at(num)) as u16 == 0
    }

    /// Those who wait for zero.
    fn let_zeros<Wd: World>(&self, wakes: &mut Wakes<Wd>, changed: &Changed) -> Result<(), Corrupt> {
        let mut any = false;
        for (num, _) in changed.each(self.nsems) {
            if self.at_zero(num) {
                any = true;
                let head = self.get32(side_at(self.nsems, num) + side::ZERO);
                self.walk(head, |slot, _| self.attempt(wakes, slot).map(|_| true))?;
            }
        }
        if any {
            let head = self.get32(CONST_AT);
            self.walk(head, |slot, _| self.attempt(wakes, slot).map(|_| true))?;
        }
        Ok(())
    }

    /// Those who wait to decrement one semaphore, when nobody waits with several operations: one pass is enough, since what a
    /// decrement leaves suffices for nobody who was passed over.
    fn let_decrements<Wd: World>(&self, wakes: &mut Wakes<Wd>, num: u32) -> Result<(), Corrupt> {
        let head = self.get32(side_at(self.nsems, num) + side::DECREMENT);
        self.walk(head, |slot, _| {
            if self.at_zero(num) {
                return Ok(false);
            }
            if let Attempt::Done(changed) = self.attempt(wakes, slot)? {
                self.let_zeros(wakes, &changed)?;
            }
            Ok(true)
        })
    }

    /// Everybody, in order of arrival over all queues, again from the start after each that altered something.
    fn let_in_order<Wd: World>(&self, wakes: &mut Wakes<Wd>, changed: &mut Changed) -> Result<(), Corrupt> {
        // Every turn but the last lets one sleeper go.
        for _ in 0..=self.used()? {
            let simple = self.first_ready(changed)?;
            let before = simple.map_or(u64::MAX, |(_, sequence)| sequence);
            let mut done = None;
            let head = self.get32(ALTER_AT);
            self.walk(head, |slot, sequence| {
                if sequence > before {
                    return Ok(false);
                }
                if let Attempt::Done(changed) = self.attempt(wakes, slot)? {
                    done = Some(changed);
                }
                Ok(done.is_none())
            })?;
            if done.is_none() {
                let Some((slot, _)) = simple else { return Ok(()) };
                done = match self.attempt(wakes, &slot)? {
                    Attempt::Done(changed) => Some(changed),
                    Attempt::Blocked | Attempt::Left => None,
                };
            }
            if let Some(more) = done {
                self.let_zeros(wakes, &more)?;
                changed.join(&more);
            }
        }
        Ok(())
    }

    /// The first to arrive among those of one operation that can now decrement a semaphore that was incremented.
    fn first_ready(&self, changed: &Changed) -> Result<Option<(Slot, u64)>, Corrupt> {
        let mut best: Option<(Slot, u64)> = None;
        for (num, _) in changed.each(self.nsems).filter(|k| k.1) {
            let value = i32::from(self.get64(word_at(num)) as u16);
            let head = self.get32(side_at(self.nsems, num) + side::DECREMENT);
            if value == 0 || head == 0 {
                continue;
            }
            self.walk(head, |slot, sequence| {
                if best.is_some_and(|(_, first)| first < sequence) {
                    return Ok(false);
                }
                let ready = value + i32::from(slot.first.op) >= 0
                    || self.get32(slot.at + slot::STATE) == state::CANCELLED;
                if ready {
                    best = Some((*slot, sequence));
                }
                Ok(!ready)
            })?;
        }
        Ok(best)
    }

    /// Walks a queue from `head`; `visit` may take the slot it is given out of the queue, and says whether to go on.
    pub(super) fn walk(
        &self,
        head: u32,
        mut visit: impl FnMut(&Slot, u64) -> Result<bool, Corrupt>,
    ) -> Result<(), Corrupt> {
        let mut link = head;
        let mut steps = 0;
        while let Some(unit) = self.follow_to("queue", link, super::layout::kind::SLOT)? {
            steps += 1;
            Corrupt::check("queue's length", steps, self.capacity().into())?;
            let slot = self.slot(unit)?;
            link = self.get32(slot.at + slot::NEXT);
            let sequence = self.get64(slot.at + slot::SEQUENCE);
            if !visit(&slot, sequence)? {
                break;
            }
        }
        Ok(())
    }

    /// Does a sleeper's operations if they can be done now.
    fn attempt<Wd: World>(&self, wakes: &mut Wakes<Wd>, slot: &Slot) -> Result<Attempt, Corrupt> {
        let found = self.get32(slot.at + slot::STATE);
        if found == state::CANCELLED {
            self.detach_and_untouch(slot)?;
            self.free_unit(slot.unit);
            return Ok(Attempt::Left);
        }
        if found == state::REMOVED {
            return Ok(Attempt::Blocked);
        }
        if !queued(found) {
            return Err(Corrupt {
                what: "queued slot's state",
                found: found.into(),
                allowed: state::QUEUED.into(),
            });
        }
        if slot.nops == 1 {
            // The usual case, without copying anything: what does not suffice now is not tried.
            let value = i32::from(self.get64(word_at(slot.first.num.into())) as u16);
            let op = i32::from(slot.first.op);
            if value + op < 0 || op == 0 && value != 0 {
                return Ok(Attempt::Blocked);
            }
            self.attempt_copied::<1, Wd>(wakes, slot)
        } else if slot.nops <= 8 {
            self.attempt_copied::<8, Wd>(wakes, slot)
        } else {
            self.attempt_copied::<SEMOPM, Wd>(wakes, slot)
        }
    }

    #[inline(never)]
    fn attempt_copied<const N: usize, Wd: World>(
        &self,
        wakes: &mut Wakes<Wd>,
        slot: &Slot,
    ) -> Result<Attempt, Corrupt> {
        let mut copy = [SemBuf::default(); N];
        let mut places = copy.iter_mut();
        self.each_op(slot, |op| {
            if let Some(place) = places.next() {
                *place = op;
            }
        })?;
        let ops = copy.get(..slot.nops).unwrap_or(&[]);
        let undo = match self.get64(slot.at + slot::UNDO) {
            list if list != 0 && ops.iter().any(|op| op.flags & SEM_UNDO != 0) => {
                let missing = Corrupt {
                    what: "undo record of a sleeper",
                    found: list,
                    allowed: 0,
                };
                Some(self.find_undo(list)?.ok_or(missing)?)
            }
            _ => None,
        };
        let mut plan = Plan::<N>::new();
        let verdict = self.evaluate(ops, undo, &mut plan)?;
        let refused = match verdict {
            Verdict::Go => {
                let commit = Commit {
                    doer: self.doer(slot),
                    undo,
                    now: wakes.now,
                    grant: Some(slot.at + slot::STATE),
                };
                let was = self.commit(&plan, &commit);
                self.let_go(wakes, slot, was)?;
                return Ok(Attempt::Done(Changed::of(ops)));
            }
            Verdict::Block(index) => match ops.get(index) {
                Some(op) if op.flags & IPC_NOWAIT == 0 => {
                    self.release(&plan, 0);
                    self.set_blocking(slot, *op)?;
                    return Ok(Attempt::Blocked);
                }
                _ => state::REFUSED_AGAIN,
            },
            Verdict::Range => state::REFUSED_RANGE,
        };
        self.release(&plan, 0);
        let was = self.move_from_queued(slot.at + slot::STATE, refused);
        self.let_go(wakes, slot, was)?;
        Ok(Attempt::Left)
    }

    /// Takes a sleeper that has its result out of its queue, and sees to its being woken.
    fn let_go<Wd: World>(&self, wakes: &mut Wakes<Wd>, slot: &Slot, was: u32) -> Result<(), Corrupt> {
        self.unlink(slot)?;
        self.push_granted(slot.unit)?;
        if was & state::SLEEPING != 0 {
            wakes.owe(self.sleeper(slot.at));
        }
        Ok(())
    }
}
