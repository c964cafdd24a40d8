//! How a guest of Xen ends: with its program, by its user, and with the process that started it; each time nothing of it is left.

use crate::harness::{eventually, family, guest, lives, run, start};
use rustix::process::Signal;
use std::process::Command;

/// Guests that Xen knows of, dom0 not counted, and folders of their files.
fn left() -> Vec<String> {
    let listed = Command::new("xl").arg("list").output().expect("xl list");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let names = listed
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next());
    let mut all: Vec<String> = names
        .filter(|name| *name != "Domain-0")
        .map(str::to_owned)
        .collect();
    let folders = std::fs::read_dir(std::env::temp_dir())
        .expect("a folder")
        .flatten();
    all.extend(
        folders
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name.starts_with("vshmem-xen.")),
    );
    all
}

#[test]
fn a_program_killed_by_a_signal_gives_a_shells_status_and_nothing_is_left() {
    let Some(mut command) = guest("a_program_killed_by_a_signal", &["--domain", "killed"]) else {
        return;
    };
    let ended = run(command.args(["--", "sh", "-c", "kill -SEGV $$"]));
    assert_eq!(ended.code, Some(128 + 11), "{}", ended.stderr);
    assert!(!left().contains(&"killed".to_owned()), "{:?}", left());
}

#[test]
fn a_guest_is_ended_by_its_users_second_interrupt() {
    let Some(mut command) = guest("a_guest_is_ended", &["--domain", "interrupted"]) else {
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
    assert!(!left().contains(&"interrupted".to_owned()), "{:?}", left());
}

#[test]
fn a_guest_does_not_outlive_the_process_that_started_it() {
    let Some(mut command) = guest("a_guest_does_not_outlive", &["--domain", "orphan"]) else {
        return;
    };
    let mut child = command
        .args(["--", "sh", "-c", "echo up; while :; do :; done"])
        .spawn()
        .expect("the runner starts");
    let mut up = [0_u8; 3];
    std::io::Read::read_exact(child.stdout.as_mut().expect("stdout"), &mut up).expect("it comes up");
    let members = family(child.id());
    // xl, its console, the device model, the guard.
    assert!(members.len() >= 3, "{members:?}");
    let own = format!("vshmem-xen.{}.", child.id());
    assert!(left().iter().any(|name| name == "orphan"), "{:?}", left());
    child.kill().expect("killing the runner");
    child.wait().expect("waiting");
    eventually("a part of the machine is left", || {
        let gone = !left()
            .iter()
            .any(|name| name == "orphan" || name.starts_with(&own));
        (gone && !members.iter().any(|&pid| lives(pid))).then_some(())
    });
}
