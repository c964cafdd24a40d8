//! Standard input, output and error: less than in the tests of `guest`, since all is emulated where this is run most.

use crate::harness::{feed, guest, start};
use std::process::Stdio;

#[test]
fn binary_input_comes_back_from_cat_and_errors_and_status_stay_apart() {
    let Some(mut command) = guest("binary_input_comes_back_from_cat", &[]) else {
        return;
    };
    command
        .args(["--", "sh", "-c", "cat; echo done >&2; exit 7"])
        .stdin(Stdio::piped());
    let mut job = start(&mut command);
    // Every byte, and more of them than all buffers on the way hold.
    let input: Vec<u8> = (0..=255_u8).cycle().take(1_000_000).collect();
    let started = std::time::Instant::now();
    let feeder = feed(&mut job, input.clone());
    let ended = job.finish();
    feeder.join().expect("feeding");
    println!(
        "{} bytes there and back, the guest's start included: {:?}",
        input.len(),
        started.elapsed()
    );
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(7), "done\n"));
    assert!(
        ended.stdout == input,
        "{} bytes went in, {} came out, not the same",
        input.len(),
        ended.stdout.len()
    );
}
