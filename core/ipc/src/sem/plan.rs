//! Working out what a list of operations does, on private copies, with the words claimed.
//!
//! Not for storing the result: `journal` does that.
//!
//! Claiming sets LOCKED in a word, so that no fast path changes it meanwhile. Only the holder of the set's lock claims. A word that already has
//! LOCKED when it is claimed was named twice in this list (or a peer set the bit, which then only costs a search).

use super::SemSet;
use super::layout::{LOCKED, PLACE, WAITERS, word_at};
use super::undo::Undo;
use crate::Corrupt;
use crate::sysv::{SEM_UNDO, SEMVMX, SemBuf};
use vshmem_words::{Ordering, Words};

/// Races lost to fast paths on one word after which it counts as scribbled on.
const TRIES: u32 = 1 << 16;

/// One semaphore that a list of operations touches.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Touch {
    /// The word as it was found, without LOCKED.
    pub(super) old: u64,
    pub(super) num: u32,
    pub(super) value: u16,
    /// An operation incremented it.
    pub(super) up: bool,
    /// An operation has SEM_UNDO: `adjust` was read as `adjust_was`.
    pub(super) undo: bool,
    pub(super) adjust: i16,
    pub(super) adjust_was: i16,
}

/// What a list of operations comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All of them can be done.
    Go,
    /// The operation of this index has to wait.
    Block(usize),
    /// A value or an adjustment would leave its range.
    Range,
}

/// The touched semaphores, in the order first named.
#[derive(Debug)]
pub(super) struct Plan<const N: usize> {
    touches: [Touch; N],
    len: usize,
}

impl<const N: usize> Plan<N> {
    pub(super) fn new() -> Self {
        Plan {
            touches: [Touch::default(); N],
            len: 0,
        }
    }
    #[inline(always)]
    pub(super) fn touches(&self) -> &[Touch] {
        // `len` never exceeds N: `touch` stops there.
        self.touches.get(..self.len).unwrap_or(&[])
    }
    /// Whether a queued sleeper's operations touch any of them.
    pub(super) fn awaited(&self) -> bool {
        self.touches().iter().any(|t| t.old & WAITERS != 0)
    }
}

impl<W: Words> SemSet<'_, W> {
    /// Works out `ops` (at most `N`, each number checked here) in order, later ones seeing earlier ones, as Linux does.
    #[inline(always)]
    pub(super) fn evaluate<const N: usize>(
        &self,
        ops: &[SemBuf],
        undo: Option<Undo>,
        plan: &mut Plan<N>,
    ) -> Result<Verdict, Corrupt> {
        for (index, op) in ops.iter().enumerate() {
            let touch = self.touch(plan, op.num.into())?;
            let result = i32::from(touch.value) + i32::from(op.op);
            if op.op == 0 && touch.value != 0 || result < 0 {
                return Ok(Verdict::Block(index));
            }
            if result > i32::from(SEMVMX) {
                return Ok(Verdict::Range);
            }
            if op.flags & SEM_UNDO != 0
                && let Some(undo) = undo
            {
                if !touch.undo {
                    touch.adjust_was = self.adjustment(undo, touch.num)?;
                    touch.adjust = touch.adjust_was;
                    touch.undo = true;
                }
                let Ok(adjust) = i16::try_from(i32::from(touch.adjust) - i32::from(op.op)) else {
                    return Ok(Verdict::Range);
                };
                touch.adjust = adjust;
            }
            touch.value = result as u16;
            touch.up |= op.op > 0;
        }
        Ok(Verdict::Go)
    }

    /// The semaphore's entry in the plan, made if this is the first operation on it.
    #[inline(always)]
    fn touch<'p, const N: usize>(&self, plan: &'p mut Plan<N>, num: u32) -> Result<&'p mut Touch, Corrupt> {
        Corrupt::check("semaphore number", num.into(), u64::from(self.nsems) - 1)?;
        let (old, again) = self.claim(num)?;
        let index = if again {
            plan.touches().iter().position(|t| t.num == num)
        } else {
            None
        };
        let full = Corrupt {
            what: "operations",
            found: plan.len as u64 + 1,
            allowed: N as u64,
        };
        if let Some(index) = index {
            return plan.touches.get_mut(index).ok_or(full);
        }
        let touch = plan.touches.get_mut(plan.len).ok_or(full)?;
        let value = Corrupt::check("semaphore value", old & 0xffff, SEMVMX.into())? as u16;
        *touch = Touch {
            old,
            num,
            value,
            ..Touch::default()
        };
        plan.len += 1;
        Ok(touch)
    }

    /// Sets LOCKED in a word; gives the word without it, and whether it was set already.
    #[inline(always)]
    pub(super) fn claim(&self, num: u32) -> Result<(u64, bool), Corrupt> {
        let at = word_at(num);
        let mut word = self.words.load64(at, Ordering::Relaxed);
        for _ in 0..TRIES {
            if word & LOCKED != 0 {
                return Ok((word & !LOCKED, true));
            }
            if word & WAITERS != 0 {
                // Ours alone already: no fast path touches a word with WAITERS.
                self.put64(at, word | LOCKED);
                return Ok((word, false));
            }
            // Acquire: [semaphore] pairs with the fast path's compare-and-swap.
            match self
                .words
                .compare_exchange64(at, word, word | LOCKED, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return Ok((word, false)),
                Err(found) => word = found,
            }
        }
        Err(Corrupt {
            what: "semaphore word that never holds still",
            found: word,
            allowed: word,
        })
    }

    /// Lets go of the claimed words unchanged, but for the bits to add.
    pub(super) fn release<const N: usize>(&self, plan: &Plan<N>, add: u64) {
        for touch in plan.touches() {
            self.put64(word_at(touch.num), touch.old | add);
        }
    }

    /// Sets WAITERS in a word that is not claimed.
    pub(super) fn await_word(&self, num: u32) -> Result<(), Corrupt> {
        let (old, _) = self.claim(num)?;
        self.put64(word_at(num), old | WAITERS);
        Ok(())
    }
}

/// Whoever an operation is done for: what it leaves in the words.
#[derive(Debug, Clone, Copy)]
pub(super) struct Doer {
    /// Domain and pid bits.
    pub(super) stamp: u64,
    /// Place bits.
    pub(super) place: u64,
}

impl Touch {
    /// The word to be: still LOCKED.
    #[inline(always)]
    pub(super) fn new_word(&self, doer: Doer) -> u64 {
        let place = if self.up { doer.place } else { self.old & PLACE };
        u64::from(self.value) | doer.stamp | place | self.old & WAITERS | LOCKED
    }
}
