//! Standard input, output and error.

use std::process::Stdio;

use crate::harness::{feed, guest, run, start};

/// Bytes without a pattern that a serial line or a terminal could hide behind.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn binary_input_comes_back_from_cat_and_errors_and_status_stay_apart() {
    let Some(mut command) = guest("binary_input_comes_back_from_cat", &[]) else {
        return;
    };
    command
        .args(["--", "sh", "-c", "cat; echo done >&2; exit 7"])
        .stdin(Stdio::piped());
    let mut job = start(&mut command);
    let input: Vec<u8> = (0..=255).chain(noise(1 << 20)).collect();
    let feeder = feed(&mut job, input.clone());
    let ended = job.finish();
    feeder.join().expect("feeding");
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(7), "done\n"));
    assert!(
        ended.stdout == input,
        "{} bytes went in, {} came out, not the same",
        input.len(),
        ended.stdout.len()
    );
}

#[test]
fn both_outputs_are_complete_when_a_program_says_much_and_leaves() {
    let Some(mut command) = guest("both_outputs_are_complete", &[]) else {
        return;
    };
    let script = "seq 1 1000000 & head -c 3000000 /dev/zero >&2; wait; exec seq 1 5";
    let ended = run(command.args(["--", "sh", "-c", script]));
    assert_eq!(ended.code, Some(0));
    assert_eq!(ended.stderr.len(), 3_000_000);
    let numbers: Vec<u32> = ended
        .stdout()
        .lines()
        .map(|line| line.parse().expect("a number"))
        .collect();
    assert!(
        numbers.iter().copied().eq((1..=1_000_000).chain(1..=5)),
        "{} lines",
        numbers.len()
    );
}

#[test]
fn a_program_that_reads_nothing_does_not_stop_its_guest_and_one_that_nobody_reads_ends() {
    let Some(mut command) = guest("a_program_that_reads_nothing", &[]) else {
        return;
    };
    command
        .args(["--", "sh", "-c", "exec <&-; sleep 1; yes"])
        .stdin(Stdio::piped());
    let mut child = command.spawn().expect("the runner starts");
    let mut job_input = child.stdin.take().expect("stdin");
    let feeder = std::thread::spawn(move || drop(std::io::Write::write_all(&mut job_input, &noise(1 << 20))));
    let mut stdout = child.stdout.take().expect("stdout");
    let mut first = [0_u8; 2];
    std::io::Read::read_exact(&mut stdout, &mut first).expect("yes says y");
    assert_eq!(&first, b"y\n");
    drop(stdout);
    let status = crate::harness::eventually("yes goes on without a reader", || {
        child.try_wait().expect("waiting")
    });
    // SIGPIPE, as without a guest in between.
    assert_eq!(status.code(), Some(128 + 13));
    feeder.join().expect("feeding");
}
