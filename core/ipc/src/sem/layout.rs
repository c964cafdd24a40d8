//! Where everything lies in a set. Not for what it means while an operation runs: each part's own module says that.
//!
//! ```text
//!    0        the header (magic, layout version, control word, lock word: see `crate::header`)
//!   24  u64   sem_otime: 0 until the first semop
//!   32  u64   sem_ctime
//!   40  u64   journal: commit word (see `journal`)
//!   48  u64   journal: domain, pid and place of whoever sets values, as in a semaphore's word
//!   56  u64   journal: the new sem_ctime
//!   64  u32   units of the arena in use or on a free list; those beyond were never used
//!   68  u32   first free unit                            (a *unit* below is an index from 1; 0 is none)
//!   72  u32   first free undo record
//!   76  u32   number of semaphores, checked when the set is opened
//!   80  u32   sleepers let go on that may not have noticed: first, and
//!   84  u32     last unit
//!   88  u32   sleepers with several operations that change something: first, and
//!   92  u32     last unit
//!   96  u32   sleepers with several waits for zero: first, and
//!  100  u32     last unit
//!  104  u64   sequence number of the next sleeper
//!  112  u32   number of queued sleepers
//!  116        4 bytes spare
//!  120  u64   always 0: where sleepers and removal meet (see `wait`)
//!  128        S semaphore words of 8 bytes, by 64         (S is the number of semaphores)
//!             S side records of 32 bytes                 (queues and counters of a semaphore)
//!             64 x u32 heads of the chains of undo records
//!             the journal's entries: 16 bytes each, 2 min(S, 500) + 2 of them, or S staged values of 2 bytes
//!             padding to 128
//!             the arena: units of 128 bytes, up to the end of the set
//! ```
//!
//! Of each 64 words, neighbours lie a cache line apart: word `i` in line `i % 8` at place `i / 8`, so eight lines for every 64 semaphores begun. Who turns to
//! one semaphore in a loop would else take the line from who operates on the next one: two parties that pass control by semaphores 0 and 1 do just that.
//!
//! A semaphore's word:
//!
//! | bits | meaning |
//! |---|---|
//! | 0–15 | value |
//! | 16 | LOCKED: the holder of the set's lock is changing it |
//! | 17 | WAITERS: a queued sleeper's operations touch it; only the holder of the set's lock may change it |
//! | 18 | MOVED, reserved |
//! | 19 | spare |
//! | 20–29 | domain of the last operation |
//! | 30–51 | its pid |
//! | 52–63 | place of the last increment ([`crate::Me::place`]) |
//!
//! A semaphore's side record: u32 first and last unit of the sleepers that wait to decrement it, u32 first and last unit of those that wait for
//! zero (both: of a single operation), u32 semncnt, u32 semzcnt, u32 number of operations of queued sleepers on it (WAITERS is set while
//! it is not 0), 4 bytes spare.
//!
//! A unit begins with its kind ([`kind`]). A slot (one sleeper):
//!
//! ```text
//!    0  u32  kind           4  u32  state: see `slot`
//!    8  u32  client        12  u16  thread     14  u16  space
//!   16  u32  ticket        20  u16  place      22  u16  number of operations
//!   24  u64  domain and pid, as in a semaphore's word
//!   32  u64  sequence number
//!   40  u32  next unit     44  u32  previous unit         (the queue's; `next` also links free units)
//!   48  u64  undo list
//!   56  u16  the semaphore it blocks on     58  u16  1: to decrement it, 2: for zero
//!   60  u32  first chunk
//!   64  8 operations of 8 bytes: u16 number, i16 operation, i16 flags, 0
//! ```
//! A chunk (more operations of a slot): u32 kind, u32 0, u32 next chunk, u32 the slot's unit, 14 operations.
//!
//! An undo record, of as many units as it needs: u32 kind, u32 0, u64 undo list (0: none), u32 next record of the chain or free list, u32 spare, u64
//! domain and pid as in a semaphore's word, S adjustments of 4 bytes (an i16, sign-extended).

use crate::Me;
use crate::header::{HEADER, OWN_AT};
use crate::sysv::SEMOPM;

