//! msgrcv(2).
//!
//! A short text is copied under the lock. A long one is taken out of the queue (its block becomes TAKEN), copied without the lock, and freed under it. A
//! receiver that waits is handed a TAKEN block by the sender and copies it out without the lock, long or short.

use super::layout::{SHORT, Use, field, slot};
use super::message::{Message, Want};
use super::slots::who;
use super::view::{Held, Unit, View, unchanged};
use super::wait::Woken;
use super::{MsgError, Queue, ReceiveFlags, Received, Room};
use crate::{Control, World};
use vshmem_words::{Copied, Words};

/// What was found.
#[derive(Debug, Clone, Copy)]
enum Step {
    Done(Received),
    /// Taken, not copied yet.
    Taken(Message),
    Waits {
        slot: Unit,
        last: u16,
    },
}

impl<'a, W: Words> Queue<'a, W> {
    /// msgrcv(2) into `into`. The caller has checked the flags and the permission; `control` is the control word under which it did. With
    /// [`ReceiveFlags::copy`], `msgtyp` is a position and the call never waits.
    ///
    /// # Errors
    /// [`MsgError::NoMessage`] if none matches and `nowait`; [`MsgError::TooBig`] if the one that matches is longer than `into` (it stays where it is);
    /// [`MsgError::NeedExtent`] if there is no slot left to wait in; the others as they say. Nothing was received in any of these cases.
    #[inline]
    pub fn receive(
        &self,
        world: &impl World,
        control: Control,
        into: &mut [u8],
        msgtyp: i64,
        flags: ReceiveFlags,
    ) -> Result<Received, MsgError> {
        self.receive_into(world, control, &mut Room::Own(into), msgtyp, flags)
    }

    /// As [`Queue::receive`], into memory that may not be there. A message that was taken and could not be handed over is lost, as in Linux.
    ///
    /// # Errors
    /// As for [`Queue::receive`], and [`MsgError::Fault`]. [`MsgError::TooBig`] also for a long message that [`ReceiveFlags::copy`] shall bring to such memory.
    #[inline]
    pub fn receive_into(
        &self,
        world: &impl World,
        control: Control,
        into: &mut Room<'_>,
        msgtyp: i64,
        flags: ReceiveFlags,
    ) -> Result<Received, MsgError> {
        unchanged(Control::load(self.words), control)?;
        match self.locked(world, |queue| queue.receive_now(control, into, msgtyp, flags))? {
            Step::Done(received) => match into {
                Room::Foreign(room, text) if !text.get(..received.len).is_some_and(|t| room.write(t)) => {
                    Err(MsgError::Fault)
                }
                _ => Ok(received),
            },
            Step::Taken(message) => self.carry_out(world, &message, into),
            Step::Waits { slot, last } => self.wait_for_message(world, control, into, slot, last),
        }
    }

    /// Copies a message that is this process's out of its block and gives the block back.
    fn carry_out(
        &self,
        world: &impl World,
        message: &Message,
        into: &mut Room<'_>,
    ) -> Result<Received, MsgError> {
        let received = match copy_text(self.words, message, into) {
            Err(MsgError::Fault) => Err(MsgError::Fault),
            other => Ok(other?),
        };
        self.locked(world, |queue| {
            if queue.covered()? {
                queue.release(message.unit, message.size)?;
            } else {
                queue.orphan(message.unit, message.size);
            }
            received
        })
    }

    #[cold]
    fn wait_for_message(
        &self,
        world: &impl World,
        control: Control,
        into: &mut Room<'_>,
        unit: Unit,
        last: u16,
    ) -> Result<Received, MsgError> {
        let outcome = match self.wait(world, control, unit, last, MsgError::NoMessage)? {
            Woken::Granted => self.copy_handed(world.me().client, unit, into),
            Woken::Refused => Err(MsgError::TooBig),
            Woken::Retry => Err(MsgError::Stale),
        };
        self.done(unit);
        outcome
    }

    fn copy_handed(&self, client: u32, slot: Unit, into: &mut Room<'_>) -> Result<Received, MsgError> {
        let view = View::mapped(self.words);
        let handed = view.unit(view.get(slot.at(slot::BLOCK)))?;
        let message = view.message(handed, Use::Taken, Some(client))?;
        copy_text(self.words, &message, into)
    }
}

/// Copies as much of a message's text as there is room for. Without the lock.
#[inline]
fn copy_text(words: &impl Words, message: &Message, into: &mut Room<'_>) -> Result<Received, MsgError> {
    let len = into.len().min(message.len as usize);
    let copied = match into {
        Room::Own(into) => match words.copy_out(message.text(), &mut into[..len]) {
            true => Copied::Whole,
            false => Copied::Outside,
        },
        Room::Foreign(room, _) => words.copy_out_to(message.text(), room, len),
    };
    match copied {
        Copied::Whole => Ok(message.received(len)),
        Copied::Outside => Err(MsgError::Stale),
        Copied::Fault => Err(MsgError::Fault),
    }
}

/// The same under the lock, where nothing may fault: into what is ours.
#[inline]
fn copy_locked(words: &impl Words, message: &Message, into: &mut Room<'_>) -> Result<Received, MsgError> {
    let len = into.len().min(message.len as usize);
    let own = match into {
        Room::Own(into) => into.get_mut(..len),
        Room::Foreign(_, own) => own.get_mut(..len),
    };
    let own = own.ok_or(MsgError::TooBig)?;
    match words.copy_out(message.text(), own) {
        true => Ok(message.received(len)),
        false => Err(MsgError::Stale),
    }
}

impl Message {
    fn received(&self, len: usize) -> Received {
        Received {
            mtype: self.mtype,
            len,
        }
    }
}

impl<W: Words, D: World> Held<'_, W, D> {
    #[inline]
    fn receive_now(
        &mut self,
        control: Control,
        into: &mut Room<'_>,
        msgtyp: i64,
        flags: ReceiveFlags,
    ) -> Result<Step, MsgError> {
        self.enter(control)?;
        let want = Want::new(msgtyp, flags);
        let found = if flags.copy {
            self.nth(msgtyp)?
        } else {
            self.find(want)?
        };
        let Some(message) = found else {
            if flags.nowait || flags.copy {
                return Err(MsgError::NoMessage);
            }
            return self.receive_later(want, into.len(), flags);
        };
        if message.len as usize > into.len() && !flags.noerror {
            return Err(MsgError::TooBig);
        }
        if flags.copy {
            return copy_locked(self.words, &message, into).map(Step::Done);
        }
        let step = if into.len().min(message.len as usize) <= SHORT {
            let received = copy_locked(self.words, &message, into)?;
            self.take_and_keep(&message)?;
            Step::Done(received)
        } else {
            self.take(&message, self.me.client)?;
            Step::Taken(message)
        };
        self.note_receiver(who(&self.me), self.me.place);
        self.admit()?;
        Ok(step)
    }

    #[cold]
    fn receive_later(&mut self, want: Want, room: usize, flags: ReceiveFlags) -> Result<Step, MsgError> {
        let room = if flags.noerror {
            u32::MAX
        } else {
            u32::try_from(room).unwrap_or(u32::MAX)
        };
        let slot = self.wait_to_receive(want, room)?;
        Ok(Step::Waits {
            slot,
            last: self.awaited(field::LAST_SENDER, field::LAST_RECEIVER),
        })
    }
}
