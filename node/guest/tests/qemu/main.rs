//! Real guests, booted for every test: what goes in and out of them, and how they end. The very tests of `guest`, with another port.
//!
//! Skipped by name, with the reason, where the port cannot start a machine. Every wait is bounded, and every guest is gone
//! when its test is over.

#[path = "../guest/ends.rs"]
mod ends;
mod files;
#[path = "../guest/harness.rs"]
mod harness;
mod pins;
#[path = "../guest/streams.rs"]
mod streams;
#[path = "../guest/world.rs"]
mod world;

/// The port whose guests these are.
const PORT: &str = "qemu";
/// Processes that a machine has at least.
const PROCESSES: usize = 2;
