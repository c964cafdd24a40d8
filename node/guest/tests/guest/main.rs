//! Real guests, booted for every test: what goes in and out of them, and how they end.
//!
//! Skipped by name, with the reason, where the port cannot start a machine. Every wait is bounded, and every guest is gone
//! when its test is over.

mod ends;
mod harness;
mod streams;
mod world;

/// The port whose guests these are.
const PORT: &str = "uml";
/// Processes that a machine has at least.
const PROCESSES: usize = 4;
