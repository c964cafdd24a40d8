//! What the back-end does after a death: take the lock over, finish the journal, make the set's lists anew from the slots, drop what was
//! the dead one's, apply its undo record. And removal.
//!
//! Not for deciding who is dead. One sweep of a set runs at a time; it may be repeated, and its own death at any store is repaired by the next.
//!
//! | the dead client was | what is left | what a sweep does |
//! |---|---|---|
//! | not in the set's code, or on the fast path | nothing | looks for slots |
//! | asleep | a slot QUEUED | drops it |
//! | let go on | a slot GRANTED | frees it: the operations count as done |
//! | holding the lock | the journal, LOCKED bits, lists half linked | replays, rebuilds |
//! | the waker of others | GRANTED slots whose sleepers were not woken | wakes them again |

use super::SemSet;
use super::arena::Unit;
use super::layout::{
    self, ALTER_AT, BUCKETS, CONST_AT, FREE_UNDO_AT, FREE_UNIT_AT, GRANTED_AT, JOURNAL_AT, LOCKED, MOVED,
    OTIME_AT, SIDE, SLEEPERS_AT, USED_AT, WAITERS, chunk, kind, side, side_at, slot, undo, word_at,
};
use super::slot::{queued, state};
use super::update::{Changed, Wakes};
use crate::lock::{self, BACKEND, Guard, Owner, RECOVERING};
use crate::sysv::SEMVMX;
use crate::{Control, Corrupt, LockWait, State, Sweep, World};
use vshmem_words::{Ordering, Words};

/// Races lost on one word after which it counts as scribbled on.
const TRIES: u32 = 1 << 16;

/// Who is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dead {
    /// The client number: a process image that died or was replaced by exec.
    pub client: u32,
    /// Its undo list, if the process is gone; `None` after an exec.
    pub undo: Option<u64>,
}

/// Whether a sleeper in this state has a result it may not have noticed.
fn let_go(state: u32) -> bool {
    matches!(
        state,
        state::GRANTED | state::REFUSED_RANGE | state::REFUSED_AGAIN
    )
}

