//! Which free list a block of a given size belongs to. Not for the lists themselves.
//!
//! Sizes up to 7 units have a list each; above, every power of two is cut into four. A list holds sizes from its smallest to just below
//! the next list's smallest, so a search that starts one list higher finds only blocks that fit.

/// The list of blocks of `units` units (at least 1).
#[inline]
pub(super) const fn class(units: u32) -> u32 {
    if units < 4 {
        return units;
    }
    let log = units.ilog2();
    (log - 1) << 2 | (units >> (log - 2)) & 3
}

/// The smallest size in a list.
#[inline]
pub(super) const fn smallest(class: u32) -> u32 {
    if class < 4 {
        return class;
    }
    let log = (class >> 2) + 1;
    (4 | class & 3) << (log - 2)
}

/// The first list in which every block holds `units` units.
#[inline]
pub(super) const fn class_above(units: u32) -> u32 {
    let class = class(units);
    if smallest(class) < units { class + 1 } else { class }
}
