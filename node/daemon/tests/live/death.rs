//! Clients that die, daemons that are killed, a clean stop.

use crate::harness::{Client, Daemon, Mapped, hello_request, kill, receive, send, until};
use crate::helper::Helper;
use rustix::fd::AsFd;
use vshmem_ipc::header::LOCK_AT;
use vshmem_ipc::sem::SemSet;
use vshmem_wire::{Kind, Reply, Request};
use vshmem_words::{Ordering, Words};

fn value(set: &Mapped) -> u16 {
    SemSet::at(&set.words, 1).value(0)
}

#[test]
fn a_killed_clients_undo_is_applied_and_its_attachment_ends() {
    let daemon = Daemon::serve();
    let mut here = daemon.client();
    let (id, segment) = (here.sem_get(5, 1), here.shm_get(6, 4096).unwrap());
    let (set, _) = here.open_set(id);
    let mut there = Helper::start(&daemon);
    assert_eq!(there.say(&format!("attach {segment}")), "done");
    assert_eq!(there.say(&format!("undo {id} 5")), "done");
    assert_eq!((value(&set), here.nattch(segment)), (5, 1));
    there.kill();
    until("the undo is applied", || (value(&set) == 0).then_some(()));
    until("the attachment has ended", || {
        (here.nattch(segment) == 0).then_some(())
    });
}

#[test]
fn exec_ends_attachments_and_undo_waits_for_death() {
    let daemon = Daemon::serve();
    let mut here = daemon.client();
    let (id, segment) = (here.sem_get(5, 1), here.shm_get(6, 4096).unwrap());
    let (set, _) = here.open_set(id);
    let mut there = Helper::start(&daemon);
    there.say(&format!("attach {segment}"));
    there.say(&format!("undo {id} 5"));
    use std::io::Write;
    writeln!(there.child.stdin.as_mut().unwrap(), "exec").unwrap();
    until("the attachment has ended", || {
        (here.nattch(segment) == 0).then_some(())
    });
    assert_eq!(value(&set), 5, "undo survives exec");
    there.kill();
    until("the undo is applied", || (value(&set) == 0).then_some(()));
}

#[test]
fn a_client_that_closes_all_its_descriptors_is_still_attached() {
    let daemon = Daemon::serve();
    let mut here = daemon.client();
    let segment = here.shm_get(6, 4096).unwrap();
    let mut there = Helper::start(&daemon);
    there.say(&format!("attach {segment}"));
    assert_eq!(there.say("hang-up"), "done");
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(here.nattch(segment), 1);
    there.kill();
    until("the attachment has ended", || {
        (here.nattch(segment) == 0).then_some(())
    });
}

#[test]
fn a_fork_counts_at_once_and_its_child_is_a_client() {
    let daemon = Daemon::serve();
    let mut here = daemon.client();
    let segment = here.shm_get(6, 4096).unwrap();
    here.attach(segment);
    let (ours, childs) = pair();
    let (verdict, _) = here.try_ask_with(Request::ForkPrepare, &[ours.as_fd()]).unwrap();
    drop(ours);
    assert_eq!(verdict, Ok(Reply::Done));
    assert_eq!(here.nattch(segment), 2);
    drop(childs);
    until("the fork is abandoned", || {
        (here.nattch(segment) == 1).then_some(())
    });
    let (ours, childs) = pair();
    assert!(
        here.try_ask_with(Request::ForkPrepare, &[ours.as_fd()])
            .unwrap()
            .0
            .is_ok()
    );
    drop(ours);
    rustix::net::sockopt::set_socket_passcred(&childs, true).unwrap();
    // This test's process is no forked child, but says so: the kernel vouches for its pid all the same.
    send(&childs, 0, hello_request(None), &[]).unwrap();
    let (answer, fds) = receive(&childs).unwrap();
    assert!(matches!(answer.body, Ok(Reply::Welcome(_))), "{answer:?}");
    assert_eq!(fds.len(), 1);
}

