//! `--cpus`: as many virtual CPUs as it names, each pinned to its own.

use crate::harness::guest;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

#[test]
fn virtual_cpus_are_pinned_each_to_its_own() {
    let options = ["--domain", "pinned", "--cpus", "1,0"];
    let Some(mut command) = guest("virtual_cpus_are_pinned", &options) else {
        return;
    };
    command.args(["--", "sh", "-c", "nproc; read -r _"]);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("the runner starts");
    let mut said = [0_u8; 2];
    let read = child.stdout.as_mut().expect("stdout").read_exact(&mut said);
    let listed = Command::new("xl").args(["vcpu-list", "pinned"]).output();
    let end = child.stdin.as_mut().expect("stdin").write_all(b"\n");
    let status = child.wait().expect("waiting");
    read.expect("the guest says how many it has");
    end.expect("ending it");
    assert_eq!(&said, b"2\n");
    assert!(status.success(), "{status}");
    let listed = String::from_utf8_lossy(&listed.expect("xl").stdout).into_owned();
    // Name, id, number, where it is, state, time, and where it may be: "1 / all".
    let affinities: Vec<&str> = listed
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().rev().nth(2))
        .collect();
    assert_eq!(affinities, ["1", "0"], "{listed}");
}
