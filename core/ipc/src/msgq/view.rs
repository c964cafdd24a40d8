//! Checked access to a queue's memory, and the queue as the holder of its lock sees it.
//!
//! Every link read from memory is a claim until [`View::unit`] has checked it against the end of the arena, which is read once per
//! operation. Not for meaning: what is in the units is the other files' business.

use super::layout::{Tag, UNIT, block, field};
use super::{FIRST_BLOCK, FIRST_SLOT, MsgError};
use crate::{Control, Corrupt, Me, Sleeper, World};
use core::ops::{Deref, DerefMut};
use vshmem_words::{Ordering, Words};

/// The number of a unit that lies between the first slot and the end of the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unit(u32);

impl Unit {
    /// The number itself, to be stored as a link.
    #[inline(always)]
    pub(super) fn raw(self) -> u32 {
        self.0
    }
    /// The offset of a field in it.
    #[inline(always)]
    pub(super) fn at(self, field: usize) -> usize {
        self.0 as usize * UNIT + field
    }
}

/// Counts the steps of a walk through links that may form a ring.
#[derive(Debug)]
pub(super) struct Steps {
    left: u32,
    allowed: u32,
}

impl Steps {
    pub(super) fn new(allowed: u32) -> Self {
        Steps {
            left: allowed,
            allowed,
        }
    }
    #[inline(always)]
    pub(super) fn one(&mut self) -> Result<(), Corrupt> {
        if self.left == 0 {
            return Err(Corrupt {
                what: "steps of a walk",
                found: u64::from(self.allowed) + 1,
                allowed: self.allowed.into(),
            });
        }
        self.left -= 1;
        Ok(())
    }
}

/// The queue's memory up to the end of the arena as it was when the operation began.
#[derive(Debug)]
pub(super) struct View<'a, W: Words> {
    pub(super) words: &'a W,
    pub(super) end: u32,
}

impl<'a, W: Words> View<'a, W> {
    /// Up to the end that the queue names, but not beyond what is mapped.
    #[inline]
    pub(super) fn new(words: &'a W) -> Self {
        let mapped = mapped_units(words);
        let end = words.load32(field::END, Ordering::Relaxed);
        View {
            words,
            end: end.min(mapped),
        }
    }
    /// Up to what is mapped: for who looks at a block that is its own, without the lock, and shall not ask for the cache line of who has it.
    #[inline]
    pub(super) fn mapped(words: &'a W) -> Self {
        View {
            words,
            end: mapped_units(words),
        }
    }
    #[inline(always)]
    pub(super) fn get(&self, at: usize) -> u32 {
        self.words.load32(at, Ordering::Relaxed)
    }
    #[inline(always)]
    pub(super) fn set(&self, at: usize, value: u32) {
        self.words.store32(at, value, Ordering::Relaxed);
    }
    #[inline(always)]
    pub(super) fn get64(&self, at: usize) -> u64 {
        self.words.load64(at, Ordering::Relaxed)
    }
    #[inline(always)]
    pub(super) fn set64(&self, at: usize, value: u64) {
        self.words.store64(at, value, Ordering::Relaxed);
    }
    /// Checks a link that is not none.
    #[inline(always)]
    pub(super) fn unit(&self, raw: u32) -> Result<Unit, Corrupt> {
        if raw >= FIRST_SLOT && raw < self.end {
            Ok(Unit(raw))
        } else {
            Err(corrupt("link", raw, self.end))
        }
    }
    /// Reads and checks a link.
    #[inline(always)]
    pub(super) fn link(&self, at: usize) -> Result<Option<Unit>, Corrupt> {
        match self.get(at) {
            0 => Ok(None),
            raw => self.unit(raw).map(Some),
        }
    }
    /// Reads and checks a block's tag: it lies within the arena.
    #[inline]
    pub(super) fn tag(&self, unit: Unit) -> Result<Tag, Corrupt> {
        let word = self.get64(unit.at(block::TAG));
        let Some(tag) = Tag::unpack(word) else {
            return Err(Corrupt {
                what: "block state",
                found: word,
                allowed: 5,
            });
        };
        if unit.raw() < FIRST_BLOCK || tag.size == 0 || tag.size > self.end - unit.raw() {
            return Err(corrupt(
                "block size",
                tag.size,
                self.end.saturating_sub(unit.raw()),
            ));
        }
        Ok(tag)
    }
    /// The one store that changes what a block is.
    #[inline(always)]
    pub(super) fn set_tag(&self, unit: Unit, tag: Tag) {
        self.set64(unit.at(block::TAG), tag.pack());
    }
    /// The next number of the queue's sequence.
    #[inline]
    pub(super) fn next_sequence(&self) -> u64 {
        let next = self.get64(field::SEQUENCE);
        self.set64(field::SEQUENCE, next.wrapping_add(1));
        next
    }
    /// A bound for walks over blocks or slots: there cannot be more of them than units.
    #[inline(always)]
    pub(super) fn steps(&self) -> Steps {
        Steps::new(self.end)
    }
}

