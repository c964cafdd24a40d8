//! The port contract: what a hypervisor must offer, and the conformance suite that holds it.
//!
//! | module | what it holds |
//! |---|---|
//! | [`store`] | how construct memory is made, reached and taken back, on the back-end's side |
//! | [`guest`] | what a front-end inside a domain needs: its stream, its view of the memory |
//!
//! Ports hold mechanism; meaning (keys, ids, permissions, semaphores) is the upper half's.

pub mod guest;
pub mod store;
