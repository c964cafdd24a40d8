//! Runs the simulation: `VSHMEM_SIM_SEEDS` says how many seeds (24 unless told), `VSHMEM_SIM_FROM` from which on, `VSHMEM_SIM_SEED` runs one.

use vshmem_testing_simulation::{Report, run};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs seeds; the sum of what happened.
fn run_all(from: u64, seeds: u64) -> Report {
    let mut sum = Report::default();
    for seed in from..from.saturating_add(seeds) {
        let report = run(seed).unwrap_or_else(|wrong| {
            panic!("seed {seed}: {wrong}\nagain: VSHMEM_SIM_SEED={seed} cargo nextest run -p vshmem-testing-simulation")
        });
        sum.steps += report.steps;
        sum.deaths += report.deaths;
        sum.execs += report.execs;
        sum.downs += report.downs;
        sum.crashes += report.crashes;
        sum.semops += report.semops;
        sum.messages += report.messages;
        sum.removals += report.removals;
        sum.forks += report.forks;
    }
    sum
}

#[test]
fn nothing_is_lost_whoever_dies_when() {
    if let Some(seed) = number("VSHMEM_SIM_SEED") {
        println!("{:?}", run_all(seed, 1));
        return;
    }
    let seeds = number("VSHMEM_SIM_SEEDS").unwrap_or(24);
    let sum = run_all(number("VSHMEM_SIM_FROM").unwrap_or(1), seeds);
    println!("{seeds} seeds: {sum:?}");
    // A simulation in which nothing happens shows nothing.
    if seeds >= 24 {
        assert!(
            sum.deaths > 24 && sum.execs > 20 && sum.downs > 5 && sum.crashes > 24,
            "{sum:?}"
        );
        assert!(
            sum.semops > 1000 && sum.messages > 500 && sum.removals > 10 && sum.forks > 10,
            "{sum:?}"
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}
