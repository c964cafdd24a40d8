//! The soak in its short setting; `cargo xtask soak` is the long one.

use anyhow::{Result, ensure};
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use vshmem_testing_vm::soak::{Options, soak};

static STOP: AtomicBool = AtomicBool::new(false);

#[test]
fn nothing_is_lost_and_nothing_is_left() -> Result<()> {
    let seconds = std::env::var("VSHMEM_SOAK_SECONDS").ok();
    let options = Options {
        length: Duration::from_secs(seconds.and_then(|s| s.parse().ok()).unwrap_or(25)),
        seed: u64::from(std::process::id()),
        guests: true,
        apart: false,
    };
    println!("{options:?}");
    let report = soak(options, &STOP, &mut |line| println!("{line}"))?;
    println!("{report:?}");
    ensure!(
        report.checked > 1000,
        "only {} results were checked",
        report.checked
    );
    ensure!(report.actors > 0 && report.back_ends > 0, "nobody was killed");
    Ok(())
}
