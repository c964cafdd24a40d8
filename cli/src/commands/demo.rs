//! `vshmem demo`: two virtual machines, unmodified programs in both, and what an exchange between them costs.
//!
//! The scenes are in `crate::demo`.

use crate::demo::{self, Settings};
use crate::trouble::Outcome;

/// Boots two virtual machines and lets unmodified programs in them exchange through System V IPC.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Starts a back-end of its own in a temporary folder, compiles a few small C programs that know nothing of Vshmem, boots two guests, and
shows what the programs in them say to each other through a segment, a set of semaphores and a queue. Then it prints what a round trip
costs, beside the kernel's own System V IPC and beside TCP between the same two guests, and cleans up.

Where no guest can be booted it takes two containers (IPC namespaces of their own) instead, and says so.")]
pub(crate) struct Demo {
    /// Port that starts the guests; `containers` for none
    #[arg(long, value_name = "PORT", default_value = "auto", value_parser = ports())]
    port: String,
    /// Round trips that are measured
    #[arg(long, value_name = "NUMBER", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    turns: u32,
    /// Print the figures as JSON as well, on the last line: {"vshmem": {"unit": "us", "value": 0.6}, "kernel": {…}, "tcp": {…}}
    #[arg(long)]
    json: bool,
}

fn ports() -> clap::builder::PossibleValuesParser {
    let names = ["auto", demo::CONTAINERS].into_iter();
    names
        .chain(vshmem_port_select::BOOTABLE.iter().copied())
        .collect::<Vec<_>>()
        .into()
}

/// Runs the command.
pub(crate) fn run(options: &Demo) -> Outcome {
    demo::run(&Settings {
        port: options.port.clone(),
        turns: options.turns,
        json: options.json,
    })
}
