//! Where things lie in a team's memory.
//!
//! ```text
//!    0  u64  shape: version << 32 | parties
//!    8  u64  whether the team is complete (used by whoever forms it; no business of the collectives)
//!   64  per party a block of 18 cache lines, each with one u64 at its start:
//!         0       sequence number of the last collective that this party has done with
//!         1..=8   signals of the barrier's rounds to this party, each written by the party 2^round before it
//!         9..=16  signals up the tree to this party, each written by its child
//!         17      signal down the tree to this party, written by its parent
//!   then    per party two slots of CHUNK bytes, used in turn
//! ```
//! A signal is `sequence << 1 | SLEEPING`.

/// Most parties of a team.
pub const MOST_PARTIES: usize = 256;
/// Bytes of a slot: longer operands are worked through in pieces of this size.
pub const CHUNK: usize = 8192;
/// Where the shape lies.
pub const SHAPE_AT: usize = 0;
/// Where a team that forms notes that it is complete.
pub const FORMED_AT: usize = 8;

/// Rounds that [`MOST_PARTIES`] need.
pub(crate) const ROUNDS: usize = 8;
const LINE: usize = 64;
const BLOCK: usize = LINE * (2 + 2 * ROUNDS);
const _: () = assert!(1 << ROUNDS == MOST_PARTIES && BLOCK == 1152);

/// Bytes of everything but the slots, of a team of `parties`.
pub const fn control_bytes(parties: usize) -> usize {
    LINE + parties * BLOCK
}

/// Bytes of the memory of a team of `parties`.
pub const fn bytes(parties: usize) -> usize {
    slots_at(parties) + 2 * parties * CHUNK
}

const fn slots_at(parties: usize) -> usize {
    control_bytes(parties).next_multiple_of(4096)
}

const fn line(rank: usize, index: usize) -> usize {
    LINE + rank * BLOCK + index * LINE
}

/// The last collective that `rank` has done with.
pub(crate) const fn done(rank: usize) -> usize {
    line(rank, 0)
}

/// The signal of a barrier's round to `rank`.
pub(crate) const fn arrive(rank: usize, round: usize) -> usize {
    line(rank, 1 + round)
}

/// The signal up the tree to `rank` from its child `rank + 2^round`.
pub(crate) const fn up(rank: usize, round: usize) -> usize {
    line(rank, 1 + ROUNDS + round)
}

/// The signal down the tree to `rank`.
pub(crate) const fn down(rank: usize) -> usize {
    line(rank, 1 + 2 * ROUNDS)
}

/// The slot of `rank` in collective `sequence`.
pub(crate) const fn slot(parties: usize, rank: usize, sequence: u64) -> usize {
    slots_at(parties) + (2 * rank + (sequence & 1) as usize) * CHUNK
}
