//! Who is granted which page: grant references given out, revoked, and used again only when the hypervisor says that nobody has them mapped.
//!
//! The table itself is the record: a restarted back-end reads everything here back from it. Not for what pages belong to.

use super::table::{RESERVED, Table};
use std::collections::{BTreeMap, BTreeSet};

use crate::devices::DomId;

/// A page granted: its frame, to whom, and whether for writing.
pub(crate) type Grant = (u32, DomId, bool);

/// There are no free references.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exhausted;

/// Grants.
#[derive(Debug)]
pub(crate) struct References {
    table: Table,
    given: BTreeMap<Grant, u32>,
    /// Revoked, and in use when last looked at: reference and frame.
    waiting: BTreeMap<u32, u32>,
    free: BTreeSet<u32>,
}

impl References {
    /// What a table says.
    pub(crate) fn read(table: Table) -> Self {
        let mut references = References {
            given: BTreeMap::new(),
            waiting: BTreeMap::new(),
            free: BTreeSet::new(),
            table,
        };
        for reference in RESERVED..references.table.len() {
            match references.table.said(reference) {
                None => {
                    references.free.insert(reference);
                }
                Some(said) if said.permits => {
                    let grant = (said.frame, said.domain, said.writable);
                    references.given.insert(grant, reference);
                }
                Some(said) => {
                    references.waiting.insert(reference, said.frame);
                }
            }
        }
        references
    }

    /// Grants pages of these frames to a domain, those that are not yet; in one run of references where there is one.
    pub(crate) fn give(&mut self, frames: &[u32], domain: DomId, writable: bool) -> Result<(), Exhausted> {
        let missing: Vec<u32> = frames
            .iter()
            .copied()
            .filter(|&frame| !self.given.contains_key(&(frame, domain, writable)))
            .collect();
        if self.free.len() < missing.len() {
            self.settle();
        }
        if self.free.len() < missing.len() {
            return Err(Exhausted);
        }
        let references = self.pick(missing.len());
        for (frame, reference) in missing.into_iter().zip(references) {
            self.free.remove(&reference);
            self.table.grant(reference, domain, frame, writable);
            self.given.insert((frame, domain, writable), reference);
        }
        Ok(())
    }

    /// That many free ones: the first run that is long enough, else the lowest there are.
    fn pick(&self, count: usize) -> Vec<u32> {
        let mut run: Vec<u32> = Vec::new();
        for &reference in &self.free {
            if run.last().is_some_and(|last| last + 1 != reference) {
                run.clear();
            }
            run.push(reference);
            if run.len() >= count {
                run.truncate(count);
                return run;
            }
        }
        self.free.iter().copied().take(count).collect()
    }

    /// The reference by which a domain maps a page.
    pub(crate) fn of(&self, grant: Grant) -> Option<u32> {
        self.given.get(&grant).copied()
    }

    /// Who is granted a page.
    pub(crate) fn of_frame(&self, frame: u32) -> impl Iterator<Item = (DomId, bool)> {
        self.given
            .range((frame, 0, false)..=(frame, DomId::MAX, true))
            .map(|((_, domain, writable), _)| (*domain, *writable))
    }

    /// No new mapping of a page by a domain, or by nobody; whether nothing of that is mapped any more.
    pub(crate) fn revoke(&mut self, frame: u32, domain: Option<DomId>) -> bool {
        let range = match domain {
            Some(domain) => (frame, domain, false)..=(frame, domain, true),
            None => (frame, 0, false)..=(frame, DomId::MAX, true),
        };
        let grants: Vec<(Grant, u32)> = self
            .given
            .range(range)
            .map(|(grant, reference)| (*grant, *reference))
            .collect();
        let mut unmapped = true;
        for (grant, reference) in grants {
            self.given.remove(&grant);
            if self.table.revoke(reference) {
                self.free.insert(reference);
            } else {
                self.waiting.insert(reference, frame);
                unmapped = false;
            }
        }
        unmapped
    }

