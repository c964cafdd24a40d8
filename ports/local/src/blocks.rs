//! Which pages of a pool hold constructs, by blocks as large as a huge page, and which blocks lie in one.
//!
//! Bookkeeping without I/O. A huge page stays whole only as long as nobody gives a part of it back; so a block is given back as a whole, when no construct has
//! a page of it any more.

use std::collections::BTreeMap;
use vshmem_port::store::PAGE;
use vshmem_wire::Extent;

/// Bytes of a huge page: that of x86-64, and of aarch64 with pages of 4 KiB.
pub(crate) const BLOCK: u64 = 2 << 20;
const PAGES: u64 = BLOCK / PAGE;

#[derive(Debug, Clone, Copy, Default)]
struct Block {
    /// A bit for each page that a construct has.
    pages: [u64; (PAGES / 64) as usize],
    /// It lies in a huge page, as far as is known.
    huge: bool,
}

/// The pages of one block that an extent has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    /// Where the block begins.
    pub(crate) block: u64,
    /// The pages.
    pub(crate) extent: Extent,
}

/// An extent, block by block.
pub(crate) fn parts(extent: Extent) -> impl Iterator<Item = Part> {
    let end = extent.offset + extent.bytes;
    let first = extent.offset / BLOCK;
    (first..end.div_ceil(BLOCK)).map(move |number| {
        let block = number * BLOCK;
        let offset = extent.offset.max(block);
        let bytes = end.min(block + BLOCK) - offset;
        Part {
            block,
            extent: Extent { offset, bytes },
        }
    })
}

/// The blocks that hold anything, by where they begin.
#[derive(Debug, Default)]
pub(crate) struct Blocks(BTreeMap<u64, Block>);

impl Block {
    fn set(&mut self, part: Part, on: bool) {
        let first = (part.extent.offset - part.block) / PAGE;
        for page in first..first + part.extent.bytes / PAGE {
            let (word, bit) = ((page / 64) as usize, 1 << (page % 64));
            if on {
                self.pages[word] |= bit;
            } else {
                self.pages[word] &= !bit;
            }
        }
    }
}

impl Blocks {
    /// A construct has these pages. Whether nobody had any of the block before.
    pub(crate) fn take(&mut self, part: Part) -> bool {
        let fresh = !self.0.contains_key(&part.block);
        self.0.entry(part.block).or_default().set(part, true);
        fresh
    }

    /// A construct has them no more. Whether nobody has any of the block.
    pub(crate) fn give_back(&mut self, part: Part) -> bool {
        let Some(block) = self.0.get_mut(&part.block) else {
            return true;
        };
        block.set(part, false);
        let empty = block.pages.iter().all(|word| *word == 0);
        if empty {
            self.0.remove(&part.block);
        }
        empty
    }

    /// Whether the block lies in a huge page.
    pub(crate) fn is_huge(&self, block: u64) -> bool {
        self.0.get(&block).is_some_and(|known| known.huge)
    }

    /// Whether the block holds something and lies in ordinary pages.
    pub(crate) fn is_ordinary(&self, block: u64) -> bool {
        self.0.get(&block).is_some_and(|known| !known.huge)
    }

    /// It lies in a huge page.
    pub(crate) fn set_huge(&mut self, block: u64) {
        if let Some(known) = self.0.get_mut(&block) {
            known.huge = true;
        }
    }

    /// Where those begin that hold anything.
    pub(crate) fn all(&self) -> impl Iterator<Item = u64> {
        self.0.keys().copied()
    }

    /// How many lie in huge pages, and how many in ordinary ones.
    pub(crate) fn count(&self) -> (u64, u64) {
        let huge = self.0.values().filter(|block| block.huge).count() as u64;
        (huge, self.0.len() as u64 - huge)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(first: u64, pages: u64) -> Extent {
        Extent {
            offset: first * PAGE,
            bytes: pages * PAGE,
        }
    }

    #[test]
    fn extents_are_cut_at_blocks() {
        let cut: Vec<Part> = parts(extent(510, 4 + 512)).collect();
        let part = |block: u64, first, pages| Part {
            block: block * BLOCK,
            extent: extent(first, pages),
        };
        assert_eq!(cut, [part(0, 510, 2), part(1, 512, 512), part(2, 1024, 2)]);
    }

    #[test]
    fn a_block_is_empty_when_its_last_page_is_given_back() {
        let mut blocks = Blocks::default();
        let part = |first, pages| parts(extent(first, pages)).next().unwrap();
        assert!(blocks.take(part(3, 100)));
        assert!(!blocks.take(part(200, 1)));
        assert!(!blocks.take(part(200, 1)), "again is the same");
        blocks.set_huge(0);
        assert_eq!((blocks.count(), blocks.is_huge(0)), ((1, 0), true));
        assert!(!blocks.give_back(part(3, 100)));
        assert!(blocks.give_back(part(200, 1)));
        assert_eq!((blocks.count(), blocks.is_huge(0)), ((0, 0), false));
        assert!(blocks.give_back(part(7, 1)), "nobody had it");
        assert!(blocks.take(part(7, 1)) && !blocks.is_huge(0));
    }
}