#[test]
fn a_fork_that_is_prepared_again_after_a_restart_counts_once() {
    let daemon = Daemon::serve();
    let mut here = daemon.client();
    let segment = here.shm_get(6, 4096).unwrap();
    here.attach(segment);
    let (ours, childs) = pair();
    let prepare = |client: &mut Client| {
        let (verdict, _) = client
            .try_ask_with(Request::ForkPrepare, &[ours.as_fd()])
            .unwrap();
        assert_eq!(verdict, Ok(Reply::Done));
    };
    prepare(&mut here);
    // As if the daemon had been killed before its answer was read.
    daemon.kill();
    let (mut here, _) = Client::hello(&daemon.socket(), Some(here.welcome.client)).unwrap();
    prepare(&mut here);
    assert_eq!(here.nattch(segment), 2);
    rustix::net::sockopt::set_socket_passcred(&childs, true).unwrap();
    send(&childs, 0, hello_request(None), &[]).unwrap();
    let (answer, _) = receive(&childs).unwrap();
    assert!(matches!(answer.body, Ok(Reply::Welcome(_))), "{answer:?}");
    // Each word of the child's is read by the one that knows it.
    for seq in 1..20 {
        send(&childs, seq, Request::Ping, &[]).unwrap();
        assert_eq!(receive(&childs).unwrap().0.seq, seq);
    }
}

#[test]
fn forks_on_both_sides_of_a_restart_are_two_however_soon_it_comes() {
    // Life and next life within one second, as far as the machine is quick enough.
    until("a second begins", || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        (now.unwrap().subsec_millis() < 100).then_some(())
    });
    let daemon = Daemon::serve();
    let mut here = daemon.client();
    let segment = here.shm_get(6, 4096).unwrap();
    here.attach(segment);
    let prepare = |client: &mut Client| {
        let (ours, childs) = pair();
        let asked = client.try_ask_with(Request::ForkPrepare, &[ours.as_fd()]);
        assert_eq!(asked.unwrap().0, Ok(Reply::Done));
        childs
    };
    let first = prepare(&mut here);
    daemon.kill();
    let (mut here, _) = Client::hello(&daemon.socket(), Some(here.welcome.client)).unwrap();
    let second = prepare(&mut here);
    assert_eq!(here.nattch(segment), 3);
    drop(second);
    until("one fork is abandoned", || {
        (here.nattch(segment) == 2).then_some(())
    });
    drop(first);
    until("the other is, too", || (here.nattch(segment) == 1).then_some(()));
}

fn pair() -> (rustix::fd::OwnedFd, rustix::fd::OwnedFd) {
    rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .unwrap()
}

#[test]
fn a_daemon_has_its_name_in_every_life() {
    let daemon = Daemon::serve();
    for _ in 0..2 {
        let pid = daemon.client().status().pid;
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        assert_eq!(name, "vshmem-daemon\n");
        daemon.kill();
    }
}

#[test]
fn a_killed_back_end_comes_back_with_everything() {
    for config in ["", "[group]\nmemory = \"memfd\"\n"] {
        let daemon = Daemon::serve_with(&[], config);
        let mut here = daemon.client();
        let mut there = Helper::start(&daemon);
        let (id, segment) = (here.sem_get(5, 1), here.shm_get(6, 4096).unwrap());
        let (set, memory) = (here.open_set(id).0, here.attach(segment));
        memory.words.store32(0, 99, Ordering::Relaxed);
        assert_eq!(there.say(&format!("undo {id} 3")), "done");
        let number = here.welcome.client;
        for _ in 0..3 {
            daemon.kill();
        }
        // The helper dies while nobody is connected to anything.
        there.kill();
        let (mut here, _) = Client::hello(&daemon.socket(), Some(number)).unwrap();
        assert_eq!(here.welcome.client, number);
        assert_eq!(here.shm_get(6, 4096), Ok(segment));
        assert_eq!(here.nattch(segment), 1);
        assert_eq!(here.attach(segment).words.load32(0, Ordering::Relaxed), 99);
        until("the undo is applied", || (value(&set) == 0).then_some(()));
    }
}

