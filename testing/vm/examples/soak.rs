//! The soak by hand: `cargo xtask soak [--minutes N] [--seed N]`.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use vshmem_testing_vm::soak::{Options, soak};

fn option(name: &str, usual: f64) -> Result<f64, String> {
    let args: Vec<String> = std::env::args().collect();
    match args.iter().position(|a| a == name) {
        None => Ok(usual),
        Some(at) => {
            let value = args.get(at + 1).and_then(|v| v.parse::<f64>().ok());
            value
                .filter(|v| v.is_finite() && *v >= 0.0)
                .ok_or(format!("{name} wants a number"))
        }
    }
}

fn main() -> ExitCode {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let wanted =
        option("--minutes", 10.0).and_then(|m| Ok((m, option("--seed", f64::from(now.subsec_micros()))?)));
    let (minutes, seed) = match wanted {
        Ok(wanted) => wanted,
        Err(error) => {
            eprintln!("soak: {error}\nusage: cargo xtask soak [--minutes N] [--seed N]");
            return ExitCode::from(2);
        }
    };
    // Ctrl-C ends it early, and as cleanly.
    let stop: &'static Arc<AtomicBool> = Box::leak(Box::new(Arc::new(AtomicBool::new(false))));
    for number in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        if let Err(error) = signal_hook::flag::register(number, stop.clone()) {
            eprintln!("soak: Ctrl-C will not end it cleanly: {error}");
        }
    }
    println!("soak: {minutes} minutes, seed {seed}");
    let options = Options {
        length: Duration::from_secs_f64(minutes * 60.0),
        seed: seed as u64,
        guests: true,
        apart: true,
    };
    match soak(options, stop, &mut |line| println!("soak: {line}")) {
        Ok(report) => {
            println!(
                "soak: {} results checked; killed: {} actors, {} stressors, {} front-ends, {} back-ends; nothing lost, nothing left; {}",
                report.checked,
                report.actors,
                report.stressors,
                report.front_ends,
                report.back_ends,
                report.memory
            );
            if stop.load(Ordering::Relaxed) {
                println!("soak: ended early");
                return ExitCode::from(130);
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("soak: FAILED (seed {seed}): {error:#}");
            ExitCode::FAILURE
        }
    }
}
