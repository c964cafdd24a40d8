//! Where everything in a queue lies. Not for what is done with it.
//!
//! A queue is an array of 64-byte *units*. A link is a unit's number in 32 bits; 0 is none.
//!
//! ```text
//! The queue's own fields: the first ten units. (L: written under the lock. D: derived, rebuilt by `recover`.)
//!   0–23      the header common to sets and queues
//!  24  u64  next sequence number                          L D
//!  32  u64  bytes of text in the queue                    L D
//!  40  u64  most bytes, and most messages                 back-end
//!  48  u32  messages in the queue                         L D
//!  52  u32  end of the arena, in units                    L
//!  56  u32  oldest message, 60 u32 youngest               L D
//!  64  u32  root of the index of types                    L D
//!  68  u32  first waiting receiver, 72 u32 last           L D
//!  76  u32  first waiting sender, 80 u32 last             L D
//!  84  u32  first free slot                               L D
//!  88  u32  first block of further slots                  L D
//!  92  u32  size of the arena's last block                L D
//!  96  u64  which free lists hold something: 0–63         L D
//! 104  u64  the same: 64–107                              L D
//! 112  u32  first settled slot, 116 u32 last              L D
//! 120  u32  blocks that nobody owns any more              L D
//! 124  u32  the spare block                               L D
//! 128  u64  time of the last send                         L
//! 136  u64  time of the last receive                      L
//! 144  u64  last sender: place 16, domain 10, pid 22      L
//! 152  u64  last receiver: the same                       L
//! 160  u64  time of creation or change                    back-end
//! 192  u32 × 108  heads of the free lists                 L D
//! 640       16 slots, then the arena from 1664 on
//!
//! A block: a header of one unit, then its text or slots.
//!   0  u64  tag: size in units 28, state 4, owner's client number 32
//!   8  i64  type of the message
//!  16  u64  sequence number
//!  24  u32  length of the text in bytes
//!  28  u32  size of the block before it in units, 0 for the first    D
//!  32  u32  older neighbour, 36 u32 younger (LIVE); neighbours in the free list (FREE); 36 alone: next block of slots (SLOTS)   D
//!  40  u32  next message of the same type                             D
//!  44  u32  last message of the same type (in the first)              D
//!  48  u32  types below, 52 u32 types above (in the first of a type)  D
//!  56  u32  the slot it was handed to (TAKEN), else 0
//!  60       unused
//!
//! A slot: one unit.
//!   0  u32  state; the word its owner sleeps on
//!   4  u32  owner's client number
//!   8  u32  what it waits for: see `Want`
//!  12  u32  domain 10, pid 22
//!  16  u64  sequence number
//!  24  i64  type wanted
//!  32  u32  neighbour before, 36 u32 after (waiting, settled); 36 alone: next free slot   D
//!  40  u32  block: to be sent (sender), handed over (receiver)
//!  44  u32  bytes of room for the text (receiver; all ones: it may be cut)
//!  48  u32  ticket
//!  52  u32  futex space 16, place 16
//!  56  u32  units that the owner has mapped
//!  60       unused
//! ```
//!
//! # States of a block
//! The tag is one word, so size, state and owner change together; each change is one store under the lock.
//!
//! | state | meaning | who moves it | to |
//! |---|---|---|---|
//! | FREE | nothing | a sender | RESERVED, LIVE or TAKEN (part of it: the rest stays FREE) |
//! | RESERVED | the owner fills it, or waits with it for room | the owner, or whoever makes room | LIVE, TAKEN |
//! | | | the owner, giving up; the back-end, when the owner is dead | FREE |
//! | LIVE | a message in the queue | a receiver | TAKEN (by nobody: short text, copied already) |
//! | TAKEN | received: the owner copies it out | the owner; whoever finds its slot DONE; the back-end, when the owner is dead | FREE |
//! | SLOTS | further slots | nobody | |
//!
//! A RESERVED or TAKEN block whose owner is 0 is an orphan: its owner could not reach the free lists (see `arena`). One of them may be the *spare*: that of
//! the last short message received, kept whole for the next one of its size.
//!
//! # States of a slot
//! | state | meaning | who moves it | to |
//! |---|---|---|---|
//! | FREE | nobody's | a waiter, under the lock | QUEUED |
//! | QUEUED | waits, awake | the owner, without the lock | SLEEPING |
//! | SLEEPING | waits, asleep or about to: whoever moves it on must wake it | `remove` and `recheck`, without the lock | QUEUED |
//! | QUEUED, SLEEPING | | whoever settles it, under the lock | GRANTED, REFUSED, RETRY |
//! | | | the owner giving up, under the lock | FREE; LEFT if it has not mapped all of the queue |
//! | GRANTED | the message was sent, or handed over | the owner, without the lock, when it has copied the text | DONE |
//! | REFUSED | a receiver whose room is too small: E2BIG | the owner, without the lock | DONE |
//! | RETRY | the message lies beyond what the receiver has mapped | the owner, without the lock | DONE |
//! | DONE | slot and block are no longer needed | whoever has the lock | FREE |
//! | LEFT | given up | whoever meets it, under the lock | FREE |
//!
//! The back-end frees the slots of the dead in any state.

