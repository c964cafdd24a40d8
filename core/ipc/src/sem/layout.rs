//! Where everything lies in a set.

/// Bytes of a new set.
pub const fn bytes(nsems: u32) -> usize {
    (2816 + nsems as usize * 160).next_multiple_of(4096)
}

/// Bytes by which a set grows.
pub const fn extent_bytes(nsems: u32) -> usize {
    (16384 + nsems as usize * 8).next_multiple_of(4096)
}
