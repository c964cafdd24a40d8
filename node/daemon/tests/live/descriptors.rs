//! A daemon that can open no further file for a moment: whoever asks then is refused, and nothing of that is counted for anybody.

use crate::harness::*;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::collections::BTreeSet;
use std::time::Duration;
use vshmem_wire::{Kind, Reply, Request, StatBody};

/// The limit of open files of another process, as it was before.
struct Lowered {
    pid: Pid,
    before: Rlimit,
}

fn open_in(process: u32) -> BTreeSet<u64> {
    std::fs::read_dir(format!("/proc/{process}/fd"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect()
}

impl Lowered {
    /// Lets a daemon open so many files more.
    fn to(daemon: u32, more: usize) -> Lowered {
        // What earlier connections left is closed at some time.
        let mut seen = (open_in(daemon), 0);
        let open = until("the daemon is at rest", || {
            std::thread::sleep(Duration::from_millis(20));
            let now = open_in(daemon);
            seen = if now == seen.0 {
                (now, seen.1 + 1)
            } else {
                (now, 0)
            };
            (seen.1 >= 10).then(|| seen.0.clone())
        });
        let pid = Pid::from_raw(daemon as i32).unwrap();
        let limit = (0..).filter(|number| !open.contains(number)).nth(more).unwrap();
        let lower = Rlimit {
            current: Some(limit),
            maximum: rustix::process::getrlimit(Resource::Nofile).maximum,
        };
        Lowered {
            pid,
            before: prlimit(Some(pid), Resource::Nofile, lower).unwrap(),
        }
    }
}

impl Drop for Lowered {
    fn drop(&mut self) {
        let _ = prlimit(Some(self.pid), Resource::Nofile, self.before);
    }
}

fn clients(client: &mut Client) -> u32 {
    client.status().domains.iter().map(|domain| domain.clients).sum()
}

#[test]
fn what_cannot_be_handed_out_is_not_counted() {
    let daemon = Daemon::serve();
    let mut here = daemon.client();
    let pid = here.status().pid;
    let segment = here.shm_get(6, 4096).unwrap();
    let set = here.sem_get(7, 1);
    let attach = Request::ShmAttach {
        id: segment,
        read_only: false,
        exec: false,
    };
    let open = Request::Open {
        kind: Kind::Sem,
        id: set,
    };
    let full = Lowered::to(pid, 0);
    for request in [&attach, &attach, &open] {
        let failure = here.ask(request.clone()).unwrap_err();
        assert_eq!(failure.errno, libc::ENOMEM, "{}", failure.why);
    }
    drop(full);
    assert_eq!(here.nattch(segment), 0);
    here.attach(segment);
    assert_eq!(here.nattch(segment), 1);
    here.open_set(set);
    // Nothing keeps what is removed.
    let used = |client: &mut Client| client.status().quarantine;
    for (kind, id) in [(Kind::Shm, segment), (Kind::Sem, set)] {
        assert_eq!(here.ask(Request::Remove { kind, id }), Ok(Reply::Done));
    }
    assert!(matches!(
        here.stat(Kind::Shm, segment).unwrap().body,
        StatBody::Shm { nattch: 1, .. }
    ));
    assert_eq!(here.ask(Request::ShmDetach { id: segment }), Ok(Reply::Done));
    let (kind, id) = (Kind::Sem, set);
    assert_eq!(here.ask(Request::Close { kind, id }), Ok(Reply::Done));
    assert_eq!(used(&mut here), 0);
}

#[test]
fn what_a_front_end_cannot_hand_out_its_client_gives_back() {
    let daemon = Daemon::serve();
    let mut host = daemon.client();
    let front = crate::front_end::join(&mut host, "a", &[]);
    let (mut guest, _) = Client::hello(&front.socket(), None).unwrap();
    let segment = host.shm_get(6, 4096).unwrap();
    let full = Lowered::to(crate::front_end::front_end_pid(&front), 0);
    let attach = Request::ShmAttach {
        id: segment,
        read_only: false,
        exec: false,
    };
    let (verdict, descriptors) = guest.try_ask_with(attach, &[]).unwrap();
    // An answer without its descriptor is what a client also sees that has no room for it: it detaches.
    assert!(matches!(verdict, Ok(Reply::Attached { .. })), "{verdict:?}");
    assert_eq!((descriptors.len(), host.nattch(segment)), (0, 1));
    assert_eq!(guest.ask(Request::ShmDetach { id: segment }), Ok(Reply::Done));
    drop(full);
    assert_eq!(host.nattch(segment), 0);
    guest.attach(segment);
    assert_eq!(host.nattch(segment), 1);
}

#[test]
fn who_is_refused_for_want_of_a_descriptor_is_no_client() {
    let daemon = Daemon::serve();
    let mut here = daemon.client();
    let pid = here.status().pid;
    let before = clients(&mut here);
    // With few enough it is the connection that cannot be taken in, then its process, then the page for it.
    for more in 0..4 {
        let full = Lowered::to(pid, more);
        let mut other = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "helper::be_one", "--nocapture", "--test-threads=1"])
            .env("VSHMEM_TEST_HELPER_SOCKET", daemon.socket())
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(200));
        let _ = other.kill();
        other.wait().unwrap();
        drop(full);
        until("nothing is left of it", || {
            (clients(&mut here) == before).then_some(())
        });
    }
}