    /// No new mapping of anything by a domain.
    pub(crate) fn withdraw(&mut self, domain: DomId) {
        let granted = self.given.keys().filter(|(_, to, _)| *to == domain);
        let frames: BTreeSet<u32> = granted.map(|(frame, _, _)| *frame).collect();
        for frame in frames {
            self.revoke(frame, Some(domain));
        }
    }

    /// Looks which revoked references are not in use any more.
    pub(crate) fn settle(&mut self) {
        let Self {
            table, waiting, free, ..
        } = self;
        waiting.retain(|&reference, _| {
            let in_use = !table.is_free(reference);
            if !in_use {
                free.insert(reference);
            }
            in_use
        });
    }

    /// Frames that somebody may still have mapped by a revoked reference, as of the last [`References::settle`].
    pub(crate) fn lingering(&self) -> BTreeSet<u32> {
        self.waiting.values().copied().collect()
    }

    /// Frames that are granted to somebody.
    pub(crate) fn granted(&self) -> BTreeSet<u32> {
        self.given.keys().map(|(frame, _, _)| *frame).collect()
    }

    /// How many there are, and how many of them are free.
    pub(crate) fn room(&self) -> (usize, usize) {
        (
            self.free.len() + self.given.len() + self.waiting.len(),
            self.free.len(),
        )
    }

    #[cfg(test)]
    pub(crate) fn table(&self) -> &Table {
        &self.table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_in_use_keeps_its_reference_until_it_is_unmapped() {
        let mut references = References::read(Table::of_test(1));
        let (all, free) = references.room();
        assert_eq!((all, free), (504, 504));
        references.give(&[100, 101, 102], 5, true).unwrap();
        references.give(&[100], 6, false).unwrap();
        let in_use = references.of((101, 5, true)).unwrap();
        assert_eq!(references.of((102, 5, true)), Some(in_use + 1));
        references.table().use_it(in_use, true);
        assert!(references.revoke(100, Some(5)));
        assert_eq!(references.of_frame(100).collect::<Vec<_>>(), [(6, false)]);
        assert!(!references.revoke(101, None));
        assert!(references.lingering().contains(&101));
        references.settle();
        assert!(references.lingering().contains(&101));
        references.table().use_it(in_use, false);
        references.settle();
        assert!(references.lingering().is_empty());
        assert_eq!(references.room(), (504, 502));
    }

    #[test]
    fn a_domain_that_is_withdrawn_from_maps_nothing_new_and_others_as_before() {
        let mut references = References::read(Table::of_test(1));
        references.give(&[100, 101], 5, true).unwrap();
        references.give(&[100, 101], 6, false).unwrap();
        let in_use = references.of((101, 5, true)).unwrap();
        references.table().use_it(in_use, true);
        references.withdraw(5);
        assert_eq!(references.of_frame(100).collect::<Vec<_>>(), [(6, false)]);
        assert_eq!(references.of_frame(101).collect::<Vec<_>>(), [(6, false)]);
        assert_eq!(references.lingering(), BTreeSet::from([101]));
    }

    #[test]
    fn references_that_run_out_are_told_and_none_is_lost() {
        let mut references = References::read(Table::of_test(1));
        let frames: Vec<u32> = (0..505).collect();
        assert_eq!(references.give(&frames, 1, true), Err(Exhausted));
        references.give(&frames[..504], 1, true).unwrap();
        assert_eq!(references.give(&[700], 2, true), Err(Exhausted));
        // Granting again what is granted takes none.
        references.give(&frames[..504], 1, true).unwrap();
        assert!(references.revoke(3, None));
        references.give(&[700], 2, true).unwrap();
    }

    #[test]
    fn a_restarted_back_end_reads_all_back_from_the_table() {
        let mut references = References::read(Table::of_test(1));
        references.give(&[7, 8], 3, false).unwrap();
        references.give(&[9], 4, true).unwrap();
        let in_use = references.of((9, 4, true)).unwrap();
        references.table().use_it(in_use, true);
        references.revoke(9, None);
        let (given, waiting, free) = (
            references.given.clone(),
            references.waiting.clone(),
            references.free.clone(),
        );
        let again = References::read(references.table);
        assert_eq!((again.given, again.waiting, again.free), (given, waiting, free));
    }
}
