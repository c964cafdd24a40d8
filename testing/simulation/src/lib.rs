//! Seeded simulation of back-end, front-ends and clients with crashes at every step.
//!
//! The registry, the sets and the queues are the real ones, over plain memory. Processes of three domains (the host's and two guests') and the back-end are
//! threads of which one runs at a time: at every access to construct memory the seed decides who goes on, and who dies, is replaced by exec, goes down with its whole
//! domain, or (the back-end) is killed and started again from its log. The same seed gives the same run.
//!
//! | module | what it holds |
//! |---|---|
//! | `rng` | numbers from the seed |
//! | `baton` | who runs, who sleeps, who dies |
//! | `memory` | construct memory, with a step of the simulation at each access |
//! | `backend` | the back-end: log, effects, sweeps |
//! | `process`, `caller` | what processes do, and how the algorithms see them |
//! | `ledger`, `text` | what must hold |
//!
//! What must hold: tokens taken with SEM_UNDO come back exactly once; transfers between semaphores keep their sum; one process at a time is inside a mutex;
//! a message is received at most once, none that was sent is lost but with a receiver that died receiving it, none that failed to be sent is received;
//! nobody sleeps on whom a wake-up is due; memory is given back only when nobody maps it, and comes zeroed; in the end nothing is left.
#![forbid(unsafe_code)]

mod backend;
mod baton;
mod caller;
mod ledger;
mod memory;
mod process;
mod rng;
mod text;

use baton::Sim;

/// Threads for processes.
const PROCESSES: usize = 6;

/// What a run did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Steps.
    pub steps: u64,
    /// Processes that died unasked, domains' ends included.
    pub deaths: u32,
    /// Images replaced by exec.
    pub execs: u32,
    /// Domains that went down.
    pub downs: u32,
    /// Lives of the back-end that were cut short.
    pub crashes: u32,
    /// Operations on sets that were done.
    pub semops: u32,
    /// Messages received.
    pub messages: u32,
    /// Constructs removed.
    pub removals: u32,
    /// Children of forks that connected.
    pub forks: u32,
    /// A number that depends on everything that happened.
    pub fingerprint: u64,
}

/// Runs the simulation of a seed. The error says what did not hold.
pub fn run(seed: u64) -> Result<Report, String> {
    let sim = Sim::new(seed, PROCESSES);
    std::thread::scope(|scope| {
        scope.spawn(|| backend::act(&sim));
        for thread in 1..=PROCESSES {
            let sim = &sim;
            scope.spawn(move || process::act(sim, thread));
        }
        sim.begin();
    });
    backend::finish(&sim)
}
