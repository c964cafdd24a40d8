//! Messages: making one, finding the one a receiver asks for, adding to and taking from the queue. Under the lock.
//!
//! One store of a block's tag says whether a message is in the queue; everything else here follows from the tags.

use super::arena::Carved;
use super::layout::{Tag, UNIT, Use, block, field, units_for};
use super::list::List;
use super::view::{Unit, View, corrupt};
use super::{MsgError, ReceiveFlags};
use crate::Corrupt;
use vshmem_words::Words;

/// Which messages a receiver asks for: msgrcv(2)'s type and MSG_EXCEPT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// The oldest message.
    Any,
    /// The oldest of this type.
    Equal(i64),
    /// The oldest of another type.
    Except(i64),
    /// The oldest of the lowest type, if that is not above this one.
    AtMost(i64),
}

impl Want {
    /// From msgrcv(2)'s arguments.
    #[inline]
    pub(super) fn new(msgtyp: i64, flags: ReceiveFlags) -> Self {
        match msgtyp {
            0 => Want::Any,
            // As on Linux, the lowest number of all counts as the lowest but one: its negation would not fit.
            ..0 => Want::AtMost(msgtyp.checked_neg().unwrap_or(i64::MAX)),
            _ if flags.except => Want::Except(msgtyp),
            _ => Want::Equal(msgtyp),
        }
    }

    /// Whether a message of this type would do.
    #[inline]
    pub(super) fn accepts(self, mtype: i64) -> bool {
        match self {
            Want::Any => true,
            Want::Equal(wanted) => mtype == wanted,
            Want::Except(unwanted) => mtype != unwanted,
            Want::AtMost(most) => mtype <= most,
        }
    }
}

/// A block with a message in it: the header, read once and checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message {
    pub(super) unit: Unit,
    pub(super) size: u32,
    pub(super) mtype: i64,
    pub(super) len: u32,
}

impl Message {
    /// Where the text is.
    #[inline(always)]
    pub(super) fn text(&self) -> usize {
        self.unit.at(UNIT)
    }
}

