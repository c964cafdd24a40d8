//! Which page of the pool shows which frame, and whose it is: by pieces, each of pages one behind the other that are of one construct and came together.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use vshmem_port::store::Serial;

/// Pages one behind the other.
#[derive(Debug)]
struct Piece {
    serial: Serial,
    frames: Vec<u32>,
}

/// Pages that show something.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    /// By the first page. Pieces do not overlap, and none is empty.
    pieces: BTreeMap<u64, Piece>,
    /// First pages of a construct's pieces.
    of: BTreeMap<Serial, BTreeSet<u64>>,
}

impl Shown {
    /// Pages from `page` on, which show nothing yet, show these frames.
    pub(crate) fn enter(&mut self, serial: Serial, page: u64, frames: Vec<u32>) {
        if !frames.is_empty() {
            self.of.entry(serial).or_default().insert(page);
            self.pieces.insert(page, Piece { serial, frames });
        }
    }

    /// What of a range shows something: whose it is, the pages, and their frames; in order.
    fn among(&self, pages: &Range<u64>) -> impl Iterator<Item = (Serial, Range<u64>, &[u32])> {
        let (from, to) = (pages.start, pages.end);
        let before = self.pieces.range(..from).next_back();
        let others = self.pieces.range(from..to.max(from));
        before
            .into_iter()
            .chain(others)
            .filter_map(move |(&first, piece)| {
                let end = first + piece.frames.len() as u64;
                let at = first.max(from)..end.min(to);
                let within = (at.start.checked_sub(first)? as usize)..(at.end.checked_sub(first)? as usize);
                let frames = piece.frames.get(within).filter(|frames| !frames.is_empty())?;
                Some((piece.serial, at, frames))
            })
    }

    /// Whose pages of a range are.
    pub(crate) fn owners(&self, pages: &Range<u64>) -> Vec<(Serial, Range<u64>)> {
        self.among(pages).map(|(serial, at, _)| (serial, at)).collect()
    }

    /// Puts the frames of a construct's pages behind `frames`, or says which of the pages is not the construct's.
    pub(crate) fn frames(
        &self,
        serial: Serial,
        pages: &Range<u64>,
        frames: &mut Vec<u32>,
    ) -> Result<(), u64> {
        let mut next = pages.start;
        for (owner, at, shown) in self.among(pages) {
            if owner != serial || at.start != next {
                break;
            }
            frames.extend(shown);
            next = at.end;
        }
        if next < pages.end { Err(next) } else { Ok(()) }
    }

    fn pieces_of(&self, serial: Serial) -> impl Iterator<Item = (u64, &[u32])> {
        let firsts = self.of.get(&serial).into_iter().flatten();
        firsts.filter_map(|first| Some((*first, self.pieces.get(first)?.frames.as_slice())))
    }

    /// All frames of a construct, in the order of their pages.
    pub(crate) fn all_of(&self, serial: Serial) -> Vec<u32> {
        let frames = self.pieces_of(serial).flat_map(|(_, frames)| frames);
        frames.copied().collect()
    }

    /// A construct's first frame.
    pub(crate) fn first_of(&self, serial: Serial) -> Option<u32> {
        self.pieces_of(serial).next().map(|(_, frames)| frames[0])
    }

    /// Those pages of a range that are a construct's, in runs.
    pub(crate) fn pages_of(&self, serial: Serial, among: &Range<u64>) -> Vec<Range<u64>> {
        let all = self.pieces_of(serial).map(|(first, frames)| {
            let end = first + frames.len() as u64;
            first.max(among.start)..end.min(among.end)
        });
        all.filter(|at| !at.is_empty()).collect()
    }