/// Whole units mapped.
#[inline(always)]
pub(super) fn mapped_units(words: &impl Words) -> u32 {
    ((words.len() / UNIT) as u64).min(u64::from(super::layout::MOST_UNITS)) as u32
}

#[cold]
pub(super) fn corrupt(what: &'static str, found: u32, allowed: u32) -> Corrupt {
    Corrupt {
        what,
        found: found.into(),
        allowed: allowed.into(),
    }
}

/// Whom to wake once the lock is free: a system call under the lock would hold everybody up.
const MOST_BELLS: usize = 4;

/// The queue while its lock is held.
#[derive(Debug)]
pub(super) struct Held<'a, W: Words, D: World> {
    view: View<'a, W>,
    pub(super) world: &'a D,
    pub(super) me: Me,
    bells: [Sleeper; MOST_BELLS],
    rung: usize,
}

impl<'a, W: Words, D: World> Deref for Held<'a, W, D> {
    type Target = View<'a, W>;
    #[inline(always)]
    fn deref(&self) -> &View<'a, W> {
        &self.view
    }
}

impl<W: Words, D: World> DerefMut for Held<'_, W, D> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.view
    }
}

impl<'a, W: Words, D: World> Held<'a, W, D> {
    #[inline]
    pub(super) fn new(words: &'a W, world: &'a D) -> Self {
        const NOBODY: Sleeper = Sleeper {
            space: 0,
            ticket: 0,
            at: 0,
        };
        Held {
            view: View::new(words),
            world,
            me: world.me(),
            bells: [NOBODY; MOST_BELLS],
            rung: 0,
        }
    }

    /// Checks, under the lock, that the queue is what the caller was attached to.
    #[inline]
    pub(super) fn enter(&self, control: Control) -> Result<(), MsgError> {
        unchanged(Control::load(self.words), control)?;
        if self.covered()? {
            Ok(())
        } else {
            Err(MsgError::Stale)
        }
    }

    /// Whether everything in the queue is mapped here. If not, only units known to be mapped may be touched.
    #[inline]
    pub(super) fn covered(&self) -> Result<bool, Corrupt> {
        if self.end < FIRST_BLOCK {
            return Err(corrupt("end of the arena", self.end, FIRST_BLOCK));
        }
        Ok(self.get(field::END) <= self.end)
    }

    /// Notes whom to wake. The few that do not fit are woken at once.
    pub(super) fn bell(&mut self, sleeper: Sleeper) {
        match self.bells.get_mut(self.rung) {
            Some(place) => {
                *place = sleeper;
                self.rung += 1;
            }
            None => self.world.wake(sleeper),
        }
    }

    /// Wakes those noted. After the lock was released.
    #[inline]
    pub(super) fn ring(&self) {
        self.bells[..self.rung]
            .iter()
            .for_each(|&sleeper| self.world.wake(sleeper));
    }
}

/// Compares the control word found with the one the attachment was checked under.
#[inline(always)]
pub(super) fn unchanged(found: Control, expected: Control) -> Result<(), MsgError> {
    if found == expected {
        Ok(())
    } else {
        Err(changed(found))
    }
}

#[cold]
fn changed(found: Control) -> MsgError {
    match found.state() {
        crate::State::Live => MsgError::Stale,
        _ => MsgError::Removed,
    }
}
