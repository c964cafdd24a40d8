//! Bells: ringing and being rung past the front-end, without a virtual machine: every line is a socket pair.

use crate::harness::{Client, Daemon, inheritable, kill, until};
use rustix::event::{Timespec, epoll};
use rustix::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use vshmem_wire::bell::Ring;
use vshmem_wire::{Reply, Request};

/// Bells of each guest here.
const BELLS: usize = 4;

/// A guest with bells: its front-end, and a client behind it.
struct Guest {
    front: Daemon,
    client: Client,
}

/// A client's bell.
struct Bell {
    line: OwnedFd,
    number: u16,
    waits: OwnedFd,
}

impl Guest {
    fn new(host: &mut Client, name: &str) -> Guest {
        let (ours, theirs): (Vec<UnixStream>, Vec<UnixStream>) =
            (0..2 + BELLS).map(|_| UnixStream::pair().unwrap()).unzip();
        let request = Request::AttachDomain {
            name: name.into(),
            port: "local".into(),
        };
        let beside: Vec<_> = ours.iter().map(AsFd::as_fd).collect();
        let (verdict, pool) = host.try_ask_with(request, &beside).unwrap();
        assert!(matches!(verdict, Ok(Reply::DomainReady { .. })), "{verdict:?}");
        let theirs: Vec<OwnedFd> = theirs.into_iter().map(OwnedFd::from).collect();
        let dir = tempfile::tempdir().unwrap();
        let mut command = Daemon::command();
        command
            .arg("join")
            .arg("--runtime-dir")
            .arg(dir.path().join("run"));
        command.args(["--stream-fd", &inheritable(&theirs[0])]);
        command.args(["--pool-fd", &inheritable(&pool[0])]);
        for line in &theirs[1..] {
            command.args(["--bell-fd", &inheritable(line)]);
        }
        let front = Daemon::start(command, dir);
        let client = Client::hello(&front.socket(), None).unwrap().0;
        Guest { front, client }
    }

    fn bell(&mut self) -> Bell {
        let (verdict, fds) = self
            .client
            .try_ask_with(Request::Bell { wait: true }, &[])
            .unwrap();
        let Ok(Reply::Bell { bell, call: 0 }) = verdict else {
            panic!("{verdict:?}")
        };
        let mut fds = fds.into_iter();
        Bell {
            line: fds.next().unwrap(),
            number: bell,
            waits: fds.next().unwrap(),
        }
    }

    /// A ring of somebody who waits on `bell` here.
    fn ring(&self, bell: &Bell) -> Ring {
        Ring {
            space: self.client.welcome.space,
            bell: bell.number,
            at: 0,
        }
    }
}

impl Bell {
    fn rung_within(&self, time: Duration) -> bool {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(1);
        let time = Timespec {
            tv_sec: time.as_secs() as _,
            tv_nsec: time.subsec_nanos().into(),
        };
        epoll::wait(
            &self.waits,
            rustix::buffer::spare_capacity(&mut events),
            Some(&time),
        )
        .unwrap();
        events
            .first()
            .is_some_and(|event| event.data.u64() == u64::from(self.number))
    }

    fn rung(&self) -> bool {
        self.rung_within(Duration::from_secs(20))
    }

    fn write(&self, bytes: &[u8]) {
        assert_eq!(rustix::io::write(&self.line, bytes), Ok(bytes.len()));
    }
}

/// Rings, and again where that is not heard soon: a line that its front-end has not come to read for a while takes no more, and whoever waits looks by itself
/// then.
fn reach(by: &Bell, ring: &Ring, bell: &Bell) {
    until("the bell is heard", || {
        by.write(&ring.write());
        bell.rung_within(Duration::from_millis(500)).then_some(())
    });
}

/// Rings until it is heard: right after a start bells may not be open yet.
fn settle(by: &Bell, ring: &Ring, bell: &Bell) {
    until("the bell is heard", || {
        by.write(&ring.write());
        bell.rung_within(Duration::from_millis(20)).then_some(())
    });
    while bell.rung_within(Duration::from_millis(20)) {}
}

#[test]
fn clients_of_two_guests_ring_each_other_past_their_front_ends() {
    let daemon = Daemon::serve();
    let mut host = daemon.client();
    let (mut a, mut b) = (Guest::new(&mut host, "a"), Guest::new(&mut host, "b"));
    let (of_a, of_b) = (a.bell(), b.bell());
    settle(&of_a, &b.ring(&of_b), &of_b);
    settle(&of_b, &a.ring(&of_a), &of_a);
    for _ in 0..2000 {
        reach(&of_a, &b.ring(&of_b), &of_b);
        reach(&of_b, &a.ring(&of_a), &of_a);
    }
    settle(&of_a, &b.ring(&of_b), &of_b);
    // Nobody else's bell, and not twice for one ring.
    let another = b.bell();
    assert_ne!(another.number, of_b.number);
    of_a.write(&b.ring(&another).write());
    assert!(another.rung());
    assert!(!of_b.rung_within(Duration::from_millis(50)));
    assert!(!another.rung_within(Duration::from_millis(50)));
    // The host's clients and a guest's by its daemon, too.
    let ring = Request::Ring {
        space: b.client.welcome.space,
        at: 0,
        bell: of_b.number,
    };
    crate::harness::send(&host.fd, 0, ring.clone(), &[]).unwrap();
    assert!(of_b.rung());
    for by in [&a.client, &b.client] {
        crate::harness::send(&by.fd, 0, ring.clone(), &[]).unwrap();
        assert!(of_b.rung());
    }
}