pub(super) const OTIME_AT: usize = 24;
pub(super) const CTIME_AT: usize = 32;
pub(super) const JOURNAL_AT: usize = 40;
pub(super) const STAMP_AT: usize = 48;
pub(super) const WHEN_AT: usize = 56;
pub(super) const USED_AT: usize = 64;
pub(super) const FREE_UNIT_AT: usize = 68;
pub(super) const FREE_UNDO_AT: usize = 72;
pub(super) const NSEMS_AT: usize = 76;
pub(super) const GRANTED_AT: usize = 80;
pub(super) const ALTER_AT: usize = 88;
pub(super) const CONST_AT: usize = 96;
pub(super) const SEQUENCE_AT: usize = 104;
pub(super) const SLEEPERS_AT: usize = 112;
pub(super) const MEETING_AT: usize = 120;
pub(super) const WORDS_AT: usize = 128;

/// Words that are spread over eight cache lines together.
const SPREAD: u32 = 64;
const SPREAD_BYTES: usize = SPREAD as usize * 8;
/// Bytes of a unit of the arena.
pub(super) const UNIT: usize = 128;
/// Bytes of a semaphore's side record.
pub(super) const SIDE: usize = 32;
/// Chains of undo records.
pub(super) const BUCKETS: usize = 64;
/// Bytes of a journal entry.
pub(super) const ENTRY: usize = 16;
/// Operations inside a slot.
pub(super) const INLINE: usize = 8;
/// Operations inside a chunk.
pub(super) const CHUNKED: usize = 14;

/// Offsets within a side record. A queue is two neighbouring words: first and last.
pub(super) mod side {
    pub(in crate::sem) const DECREMENT: usize = 0;
    pub(in crate::sem) const ZERO: usize = 8;
    pub(in crate::sem) const NCNT: usize = 16;
    pub(in crate::sem) const ZCNT: usize = 20;
    pub(in crate::sem) const TOUCHED: usize = 24;
}

/// What a unit holds: its first word.
pub(super) mod kind {
    pub(in crate::sem) const FREE: u32 = 0;
    pub(in crate::sem) const SLOT: u32 = 1;
    pub(in crate::sem) const CHUNK: u32 = 2;
    pub(in crate::sem) const UNDO: u32 = 3;
    pub(in crate::sem) const UNDO_FREE: u32 = 4;
}

/// Offsets within a slot.
pub(super) mod slot {
    pub(in crate::sem) const STATE: usize = 4;
    pub(in crate::sem) const CLIENT: usize = 8;
    pub(in crate::sem) const THREAD: usize = 12;
    pub(in crate::sem) const TICKET: usize = 16;
    pub(in crate::sem) const PLACE: usize = 20;
    pub(in crate::sem) const STAMP: usize = 24;
    pub(in crate::sem) const SEQUENCE: usize = 32;
    pub(in crate::sem) const NEXT: usize = 40;
    pub(in crate::sem) const PREV: usize = 44;
    pub(in crate::sem) const UNDO: usize = 48;
    pub(in crate::sem) const BLOCKING: usize = 56;
    pub(in crate::sem) const CHUNK: usize = 60;
    pub(in crate::sem) const OPS: usize = 64;
}

/// Offsets within a chunk.
pub(super) mod chunk {
    pub(in crate::sem) const NEXT: usize = 8;
    pub(in crate::sem) const OWNER: usize = 12;
    pub(in crate::sem) const OPS: usize = 16;
}

/// Offsets within an undo record.
pub(super) mod undo {
    pub(in crate::sem) const LIST: usize = 8;
    pub(in crate::sem) const NEXT: usize = 16;
    pub(in crate::sem) const STAMP: usize = 24;
    pub(in crate::sem) const ADJUST: usize = 32;
}

pub(super) const LOCKED: u64 = 1 << 16;
pub(super) const WAITERS: u64 = 1 << 17;
pub(super) const MOVED: u64 = 1 << 18;
const DOMAIN_SHIFT: u32 = 20;
const PID_SHIFT: u32 = 30;
const PLACE_SHIFT: u32 = 52;
pub(super) const PLACE: u64 = 0xfff << PLACE_SHIFT;
pub(super) const STAMP: u64 = (1 << PLACE_SHIFT) - (1 << DOMAIN_SHIFT);

/// The bits of a semaphore's word that say who operated last.
#[inline(always)]
pub(super) const fn stamp(me: &Me) -> u64 {
    ((me.domain as u64) & 0x3ff) << DOMAIN_SHIFT | ((me.pid as u64) & 0x3f_ffff) << PID_SHIFT
}

/// The bits of a semaphore's word that say where the last increment came from.
#[inline(always)]
pub(super) const fn place_bits(place: u16) -> u64 {
    (place as u64) << PLACE_SHIFT
}