/// A machine may run on for a moment after its line has ended, and its programs with it: what they hold when it stops is taken over, and the set stays.
#[test]
fn a_lock_taken_by_who_was_given_up_already_is_taken_over() {
    let daemon = Daemon::serve();
    let mut here = daemon.client();
    let id = here.sem_get(5, 1);
    let (set, _) = here.open_set(id);
    let mut there = Helper::start(&daemon);
    let ghost = here.welcome.client + 1;
    assert_eq!(there.say(&format!("undo {id} 5")), "done");
    there.kill();
    until("the undo is applied", || (value(&set) == 0).then_some(()));
    let word = u64::from(ghost) | 1 << 32;
    set.words.store64(LOCK_AT, word, Ordering::SeqCst);
    let kind = Kind::Sem;
    until("the lock is taken over", || {
        let owner = word;
        here.ask(Request::LockStuck { kind, id, owner }).unwrap();
        (set.words.load64(LOCK_AT, Ordering::SeqCst) == 0).then_some(())
    });
    let stat = here.stat(kind, id);
    assert!(stat.is_ok(), "{stat:?}");
    // Nobody's who ever was.
    set.words.store64(LOCK_AT, 4711 | 1 << 32, Ordering::SeqCst);
    until("the set is declared corrupt", || {
        let owner = 4711 | 1 << 32;
        here.ask(Request::LockStuck { kind, id, owner }).err()
    });
}

/// As soon as it has an answer, a client uses the memory that it has been given.
#[test]
fn memory_that_was_handed_out_is_not_made_again_by_the_next_life() {
    for config in ["", "[group]\nmemory = \"memfd\"\n"] {
        let daemon = Daemon::serve_with(&[], config);
        let mut here = daemon.client();
        let before = here.status();
        let (key, flags) = (1, crate::harness::IPC_CREAT | 0o600);
        let Ok(Reply::Id(id)) = here.ask(Request::MsgGet { key, flags }) else {
            panic!("no queue");
        };
        here.open(Kind::Msg, id);
        let grow = Request::Grow {
            kind: Kind::Msg,
            id,
            wanted: 8000,
            have: 1,
        };
        let (verdict, fds) = here.try_ask_with(grow, &[]).unwrap();
        let Ok(Reply::Opened {
            memory: Some(memory), ..
        }) = verdict
        else {
            panic!("{verdict:?}");
        };
        let added = *memory.extents.last().unwrap();
        assert!(memory.extents.len() > 1);
        let mapped = Mapped::new(&fds[0], added.offset, added.bytes);
        mapped.words.store32(0, 0x5eed, Ordering::Relaxed);
        // Nothing was asked since.
        kill(before.pid, rustix::process::Signal::KILL);
        let (mut here, _) = until("the daemon is back", || {
            Client::hello(&daemon.socket(), Some(here.welcome.client)).ok()
        });
        assert_eq!(here.status().restarts, before.restarts + 1);
        assert_eq!(mapped.words.load32(0, Ordering::Relaxed), 0x5eed, "{config}");
    }
}

#[test]
fn a_request_repeated_after_a_restart_is_carried_out_once() {
    let daemon = Daemon::serve();
    let mut here = daemon.client();
    let number = here.welcome.client;
    let segment = here.shm_get(6, 4096).unwrap();
    let attach = Request::ShmAttach {
        id: segment,
        read_only: false,
        exec: false,
    };
    let seq = here.seq;
    assert!(here.ask(attach.clone()).is_ok());
    // As if the answer had been lost.
    daemon.kill();
    let (mut here, _) = Client::hello(&daemon.socket(), Some(number)).unwrap();
    assert_eq!(here.welcome.next_seq, seq + 1);
    here.seq = seq;
    let (verdict, fds) = here.try_ask_with(attach, &[]).unwrap();
    assert!(matches!(verdict, Ok(Reply::Attached { .. })), "{verdict:?}");
    assert_eq!(fds.len(), 1, "the descriptor comes again");
    assert_eq!(here.nattch(segment), 1);
}

