//! System V rules, each a test, run against the kernel and against Vshmem.
//!
//! A rule is a short dialogue with two parties, `a` and `b`: unmodified C programs under remote control. The same dialogue is held at six
//! [places](place::Column); what the kernel answers is what Vshmem has to answer.
//!
//! | module | what it holds |
//! |---|---|
//! | [`rule`] | the rules, read from `rules/*.rules`: one file per family of manual pages |
//! | [`place`] | the two parties at a place |
//! | [`dialogue`] | holds one rule's dialogue, gives what was said in words that mean the same everywhere |
//! | [`differences`] | what may differ, where and why: `rules/differences.txt`, which only shrinks |
//! | [`table`] | runs rules at places and tells the outcome, rule by rule |
//!
//! Not for how fast anything is, and not for what happens when a machine dies: `testing/vm` has that.

pub mod dialogue;
pub mod differences;
pub mod place;
pub mod rule;
pub mod table;
