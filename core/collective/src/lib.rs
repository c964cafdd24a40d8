//! Collectives of parallel programs over shared memory: algorithms only.
//!
//! A fixed number of parties, each a [`Member`], share memory that any of them may write at any time ([`vshmem_words::Words`]); how a party
//! pauses, sleeps, is woken and is found to be gone is the business of a [`Crew`]. No system call and no unsafe code.
//!
//! | operation | how | hops, one a party that must be waited for |
//! |---|---|---|
//! | [`Member::barrier`] | dissemination: in round k each signals the one 2^k further | ⌈log₂ n⌉ |
//! | [`Member::broadcast`] | the root writes its slot, a barrier, everybody reads that slot | ⌈log₂ n⌉ for each [`CHUNK`] |
//! | [`Member::reduce`], [`Member::allreduce`] of up to [`FLAT`] parties | each writes its slot, a barrier, those who want the result read all slots | ⌈log₂ n⌉ for each [`CHUNK`] |
//! | the same of more parties | a binomial tree up, combining on the way, and down again | 2 ⌈log₂ n⌉ for each [`CHUNK`] |
//!
//! A hop is one compare-and-swap in a cache line that only its sender writes (but for the mark of a sleeper) and only its receiver reads.
//!
//! # Why slots may be used again
//! Collective s uses slots of parity s mod 2, and every collective ends for nobody before it has begun for everybody. Who writes a slot in s + 2
//! has ended s + 1, so everybody has begun s + 1 and has read what it wanted of s.
//!
//! # What a peer that writes rubbish can do
//! Numbers that arrive may be any; a collective may end too early or not at all, as it may with a peer that does not take part. Nothing
//! read from the memory is used as a length, an index or a bound of a loop.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod element;
mod layout;
mod member;
mod signal;

pub use element::{Element, Operation};
pub use layout::{CHUNK, FORMED_AT, MOST_PARTIES, SHAPE_AT, bytes, control_bytes};
pub use member::{FLAT, Failure, Member};
pub use signal::Crew;
