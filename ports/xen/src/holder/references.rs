//! Who is granted which page: grant references given out, revoked, and used again only when the hypervisor says that nobody has them mapped.
//!
//! The table itself is the record: a restarted back-end reads everything here back from it. Not for what pages belong to.

use super::runs::Runs;
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
    free: Runs,
}

impl References {
    /// What a table says.
    pub(crate) fn read(table: Table) -> Self {
        let mut references = References {
            given: BTreeMap::new(),
            waiting: BTreeMap::new(),
            free: Runs::default(),
            table,
        };
        for reference in RESERVED..references.table.len() {
            match references.table.said(reference) {
                None => {
                    references.free.add(&[reference]);
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
        // The first run that is long enough, else the lowest there are.
        let together = self.free.take_together(missing.len());
        let references = together.unwrap_or_else(|| self.free.take(missing.len()));
        for (frame, reference) in missing.into_iter().zip(references) {
            self.table.grant(reference, domain, frame, writable);
            self.given.insert((frame, domain, writable), reference);
        }
        Ok(())
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

    /// No new mapping of these frames by a domain, or by anybody; those of them, in their order, of which something of that is mapped still.
    pub(crate) fn revoke(&mut self, frames: &[u32], domain: Option<DomId>) -> Vec<u32> {
        let (mut free, mut mapped) = (Vec::new(), Vec::new());
        for run in frames.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
            for (grant, reference) in self.granted_of(run, domain) {
                self.given.remove(&grant);
                if self.table.revoke(reference) {
                    free.push(reference);
                } else {
                    self.waiting.insert(reference, grant.0);
                    mapped.push(grant.0);
                }
            }
        }
        self.free.add(&free);
        mapped.dedup();
        mapped
    }

    /// What is granted of frames one behind the other, to a domain or to anybody.
    fn granted_of(&self, run: &[u32], domain: Option<DomId>) -> Vec<(Grant, u32)> {
        let (Some(&first), Some(&last)) = (run.first(), run.last()) else {
            return Vec::new();
        };
        match domain {
            // Others may have as much of each frame: they are not walked past.
            Some(domain) => run
                .iter()
                .flat_map(|&frame| [(frame, domain, false), (frame, domain, true)])
                .filter_map(|grant| Some((grant, self.of(grant)?)))
                .collect(),
            None => self
                .given
                .range((first, 0, false)..=(last, DomId::MAX, true))
                .map(|(grant, reference)| (*grant, *reference))
                .collect(),
        }
    }

    /// No new mapping of anything by a domain.
    pub(crate) fn withdraw(&mut self, domain: DomId) {
        let granted = self.given.keys().filter(|(_, to, _)| *to == domain);
        let mut frames: Vec<u32> = granted.map(|(frame, _, _)| *frame).collect();
        frames.dedup();
        self.revoke(&frames, Some(domain));
    }

    /// Looks which revoked references are not in use any more.
    pub(crate) fn settle(&mut self) {
        let Self {
            table, waiting, free, ..
        } = self;
        waiting.retain(|&reference, _| {
            let in_use = !table.is_free(reference);
            if !in_use {
                free.add(&[reference]);
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
        assert_eq!(references.revoke(&[100], Some(5)), []);
        assert_eq!(references.of_frame(100).collect::<Vec<_>>(), [(6, false)]);
        assert_eq!(references.revoke(&[101, 102], None), [101]);
        assert!(references.lingering().contains(&101));
        references.settle();
        assert!(references.lingering().contains(&101));
        references.table().use_it(in_use, false);
        references.settle();
        assert!(references.lingering().is_empty());
        assert_eq!(references.room(), (504, 503));
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
        assert_eq!(references.revoke(&[3], None), []);
        references.give(&[700], 2, true).unwrap();
    }

    #[test]
    fn a_restarted_back_end_reads_all_back_from_the_table() {
        let mut references = References::read(Table::of_test(1));
        references.give(&[7, 8], 3, false).unwrap();
        references.give(&[9], 4, true).unwrap();
        let in_use = references.of((9, 4, true)).unwrap();
        references.table().use_it(in_use, true);
        references.revoke(&[9], None);
        let (given, waiting, free) = (
            references.given.clone(),
            references.waiting.clone(),
            references.free.clone(),
        );
        let again = References::read(references.table);
        assert_eq!((again.given, again.waiting, again.free), (given, waiting, free));
    }
}
