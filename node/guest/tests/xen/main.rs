//! Real guests of Xen, booted for every test in dom0 (`cargo xtask xen-lab --test` has one): what goes in and out of them, and how they end.
//! The tests of `guest` that say what a program finds, with another port.
//!
//! Skipped by name, with the reason, where the port cannot start a machine.

mod ends;
#[path = "../guest/harness.rs"]
mod harness;
mod pins;
mod streams;
#[path = "../guest/world.rs"]
mod world;

/// The port whose guests these are.
const PORT: &str = "xen";
