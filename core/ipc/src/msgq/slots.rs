//! Slots: who waits, in which order, and how they are told. See `layout` for the table of states.
//!
//! A waiter enters a slot under the lock and then looks at the slot's state alone, without the lock. Whoever can do what it waits for does it, under
//! the lock: a sender hands its message over to a waiting receiver, a receiver that makes room puts the waiting senders' messages into the queue.
//!
//! # Steps of a grant, and of the sleep it ends
//! ```text
//! waiter                                        granter (under the lock)
//! w1 QUEUED → SLEEPING by exchange [sleep]      g1 message and slot made ready
//! w2 control word: still there? [remove]        g2 state → GRANTED by exchange [grant]
//! w3 sleep while the state is SLEEPING          g3 wake, if g2 found SLEEPING; after the lock was released
//! ```
//! 1. g2 before w1: w1 fails and shows GRANTED.
//! 2. w1 before g2: g2 finds SLEEPING and g3 follows. g3 before w3: the state is no longer SLEEPING, so w3 returns at once.
//! 3. The granter dies between g2 and g3: the sweep rings every settled slot again.
//! 4. `remove` stores the control word, then moves SLEEPING to QUEUED and wakes. Either w2 sees the control word or `remove` sees SLEEPING:
//!    all four accesses are sequentially consistent.
//!
//! A waiter that was settled takes what it was given and stores DONE (`[done]`); it does not come back for the lock. The slot stays in the list of settled ones
//! until a sender finds it done, frees it and uses its block again ([`View::reuse`]), or until somebody runs out of room ([`View::collect_done`]).

use super::arena::Carved;
use super::layout::{SLOT_BLOCK, SLOTS, Tag, Use, block, field, slot};
use super::list::List;
use super::message::{Message, Want};
use super::view::{Held, Unit, View, corrupt, mapped_units};
use super::{FIRST_SLOT, MsgError};
use crate::{Corrupt, Me, Sleeper, World};
use vshmem_words::{Ordering, Words};

const SENDER: u32 = 0;

/// Domain and pid in 32 bits.
#[inline(always)]
pub(super) fn who(me: &Me) -> u32 {
    u32::from(me.domain & 0x3ff) << 22 | me.pid & 0x3f_ffff
}

fn pack_want(want: Want) -> (u32, i64) {
    match want {
        Want::Any => (1, 0),
        Want::Equal(mtype) => (2, mtype),
        Want::Except(mtype) => (3, mtype),
        Want::AtMost(mtype) => (4, mtype),
    }
}

