//! How guests end: by themselves, by signals, by clocks, and with the process that started them.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::PROCESSES;
use crate::harness::{eventually, family, guest, lives, run, start};

#[test]
fn a_program_killed_by_a_signal_gives_a_shells_status() {
    let Some(mut command) = guest("a_program_killed_by_a_signal", &[]) else {
        return;
    };
    assert_eq!(
        run(command.args(["--", "sh", "-c", "kill -9 $$"])).code,
        Some(137)
    );
}

#[test]
fn a_missing_program_gives_127_and_says_so() {
    let Some(mut command) = guest("a_missing_program", &[]) else {
        return;
    };
    let ended = run(command.args(["--", "no-such-program"]));
    assert_eq!(ended.code, Some(127));
    assert!(
        ended.stderr.contains("vshmem: no-such-program: No such file"),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_program_that_runs_too_long_is_ended_with_its_guest() {
    let Some(mut command) = guest("a_program_that_runs_too_long", &["--timeout", "1", "--cpus", "0"]) else {
        return;
    };
    let job = start(command.args(["--", "sh", "-c", "echo up; while :; do :; done"]));
    let members = eventually("no helpers", || {
        Some(family(job.child.id())).filter(|members| members.len() >= PROCESSES)
    });
    for pid in &members {
        let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else {
            continue;
        };
        // A port may keep a shell beside the machine.
        assert!(
            status.starts_with("Name:\tsh\n") || status.contains("Cpus_allowed_list:\t0\n"),
            "{status}"
        );
    }
    let ended = job.finish();
    assert_eq!(
        (ended.code, ended.stdout().as_str()),
        (Some(124), "up\n"),
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains("ran for more than 1 s"), "{}", ended.stderr);
    assert!(!members.into_iter().any(lives), "a part of the machine is left");
}

#[test]
fn a_guest_that_does_not_come_up_is_ended_with_a_message() {
    let Some(mut command) = guest("a_guest_that_does_not_come_up", &["--boot-timeout", "0.2"]) else {
        return;
    };
    let started = Instant::now();
    let ended = run(command.args(["--", "true"]));
    assert_eq!(ended.code, Some(124));
    assert!(
        ended.stderr.contains("did not come up within"),
        "{}",
        ended.stderr
    );
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn the_first_interrupt_is_the_programs_and_the_second_ends_the_guest() {
    let Some(mut command) = guest("the_first_interrupt", &[]) else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let script = r#"trap 'echo int > "$0/int"' INT; echo > "$0/up"; while :; do sleep 0.1; done"#;
    command.args(["--bind", folder.path().to_str().expect("plain")]);
    let job = start(command.args(["--", "sh", "-c", script]).arg(folder.path()));
    eventually("it does not come up", || {
        folder.path().join("up").exists().then_some(())
    });
    job.signal(Signal::INT);
    eventually("the program hears no interrupt", || {
        folder.path().join("int").exists().then_some(())
    });
    job.signal(Signal::INT);
    let ended = job.finish();
    assert_eq!(ended.code, Some(130), "{}", ended.stderr);
}

#[test]
fn who_interrupts_twice_does_not_wait_for_a_reader_of_the_output() {
    let Some(mut command) = guest("who_interrupts_twice", &[]) else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    // More than a pipe holds, and less than is taken from the guest beyond that.
    let script = r#"head -c 100000 /dev/zero; echo > "$0/done""#;
    command.args(["--bind", folder.path().to_str().expect("plain")]);
    command.args(["--", "sh", "-c", script]).arg(folder.path());
    let mut child = command.spawn().expect("the runner starts");
    let unread = child.stdout.take();
    eventually("the program does not end", || {
        folder.path().join("done").exists().then_some(())
    });
    // The guest is gone, and the rest of its output is still here.
    eventually("the guest does not end", || {
        family(child.id()).is_empty().then_some(())
    });
    assert!(child.try_wait().expect("waiting").is_none());
    for _ in 0..2 {
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM)
            .expect("signalling");
        std::thread::sleep(Duration::from_millis(200));
    }
    let status = eventually("it waits for a reader", || child.try_wait().expect("waiting"));
    assert_eq!(status.code(), Some(143));
    drop(unread);
}

#[test]
fn a_guest_does_not_outlive_the_process_that_started_it() {
    let Some(mut command) = guest("a_guest_does_not_outlive", &[]) else {
        return;
    };
    let script = "echo up; (while :; do :; done) & while :; do :; done";
    command.args(["--", "sh", "-c", script]).stderr(Stdio::null());
    let mut child = command.spawn().expect("the runner starts");
    let mut up = [0_u8; 3];
    std::io::Read::read_exact(child.stdout.as_mut().expect("stdout"), &mut up).expect("it comes up");
    let members = family(child.id());
    assert!(members.len() >= PROCESSES, "{members:?}");
    child.kill().expect("killing the runner");
    child.wait().expect("waiting");
    let deadline = Instant::now() + Duration::from_secs(10);
    while members.iter().any(|&pid| lives(pid)) {
        assert!(Instant::now() < deadline, "a part of the machine is left");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_guest_that_hangs_is_ended_when_a_signal_is_not_answered() {
    let Some(mut command) = guest("a_guest_that_hangs", &[]) else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    command.args(["--bind", folder.path().to_str().expect("plain")]);
    let job = start(
        command
            .args(["--", "sh", "-c", "echo > \"$0/up\"; sleep 1000"])
            .arg(folder.path()),
    );
    eventually("it does not come up", || {
        folder.path().join("up").exists().then_some(())
    });
    let members = family(job.child.id());
    let pid = |&pid: &u32| i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    for member in members.iter().filter_map(pid) {
        // Some are traced by others, which are stopped first or later; what counts is that the machine stands still.
        let _ = rustix::process::kill_process(member, Signal::STOP);
    }
    job.signal(Signal::TERM);
    let ended = job.finish();
    assert_eq!(ended.code, Some(125), "{}", ended.stderr);
    assert!(ended.stderr.contains("does not answer"), "{}", ended.stderr);
    assert!(!members.into_iter().any(lives), "a part of the machine is left");
}