impl<W: Words> SemSet<'_, W> {
    /// Clears away what a dead client left (back-end only): takes over its lock and repairs, drops its slots, applies its undo list
    /// once, lets others go on, and wakes again those who may not have heard that they were let go on. May be repeated. Never blocks.
    ///
    /// # Errors
    /// [`Corrupt`] if the set cannot be repaired: the back-end then marks it so and removes it.
    pub fn sweep(&self, world: &impl World, dead: Dead) -> Result<Sweep, Corrupt> {
        let mut wakes = Wakes::new(world);
        let Some((_guard, taken)) = self.lock_for_repair(world, dead.client)? else {
            return Ok(Sweep::Busy);
        };
        if Control::load(self.words).state() != State::Live {
            return Ok(Sweep::Done);
        }
        if taken || self.get64(JOURNAL_AT) != 0 {
            self.replay()?;
            self.rebuild(dead.client)?;
            self.update(&mut wakes, Changed::ALL)?;
        } else {
            self.drop_slots(dead.client)?;
        }
        if let Some(list) = dead.undo.filter(|&list| list != 0) {
            self.apply_undo(&mut wakes, list)?;
        }
        self.prune_granted(&mut wakes, dead.client)?;
        Ok(Sweep::Done)
    }

    /// The lock, and whether its last holder died with it.
    fn lock_for_repair(
        &self,
        world: &impl World,
        dead: u32,
    ) -> Result<Option<(Guard<'_, W>, bool)>, Corrupt> {
        if let Some(guard) = lock::try_repair(self.words) {
            return Ok(Some((guard, false)));
        }
        if let Some(guard) = lock::take_over(self.words, dead) {
            return Ok(Some((guard, true)));
        }
        let owner = Owner::load(self.words);
        if owner.0 == u64::from(BACKEND) | RECOVERING {
            // An earlier life of the back-end died while repairing.
            return Ok(lock::take_over(self.words, BACKEND).map(|guard| (guard, true)));
        }
        match world.lock_wait(owner, 0) {
            LockWait::Corrupt(corrupt) => Err(corrupt),
            LockWait::Again | LockWait::Busy => Ok(None),
        }
    }

    // ---- without a rebuild ---------------------------------------------------------------------------------------

    /// Takes the dead one's queued slots out.
    fn drop_slots(&self, dead: u32) -> Result<(), Corrupt> {
        self.blocks(self.used()?, |unit, kind| {
            let at = self.unit_at(unit);
            if kind != kind::SLOT || self.get32(at + slot::CLIENT) != dead {
                return Ok(());
            }
            let state = self.get32(at + slot::STATE);
            if queued(state) {
                self.unlink(&self.slot(unit)?)?;
                self.free_unit(unit);
            } else if state == state::CANCELLED {
                self.detach_and_untouch(&self.slot(unit)?)?;
                self.free_unit(unit);
            }
            Ok(())
        })
    }

    /// Frees the granted slots that are the dead one's or were seen, and wakes the sleepers of the others again.
    fn prune_granted<Wd: World>(&self, wakes: &mut Wakes<Wd>, dead: u32) -> Result<(), Corrupt> {
        let mut link = self.get32(GRANTED_AT);
        self.put64(GRANTED_AT, 0);
        for _ in 0..self.used()? {
            let Some(unit) = self.follow_to("granted slot", link, kind::SLOT)? else {
                return Ok(());
            };
            let at = self.unit_at(unit);
            link = self.get32(at + slot::NEXT);
            let state = self.words.load32(at + slot::STATE, Ordering::Acquire);
            if state == state::SEEN || self.get32(at + slot::CLIENT) == dead {
                self.free_unit(unit);
                continue;
            }
            self.push_granted(unit)?;
            if let_go(state) {
                wakes.owe(self.sleeper(at));
            }
        }
        Corrupt::check("granted list's length", link.into(), 0).map(|_| ())
    }

    // ---- the rebuild ---------------------------------------------------------------------------------------------

    /// Makes all lists, counters and bits anew from the blocks, without the dead one's slots.
    fn rebuild(&self, dead: u32) -> Result<(), Corrupt> {
        for at in [FREE_UNIT_AT, FREE_UNDO_AT, SLEEPERS_AT] {
            self.put32(at, 0);
        }
        for at in [GRANTED_AT, ALTER_AT, CONST_AT] {
            self.put64(at, 0);
        }
        let sides = side_at(self.nsems, 0);
        self.words.zero(sides, SIDE * self.nsems as usize + 4 * BUCKETS);
        let used = self.used()?;
        let mut sorted = Sorted::default();
        self.blocks(used, |unit, kind| match kind {
            kind::SLOT => self.keep_or_drop(unit, dead, &mut sorted),
            kind::UNDO | kind::UNDO_FREE => self.relist_undo(unit),
            kind::FREE | kind::CHUNK => Ok(()),
            _ => Err(Corrupt {
                what: "kind of a unit",
                found: kind.into(),
                allowed: kind::UNDO_FREE.into(),
            }),
        })?;
        self.blocks(used, |unit, kind| {
            if kind == kind::FREE || kind == kind::CHUNK && !self.chunk_wanted(unit)? {
                self.free_unit(unit);
            }
            Ok(())
        })?;
        self.requeue(sorted.finish(self)?)?;
        (0..self.nsems).try_for_each(|num| self.mend_word(num))
    }

    fn keep_or_drop(&self, unit: Unit, dead: u32, sorted: &mut Sorted) -> Result<(), Corrupt> {
        let at = self.unit_at(unit);
        let state = self.words.load32(at + slot::STATE, Ordering::Acquire);
        let alive = self.get32(at + slot::CLIENT) != dead;
        if alive && queued(state) {
            sorted.add(self, unit)
        } else if alive && let_go(state) {
            self.push_granted(unit)
        } else {
            // The second pass puts it on the free list.
            self.put32(at + slot::STATE, 0);
            self.put32(at, kind::FREE);
            Ok(())
        }
    }

    fn relist_undo(&self, unit: Unit) -> Result<(), Corrupt> {
        let record = self.record(unit)?;
        match self.get64(record.at + undo::LIST) {
            0 => self.put_undo_on_free_list(record),
            list => {
                self.put32(record.at, kind::UNDO);
                self.chain_undo(record, list);
            }
        }
        Ok(())
    }

    /// Whether a chunk belongs to a slot that is queued.
    fn chunk_wanted(&self, unit: Unit) -> Result<bool, Corrupt> {
        let owner = self.get32(self.unit_at(unit) + chunk::OWNER);
        let Some(owner) = self.follow("chunk's slot", owner)? else {
            return Ok(false);
        };
        let at = self.unit_at(owner);
        Ok(self.get32(at) == kind::SLOT && queued(self.get32(at + slot::STATE)))
    }

    /// Appends the slots of a list, oldest first, to their queues, and counts them.
    fn requeue(&self, mut link: u32) -> Result<(), Corrupt> {
        for _ in 0..self.used()? {
            let Some(unit) = self.follow_to("sorted slot", link, kind::SLOT)? else {
                break;
            };
            let slot = self.slot(unit)?;
            link = self.get32(slot.at + slot::NEXT);
            let mut alters = false;
            self.each_op(&slot, |op| {
                alters |= op.op != 0;
                self.count(op.num.into(), side::TOUCHED, 1);
            })?;
            self.append(self.queue_of(slot.first, slot.nops, alters), unit)?;
            self.count_blocking(&slot, 1)?;
            self.put32(SLEEPERS_AT, self.get32(SLEEPERS_AT).wrapping_add(1));
        }
        Ok(())
    }

    /// Clears LOCKED and makes WAITERS say what the counter says. Fast paths may be changing the word if neither bit is set.
    fn mend_word(&self, num: u32) -> Result<(), Corrupt> {
        let at = word_at(num);
        let awaited = self.get32(side_at(self.nsems, num) + side::TOUCHED) != 0;
        let want = if awaited { WAITERS } else { 0 };
        let mut word = self.words.load64(at, Ordering::Relaxed);
        for _ in 0..TRIES {
            let new = word & !(LOCKED | WAITERS | MOVED) | want;
            if new == word {
                return Ok(());
            }
            match self
                .words
                .compare_exchange64(at, word, new, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return Ok(()),
                Err(found) => word = found,
            }
        }
        Err(Corrupt {
            what: "semaphore word that never holds still",
            found: word,
            allowed: word,
        })
    }

    // ---- undo ----------------------------------------------------------------------------------------------------

    /// Applies and deletes an undo record, as one journal step.
    fn apply_undo<Wd: World>(&self, wakes: &mut Wakes<Wd>, list: u64) -> Result<(), Corrupt> {
        let Some(record) = self.find_undo(list)? else {
            return Ok(());
        };
        let mut any = false;
        for num in 0..self.nsems {
            let adjustment = self.adjustment(record, num)?;
            if adjustment != 0 {
                any = true;
                let (old, _) = self.claim(num)?;
                let value = i32::from(old as u16) + i32::from(adjustment);
                self.stage(num, value.clamp(0, SEMVMX.into()) as u16);
            }
        }
        self.commit_exit(record)?;
        self.free_undo(record, list)?;
        if any {
            self.put64(OTIME_AT, wakes.now);
            if self.get32(SLEEPERS_AT) != 0 {
                self.update(wakes, Changed::ALL)?;
            }
        }
        Ok(())
    }

    /// Whether the undo list has a record here. Takes no lock.
    pub fn has_undo(&self, list: u64) -> bool {
        let mut has = false;
        let used = self.get32(USED_AT).min(self.capacity());
        let _ = self.blocks(used, |unit, kind| {
            has |= kind == kind::UNDO && self.get64(self.unit_at(unit) + undo::LIST) == list;
            Ok(())
        });
        has && list != 0
    }

    // ---- removal, and bells --------------------------------------------------------------------------------------

    /// Wakes every sleeper with EIDRM (back-end only); the caller has stored a control word that says so. Takes no lock: a sleeper
    /// looks at the control word itself, so this only has to reach those that sleep (see `wait`).
    pub fn remove(&self, world: &impl World) {
        // For a sleeper that is just lying down: see `wait`.
        self.meet();
        self.each_slot(|at, state| {
            if queued(state) {
                self.move_from_queued(at + slot::STATE, state::REMOVED);
                world.wake(self.sleeper(at));
            } else if let_go(state) || state == state::REMOVED {
                // REMOVED: a former life of the back-end may have been killed before it woke this one.
                world.wake(self.sleeper(at));
            }
        });
    }

    /// Wakes again everybody who was let go on and has not yet noticed: a waker may die before it wakes. Takes no lock.
    pub fn ring(&self, world: &impl World) {
        self.each_slot(|at, state| {
            if let_go(state) {
                world.wake(self.sleeper(at));
            }
        });
    }

    /// Visits every slot, by its offset and state, without the lock.
    fn each_slot(&self, mut visit: impl FnMut(usize, u32)) {
        let used = self.get32(USED_AT).min(self.capacity());
        let _ = self.blocks(used, |unit, kind| {
            if kind == kind::SLOT {
                let at = self.unit_at(unit);
                visit(at, self.words.load32(at + slot::STATE, Ordering::Acquire));
            }
            Ok(())
        });
    }
}

