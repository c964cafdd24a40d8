//! Who gets in, and what becomes of rubbish.

use crate::harness::{Client, Daemon, connect, hello_request, kill, receive, send};
use crate::helper::Helper;
use crate::socket;
use std::time::{Duration, Instant};
use vshmem_wire::{Failure, Reply, Request, VERSION};

fn refusal(daemon: &Daemon, request: Request) -> Failure {
    let fd = connect(&daemon.socket()).unwrap();
    send(&fd, 7, request, &[]).unwrap();
    let (answer, _) = receive(&fd).unwrap();
    assert_eq!(answer.seq, 7);
    assert!(receive(&fd).is_none(), "a refused connection is closed");
    answer.body.unwrap_err()
}

#[test]
fn a_hello_is_answered_with_who_the_client_is_and_the_time_page() {
    let daemon = Daemon::serve();
    let (client, fds) = Client::hello(&daemon.socket(), None).unwrap();
    let welcome = &client.welcome;
    assert_eq!(
        (welcome.version, welcome.space, welcome.name.as_str()),
        (VERSION, 0, "host")
    );
    assert_eq!(welcome.pid, std::process::id());
    assert_eq!(fds.len(), 1);
    let mut seconds = [0; 8];
    rustix::io::pread(&fds[0], &mut seconds, 0).unwrap();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    assert!(now.abs_diff(u64::from_le_bytes(seconds)) <= 2);
    let written = rustix::io::pwrite(&fds[0], &[1], 0);
    assert!(written.is_err(), "the time page is not for clients to write");
}

#[test]
fn another_version_is_refused_with_a_reason() {
    let daemon = Daemon::serve();
    let failure = refusal(
        &daemon,
        Request::Hello {
            version: VERSION + 1,
            layout: crate::harness::LAYOUT,
            resume: None,
            domain: None,
        },
    );
    assert_eq!(failure.errno, libc::EPROTO);
    assert!(failure.why.contains("same version"), "{}", failure.why);
}

#[test]
fn nobody_is_somebody_elses_client() {
    let daemon = Daemon::serve();
    assert_eq!(refusal(&daemon, hello_request(Some(12_345))).errno, libc::ESTALE);
}

#[test]
fn rubbish_costs_the_sender_its_connection_and_nobody_else_anything() {
    let daemon = Daemon::serve();
    let mut other = daemon.client();
    for rubbish in [vec![0xff; 100], vec![0; 1], b"GET / HTTP/1.0\r\n\r\n".to_vec()] {
        let fd = connect(&daemon.socket()).unwrap();
        socket::send_waiting(&fd, &rubbish, &[]).unwrap();
        assert!(receive(&fd).is_none());
    }
    let (sick, _) = Client::hello(&daemon.socket(), Some(other.welcome.client)).unwrap();
    socket::send_waiting(&sick.fd, &[0xff; 50], &[]).unwrap();
    assert!(receive(&sick.fd).is_none());
    other = Client::hello(&daemon.socket(), Some(other.welcome.client))
        .unwrap()
        .0;
    assert_eq!(other.ask(Request::Ping), Ok(Reply::Done));
}

#[test]
fn a_message_that_is_too_large_ends_the_connection() {
    let daemon = Daemon::serve();
    let client = daemon.client();
    rustix::net::sockopt::set_socket_send_buffer_size_force(&client.fd, 1 << 20)
        .or_else(|_| rustix::net::sockopt::set_socket_send_buffer_size(&client.fd, 1 << 20))
        .unwrap();
    socket::send_waiting(&client.fd, &vec![1; vshmem_wire::MAX_MESSAGE + 1], &[]).unwrap();
    assert!(receive(&client.fd).is_none());
    daemon.client();
}

#[test]
fn a_message_out_of_turn_ends_the_connection() {
    let daemon = Daemon::serve();
    let fd = connect(&daemon.socket()).unwrap();
    send(&fd, 1, Request::Ping, &[]).unwrap();
    assert!(receive(&fd).is_none(), "a request before the hello");
    let client = daemon.client();
    send(&client.fd, 1, hello_request(None), &[]).unwrap();
    assert!(receive(&client.fd).is_none(), "a second hello");
}

