//! The demonstration runs to its end, and leaves nothing behind when it is interrupted.

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::{build_preload, err, finish, finish_child, out, vshmem};

const LIMIT: Duration = Duration::from_secs(170);

/// The command, with a folder for its temporary files; None without a compiler or `unshare`.
fn demo(port: &str, temporary: &Path) -> Option<Command> {
    for tool in ["cc", "unshare", "taskset"] {
        if Command::new(tool).arg("--version").output().is_err() {
            println!("skipped: {tool} is not installed");
            return None;
        }
    }
    build_preload();
    let mut command = vshmem(&["demo", "--port", port, "--turns", "300", "--json"]);
    command.env("TMPDIR", temporary);
    Some(command)
}

fn assert_complete(port: &str) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let Some(mut command) = demo(port, folder.path()) else {
        return;
    };
    let output = finish(&mut command, LIMIT);
    assert!(output.status.success(), "{}{}", out(&output), err(&output));
    let text = out(&output);
    for line in [
        "b │ received (1) the building is on fire",
        "a │ pong answers: process",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    // What the one domain has made as the other lists it; ping's and pong's own may be there by then or not.
    let listed = |line: &str| line.contains("b │ 0x") && line.contains(" 65536 ");
    assert!(
        text.lines().any(listed),
        "no segment of 64 KiB is listed in\n{text}"
    );
    let figures: serde_json::Value =
        serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
    for name in ["vshmem", "kernel", "tcp"] {
        assert!(
            figures[name]["value"].as_f64().is_some_and(|micros| micros > 0.0),
            "{figures}"
        );
    }
    assert_eq!(
        std::fs::read_dir(folder.path()).expect("folder").count(),
        0,
        "temporary files are left"
    );
}

#[test]
fn in_two_containers() {
    assert_complete("containers");
}

#[test]
fn in_two_guests() {
    if Path::new("/usr/bin/linux.uml").exists() {
        assert_complete("uml");
    } else {
        println!("skipped: in_two_guests: linux.uml is not installed (apt-get install user-mode-linux)");
    }
}

#[test]
fn interrupted_with_its_guests_it_cleans_up() {
    if !Path::new("/usr/bin/linux.uml").exists() {
        println!("skipped: interrupted_with_its_guests_it_cleans_up: linux.uml is not installed");
        return;
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let Some(mut command) = demo("uml", folder.path()) else {
        return;
    };
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let pid = rustix::process::Pid::from_child(&child);
    // Until the guests' machines are there.
    let until = Instant::now() + Duration::from_secs(60);
    while !booting(folder.path()) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("signalled");
    let output = finish_child(child, LIMIT);
    assert_eq!(
        output.status.code(),
        Some(130),
        "{}{}",
        out(&output),
        err(&output)
    );
    assert!(
        err(&output).contains("vshmem: demo: interrupted"),
        "{}",
        err(&output)
    );
    assert_eq!(
        std::fs::read_dir(folder.path()).expect("folder").count(),
        0,
        "temporary files are left"
    );
}

/// Whether a machine has its boot folder.
fn booting(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).expect("folder").flatten();
    entries
        .into_iter()
        .any(|entry| entry.file_name().to_string_lossy().starts_with("vshmem-uml."))
}
