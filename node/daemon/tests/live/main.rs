//! Real daemon processes, and clients that speak the protocol by hand.
//!
//! | module | what it tests |
//! |---|---|
//! | `hello` | who gets in, and what becomes of rubbish |
//! | `constructs` | constructs between two clients, quotas, a full pool |
//! | `death` | clients that die, daemons that are killed, a clean stop |
//! | `descriptors` | a daemon that can open no further file |
//! | `pools` | a pool for each of several groups |
//! | `huge_pages` | pools in huge pages |
//! | `machines` | sockets for machines that somebody else starts |
//! | `qemu` | the same, with QEMU at them |
//! | `greeting` | a front-end whose back-end answers at the wrong moment |
//! | `bells` | ringing and being rung past the front-end |
//! | `streams` | streams that machines open themselves |
//! | `front_end` | a front-end and its clients, without a virtual machine |
//!
//! Each test has a runtime directory of its own and ends what it started.

mod bells;
mod constructs;
mod death;
mod descriptors;
mod folders;
mod front_end;
mod greeting;
mod groups;
mod harness;
mod hello;
mod helper;
mod huge_pages;
mod machines;
mod pools;
mod qemu;
#[path = "../../src/process/socket.rs"]
#[allow(dead_code, unreachable_pub)]
mod socket;
mod streams;