impl<W: Words> View<'_, W> {
    /// What the receiver in a slot asks for; `None` for a sender.
    pub(super) fn wanted(&self, unit: Unit) -> Result<Option<Want>, Corrupt> {
        let mtype = self.get64(unit.at(slot::TYPE)) as i64;
        Ok(Some(match self.get(unit.at(slot::WANT)) {
            SENDER => return Ok(None),
            1 => Want::Any,
            2 => Want::Equal(mtype),
            3 => Want::Except(mtype),
            4 => Want::AtMost(mtype),
            found => return Err(corrupt("what a slot waits for", found, 4)),
        }))
    }

    /// Whom to wake for a slot.
    pub(super) fn sleeper(&self, unit: Unit) -> Sleeper {
        Sleeper {
            space: self.get(unit.at(slot::SPACE)) as u16,
            ticket: self.get(unit.at(slot::TICKET)),
            at: unit.at(slot::STATE),
        }
    }

    /// Calls `each` for every slot there is. The links between blocks of slots are written before their slots are used.
    pub(super) fn for_each_slot(
        &self,
        mut each: impl FnMut(Unit) -> Result<(), Corrupt>,
    ) -> Result<(), Corrupt> {
        for raw in FIRST_SLOT..FIRST_SLOT + SLOTS {
            each(self.unit(raw)?)?;
        }
        let mut steps = self.steps();
        let mut link = field::SLOT_BLOCKS;
        loop {
            let raw = self.words.load32(link, Ordering::SeqCst);
            if raw == 0 {
                return Ok(());
            }
            steps.one()?;
            let unit = self.unit(raw)?;
            let tag = self.tag(unit)?;
            if tag.state != Use::Slots || tag.size != SLOT_BLOCK {
                return Err(corrupt("size of a block of slots", tag.size, SLOT_BLOCK));
            }
            for raw in unit.raw() + 1..unit.raw() + SLOT_BLOCK {
                each(self.unit(raw)?)?;
            }
            link = unit.at(block::NEXT);
        }
    }

    /// A free slot. When there is none: first those that are done or were left, then eight new ones from the arena.
    fn free_slot(&mut self) -> Result<Unit, MsgError> {
        if self.get(field::FREE_SLOTS) == 0 {
            self.collect_done()?;
            self.purge(List::RECEIVERS)?;
            self.purge(List::SENDERS)?;
        }
        if self.get(field::FREE_SLOTS) == 0 {
            self.more_slots()?;
        }
        let unit = self.unit(self.get(field::FREE_SLOTS))?;
        self.set(field::FREE_SLOTS, self.get(unit.at(slot::NEXT)));
        Ok(unit)
    }

    fn more_slots(&mut self) -> Result<(), MsgError> {
        let Some(found) = self.allocate(SLOT_BLOCK)? else {
            return Err(MsgError::NeedExtent(
                (SLOT_BLOCK as usize - 1) * super::layout::UNIT,
            ));
        };
        let first = found.unit;
        if !self.words.zero(
            first.at(super::layout::UNIT),
            (SLOT_BLOCK as usize - 1) * super::layout::UNIT,
        ) {
            return Err(corrupt("block of slots", first.raw(), self.end).into());
        }
        self.set_tag(first, Tag::new(found.size, Use::Slots, 0));
        self.set(first.at(block::NEXT), self.get(field::SLOT_BLOCKS));
        self.words
            .store32(field::SLOT_BLOCKS, first.raw(), Ordering::SeqCst);
        for raw in first.raw() + 1..first.raw() + SLOT_BLOCK {
            self.free_slot_again(self.unit(raw)?);
        }
        Ok(())
    }

    /// Gives a slot back.
    pub(super) fn free_slot_again(&self, unit: Unit) {
        self.words
            .store32(unit.at(slot::STATE), slot::FREE, Ordering::Relaxed);
        self.set(unit.at(slot::OWNER), 0);
        self.set(unit.at(slot::BLOCK), 0);
        self.set(unit.at(slot::NEXT), self.get(field::FREE_SLOTS));
        self.set(field::FREE_SLOTS, unit.raw());
    }

    /// Frees the oldest settled slot, if it is done, and gives the block that was handed over in it, if that has `units` units: already free for a walk over
    /// the arena, but in no list. Every send does this first, so that slots do not pile up, and two who take turns use the same two blocks.
    #[inline]
    pub(super) fn reuse(&self, units: u32) -> Result<Option<Carved>, Corrupt> {
        match self.link(List::SETTLED.first())? {
            Some(oldest) => self.reuse_of(oldest, units),
            None => Ok(None),
        }
    }

    fn reuse_of(&self, oldest: Unit, units: u32) -> Result<Option<Carved>, Corrupt> {
        let Some(handed) = self.done_with(oldest)? else {
            return Ok(None);
        };
        self.unlink(List::SETTLED, oldest)?;
        let fitting = handed.filter(|handed| handed.size == units);
        match (handed, fitting) {
            (_, Some(fitting)) => self.set_tag(fitting.unit, Tag::new(units, Use::Free, 0)),
            (Some(other), None) => self.release(other.unit, other.size)?,
            (None, None) => {}
        }
        self.free_slot_again(oldest);
        Ok(fitting)
    }

    /// Frees all settled slots that are done: for whoever runs out of room, since one owner that is stopped keeps `reuse` from those behind it.
    pub(super) fn collect_done(&self) -> Result<(), Corrupt> {
        let mut at = self.link(List::SETTLED.first())?;
        let mut steps = self.steps();
        while let Some(unit) = at {
            steps.one()?;
            at = self.link(unit.at(slot::NEXT))?;
            self.reap(unit)?;
        }
        Ok(())
    }

    fn reap(&self, unit: Unit) -> Result<(), Corrupt> {
        let Some(handed) = self.done_with(unit)? else {
            return Ok(());
        };
        self.unlink(List::SETTLED, unit)?;
        if let Some(handed) = handed {
            self.release(handed.unit, handed.size)?;
        }
        self.free_slot_again(unit);
        Ok(())
    }

    /// Whether a settled slot is done, and if so the block that was handed over in it, if any.
    fn done_with(&self, unit: Unit) -> Result<Option<Option<Carved>>, Corrupt> {
        // Acquire: [done] pairs with the release in `done`: the owner has copied the text before the block is used again.
        if self.words.load32(unit.at(slot::STATE), Ordering::Acquire) != slot::DONE {
            return Ok(None);
        }
        let handed = self.get(unit.at(slot::BLOCK));
        if handed == 0 || self.wanted(unit)?.is_none() {
            return Ok(Some(None));
        }
        let owner = self.get(unit.at(slot::OWNER));
        let message = self.message(self.unit(handed)?, Use::Taken, Some(owner))?;
        Ok(Some(Some(Carved {
            unit: message.unit,
            size: message.size,
        })))
    }

    /// Frees the slots of a list that were left, and the messages with which senders waited there.
    fn purge(&self, list: List) -> Result<(), Corrupt> {
        let mut at = self.link(list.first())?;
        let mut steps = self.steps();
        while let Some(unit) = at {
            steps.one()?;
            at = self.link(unit.at(slot::NEXT))?;
            if self.get(unit.at(slot::STATE)) == slot::LEFT {
                self.unlink(list, unit)?;
                self.discard(unit)?;
            }
        }
        Ok(())
    }

    /// Frees a slot that is in no list any more and, for a sender, the message with which it waited.
    pub(super) fn discard(&self, unit: Unit) -> Result<(), Corrupt> {
        if self.wanted(unit)?.is_none() {
            let owner = self.get(unit.at(slot::OWNER));
            let message = self.message(
                self.unit(self.get(unit.at(slot::BLOCK)))?,
                Use::Reserved,
                Some(owner),
            )?;
            self.release(message.unit, message.size)?;
        }
        self.free_slot_again(unit);
        Ok(())
    }

    /// Which list a waiting slot is in.
    pub(super) fn list_of(&self, unit: Unit) -> Result<List, Corrupt> {
        Ok(match self.wanted(unit)? {
            None => List::SENDERS,
            Some(_) => List::RECEIVERS,
        })
    }
}