#[test]
fn a_client_that_died_while_there_was_no_back_end_is_noticed() {
    let daemon = Daemon::serve();
    let mut here = daemon.client();
    let segment = here.shm_get(6, 4096).unwrap();
    let mut there = Helper::start(&daemon);
    there.say(&format!("attach {segment}"));
    let status = here.status();
    // Stopped, so that the client's death comes between.
    kill(status.pid, rustix::process::Signal::STOP);
    there.kill();
    kill(status.pid, rustix::process::Signal::KILL);
    until("the attachment has ended", || {
        let (mut client, _) = Client::hello(&daemon.socket(), None).ok()?;
        let ask = client.try_ask(Request::Stat {
            kind: Kind::Shm,
            which: vshmem_wire::request::Which::Id(segment),
        })?;
        match ask {
            Ok(Reply::Stat(stat)) => {
                matches!(stat.body, vshmem_wire::StatBody::Shm { nattch: 0, .. }).then_some(())
            }
            _ => None,
        }
    });
}

#[test]
fn a_clean_stop_leaves_nothing() {
    let mut daemon = Daemon::serve_with(&[], "[[domain]]\nname = \"a\"\n");
    let pid = daemon.client().status().pid;
    let _connected = daemon.client();
    assert_eq!(daemon.stop(), Some(0));
    assert!(
        !daemon.dir().exists(),
        "{:?}",
        std::fs::read_dir(daemon.dir()).map(|d| d.count())
    );
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn a_daemon_without_its_keeper_ends_when_nobody_uses_it_any_more() {
    let mut daemon = Daemon::serve();
    let mut client = daemon.client();
    let pid = client.status().pid;
    daemon.keeper.kill().unwrap();
    daemon.keeper.wait().unwrap();
    assert_eq!(client.ask(Request::Ping), Ok(Reply::Done), "it goes on");
    drop(client);
    until("it ends", || {
        (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    });
    assert!(!daemon.dir().exists());
}

#[test]
fn the_state_log_is_shortened_and_still_enough() {
    let daemon = Daemon::serve();
    let mut here = daemon.client();
    let number = here.welcome.client;
    let segment = here.shm_get(6, 4096).unwrap();
    for i in 0..4000 {
        // Failed requests are remembered, too.
        let name = format!("{i:0>300}");
        let what = Request::Share {
            kind: Kind::Shm,
            id: segment,
            domains: vec![name],
        };
        let _ = here.ask(what);
    }
    daemon.kill();
    let (mut here, _) = Client::hello(&daemon.socket(), Some(number)).unwrap();
    assert_eq!(here.shm_get(6, 4096), Ok(segment));
}

#[test]
fn a_daemon_that_dies_again_and_again_is_given_up_with_a_message() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Daemon::command();
    command
        .arg("serve")
        .arg("--runtime-dir")
        .arg(dir.path().join("run"))
        .stderr(std::process::Stdio::piped());
    let mut daemon = Daemon::start(command, dir);
    until("the keeper gives up", || {
        if let Ok((mut client, _)) = Client::hello(&daemon.socket(), None)
            && let Some(Ok(Reply::Status(status))) = client.try_ask(Request::Status)
        {
            kill(status.pid, rustix::process::Signal::KILL);
        }
        daemon.keeper.try_wait().unwrap()
    });
    let mut said = String::new();
    std::io::Read::read_to_string(&mut daemon.keeper.stderr.take().unwrap(), &mut said).unwrap();
    assert!(said.contains("giving up"), "{said}");
    assert!(!daemon.dir().exists());
}

#[test]
fn the_service_manager_is_told_when_the_daemon_is_ready() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(crate::harness::LONG)).unwrap();
    let mut command = Daemon::command();
    command
        .arg("serve")
        .arg("--runtime-dir")
        .arg(dir.path().join("run"))
        .env("NOTIFY_SOCKET", &path);
    let _daemon = Daemon::start(command, dir);
    let mut said = [0; 64];
    let bytes = manager.recv(&mut said).unwrap();
    assert_eq!(&said[..bytes], b"READY=1");
}
