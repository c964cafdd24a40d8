//! The journal: changes of several words that happen wholly or not at all, whoever dies.
//!
//! Commit word: bits 0–7 kind, 8–39 a number, 40–55 a value.
//!
//! | kind | number, value | means | written by |
//! |---|---|---|---|
//! | 0 | | nothing under way | |
//! | 1 REDO | entries | store every entry's value | an operation, a grant |
//! | 2 SETVAL | semaphore, value | set it, clear its adjustments, sem_ctime | SETVAL |
//! | 3 SETALL | | set all from the staged values, clear all adjustments, sem_ctime | SETALL |
//! | 4 EXIT | undo record's unit | set what the record adjusts from the staged values, delete the record | a sweep |
//!
//! | step | a death before it | a death after it |
//! |---|---|---|
//! | 1. claim the words (LOCKED) | nothing happened | recovery clears LOCKED |
//! | 2. write entries or staged values | nothing happened | nothing happened |
//! | 3. store the commit word | nothing happened | recovery does steps 4 to 6 |
//! | 4. store the final values, LOCKED still set | | recovery stores them again |
//! | 5. clear the commit word | | recovery clears LOCKED |
//! | 6. clear LOCKED in the words | | |
//!
//! Storing again is harmless since nobody else changes a word with LOCKED or WAITERS: the lock is still the dead one's. A grant is the one
//! entry that others answer to: it moves a slot's state from QUEUED only, so a sleeper that has already gone on is not granted twice.
//!
//! Every store is a release, so neither compiler nor processor moves it before an earlier one. A step that stores a single word needs no journal.

use super::SemSet;
use super::layout::{
    self, CTIME_AT, ENTRY, JOURNAL_AT, LOCKED, OTIME_AT, PLACE, STAMP, STAMP_AT, WAITERS, WHEN_AT, undo,
    word_at,
};
use super::plan::{Doer, Plan};
use super::slot::state;
use super::undo::Undo;
use crate::Corrupt;
use crate::header::OWN_AT;
use crate::sysv::SEMVMX;
use vshmem_words::Words;

const REDO: u64 = 1;
const SETVAL: u64 = 2;
const SETALL: u64 = 3;
const EXIT: u64 = 4;

/// How an entry is stored. Bits 32 and up of its first word; the offset is below.
const WORD: u64 = 0;
const HALF: u64 = 1;
const GRANT: u64 = 2;

/// What one commit does.
pub(super) struct Commit {
    /// For whom.
    pub(super) doer: Doer,
    /// The undo record that the plan's adjustments are of.
    pub(super) undo: Option<Undo>,
    /// The time, for sem_otime.
    pub(super) now: u64,
    /// The state word of the sleeper that this grants.
    pub(super) grant: Option<usize>,
}