#[test]
fn rubbish_on_the_ring_line_rings_too_often_at_worst() {
    let daemon = Daemon::serve();
    let mut host = daemon.client();
    let (mut a, mut b) = (Guest::new(&mut host, "a"), Guest::new(&mut host, "b"));
    let (of_a, of_b) = (a.bell(), b.bell());
    settle(&of_a, &b.ring(&of_b), &of_b);
    let mut seed = 7u32;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        let rubbish: Vec<u8> = (0..4000)
            .map(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (seed >> 24) as u8
            })
            .collect();
        // As fast as the line takes it, and rings that look right for bells there and not there.
        let _ = rustix::io::write(&of_a.line, &rubbish);
        let _ = rustix::io::write(&of_a.line, &b.ring(&of_b).write());
        let _ = rustix::io::write(
            &of_a.line,
            &Ring {
                bell: 99,
                ..b.ring(&of_b)
            }
            .write(),
        );
    }
    until("the line is free again", || {
        let free = rustix::io::write(&of_a.line, &b.ring(&of_b).write()).is_ok();
        (free && host.status().domains.iter().all(|d| d.up)).then_some(())
    });
    while of_b.rung_within(Duration::from_millis(50)) {}
    for _ in 0..100 {
        reach(&of_a, &b.ring(&of_b), &of_b);
    }
}

#[test]
fn bells_ring_while_a_front_end_is_dead_and_after_any_daemon_was_killed() {
    let daemon = Daemon::serve();
    let mut host = daemon.client();
    let (mut a, mut b) = (Guest::new(&mut host, "a"), Guest::new(&mut host, "b"));
    let (of_a, of_b) = (a.bell(), b.bell());
    settle(&of_a, &b.ring(&of_b), &of_b);
    // Both front-ends are stopped, then killed.
    for front in [&a.front, &b.front] {
        let pid = crate::front_end::front_end_pid(front);
        kill(pid, rustix::process::Signal::STOP);
    }
    // A socket holds fewer rings that nobody reads than a serial line does.
    for _ in 0..200 {
        of_a.write(&b.ring(&of_b).write());
        assert!(of_b.rung(), "nobody but the back-end is needed");
    }
    for front in [&a.front, &b.front] {
        let pid = crate::front_end::front_end_pid(front);
        kill(pid, rustix::process::Signal::KILL);
    }
    settle(&of_a, &b.ring(&of_b), &of_b);
    // What was given stays given: this process is still the client that it was, with one bell of the two that it may have.
    let mut others = Vec::new();
    let mut other = until("another front-end", || {
        Some(Client::hello(&b.front.socket(), None).ok()?.0)
    });
    while let Some((Ok(Reply::Bell { bell, .. }), _)) = other.try_ask_with(Request::Bell { wait: true }, &[])
    {
        others.push(bell);
    }
    assert_eq!(others.len(), BELLS / 2 - 1);
    assert!(!others.contains(&of_b.number));
    // The back-end is killed.
    daemon.kill();
    settle(&of_a, &b.ring(&of_b), &of_b);
    settle(&of_b, &a.ring(&of_a), &of_a);
    for _ in 0..1000 {
        reach(&of_a, &b.ring(&of_b), &of_b);
    }
}

#[test]
fn who_has_no_bell_is_told_so_and_a_dead_clients_bell_is_given_again() {
    let daemon = Daemon::serve();
    let mut host = daemon.client();
    let refused = |client: &mut Client, wait| match client.try_ask_with(Request::Bell { wait }, &[]) {
        Some((Err(failure), fds)) if fds.is_empty() => failure.errno,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&mut host, true), libc::ENOSYS);
    assert_eq!(refused(&mut host, false), libc::ENOSYS);
    let mut a = Guest::new(&mut host, "a");
    let mine: Vec<Bell> = (0..BELLS / 2).map(|_| a.bell()).collect();
    assert_eq!(refused(&mut a.client, true), libc::ENOSPC);
    assert!(mine.iter().all(|bell| (1..=BELLS as u16).contains(&bell.number)));
    // To ring, nobody needs a bell.
    let (verdict, fds) = a.client.try_ask_with(Request::Bell { wait: false }, &[]).unwrap();
    assert_eq!((verdict, fds.len()), (Ok(Reply::Bell { bell: 0, call: 0 }), 1));
    let mut helper = crate::helper::Helper::start_at(&a.front.socket(), None, None);
    assert_eq!(helper.say("bells"), (BELLS / 2).to_string());
    let mut late = crate::helper::Helper::start_at(&a.front.socket(), None, None);
    assert_eq!(late.say("bells"), "0");
    helper.kill();
    until("the dead one's bells are free", || {
        (late.say("bells") == (BELLS / 2).to_string()).then_some(())
    });
}
