//! Where segments lie in this process's memory, piece by piece.
//!
//! shmat(2) makes one piece. munmap, mremap, mprotect and mmap with MAP_FIXED cut and move pieces, and as in Linux each piece counts as one attachment. A
//! table of the pieces' addresses can be read without a lock, since every munmap of a program comes by: [`touched`].
//!
//! Not for mapping anything: [`crate::shm`] and [`crate::mappings`] do that.

use std::sync::atomic::{AtomicUsize, Ordering};

const PAGE: usize = 4096;
/// Pieces in the table; beyond them the lowest and the highest address count.
const MOST: usize = 128;
/// Looks at a table that is being written.
const LOOKS: u32 = 100_000;

/// A stretch of address space that shows pages of a segment, one after another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) at: usize,
    pub(crate) bytes: usize,
    /// Where in the segment it begins.
    offset: usize,
    /// Which shmat(2) made it.
    of: u64,
    protection: i32,
    segsz: usize,
    pub(crate) id: i32,
}

/// What the daemon must be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// One attachment has become two.
    Split(i32),
    /// One is no more.
    Gone(i32),
}

/// All pieces.
#[derive(Debug)]
pub(crate) struct Pieces {
    list: Vec<Piece>,
    made: u64,
}

impl Piece {
    fn end(&self) -> usize {
        self.at.saturating_add(self.bytes)
    }

    fn overlaps(&self, from: usize, to: usize) -> bool {
        self.at < to && from < self.end()
    }

    /// Whether it may be written to.
    pub(crate) fn is_writable(&self) -> bool {
        self.protection & libc::PROT_WRITE != 0
    }

    /// Its protection, if it is not this one.
    pub(crate) fn other_than(&self, protection: i32) -> Option<i32> {
        (self.protection != protection).then_some(self.protection)
    }

    /// Whether pieces of one attachment, in the order of their addresses, lie side by side and are all of its `bytes`.
    pub(crate) fn are_whole(pieces: &[Piece], bytes: usize) -> bool {
        let mut behind = 0;
        let begins = pieces.first().map_or(0, |first| first.at);
        pieces.iter().all(|piece| {
            let follows = piece.offset == behind && piece.at == begins + behind;
            behind += piece.bytes;
            follows
        }) && behind == bytes
    }

    /// Where the segment would begin.
    fn start(&self) -> usize {
        self.at.wrapping_sub(self.offset)
    }
}