use crate::header::{HEADER, OWN_AT};

/// Bytes of a unit.
pub(super) const UNIT: usize = 64;
/// Most units of a queue: what a tag can say.
pub(super) const MOST_UNITS: u32 = (1 << 28) - 1;
/// Free lists.
pub(super) const CLASSES: usize = 108;
/// Slots that every queue has.
pub(super) const SLOTS: u32 = 16;
/// Units of a block of further slots, its header included.
pub(super) const SLOT_BLOCK: u32 = 9;
/// Texts up to this length are copied under the lock.
pub const SHORT: usize = 1024;
/// No path in the index of types is longer.
pub(super) const DEPTH: u32 = 256;

/// Offsets of the queue's own fields.
pub(super) mod field {
    pub(crate) const SEQUENCE: usize = 24;
    pub(crate) const CBYTES: usize = 32;
    pub(crate) const QBYTES: usize = 40;
    pub(crate) const QNUM: usize = 48;
    pub(crate) const END: usize = 52;
    pub(crate) const FIFO: usize = 56;
    pub(crate) const ROOT: usize = 64;
    pub(crate) const RECEIVERS: usize = 68;
    pub(crate) const SENDERS: usize = 76;
    pub(crate) const FREE_SLOTS: usize = 84;
    pub(crate) const SLOT_BLOCKS: usize = 88;
    pub(crate) const LAST_SIZE: usize = 92;
    pub(crate) const FREE_MAP: usize = 96;
    pub(crate) const SETTLED: usize = 112;
    pub(crate) const ORPHANS: usize = 120;
    pub(crate) const SPARE: usize = 124;
    pub(crate) const STIME: usize = 128;
    pub(crate) const RTIME: usize = 136;
    pub(crate) const LAST_SENDER: usize = 144;
    pub(crate) const LAST_RECEIVER: usize = 152;
    pub(crate) const CTIME: usize = 160;
    pub(crate) const FREE_LISTS: usize = 192;
}

/// Offsets within a block's header. `SEQUENCE`, `PREV` and `NEXT` are where a slot has them, so that lists serve both.
pub(super) mod block {
    pub(crate) const TAG: usize = 0;
    pub(crate) const TYPE: usize = 8;
    pub(crate) const SEQUENCE: usize = 16;
    pub(crate) const LENGTH: usize = 24;
    pub(crate) const SIZE_BEFORE: usize = 28;
    pub(crate) const PREV: usize = 32;
    pub(crate) const NEXT: usize = 36;
    pub(crate) const SAME_NEXT: usize = 40;
    pub(crate) const SAME_LAST: usize = 44;
    pub(crate) const BELOW: usize = 48;
    pub(crate) const ABOVE: usize = 52;
    pub(crate) const SLOT: usize = 56;
}

