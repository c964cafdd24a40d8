//! msgsnd(2).
//!
//! A short text is copied under the lock. A long one goes into a RESERVED block between two short sections, so that others use the queue meanwhile; whether it
//! fits is decided in the second. A sender that waits has its message in the arena already: whoever makes room delivers it.

use super::layout::{SHORT, Tag, Use, field};
use super::message::Message;
use super::slots::who;
use super::view::{Held, Unit, unchanged};
use super::{MsgError, Queue, Text};
use crate::header::LOCK_AT;
use crate::{Control, State, World};
use vshmem_words::{Copied, Words};

/// The cache lines that every sender writes: lock and counters, lists, times.
const HOT: [usize; 3] = [LOCK_AT, field::ROOT, field::STIME];

/// What became of the message.
#[derive(Debug, Clone, Copy)]
enum Step {
    Sent,
    Waits { slot: Unit, last: u16 },
}

impl<'a, W: Words> Queue<'a, W> {
    /// msgsnd(2). The caller has checked the type, the permission and MSGMAX; `control` is the control word under which it did.
    ///
    /// # Errors
    /// [`MsgError::Again`] if it does not fit and `nowait`; [`MsgError::NeedExtent`] if the limits allow it but the arena is full (also when there is no
    /// slot left to wait in); the others as they say. Nothing was sent in any of these cases.
    #[inline]
    pub fn send(
        &self,
        world: &impl World,
        control: Control,
        mtype: i64,
        text: &[u8],
        nowait: bool,
    ) -> Result<(), MsgError> {
        self.send_text(world, control, mtype, Text::Own(text), nowait)
    }

    /// As [`Queue::send`], from memory that may not be there.
    ///
    /// # Errors
    /// As for [`Queue::send`], and [`MsgError::Fault`].
    #[inline]
    pub fn send_text(
        &self,
        world: &impl World,
        control: Control,
        mtype: i64,
        text: Text<'_>,
        nowait: bool,
    ) -> Result<(), MsgError> {
        HOT.iter().for_each(|&at| self.words.claim(at));
        unchanged(Control::load(self.words), control)?;
        let step = match text {
            Text::Own(text) if text.len() <= SHORT => {
                self.locked(world, |queue| queue.send_short(control, mtype, text, nowait))?
            }
            _ => self.send_long(world, control, mtype, text, nowait)?,
        };
        match step {
            Step::Sent => Ok(()),
            Step::Waits { slot, last } => self.wait_until_sent(world, control, slot, last),
        }
    }

    fn send_long(
        &self,
        world: &impl World,
        control: Control,
        mtype: i64,
        text: Text<'_>,
        nowait: bool,
    ) -> Result<Step, MsgError> {
        let message = self.locked(world, |queue| {
            queue.enter(control)?;
            let fits = queue.fits(text.len().try_into().map_err(|_| MsgError::TooBig)?);
            if !fits && nowait {
                return Err(MsgError::Again);
            }
            let message = queue.draft(mtype, text.len())?;
            queue.set_tag(
                message.unit,
                Tag::new(message.size, Use::Reserved, queue.me.client),
            );
            Ok(message)
        })?;
        let filled = self.fill(&message, text);
        self.locked(world, |queue| {
            if Control::load(queue.words).state() != State::Live {
                return Err(MsgError::Removed);
            }
            if !queue.covered()? {
                queue.orphan(message.unit, message.size);
                return Err(MsgError::Stale);
            }
            if let Err(error) = filled {
                queue.release(message.unit, message.size)?;
                return Err(error);
            }
            queue.send_filled(&message, nowait)
        })
    }

    fn fill(&self, message: &Message, text: Text<'_>) -> Result<(), MsgError> {
        let copied = match text {
            Text::Own(text) if self.words.copy_in(message.text(), text) => Copied::Whole,
            Text::Own(_) => Copied::Outside,
            Text::Foreign(text) => self.words.copy_in_from(message.text(), &text),
        };
        match copied {
            Copied::Whole => Ok(()),
            Copied::Outside => Err(MsgError::Stale),
            Copied::Fault => Err(MsgError::Fault),
        }
    }

    #[cold]
    fn wait_until_sent(
        &self,
        world: &impl World,
        control: Control,
        slot: Unit,
        last: u16,
    ) -> Result<(), MsgError> {
        self.wait(world, control, slot, last, MsgError::Again)?;
        self.done(slot);
        Ok(())
    }
}

impl<W: Words, D: World> Held<'_, W, D> {
    #[inline]
    fn send_short(
        &mut self,
        control: Control,
        mtype: i64,
        text: &[u8],
        nowait: bool,
    ) -> Result<Step, MsgError> {
        self.enter(control)?;
        if !self.fits(text.len() as u32) {
            return self.send_short_later(mtype, text, nowait);
        }
        // The slot of who waits is not claimed meanwhile: its owner looks at it all the time, so it would be back there before it is written.
        let message = self.draft(mtype, text.len())?;
        if !self.words.copy_in(message.text(), text) {
            return Err(MsgError::Stale);
        }
        self.deliver(&message)?;
        self.note_sender(who(&self.me), self.me.place);
        Ok(Step::Sent)
    }

    #[cold]
    fn send_short_later(&mut self, mtype: i64, text: &[u8], nowait: bool) -> Result<Step, MsgError> {
        if nowait {
            return Err(MsgError::Again);
        }
        let slot = self.slot_to_send()?;
        let message = match self.draft(mtype, text.len()) {
            Ok(message) => message,
            Err(error) => {
                self.free_slot_again(slot);
                return Err(error);
            }
        };
        if !self.words.copy_in(message.text(), text) {
            return Err(MsgError::Stale);
        }
        self.wait_to_send(slot, &message)?;
        Ok(self.waits(slot))
    }

    /// Sends a message whose block this process reserved and filled.
    fn send_filled(&mut self, message: &Message, nowait: bool) -> Result<Step, MsgError> {
        if self.fits(message.len) {
            self.deliver(message)?;
            self.note_sender(who(&self.me), self.me.place);
            return Ok(Step::Sent);
        }
        let slot = if nowait {
            Err(MsgError::Again)
        } else {
            self.slot_to_send()
        };
        match slot {
            Ok(slot) => {
                self.wait_to_send(slot, message)?;
                Ok(self.waits(slot))
            }
            Err(error) => {
                self.release(message.unit, message.size)?;
                Err(error)
            }
        }
    }

    fn waits(&self, slot: Unit) -> Step {
        Step::Waits {
            slot,
            last: self.awaited(field::LAST_RECEIVER, field::LAST_SENDER),
        }
    }
}