impl<W: Words, D: World> Held<'_, W, D> {
    /// Enters a receiver.
    pub(super) fn wait_to_receive(&mut self, want: Want, room: u32) -> Result<Unit, MsgError> {
        let unit = self.free_slot()?;
        let (code, mtype) = pack_want(want);
        self.set(unit.at(slot::ROOM), room);
        self.set(unit.at(slot::BLOCK), 0);
        self.enter_slot(unit, code, mtype, List::RECEIVERS)?;
        Ok(unit)
    }

    /// Finds a slot for a sender: before its message is made, so that nothing is left over when there is none.
    pub(super) fn slot_to_send(&mut self) -> Result<Unit, MsgError> {
        self.free_slot()
    }

    /// Enters a sender with its message, which becomes RESERVED.
    pub(super) fn wait_to_send(&mut self, unit: Unit, message: &Message) -> Result<(), Corrupt> {
        self.set_tag(
            message.unit,
            Tag::new(message.size, Use::Reserved, self.me.client),
        );
        self.set(unit.at(slot::BLOCK), message.unit.raw());
        self.enter_slot(unit, SENDER, 0, List::SENDERS)
    }

    fn enter_slot(&mut self, unit: Unit, want: u32, mtype: i64, list: List) -> Result<(), Corrupt> {
        let me = self.me;
        self.set(unit.at(slot::OWNER), me.client);
        self.set(unit.at(slot::WANT), want);
        self.set(unit.at(slot::WHO), who(&me));
        self.set64(unit.at(slot::TYPE), mtype as u64);
        self.set64(unit.at(slot::SEQUENCE), self.next_sequence());
        self.set(unit.at(slot::TICKET), me.ticket);
        self.set(
            unit.at(slot::SPACE),
            u32::from(me.space) | u32::from(me.place) << 16,
        );
        self.set(unit.at(slot::REACH), mapped_units(self.words));
        self.words
            .store32(unit.at(slot::STATE), slot::QUEUED, Ordering::Relaxed);
        self.push(list, unit)
    }

    /// Moves a waiting slot that is in no list any more to its final state, and notes whom to wake.
    pub(super) fn settle(&mut self, unit: Unit, state: u32) -> Result<(), Corrupt> {
        // Before the exchange: afterwards the slot's line is the owner's, which may be reading it in a hurry.
        self.push(List::SETTLED, unit)?;
        let at = unit.at(slot::STATE);
        let mut found = slot::QUEUED;
        // QUEUED → SLEEPING → QUEUED (by `remove`) → SLEEPING: an honest queue moves under us three times at most.
        for _ in 0..8 {
            // Release: [grant] pairs with the acquire in `wait`, so that the owner sees the block. SeqCst: [sleep].
            match self
                .words
                .compare_exchange32(at, found, state, Ordering::SeqCst, Ordering::Relaxed)
            {
                Ok(slot::SLEEPING) => {
                    let sleeper = self.sleeper(unit);
                    self.bell(sleeper);
                    return Ok(());
                }
                Ok(_) => return Ok(()),
                Err(now @ (slot::QUEUED | slot::SLEEPING)) => found = now,
                Err(now) => return Err(corrupt("state of a waiting slot", now, slot::SLEEPING)),
            }
        }
        Err(corrupt("changes of a slot's state", 9, 8))
    }

    /// Hands a message that fits to the first receiver that waits for it, else adds it to the queue. Its block is free (a draft) or RESERVED.
    #[inline]
    pub(super) fn deliver(&mut self, message: &Message) -> Result<(), Corrupt> {
        if self.get(List::RECEIVERS.first()) != 0 && self.hand_over(message)? {
            return Ok(());
        }
        self.append(message)
    }

    fn hand_over(&mut self, message: &Message) -> Result<bool, Corrupt> {
        let mut at = self.link(List::RECEIVERS.first())?;
        let mut steps = self.steps();
        while let Some(unit) = at {
            steps.one()?;
            at = self.link(unit.at(slot::NEXT))?;
            if self.get(unit.at(slot::STATE)) == slot::LEFT {
                self.unlink(List::RECEIVERS, unit)?;
                self.discard(unit)?;
                continue;
            }
            let Some(want) = self.wanted(unit)? else {
                return Err(corrupt("what a receiver's slot waits for", SENDER, 4));
            };
            if !want.accepts(message.mtype) {
                continue;
            }
            self.unlink(List::RECEIVERS, unit)?;
            if self.get(unit.at(slot::ROOM)) < message.len {
                self.settle(unit, slot::REFUSED)?;
            } else if self.get(unit.at(slot::REACH)) < message.unit.raw() + message.size {
                self.settle(unit, slot::RETRY)?;
            } else {
                self.grant_receiver(unit, message)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The link both ways comes first and the tag is the store that counts, so that a sweep can finish what a dead granter began.
    fn grant_receiver(&mut self, unit: Unit, message: &Message) -> Result<(), Corrupt> {
        let owner = self.get(unit.at(slot::OWNER));
        self.set(unit.at(slot::BLOCK), message.unit.raw());
        self.set(message.unit.at(block::SLOT), unit.raw());
        self.set_tag(message.unit, Tag::new(message.size, Use::Taken, owner));
        let who = self.get(unit.at(slot::WHO));
        let place = (self.get(unit.at(slot::SPACE)) >> 16) as u16;
        self.note_receiver(who, place);
        self.settle(unit, slot::GRANTED)
    }

    /// Lets waiting senders go on whose messages fit now, in their order; one that does not fit does not stop those behind it.
    #[inline]
    pub(super) fn admit(&mut self) -> Result<(), Corrupt> {
        if self.get(List::SENDERS.first()) == 0 {
            return Ok(());
        }
        self.admit_waiting()
    }

    fn admit_waiting(&mut self) -> Result<(), Corrupt> {
        let mut at = self.link(List::SENDERS.first())?;
        let mut steps = self.steps();
        while let Some(unit) = at {
            steps.one()?;
            at = self.link(unit.at(slot::NEXT))?;
            if self.get(unit.at(slot::STATE)) == slot::LEFT {
                self.unlink(List::SENDERS, unit)?;
                self.discard(unit)?;
                continue;
            }
            if !self.fits(0) {
                break;
            }
            let owner = self.get(unit.at(slot::OWNER));
            let held = self.unit(self.get(unit.at(slot::BLOCK)))?;
            let message = self.message(held, Use::Reserved, Some(owner))?;
            if self.fits(message.len) {
                self.unlink(List::SENDERS, unit)?;
                self.deliver(&message)?;
                let who = self.get(unit.at(slot::WHO));
                let place = (self.get(unit.at(slot::SPACE)) >> 16) as u16;
                self.note_sender(who, place);
                self.settle(unit, slot::GRANTED)?;
            }
        }
        Ok(())
    }

    /// Keeps lspid and stime.
    #[inline]
    pub(super) fn note_sender(&self, who: u32, place: u16) {
        self.set64(field::LAST_SENDER, u64::from(who) | u64::from(place) << 32);
        self.set64(field::STIME, self.world.seconds());
    }

    /// Keeps lrpid and rtime.
    #[inline]
    pub(super) fn note_receiver(&self, who: u32, place: u16) {
        self.set64(field::LAST_RECEIVER, u64::from(who) | u64::from(place) << 32);
        self.set64(field::RTIME, self.world.seconds());
    }

    /// Where the process was that the caller waits for: whoever did last what it waits for, or, if that was the caller itself (a dialogue over one
    /// queue), whoever did the opposite.
    pub(super) fn awaited(&self, wanted: usize, opposite: usize) -> u16 {
        let own = who(&self.me);
        [wanted, opposite]
            .map(|at| self.get64(at))
            .into_iter()
            .find(|&last| last as u32 != own)
            .map_or(Me::NOWHERE, |last| (last >> 32) as u16)
    }
}