/// Offsets within a slot.
pub(super) mod slot {
    pub(crate) const STATE: usize = 0;
    pub(crate) const OWNER: usize = 4;
    pub(crate) const WANT: usize = 8;
    pub(crate) const WHO: usize = 12;
    pub(crate) const SEQUENCE: usize = 16;
    pub(crate) const TYPE: usize = 24;
    pub(crate) const PREV: usize = 32;
    pub(crate) const NEXT: usize = 36;
    pub(crate) const BLOCK: usize = 40;
    pub(crate) const ROOM: usize = 44;
    pub(crate) const TICKET: usize = 48;
    pub(crate) const SPACE: usize = 52;
    pub(crate) const REACH: usize = 56;

    pub(crate) const FREE: u32 = 0;
    pub(crate) const QUEUED: u32 = 1;
    pub(crate) const SLEEPING: u32 = 2;
    pub(crate) const GRANTED: u32 = 3;
    pub(crate) const REFUSED: u32 = 4;
    pub(crate) const RETRY: u32 = 5;
    pub(crate) const LEFT: u32 = 6;
    pub(crate) const DONE: u32 = 7;
}

/// Unit of the first slot.
pub(super) const FIRST_SLOT: u32 = (field::FREE_LISTS + CLASSES * 4).div_ceil(UNIT) as u32;
/// Unit of the arena's first block.
pub(super) const FIRST_BLOCK: u32 = FIRST_SLOT + SLOTS;

const _: () = {
    assert!(OWN_AT == field::SEQUENCE && HEADER == UNIT);
    assert!(FIRST_SLOT as usize * UNIT == 640 && FIRST_BLOCK as usize * UNIT == 1664);
    assert!(
        field::SEQUENCE.is_multiple_of(8)
            && field::CBYTES.is_multiple_of(8)
            && field::QBYTES.is_multiple_of(8)
    );
    assert!(
        field::FREE_MAP.is_multiple_of(8)
            && field::STIME.is_multiple_of(8)
            && field::LAST_SENDER.is_multiple_of(8)
    );
    assert!(block::PREV == slot::PREV && block::NEXT == slot::NEXT && block::SEQUENCE == slot::SEQUENCE);
    assert!(block::SLOT + 4 <= UNIT && slot::REACH + 4 <= UNIT);
    assert!(super::classes::class(MOST_UNITS) as usize == CLASSES - 1);
};

/// What a block is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Use {
    Free = 1,
    Reserved = 2,
    Live = 3,
    Taken = 4,
    Slots = 5,
}

/// A block's tag, taken apart. The size is what was read: checked against the arena by whoever reads it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) size: u32,
    pub(super) state: Use,
    pub(super) owner: u32,
}

impl Tag {
    pub(super) const fn new(size: u32, state: Use, owner: u32) -> Self {
        Tag { size, state, owner }
    }
    pub(super) const fn pack(self) -> u64 {
        self.size as u64 | (self.state as u64) << 28 | (self.owner as u64) << 32
    }
    /// `None` if the state is none.
    #[inline]
    pub(super) const fn unpack(word: u64) -> Option<Self> {
        let state = match (word >> 28) & 15 {
            1 => Use::Free,
            2 => Use::Reserved,
            3 => Use::Live,
            4 => Use::Taken,
            5 => Use::Slots,
            _ => return None,
        };
        Some(Tag::new(word as u32 & MOST_UNITS, state, (word >> 32) as u32))
    }
}

/// Units of a block that holds `bytes` of text; `None` if no queue can hold it.
#[inline]
pub(super) const fn units_for(bytes: usize) -> Option<u32> {
    let units = bytes.div_ceil(UNIT) + 1;
    if units < MOST_UNITS as usize && bytes < u32::MAX as usize {
        Some(units as u32)
    } else {
        None
    }
}