#[test]
fn who_does_not_read_holds_up_nobody() {
    let daemon = Daemon::serve();
    let deaf = daemon.client();
    rustix::io::ioctl_fionbio(&deaf.fd, true).unwrap();
    // Until the daemon does not read from it any more.
    let mut sent = 0;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        match send(&deaf.fd, 1 + sent, Request::Status, &[]) {
            Ok(()) => sent += 1,
            Err(_) => break,
        }
    }
    let mut child = Helper::start(&daemon);
    let begun = Instant::now();
    assert_eq!(child.say("ping"), "done");
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{sent} requests delayed another client"
    );
    assert!(
        receive(&deaf.fd).is_some(),
        "its answers are still there to be read"
    );
}

#[test]
fn who_says_nothing_is_closed_after_a_while() {
    let daemon = Daemon::serve();
    let silent = connect(&daemon.socket()).unwrap();
    let begun = Instant::now();
    assert!(receive(&silent).is_none());
    assert!(begun.elapsed() > Duration::from_secs(5), "not at once");
}

#[test]
fn another_users_processes_are_who_they_are() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let daemon = Daemon::serve();
    let mut root = daemon.client();
    let id = root.shm_get(0x77, 4096).unwrap();
    let mut other = Helper::start_as(&daemon, 65_534);
    assert_eq!(
        other.say(&format!("attach {id}")),
        format!("errno {}", libc::EACCES)
    );
    assert_eq!(other.say("bring-guest g"), format!("errno {}", libc::EPERM));
    let elsewhere = |uid| Helper::start_at(&daemon.socket(), uid, Some("elsewhere"));
    assert_eq!(elsewhere(Some(65_534)).first, format!("errno {}", libc::EPERM));
    let mut own = elsewhere(None);
    assert_eq!(own.say("ping"), "done");
    assert!(root.status().domains.iter().any(|d| d.name == "elsewhere"));
}

#[test]
fn a_child_that_executes_a_set_uid_program_after_its_hello_is_who_it_was() {
    use rustix::process::Signal;
    use std::os::unix::fs::PermissionsExt;
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let daemon = Daemon::serve();
    let mut here = daemon.client();
    let id = here.shm_get(1, 4096).unwrap();
    let pid = here.status().pid;
    let mut other = Helper::start_as(&daemon, 65_534);
    let program = daemon.dir().join("set-uid-sleep");
    std::fs::copy("/bin/sleep", &program).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o4755)).unwrap();
    assert_eq!(other.say("fork-prepare"), "done");
    // The daemon reads the hello only when its sender has become root.
    kill(pid, Signal::STOP);
    other.say(&format!("child-says-hello-and-becomes {}", program.display()));
    kill(pid, Signal::CONT);
    assert_eq!(
        other.say(&format!("child-stats {id}")),
        format!("errno {}", libc::EACCES)
    );
}

#[test]
fn forks_that_nobody_comes_for_count_as_connections() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let daemon = Daemon::serve_with(&["--pool", "64M"], "connections_per_user = 8\n");
    let mut other = Helper::start_as(&daemon, 65_534);
    for _ in 0..7 {
        assert_eq!(other.say("fork-prepare"), "done");
    }
    assert_eq!(other.say("fork-prepare"), format!("errno {}", libc::EUSERS));
    assert_eq!(other.say("ping"), "done");
}

#[test]
fn a_second_daemon_in_the_same_place_is_refused() {
    let daemon = Daemon::serve();
    let mut second = Daemon::command();
    second.arg("serve").arg("--runtime-dir").arg(daemon.dir());
    let output = second.output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("another daemon serves") && said.contains("--runtime-dir"),
        "{said}"
    );
    daemon.client();
}

#[test]
fn a_wrong_configuration_is_named_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("vshmem.toml");
    std::fs::write(&file, "[group]\nsize = 3\n").unwrap();
    let mut command = Daemon::command();
    command
        .arg("serve")
        .arg("--config")
        .arg(&file)
        .arg("--runtime-dir")
        .arg(dir.path().join("run"));
    let output = command.output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("vshmem.toml") && said.contains("line 2") && said.contains("size"),
        "{said}"
    );
    assert!(!dir.path().join("run").exists());
}
