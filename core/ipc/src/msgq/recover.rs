//! After a death: the queue made anew from what cannot lie half-written.
//!
//! Back-end only. Not for deciding who is dead. Every step may be repeated: a back-end that dies here is followed by one that sweeps for the dead
//! client and for its own former life.
//!
//! 1. Walk the arena by the sizes in the tags: free what belonged to the dead or to nobody, merge free neighbours, collect messages and blocks of slots.
//! 2. Look at every slot: free the dead one's; finish grants whose deciding store was made; wake everybody who was settled, for the waker may have died.
//! 3. Sort messages and waiters by their sequence numbers; index the messages by type; count them.
//! 4. Let waiting senders go on: the dead may have made room.

use super::arena::Carved;
use super::layout::{CLASSES, Tag, Use, block, field, slot};
use super::list::List;
use super::view::{Held, Unit, View, corrupt};
use super::{FIRST_BLOCK, Queue};
use crate::lock::{LockError, acquire, take_over};
use crate::{Corrupt, Sweep, World};
use vshmem_words::{Ordering, Words};

/// What was collected, as chains through `NEXT`, in no order.
#[derive(Debug, Default)]
struct Found {
    messages: u32,
    receivers: u32,
    senders: u32,
    newest: u64,
}

impl<'a, W: Words> Queue<'a, W> {
    /// Cleans up after a dead client (back-end only): takes over its lock, frees its slots and blocks, rebuilds the queue, and wakes again whoever was
    /// granted something. May be repeated, also after the back-end itself died in it (then once more with the back-end's own number).
    ///
    /// # Errors
    /// [`Corrupt`] if the queue cannot be made good: the back-end says so in the control word and calls [`Queue::remove`].
    pub fn sweep(&self, world: &impl World, dead: u32) -> Result<Sweep, Corrupt> {
        let guard = match take_over(self.words, dead) {
            Some(guard) => guard,
            None => match acquire(self.words, world) {
                Ok(guard) => guard,
                Err(LockError::Busy) => return Ok(Sweep::Busy),
                Err(LockError::Corrupt(corrupt)) => return Err(corrupt),
            },
        };
        let mut held = Held::new(self.words, world);
        let result = held.rebuild(dead);
        drop(guard);
        held.ring();
        result.map(|()| Sweep::Done)
    }
}

impl<W: Words, D: World> Held<'_, W, D> {
    fn rebuild(&mut self, dead: u32) -> Result<(), Corrupt> {
        if !self.covered()? {
            return Err(corrupt("end of the arena", self.get(field::END), self.end));
        }
        self.clear();
        let mut found = Found::default();
        self.walk(dead, &mut found)?;
        let view = View::new(self.words);
        view.for_each_slot(|unit| self.restore_slot(unit, dead, &mut found))?;
        let next = found.newest.wrapping_add(1);
        self.set64(field::SEQUENCE, self.get64(field::SEQUENCE).max(next));
        self.relink(List::RECEIVERS, found.receivers)?;
        self.relink(List::SENDERS, found.senders)?;
        self.relink(List::FIFO, found.messages)?;
        self.index_all()?;
        self.admit()
    }

    /// Decides what becomes of a slot.
    fn restore_slot(&mut self, unit: Unit, dead: u32, found: &mut Found) -> Result<(), Corrupt> {
        let state = self.words.load32(unit.at(slot::STATE), Ordering::Acquire);
        let owner = self.get(unit.at(slot::OWNER));
        if state == slot::FREE || owner == 0 || owner == dead {
            self.free_slot_again(unit);
            return Ok(());
        }
        let sender = self.wanted(unit)?.is_none();
        match state {
            slot::QUEUED | slot::SLEEPING => {}
            slot::GRANTED | slot::REFUSED | slot::RETRY => {
                let sleeper = self.sleeper(unit);
                self.bell(sleeper);
                return self.push(List::SETTLED, unit);
            }
            slot::DONE => {
                if !sender && let Some(held) = self.held_block(unit, Use::Taken, owner) {
                    self.release(held.unit, held.size)?;
                }
                self.free_slot_again(unit);
                return Ok(());
            }
            slot::LEFT => {
                if sender && let Some(held) = self.held_block(unit, Use::Reserved, owner) {
                    self.release(held.unit, held.size)?;
                }
                self.free_slot_again(unit);
                return Ok(());
            }
            state => return Err(corrupt("state of a slot", state, slot::DONE)),
        }
        found.newest = found.newest.max(self.get64(unit.at(slot::SEQUENCE)));
        let granted = if sender {
            // Its message is no longer RESERVED: it was delivered.
            self.held_block(unit, Use::Reserved, owner).is_none()
        } else {
            self.held_block(unit, Use::Taken, owner)
                .is_some_and(|held| self.get(held.unit.at(block::SLOT)) == unit.raw())
        };
        if granted {
            return self.settle(unit, slot::GRANTED);
        }
        if !sender {
            self.set(unit.at(slot::BLOCK), 0);
        }
        let chain = if sender {
            &mut found.senders
        } else {
            &mut found.receivers
        };
        self.set(unit.at(slot::NEXT), core::mem::replace(chain, unit.raw()));
        Ok(())
    }
}