    /// Such a run shows nothing any more; the frames that it showed.
    pub(crate) fn take_out(&mut self, run: &Range<u64>) -> Vec<u32> {
        let Some((&first, _)) = self.pieces.range(..=run.start).next_back() else {
            return Vec::new();
        };
        let Some(Piece { serial, mut frames }) = self.pieces.remove(&first) else {
            return Vec::new();
        };
        if let Some(own) = self.of.get_mut(&serial) {
            own.remove(&first);
            if own.is_empty() {
                self.of.remove(&serial);
            }
        }
        let at = |page: u64, frames: &[u32]| (page.saturating_sub(first) as usize).min(frames.len());
        let behind = frames.split_off(at(run.end, &frames));
        let taken = frames.split_off(at(run.start, &frames));
        self.enter(serial, run.end, behind);
        self.enter(serial, first, frames);
        taken
    }
}

#[cfg(test)]
impl Shown {
    /// Pages that show something.
    pub(crate) fn pages(&self) -> Vec<u64> {
        let all = self.among(&(0..u64::MAX)).flat_map(|(_, at, _)| at);
        all.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Serial = Serial(1);
    const TWO: Serial = Serial(2);

    fn frames(shown: &Shown, serial: Serial, pages: Range<u64>) -> Result<Vec<u32>, u64> {
        let mut frames = Vec::new();
        shown.frames(serial, &pages, &mut frames).map(|()| frames)
    }

    fn shown() -> Shown {
        let mut shown = Shown::default();
        shown.enter(ONE, 10, vec![100, 101, 102]);
        shown.enter(TWO, 13, vec![7]);
        shown.enter(ONE, 14, vec![200, 201]);
        shown.enter(TWO, 20, vec![]);
        shown
    }

    #[test]
    fn pages_show_their_frames_to_their_construct_alone() {
        let shown = shown();
        assert_eq!(frames(&shown, ONE, 11..13), Ok(vec![101, 102]));
        assert_eq!(frames(&shown, ONE, 14..16), Ok(vec![200, 201]));
        assert_eq!(frames(&shown, ONE, 10..16), Err(13));
        assert_eq!(frames(&shown, ONE, 9..11), Err(9));
        assert_eq!(frames(&shown, ONE, 15..17), Err(16));
        assert_eq!(frames(&shown, TWO, 14..15), Err(14));
        assert_eq!(shown.all_of(ONE), [100, 101, 102, 200, 201]);
        assert_eq!((shown.first_of(ONE), shown.first_of(TWO)), (Some(100), Some(7)));
        assert_eq!(shown.pages(), [10, 11, 12, 13, 14, 15]);
    }

    #[test]
    fn whose_pages_are_is_told_for_any_range() {
        let shown = shown();
        assert_eq!(
            shown.owners(&(0..100)),
            [(ONE, 10..13), (TWO, 13..14), (ONE, 14..16)]
        );
        assert_eq!(
            shown.owners(&(12..15)),
            [(ONE, 12..13), (TWO, 13..14), (ONE, 14..15)]
        );
        assert_eq!(shown.owners(&(16..30)), []);
        assert_eq!(shown.owners(&(11..11)), []);
        assert_eq!(shown.pages_of(ONE, &(12..15)), [12..13, 14..15]);
        assert_eq!(shown.pages_of(Serial(3), &(0..100)), []);
    }

    #[test]
    fn what_is_taken_out_of_the_middle_leaves_both_ends() {
        let mut shown = shown();
        assert_eq!(shown.take_out(&(11..12)), [101]);
        assert_eq!(shown.pages(), [10, 12, 13, 14, 15]);
        assert_eq!(frames(&shown, ONE, 12..13), Ok(vec![102]));
        assert_eq!(frames(&shown, ONE, 10..11), Ok(vec![100]));
        for run in shown.pages_of(ONE, &(0..100)) {
            shown.take_out(&run);
        }
        assert_eq!((shown.pages(), shown.first_of(ONE)), (vec![13], None));
        assert_eq!(shown.take_out(&(13..14)), [7]);
        assert!(shown.pieces.is_empty() && shown.of.is_empty());
    }
}
