//! `vshmem vm run`: programs in guests, by themselves and with each other. Skipped, by name, where no guest can be booted.

mod support;

use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use support::{Daemon, err, finish, finish_child, out};

/// A guest boots and ends within this on a busy machine.
const GUEST: Duration = Duration::from_secs(120);

fn guests_boot_here(test: &str) -> bool {
    let there = Path::new("/usr/bin/linux.uml").exists() || std::env::var_os("VSHMEM_UML").is_some();
    if !there {
        println!("skipped: {test}: linux.uml is not installed (apt-get install user-mode-linux)");
    }
    there
}

#[test]
fn streams_and_status_pass_through_a_guest() {
    if !guests_boot_here("streams_and_status_pass_through_a_guest") {
        return;
    }
    let daemon = Daemon::start();
    let script = "read line; echo \"$line from $(uname -n)\"; ipcs -m | grep -c 0x; exit 9";
    let mut child = daemon
        .vshmem(&[
            "vm", "run", "--port", "uml", "--domain", "guest-1", "--", "sh", "-c", script,
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let mut input = child.stdin.take().expect("input");
    daemon.ok(&["ipcmk", "-M", "4096", "-p", "0666"]);
    input.write_all(b"hello\n").expect("written");
    drop(input);
    let output = finish_child(child, GUEST);
    assert_eq!(output.status.code(), Some(9), "{}", err(&output));
    assert_eq!(out(&output), "hello from guest-1\n1\n", "{}", err(&output));
    let domains = daemon.json(&["status"])["domains"].clone();
    let guest = domains
        .as_array()
        .and_then(|all| all.iter().find(|d| d["name"] == "guest-1"))
        .cloned();
    assert!(guest.is_none_or(|guest| guest["up"] == false), "{domains:#}");
}

#[test]
fn ping_in_one_guest_and_pong_in_another() {
    if !guests_boot_here("ping_in_one_guest_and_pong_in_another") {
        return;
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/ping-pong");
    for name in ["ping", "pong"] {
        if support::cc(
            &examples.join(format!("{name}.c")),
            &folder.path().join(name),
            &[],
        )
        .is_none()
        {
            return;
        }
    }
    let daemon = Daemon::start();
    let pong = daemon
        .vshmem(&["vm", "run", "--domain", "b", "--"])
        .arg(folder.path().join("pong"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let pong = std::thread::spawn(move || finish_child(pong, GUEST));
    let ping = finish(
        daemon
            .vshmem(&["vm", "run", "--domain", "a", "--"])
            .arg(folder.path().join("ping")),
        GUEST,
    );
    let pong = pong.join().expect("pong");
    assert!(
        ping.status.success() && pong.status.success(),
        "{}{}",
        err(&ping),
        err(&pong)
    );
    assert_eq!(out(&ping).lines().count(), 3, "{}", out(&ping));
}

#[test]
fn a_guest_that_takes_too_long_is_ended_with_a_message() {
    if !guests_boot_here("a_guest_that_takes_too_long_is_ended_with_a_message") {
        return;
    }
    let daemon = Daemon::start();
    let args = [
        "vm",
        "run",
        "--domain",
        "slow",
        "--timeout",
        "1",
        "--",
        "sleep",
        "100",
    ];
    let output = finish(&mut daemon.vshmem(&args), GUEST);
    assert_eq!(output.status.code(), Some(124), "{}", err(&output));
    assert!(
        err(&output).contains("vshmem: vm run: guest slow"),
        "{}",
        err(&output)
    );
}
