//! System V's rules and Vshmem's own, held by the registry: one test a rule, named after it.
//!
//! Not for what happens in construct memory: see `testing/rules` and `testing/simulation`.

mod deaths;
mod forks;
mod group;
mod groups;
mod huge;
mod ids;
mod memory;
mod once;
mod permission;
mod queues;
mod random;
mod segments;
mod sets;
mod sharing;