impl<W: Words> SemSet<'_, W> {
    /// Does what a plan that may go came to. Gives the sleeper's state as it was, if this grants one.
    #[inline(always)]
    pub(super) fn commit<const N: usize>(&self, plan: &Plan<N>, commit: &Commit) -> u32 {
        let otime = self.get64(OTIME_AT);
        let first = otime == 0;
        if let ([touch], false, None) = (plan.touches(), first, commit.grant)
            && touch.adjust == touch.adjust_was
        {
            // One word: the store is the commit.
            self.put64(word_at(touch.num), touch.new_word(commit.doer) & !LOCKED);
            if otime != commit.now {
                self.put64(OTIME_AT, commit.now);
            }
            return state::QUEUED;
        }
        self.journal(plan, commit, first);
        let was = commit.grant.map_or(state::QUEUED, |at| self.grant(at));
        self.put64(JOURNAL_AT, 0);
        for touch in plan.touches() {
            self.put64(word_at(touch.num), touch.new_word(commit.doer) & !LOCKED);
        }
        if !first && otime != commit.now {
            self.put64(OTIME_AT, commit.now);
        }
        was
    }

    /// Steps 2 to 4, but for the grant.
    #[inline(always)]
    fn journal<const N: usize>(&self, plan: &Plan<N>, commit: &Commit, first: bool) {
        let entries = layout::entries_at(self.nsems);
        let mut n = 0;
        let mut entry = |how: u64, at: usize, value: u64| {
            self.put64(entries + n * ENTRY, how << 32 | at as u64);
            self.put64(entries + n * ENTRY + 8, value);
            n += 1;
        };
        for touch in plan.touches() {
            entry(WORD, word_at(touch.num), touch.new_word(commit.doer));
            if let (true, Some(undo)) = (touch.adjust != touch.adjust_was, commit.undo) {
                entry(
                    HALF,
                    undo.adjust_at(touch.num),
                    i32::from(touch.adjust) as u32 as u64,
                );
            }
        }
        if first {
            entry(WORD, OTIME_AT, commit.now);
        }
        if let Some(at) = commit.grant {
            entry(GRANT, at, state::GRANTED.into());
        }
        self.put64(JOURNAL_AT, REDO | (n as u64) << 8);
        for touch in plan.touches() {
            self.put64(word_at(touch.num), touch.new_word(commit.doer));
            if let (true, Some(undo)) = (touch.adjust != touch.adjust_was, commit.undo) {
                self.put32(undo.adjust_at(touch.num), i32::from(touch.adjust) as u32);
            }
        }
        if first {
            self.put64(OTIME_AT, commit.now);
        }
    }

    /// SETVAL of a claimed word.
    pub(super) fn commit_setval(&self, num: u32, value: u16, doer: Doer, now: u64) -> Result<(), Corrupt> {
        self.put64(STAMP_AT, doer.stamp | doer.place);
        self.put64(WHEN_AT, now);
        self.put64(JOURNAL_AT, SETVAL | u64::from(num) << 8 | u64::from(value) << 40);
        self.do_setval(num, value)?;
        self.put64(JOURNAL_AT, 0);
        self.unclaim(num);
        Ok(())
    }

    fn do_setval(&self, num: u32, value: u16) -> Result<(), Corrupt> {
        self.set_claimed(num, value, self.get64(STAMP_AT));
        self.forget_adjustments(Some(num))?;
        self.put64(CTIME_AT, self.get64(WHEN_AT));
        Ok(())
    }

    /// SETALL of claimed words to the staged values.
    pub(super) fn commit_setall(&self, doer: Doer, now: u64) -> Result<(), Corrupt> {
        self.put64(STAMP_AT, doer.stamp | doer.place);
        self.put64(WHEN_AT, now);
        self.put64(JOURNAL_AT, SETALL);
        self.do_setall()?;
        self.put64(JOURNAL_AT, 0);
        (0..self.nsems).for_each(|num| self.unclaim(num));
        Ok(())
    }

    fn do_setall(&self) -> Result<(), Corrupt> {
        let stamp = self.get64(STAMP_AT);
        for num in 0..self.nsems {
            self.set_claimed(num, self.staged(num), stamp);
        }
        self.forget_adjustments(None)?;
        self.put64(CTIME_AT, self.get64(WHEN_AT));
        Ok(())
    }

    /// Sets every claimed word that the record adjusts to its staged value, and declares the record dead.
    pub(super) fn commit_exit(&self, record: Undo) -> Result<(), Corrupt> {
        self.put64(JOURNAL_AT, EXIT | u64::from(record.unit.link()) << 8);
        self.do_exit(record)?;
        self.put64(JOURNAL_AT, 0);
        (0..self.nsems).for_each(|num| self.unclaim(num));
        Ok(())
    }

    fn do_exit(&self, record: Undo) -> Result<(), Corrupt> {
        let stamp = self.get64(record.at + undo::STAMP) & STAMP;
        for num in 0..self.nsems {
            if self.adjustment(record, num)? != 0 {
                // Keeps the place: who decremented is gone, and nobody spins for it.
                let place = self.get64(word_at(num)) & PLACE;
                self.set_claimed(num, self.staged(num), stamp | place);
            }
        }
        self.put64(record.at + undo::LIST, 0);
        Ok(())
    }

    /// Stores value and stamp into a claimed word, which stays claimed.
    fn set_claimed(&self, num: u32, value: u16, stamp: u64) {
        let at = word_at(num);
        let keep = self.get64(at) & WAITERS | LOCKED;
        self.put64(at, u64::from(value) | stamp & (STAMP | PLACE) | keep);
    }

    /// Clears LOCKED, if it is set: then the word is ours.
    pub(super) fn unclaim(&self, num: u32) {
        let at = word_at(num);
        let word = self.get64(at);
        if word & LOCKED != 0 {
            self.put64(at, word & !LOCKED);
        }
    }

    /// Where a semaphore's staged value is, and by how much to shift it: four to a word.
    fn staged_at(&self, num: u32) -> (usize, u32) {
        (
            layout::entries_at(self.nsems) + num as usize / 4 * 8,
            num % 4 * 16,
        )
    }

    /// Stages a value for SETALL or EXIT.
    pub(super) fn stage(&self, num: u32, value: u16) {
        let (at, shift) = self.staged_at(num);
        let others = self.get64(at) & !(0xffff << shift);
        self.put64(at, others | u64::from(value) << shift);
    }

    fn staged(&self, num: u32) -> u16 {
        let (at, shift) = self.staged_at(num);
        ((self.get64(at) >> shift) as u16).min(SEMVMX)
    }

    /// Does again what a dead holder of the lock had committed (back-end only, lock held). Words stay LOCKED.
    pub(super) fn replay(&self) -> Result<(), Corrupt> {
        let commit = self.get64(JOURNAL_AT);
        let number = (commit >> 8) as u32;
        match commit & 0xff {
            0 => {}
            REDO => self.redo(number)?,
            SETVAL => {
                Corrupt::check("journal's semaphore", number.into(), u64::from(self.nsems) - 1)?;
                self.do_setval(number, ((commit >> 40) as u16).min(SEMVMX))?;
            }
            SETALL => self.do_setall()?,
            EXIT => {
                if let Some(unit) = self.follow("journal's undo record", number)? {
                    self.do_exit(self.record(unit)?)?;
                }
            }
            kind => {
                return Err(Corrupt {
                    what: "journal's kind",
                    found: kind,
                    allowed: EXIT,
                });
            }
        }
        self.put64(JOURNAL_AT, 0);
        Ok(())
    }

    fn redo(&self, n: u32) -> Result<(), Corrupt> {
        Corrupt::check("journal's entries", n.into(), layout::entries(self.nsems) as u64)?;
        let entries = layout::entries_at(self.nsems);
        for i in 0..n as usize {
            let (head, value) = (
                self.get64(entries + i * ENTRY),
                self.get64(entries + i * ENTRY + 8),
            );
            let at = head as u32 as usize;
            if at < OWN_AT || at >= self.words.len() {
                return Err(Corrupt {
                    what: "journal's offset",
                    found: at as u64,
                    allowed: self.words.len() as u64,
                });
            }
            match head >> 32 {
                WORD => self.put64(at, value),
                HALF => self.put32(at, value as u32),
                GRANT => {
                    self.grant(at);
                }
                how => {
                    return Err(Corrupt {
                        what: "journal's entry",
                        found: how,
                        allowed: GRANT,
                    });
                }
            }
        }
        Ok(())
    }
}