impl Pieces {
    pub(crate) const fn new() -> Self {
        Pieces {
            list: Vec::new(),
            made: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// A segment was attached.
    pub(crate) fn attached(&mut self, at: usize, bytes: usize, protection: i32, segsz: usize, id: i32) {
        self.made += 1;
        self.list.push(Piece {
            at,
            bytes,
            offset: 0,
            of: self.made,
            protection,
            segsz,
            id,
        });
        self.publish();
    }

    /// What is mapped from `from` to `to` is so no more.
    pub(crate) fn cut(&mut self, from: usize, to: usize) -> Vec<Change> {
        let mut changes = self.split_around(from, to, |_| true);
        let list = std::mem::take(&mut self.list);
        for piece in list {
            if piece.overlaps(from, to) {
                changes.push(Change::Gone(piece.id));
            } else {
                self.list.push(piece);
            }
        }
        self.publish();
        changes
    }

    /// The protection from `from` to `to` was changed.
    pub(crate) fn protected(&mut self, from: usize, to: usize, protection: i32) -> Vec<Change> {
        let changes = self.split_around(from, to, |piece| piece.protection != protection);
        for piece in self.list.iter_mut().filter(|piece| piece.overlaps(from, to)) {
            piece.protection = protection;
        }
        self.publish();
        changes
    }

    /// Makes pieces that reach into the range and beyond it two.
    fn split_around(&mut self, from: usize, to: usize, concerned: impl Fn(&Piece) -> bool) -> Vec<Change> {
        let mut changes = Vec::new();
        for border in [from, to] {
            let within = |p: &Piece| p.at < border && border < p.end() && p.overlaps(from, to);
            let at: Vec<usize> = (0..self.list.len())
                .filter(|&i| within(&self.list[i]) && concerned(&self.list[i]))
                .collect();
            for i in at {
                let piece = &mut self.list[i];
                let first = border - piece.at;
                let second = Piece {
                    at: border,
                    bytes: piece.bytes - first,
                    offset: piece.offset + first,
                    ..*piece
                };
                piece.bytes = first;
                changes.push(Change::Split(second.id));
                self.list.push(second);
            }
        }
        changes
    }

    /// mremap(2) has succeeded. `kept`: what was there is there still.
    pub(crate) fn moved(
        &mut self,
        old: usize,
        old_bytes: usize,
        new: usize,
        new_bytes: usize,
        kept: bool,
    ) -> Vec<Change> {
        let Some(piece) = self.list.iter().find(|p| p.overlaps(old, old + 1)).copied() else {
            return self.cut(new, new.saturating_add(new_bytes));
        };
        let old_end = old.saturating_add(old_bytes);
        if new == old {
            if new_bytes < old_bytes {
                return self.cut(old + new_bytes, old_end);
            }
            if let Some(piece) = self.list.iter_mut().find(|p| p.overlaps(old, old + 1)) {
                piece.bytes = piece.bytes.max(new.saturating_add(new_bytes) - piece.at);
            }
            self.publish();
            return Vec::new();
        }
        let mut changes = self.cut(new, new.saturating_add(new_bytes));
        // The new piece counts before the old one ceases to: else the segment could be gone in between.
        changes.push(Change::Split(piece.id));
        if !kept {
            changes.extend(self.cut(old, old_end));
        }
        self.list.push(Piece {
            at: new,
            bytes: new_bytes,
            offset: piece.offset + (old - piece.at),
            ..piece
        });
        self.publish();
        changes
    }

    /// The pieces that shmdt(2) of `address` detaches: those of the first attachment that would begin there.
    pub(crate) fn attachment(&self, address: usize) -> Vec<Piece> {
        let begins = |p: &&Piece| p.start() == address && p.at >= address;
        let Some(first) = self.list.iter().filter(begins).min_by_key(|p| p.at) else {
            return Vec::new();
        };
        let near = |p: &&Piece| p.of == first.of && p.at < address.saturating_add(first.segsz.max(1));
        self.list.iter().filter(begins).filter(near).copied().collect()
    }

    /// Bytes (segsz) of the segment attached at `address`.
    pub(crate) fn segsz_at(&self, address: usize) -> Option<usize> {
        let found = self.list.iter().find(|p| p.at == address && p.offset == 0);
        found.map(|piece| piece.segsz)
    }

    /// The pieces of each attachment, in the order of their addresses.
    pub(crate) fn by_attachment(&self) -> Vec<Vec<Piece>> {
        let mut all: std::collections::BTreeMap<u64, Vec<Piece>> = std::collections::BTreeMap::new();
        for piece in &self.list {
            all.entry(piece.of).or_default().push(*piece);
        }
        all.values_mut().for_each(|pieces| pieces.sort_by_key(|p| p.at));
        all.into_values().collect()
    }

    /// Where pieces lie: first address, and behind the last.
    pub(crate) fn ranges(&self) -> Vec<(usize, usize)> {
        self.list.iter().map(|piece| (piece.at, piece.end())).collect()
    }

    /// Where the segment that lies at `at` shows `bytes` from `offset` on, with the same rights. None: nowhere, or no one piece lies at `at`.
    pub(crate) fn shown(&self, at: usize, bytes: usize, offset: usize) -> Option<usize> {
        let (end, last) = (at.checked_add(bytes)?, offset.checked_add(bytes)?);
        let here = self.list.iter().find(|p| p.at <= at && end <= p.end())?;
        let shows = |p: &&Piece| p.offset <= offset && last <= p.offset + p.bytes;
        let alike = |p: &&Piece| p.id == here.id && p.protection == here.protection;
        let mut all = self.list.iter().filter(alike).filter(shows);
        // Best where it is already.
        let places: Vec<usize> = all.by_ref().map(|p| p.at + (offset - p.offset)).collect();
        places
            .iter()
            .find(|&&place| place == at)
            .or(places.first())
            .copied()
    }

    /// Whether a segment is there.
    pub(crate) fn shows(&self, at: usize) -> bool {
        self.list
            .iter()
            .any(|piece| piece.overlaps(at, at.saturating_add(1)))
    }

    fn publish(&self) {
        let before = VERSION.fetch_add(1, Ordering::Relaxed);
        // The odd version before the entries, for readers on other CPUs.
        std::sync::atomic::fence(Ordering::Release);
        for (entry, piece) in TABLE.iter().zip(&self.list) {
            entry.0.store(piece.at, Ordering::Relaxed);
            entry.1.store(piece.end(), Ordering::Relaxed);
        }
        let lowest = self.list.iter().map(|p| p.at).min().unwrap_or(usize::MAX);
        let highest = self.list.iter().map(Piece::end).max().unwrap_or(0);
        LOWEST.store(lowest, Ordering::Relaxed);
        HIGHEST.store(highest, Ordering::Relaxed);
        COUNT.store(self.list.len(), Ordering::Relaxed);
        VERSION.store(before.wrapping_add(2), Ordering::Release);
    }

    /// In a forked child: a table that another thread of the parent was writing is written anew.
    pub(crate) fn forked(&self) {
        VERSION.store(VERSION.load(Ordering::Relaxed) & !1, Ordering::Relaxed);
        self.publish();
    }
}

static TABLE: [(AtomicUsize, AtomicUsize); MOST] =
    [const { (AtomicUsize::new(0), AtomicUsize::new(0)) }; MOST];
static COUNT: AtomicUsize = AtomicUsize::new(0);
static LOWEST: AtomicUsize = AtomicUsize::new(usize::MAX);
static HIGHEST: AtomicUsize = AtomicUsize::new(0);
/// Odd while the table is written.
static VERSION: AtomicUsize = AtomicUsize::new(0);

/// Whether a segment lies within these addresses. Takes no lock: whoever asks may be an allocator that holds its own.
#[inline]
pub(crate) fn touched(from: usize, bytes: usize) -> bool {
    let to = from.saturating_add(bytes).saturating_add(PAGE);
    if to <= LOWEST.load(Ordering::Relaxed) || HIGHEST.load(Ordering::Relaxed) <= from {
        return false;
    }
    look(from, to)
}

#[cold]
fn look(from: usize, to: usize) -> bool {
    for _ in 0..LOOKS {
        let version = VERSION.load(Ordering::Acquire);
        let count = COUNT.load(Ordering::Relaxed);
        let within = |(a, b): &(AtomicUsize, AtomicUsize)| {
            a.load(Ordering::Relaxed) < to && from < b.load(Ordering::Relaxed)
        };
        let found = count > MOST || TABLE[..count.min(MOST)].iter().any(within);
        std::sync::atomic::fence(Ordering::Acquire);
        if version.is_multiple_of(2) && VERSION.load(Ordering::Relaxed) == version {
            return found;
        }
        std::hint::spin_loop();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use Change::{Gone, Split};

    const AT: usize = 0x10_0000;

    fn five() -> Pieces {
        let mut pieces = Pieces::new();
        pieces.attached(AT, 5 * PAGE, 3, 5 * PAGE - 7, 9);
        pieces
    }

    fn lies(pieces: &Pieces) -> Vec<(usize, usize, usize)> {
        let mut all: Vec<_> = pieces
            .list
            .iter()
            .map(|p| (p.at.wrapping_sub(AT) / PAGE, p.bytes / PAGE, p.offset / PAGE))
            .collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn pages_are_found_where_they_are_shown() {
        let mut pieces = five();
        assert_eq!(pieces.shown(AT, PAGE, 3 * PAGE), Some(AT + 3 * PAGE));
        assert_eq!(
            pieces.shown(AT + PAGE, 2 * PAGE, PAGE),
            Some(AT + PAGE),
            "where it is"
        );
        assert_eq!(pieces.shown(AT, PAGE, 5 * PAGE), None);
        assert_eq!(pieces.shown(AT + 4 * PAGE, 2 * PAGE, 0), None);
        assert_eq!(pieces.shown(AT, PAGE, usize::MAX), None);
        pieces.cut(AT, AT + PAGE);
        assert_eq!(pieces.shown(AT + PAGE, PAGE, 0), None);
        assert_eq!(pieces.shown(AT, PAGE, PAGE), None);
    }

    #[test]
    fn cuts_count_as_in_linux() {
        let mut pieces = five();
        assert_eq!(
            pieces.cut(AT + PAGE, AT + 2 * PAGE),
            [Split(9), Split(9), Gone(9)]
        );
        assert_eq!(lies(&pieces), [(0, 1, 0), (2, 3, 2)]);
        assert_eq!(pieces.attachment(AT).len(), 2);
        assert!(pieces.attachment(AT + 2 * PAGE).is_empty());
        assert_eq!(pieces.cut(AT, AT + PAGE), [Gone(9)]);
        // The head is gone: it is still known by where it began.
        assert_eq!(pieces.attachment(AT).len(), 1);
        assert_eq!(pieces.segsz_at(AT), None);
        assert_eq!(pieces.cut(0, usize::MAX), [Gone(9)]);
        assert!(pieces.is_empty());
    }

    #[test]
    fn pieces_side_by_side_are_whole_and_those_with_holes_are_not() {
        let mut pieces = five();
        pieces.attached(AT + 50 * PAGE, PAGE, 1, 10, 4);
        pieces.protected(AT + PAGE, AT + 2 * PAGE, 1);
        let all = pieces.by_attachment();
        assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [3, 1]);
        assert!(Piece::are_whole(&all[0], 5 * PAGE) && !Piece::are_whole(&all[0], 6 * PAGE));
        assert!(all[0][0].is_writable() && all[0][1].other_than(3) == Some(1));
        pieces.cut(AT + 3 * PAGE, AT + 4 * PAGE);
        assert!(!Piece::are_whole(&pieces.by_attachment()[0], 5 * PAGE));
        assert!(!Piece::are_whole(&[], PAGE));
    }

    #[test]
    fn protection_splits_where_it_differs() {
        let mut pieces = five();
        assert_eq!(pieces.protected(AT + PAGE, AT + 2 * PAGE, 3), []);
        assert_eq!(
            pieces.protected(AT + PAGE, AT + 2 * PAGE, 1),
            [Split(9), Split(9)]
        );
        assert_eq!(pieces.protected(AT, AT + 5 * PAGE, 1), []);
        assert_eq!(lies(&pieces), [(0, 1, 0), (1, 1, 1), (2, 3, 2)]);
    }

    #[test]
    fn moves_shrink_grow_and_double() {
        let far = AT + 40 * PAGE;
        let mut pieces = five();
        assert_eq!(
            pieces.moved(AT, 5 * PAGE, far, 5 * PAGE, false),
            [Split(9), Gone(9)]
        );
        assert!(pieces.attachment(AT).is_empty() && pieces.attachment(far).len() == 1);
        let mut pieces = five();
        assert_eq!(
            pieces.moved(AT, 5 * PAGE, AT, 2 * PAGE, false),
            [Split(9), Gone(9)]
        );
        assert_eq!(lies(&pieces), [(0, 2, 0)]);
        assert_eq!(pieces.moved(AT, 2 * PAGE, AT, 4 * PAGE, false), []);
        assert_eq!(lies(&pieces), [(0, 4, 0)]);
        let mut pieces = five();
        assert_eq!(pieces.moved(AT, 0, far, 5 * PAGE, true), [Split(9)]);
        assert_eq!(lies(&pieces), [(0, 5, 0), (40, 5, 0)]);
        // A part of it: found by where the whole would begin.
        let mut pieces = five();
        let moved = pieces.moved(AT + PAGE, 2 * PAGE, far, 2 * PAGE, false);
        assert_eq!(moved, [Split(9), Split(9), Split(9), Gone(9)]);
        assert_eq!(lies(&pieces), [(0, 1, 0), (3, 2, 3), (40, 2, 1)]);
        assert_eq!(pieces.attachment(AT).len(), 2);
        assert_eq!(pieces.attachment(far - PAGE).len(), 1);
    }

    #[test]
    fn what_lies_there_is_seen_without_a_lock() {
        let pieces = five();
        assert!(touched(AT, 1) && touched(AT - PAGE, 2 * PAGE) && touched(AT + 4 * PAGE, PAGE));
        assert!(pieces.shows(AT + 5 * PAGE - 1) && !pieces.shows(AT + 5 * PAGE));
        assert!(!touched(AT + 5 * PAGE, PAGE) && !touched(AT - 9 * PAGE, PAGE));
    }
}