impl<W: Words> View<'_, W> {
    /// Empties everything that is derived.
    fn clear(&self) {
        for list in [List::FIFO, List::RECEIVERS, List::SENDERS, List::SETTLED] {
            self.set(list.first(), 0);
            self.set(list.first() + 4, 0);
        }
        for at in [
            field::ROOT,
            field::FREE_SLOTS,
            field::SLOT_BLOCKS,
            field::QNUM,
            field::ORPHANS,
            field::SPARE,
        ] {
            self.set(at, 0);
        }
        for at in [field::FREE_MAP, field::FREE_MAP + 8, field::CBYTES] {
            self.set64(at, 0);
        }
        for list in 0..CLASSES {
            self.set(field::FREE_LISTS + list * 4, 0);
        }
    }

    fn walk(&self, dead: u32, found: &mut Found) -> Result<(), Corrupt> {
        let mut at = FIRST_BLOCK;
        let mut before = 0;
        let mut free: Option<Carved> = None;
        let mut slots = field::SLOT_BLOCKS;
        while at < self.end {
            let unit = self.unit(at)?;
            let tag = self.tag(unit)?;
            at += tag.size;
            if is_free(tag, dead) {
                // Before it becomes part of a run: a slot of the dead may still name this block, and a later sweep, for somebody else, must not
                // find there what it was.
                self.set_tag(unit, Tag::new(tag.size, Use::Free, 0));
                let run = match free {
                    Some(run) => Carved {
                        unit: run.unit,
                        size: run.size + tag.size,
                    },
                    None => {
                        self.set(unit.at(block::SIZE_BEFORE), before);
                        Carved { unit, size: tag.size }
                    }
                };
                self.set_tag(run.unit, Tag::new(run.size, Use::Free, 0));
                free = Some(run);
                continue;
            }
            if let Some(run) = free.take() {
                self.enlist(run.unit, run.size)?;
                before = run.size;
            }
            self.set(unit.at(block::SIZE_BEFORE), before);
            before = tag.size;
            match tag.state {
                Use::Live => {
                    found.newest = found.newest.max(self.get64(unit.at(block::SEQUENCE)));
                    let next = core::mem::replace(&mut found.messages, unit.raw());
                    self.set(unit.at(block::NEXT), next);
                }
                Use::Slots => {
                    self.set(unit.at(block::NEXT), 0);
                    self.set(slots, unit.raw());
                    slots = unit.at(block::NEXT);
                }
                _ => {}
            }
        }
        if let Some(run) = free {
            self.enlist(run.unit, run.size)?;
            before = run.size;
        }
        self.set(field::LAST_SIZE, before);
        Ok(())
    }

    /// The block a slot names, if it is one in this state and of this owner.
    fn held_block(&self, slot: Unit, state: Use, owner: u32) -> Option<Carved> {
        let unit = self.unit(self.get(slot.at(slot::BLOCK))).ok()?;
        let tag = self.tag(unit).ok()?;
        (tag.state == state && tag.owner == owner).then_some(Carved { unit, size: tag.size })
    }

    /// Makes a list of a chain.
    fn relink(&self, list: List, chain: u32) -> Result<(), Corrupt> {
        let mut rest = self.sorted(chain)?;
        let mut steps = self.steps();
        while rest != 0 {
            steps.one()?;
            let unit = self.unit(rest)?;
            rest = self.get(unit.at(block::NEXT));
            self.push(list, unit)?;
        }
        Ok(())
    }

    /// Indexes and counts the messages, oldest first.
    fn index_all(&self) -> Result<(), Corrupt> {
        let mut at = self.link(List::FIFO.first())?;
        let mut steps = self.steps();
        while let Some(unit) = at {
            steps.one()?;
            let message = self.message(unit, Use::Live, None)?;
            self.index_add(unit, message.mtype)?;
            self.count_in(message.len);
            at = self.link(unit.at(block::NEXT))?;
        }
        Ok(())
    }
}

fn is_free(tag: Tag, dead: u32) -> bool {
    match tag.state {
        Use::Free => true,
        Use::Reserved | Use::Taken => tag.owner == dead || tag.owner == 0,
        Use::Live | Use::Slots => false,
    }
}
