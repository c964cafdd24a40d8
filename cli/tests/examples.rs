//! The example programs, unmodified, with the kernel's own IPC and under `vshmem run`.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use support::{Daemon, err, finish, finish_child, out};

const LIMIT: Duration = Duration::from_secs(60);

/// Compiles `folder/name.c`.
fn build(target: &Path, folder: &str, name: &str) -> Option<PathBuf> {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let program = target.join(name);
    support::cc(&examples.join(folder).join(format!("{name}.c")), &program, &[])?;
    Some(program)
}

/// Runs both at once and gives what the first and the second printed.
fn together(first: &mut Command, second: &mut Command) -> (String, String) {
    let spawn = |command: &mut Command| {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started")
    };
    let (first, second) = (spawn(first), spawn(second));
    let second = std::thread::spawn(move || finish_child(second, LIMIT));
    let first = finish_child(first, LIMIT);
    let second = second.join().expect("second");
    assert!(
        first.status.success() && second.status.success(),
        "{}{}",
        err(&first),
        err(&second)
    );
    (out(&first), out(&second))
}

fn served(daemon: &Daemon, program: &Path) -> Command {
    let mut command = daemon.vshmem(&["run", "--"]);
    command.arg(program);
    command
}

#[test]
fn ping_and_pong() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (Some(ping), Some(pong)) = (
        build(folder.path(), "ping-pong", "ping"),
        build(folder.path(), "ping-pong", "pong"),
    ) else {
        return;
    };
    let daemon = Daemon::start();
    for (first, second) in [
        (&mut Command::new(&ping), &mut Command::new(&pong)),
        (&mut served(&daemon, &ping), &mut served(&daemon, &pong)),
    ] {
        let (said, _) = together(first, second);
        assert_eq!(said.lines().count(), 3, "{said}");
        assert!(said.contains("heard \"ping 3 from process"), "{said}");
    }
    let (said, _) = together(served(&daemon, &ping).arg("2000"), &mut served(&daemon, &pong));
    assert!(said.starts_with("round trip "), "{said}");
    assert_eq!(
        daemon.json(&["ipcs"]),
        serde_json::json!({"msg": [], "shm": [], "sem": []})
    );
}

#[test]
fn queue() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (Some(post), Some(inbox)) = (
        build(folder.path(), "queue", "post"),
        build(folder.path(), "queue", "inbox"),
    ) else {
        return;
    };
    let daemon = Daemon::start();
    for (first, second) in [
        (&mut Command::new(&post), &mut Command::new(&inbox)),
        (&mut served(&daemon, &post), &mut served(&daemon, &inbox)),
    ] {
        let (_, read) = together(first, second);
        let urgencies: Vec<&str> = read
            .lines()
            .filter_map(|line| line.split(['(', ')']).nth(1))
            .collect();
        assert_eq!(urgencies, ["1", "5", "9", "9"], "{read}");
    }
}

#[test]
fn fork() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let Some(workers) = build(folder.path(), "fork", "workers") else {
        return;
    };
    let daemon = Daemon::start();
    for command in [&mut Command::new(&workers), &mut served(&daemon, &workers)] {
        let output = finish(command, LIMIT);
        assert_eq!(
            out(&output),
            "800 turns counted, 1 child killed, semaphore back at 1\n",
            "{}",
            err(&output)
        );
    }
    assert_eq!(
        daemon.json(&["ipcs"]),
        serde_json::json!({"msg": [], "shm": [], "sem": []})
    );
}