/// Slots sorted by sequence number without memory of their own: a merge sort on the slots' links, of runs of 2^i slots in bin i.
#[derive(Default)]
struct Sorted {
    bins: [u32; 32],
}

impl Sorted {
    fn add<W: Words>(&mut self, set: &SemSet<'_, W>, unit: Unit) -> Result<(), Corrupt> {
        set.put32(set.unit_at(unit) + slot::NEXT, 0);
        let mut run = unit.link();
        for bin in &mut self.bins {
            if *bin == 0 {
                *bin = run;
                return Ok(());
            }
            run = merge(set, core::mem::take(bin), run)?;
        }
        Ok(())
    }

    fn finish<W: Words>(self, set: &SemSet<'_, W>) -> Result<u32, Corrupt> {
        self.bins.iter().try_fold(0, |run, &bin| merge(set, bin, run))
    }
}

/// Merges two sorted runs, the first being the older where equal.
fn merge<W: Words>(set: &SemSet<'_, W>, mut a: u32, mut b: u32) -> Result<u32, Corrupt> {
    let (mut head, mut tail_at) = (0, None);
    for _ in 0..=set.capacity() {
        let (Some(left), Some(right)) = (
            set.follow_to("run", a, kind::SLOT)?,
            set.follow_to("run", b, kind::SLOT)?,
        ) else {
            let rest = if a == 0 { b } else { a };
            match tail_at {
                Some(at) => set.put32(at, rest),
                None => head = rest,
            }
            return Ok(head);
        };
        let (left_at, right_at) = (set.unit_at(left), set.unit_at(right));
        let first = if set.get64(left_at + slot::SEQUENCE) <= set.get64(right_at + slot::SEQUENCE) {
            left
        } else {
            right
        };
        let first_at = if first == left { left_at } else { right_at };
        let next = set.get32(first_at + slot::NEXT);
        if first == left {
            a = next;
        } else {
            b = next;
        }
        match tail_at {
            Some(at) => set.put32(at, first.link()),
            None => head = first.link(),
        }
        tail_at = Some(first_at + slot::NEXT);
    }
    Err(Corrupt {
        what: "run's length",
        found: a.into(),
        allowed: set.capacity().into(),
    })
}

const _: () = {
    // `rebuild` clears the side records and the chains' heads in one go.
    assert!(layout::buckets_at(7) == layout::side_at(7, 7));
    // `put64` clears head and tail of a queue together.
    assert!(GRANTED_AT.is_multiple_of(8) && ALTER_AT.is_multiple_of(8) && CONST_AT.is_multiple_of(8));
};
