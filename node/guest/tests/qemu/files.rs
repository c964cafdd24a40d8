//! The process that serves the host's tree: a guest without it is over.

use crate::harness::{eventually, family, guest, lives, start};

#[test]
fn a_guest_whose_file_server_is_killed_is_over() {
    let Some(mut command) = guest("a_guest_whose_file_server_is_killed", &[]) else {
        return;
    };
    let job = start(command.args(["--", "sleep", "600"]));
    let is = |pid: u32, name: &str| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.starts_with(name))
    };
    let (members, server) = eventually("no file server", || {
        let members = family(job.child.id());
        let server = members.iter().copied().find(|&pid| is(pid, "virtiofsd"))?;
        let machine = members.iter().any(|&pid| is(pid, "qemu"));
        machine.then_some((members, server))
    });
    let server = rustix::process::Pid::from_raw(server as i32).unwrap();
    rustix::process::kill_process(server, rustix::process::Signal::KILL).unwrap();
    let ended = job.finish();
    assert_eq!(ended.code, Some(125), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("ended before its program did"),
        "{}",
        ended.stderr
    );
    assert!(!members.into_iter().any(lives), "a part of the machine is left");
}