impl<W: Words> View<'_, W> {
    /// Reads the header of a block that must be in this state and, if given, with this owner.
    #[inline]
    pub(super) fn message(&self, unit: Unit, state: Use, owner: Option<u32>) -> Result<Message, Corrupt> {
        let tag = self.tag(unit)?;
        if tag.state != state || owner.is_some_and(|owner| owner != tag.owner) {
            return Err(corrupt(
                "state of a message's block",
                tag.state as u32,
                state as u32,
            ));
        }
        let len = self.get(unit.at(block::LENGTH));
        let room = (tag.size - 1).saturating_mul(UNIT as u32);
        if len > room {
            return Err(corrupt("length of a message", len, room));
        }
        Ok(Message {
            unit,
            size: tag.size,
            mtype: self.type_of(unit),
            len,
        })
    }

    /// Whether the limits allow one more message of `len` bytes.
    #[inline]
    pub(super) fn fits(&self, len: u32) -> bool {
        let most = self.get64(field::QBYTES);
        let bytes = self.get64(field::CBYTES).saturating_add(len.into());
        bytes <= most && u64::from(self.get(field::QNUM)) < most
    }

    /// A block for a message, with its header but without its text. It is still free by its tag, or nobody's, which
    /// decides what it becomes; until then no block may be freed, since a neighbour would be merged with it.
    #[inline]
    pub(super) fn draft(&mut self, mtype: i64, len: usize) -> Result<Message, MsgError> {
        let Some(units) = units_for(len) else {
            return Err(MsgError::TooBig);
        };
        let room = match self.reuse(units)? {
            Some(room) => Some(room),
            None => match self.spare(units)? {
                Some(room) => Some(room),
                None => self.allocate(units)?,
            },
        };
        let Some(Carved { unit, size }) = room else {
            return Err(MsgError::NeedExtent(len));
        };
        self.set64(unit.at(block::TYPE), mtype as u64);
        self.set(unit.at(block::LENGTH), len as u32);
        self.set(unit.at(block::SLOT), 0);
        Ok(Message {
            unit,
            size,
            mtype,
            len: len as u32,
        })
    }

    /// Adds a message to the queue, as its youngest.
    #[inline]
    pub(super) fn append(&self, message: &Message) -> Result<(), Corrupt> {
        let unit = message.unit;
        self.set64(unit.at(block::SEQUENCE), self.next_sequence());
        self.set_tag(unit, Tag::new(message.size, Use::Live, 0));
        self.count_in(message.len);
        if self.get(List::FIFO.last()) == 0 {
            self.make_only(unit);
            return Ok(());
        }
        self.push(List::FIFO, unit)?;
        self.index_add(unit, message.mtype)
    }

    /// The message is the first and last of all, and of its type: what `push` and `index_add` come to in an empty queue.
    #[inline]
    fn make_only(&self, unit: Unit) {
        for at in [
            block::PREV,
            block::NEXT,
            block::SAME_NEXT,
            block::BELOW,
            block::ABOVE,
        ] {
            self.set(unit.at(at), 0);
        }
        self.set(unit.at(block::SAME_LAST), unit.raw());
        for at in [List::FIFO.first(), List::FIFO.last(), field::ROOT] {
            self.set(at, unit.raw());
        }
    }

    /// Counts a message that came in.
    #[inline]
    pub(super) fn count_in(&self, len: u32) {
        self.set(field::QNUM, self.get(field::QNUM).wrapping_add(1));
        self.set64(field::CBYTES, self.get64(field::CBYTES).wrapping_add(len.into()));
    }

    /// Takes a message out of the queue; its block becomes `owner`'s.
    #[inline]
    pub(super) fn take(&self, message: &Message, owner: u32) -> Result<(), Corrupt> {
        self.set_tag(message.unit, Tag::new(message.size, Use::Taken, owner));
        self.leave_queue(message)
    }

    /// Takes a message out of the queue; its block is nobody's, and the spare if there is none.
    #[inline]
    pub(super) fn take_and_keep(&self, message: &Message) -> Result<(), Corrupt> {
        self.take(message, 0)?;
        self.keep(message.unit, message.size)
    }

    #[inline]
    fn leave_queue(&self, message: &Message) -> Result<(), Corrupt> {
        if self.is_only(message.unit) {
            for at in [List::FIFO.first(), List::FIFO.last(), field::ROOT] {
                self.set(at, 0);
            }
        } else {
            self.unlink(List::FIFO, message.unit)?;
            self.index_remove(message.unit, message.mtype)?;
        }
        self.set(field::QNUM, self.get(field::QNUM).saturating_sub(1));
        let bytes = self.get64(field::CBYTES);
        self.set64(field::CBYTES, bytes.saturating_sub(message.len.into()));
        Ok(())
    }

    /// Whether the queue has this message and no other.
    #[inline]
    fn is_only(&self, unit: Unit) -> bool {
        [List::FIFO.first(), List::FIFO.last(), field::ROOT]
            .into_iter()
            .all(|at| self.get(at) == unit.raw())
    }

    /// The message a receiver gets.
    #[inline]
    pub(super) fn find(&self, want: Want) -> Result<Option<Message>, Corrupt> {
        let found = match want {
            Want::Any => self.link(List::FIFO.first())?,
            Want::Equal(mtype) => self.first_of_type(mtype)?,
            Want::AtMost(_) => self.first_of_lowest()?,
            Want::Except(mtype) => self.oldest_but(mtype)?,
        };
        let Some(unit) = found else { return Ok(None) };
        let message = self.message(unit, Use::Live, None)?;
        Ok(want.accepts(message.mtype).then_some(message))
    }

    /// The oldest message of another type: past the messages of this type at the queue's head.
    fn oldest_but(&self, mtype: i64) -> Result<Option<Unit>, Corrupt> {
        let mut at = self.link(List::FIFO.first())?;
        let mut steps = self.steps();
        while let Some(unit) = at {
            if self.type_of(unit) != mtype {
                break;
            }
            steps.one()?;
            at = self.link(unit.at(block::NEXT))?;
        }
        Ok(at)
    }

    /// The message at a position, the oldest being at 0: for MSG_COPY.
    pub(super) fn nth(&self, position: i64) -> Result<Option<Message>, Corrupt> {
        let mut at = self.link(List::FIFO.first())?;
        let mut steps = self.steps();
        let mut left = position;
        while let Some(unit) = at {
            if left == 0 {
                return self.message(unit, Use::Live, None).map(Some);
            }
            steps.one()?;
            left = left.wrapping_sub(1);
            at = self.link(unit.at(block::NEXT))?;
        }
        Ok(None)
    }
}