/// Where the last increment came from.
#[inline(always)]
pub(super) const fn place_of(word: u64) -> u16 {
    (word >> PLACE_SHIFT) as u16
}

/// Domain and pid of the last operation.
pub(super) const fn who(word: u64) -> (u16, u32) {
    (
        (word >> DOMAIN_SHIFT) as u16 & 0x3ff,
        (word >> PID_SHIFT) as u32 & 0x3f_ffff,
    )
}

/// Where a semaphore's word is.
#[inline(always)]
pub(super) const fn word_at(num: u32) -> usize {
    let (begun, within) = ((num / SPREAD) as usize, (num % SPREAD) as usize);
    WORDS_AT + begun * SPREAD_BYTES + (within % 8) * 64 + (within / 8) * 8
}

/// Bytes of the semaphores' words.
const fn words_bytes(nsems: u32) -> usize {
    nsems.div_ceil(SPREAD) as usize * SPREAD_BYTES
}

/// Where a semaphore's side record is.
#[inline(always)]
pub(super) const fn side_at(nsems: u32, num: u32) -> usize {
    WORDS_AT + words_bytes(nsems) + SIDE * num as usize
}

/// Where the heads of the chains of undo records are.
#[inline(always)]
pub(super) const fn buckets_at(nsems: u32) -> usize {
    WORDS_AT + words_bytes(nsems) + SIDE * nsems as usize
}

/// Where the journal's entries are.
#[inline(always)]
pub(super) const fn entries_at(nsems: u32) -> usize {
    buckets_at(nsems) + 4 * BUCKETS
}

/// How many entries the journal holds: a word and an adjustment per semaphore touched, sem_otime, a slot's state.
pub(super) const fn entries(nsems: u32) -> usize {
    let touched = if nsems as usize > SEMOPM {
        SEMOPM
    } else {
        nsems as usize
    };
    2 * touched + 2
}

/// Where the arena begins.
#[inline(always)]
pub(super) const fn arena_at(nsems: u32) -> usize {
    let (redo, staged) = (entries(nsems) * ENTRY, nsems as usize * 2);
    let journal = if redo > staged { redo } else { staged };
    (entries_at(nsems) + journal).next_multiple_of(UNIT)
}

/// Units of an undo record.
#[inline(always)]
pub(super) const fn undo_units(nsems: u32) -> u32 {
    (undo::ADJUST + 4 * nsems as usize).div_ceil(UNIT) as u32
}

/// Bytes of a new set of `nsems` semaphores: a multiple of 4096, with room for a few sleepers and undo records.
pub const fn bytes(nsems: u32) -> usize {
    (arena_at(nsems) + (16 + 2 * undo_units(nsems) as usize) * UNIT).next_multiple_of(4096)
}

/// Bytes by which a set of `nsems` semaphores grows when it has no free slot or undo record left: a multiple of 4096.
pub const fn extent_bytes(nsems: u32) -> usize {
    let records = 4 * undo_units(nsems) as usize * UNIT;
    let least = if records > 16384 { records } else { 16384 };
    least.next_multiple_of(4096)
}

const _: () = {
    assert!(OTIME_AT == OWN_AT && WHEN_AT + 8 == HEADER && USED_AT == HEADER);
    assert!(MEETING_AT + 8 == WORDS_AT && SLEEPERS_AT + 8 == MEETING_AT && WORDS_AT.is_multiple_of(UNIT));
    assert!(slot::OPS + 8 * INLINE == UNIT && chunk::OPS + 8 * CHUNKED == UNIT);
    assert!(slot::UNDO == 48 && slot::CHUNK + 4 == slot::OPS && undo::STAMP + 8 == undo::ADJUST);
    assert!(side::TOUCHED + 8 == SIDE);
    assert!(word_at(0) == WORDS_AT && word_at(1) == WORDS_AT + 64 && word_at(8) == WORDS_AT + 8);
    assert!(word_at(63) + 8 == side_at(64, 0) && word_at(64) == WORDS_AT + SPREAD_BYTES);
    // Every accepted size up to SEMMSL semaphores fits 32-bit offsets, and small sets take at most two pages.
    assert!(bytes(1) == 4096 && bytes(32) == 8192);
    assert!(arena_at(32000) < 3 << 20 && undo_units(32000) == 1001);
    assert!(0xffff & LOCKED == 0 && STAMP & PLACE == 0 && STAMP | PLACE | 0xf_ffff == u64::MAX);
};
