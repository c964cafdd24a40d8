//! A front-end and its clients, without a virtual machine: the stream is a socket pair, the pool is a file of this kernel.

use crate::harness::{Client, Daemon, Mapped, inheritable, kill, until};
use crate::helper::Helper;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use vshmem_ipc::sem::SemSet;
use vshmem_wire::{Failure, Reply, Request, StatBody};
use vshmem_words::{Ordering, Words};

/// Brings a guest in: gives its end of the stream and the pool.
fn attach(host: &mut Client, name: &str) -> Result<(OwnedFd, OwnedFd), Failure> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let request = Request::AttachDomain {
        name: name.into(),
        port: "local".into(),
    };
    let (verdict, mut fds) = host.try_ask_with(request, &[ours.as_fd()]).unwrap();
    match verdict? {
        Reply::DomainReady { .. } => Ok((theirs.into(), fds.remove(0))),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn join(host: &mut Client, name: &str, options: &[&str]) -> Daemon {
    let (stream, pool) = attach(host, name).unwrap();
    join_over(&stream, &[&pool], options)
}

/// Starts a front-end over a stream, with pools.
pub(crate) fn join_over(stream: &OwnedFd, pools: &[&OwnedFd], options: &[&str]) -> Daemon {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Daemon::command();
    command
        .arg("join")
        .arg("--runtime-dir")
        .arg(dir.path().join("run"))
        .args(["--stream-fd", &inheritable(stream)])
        .args(options);
    for pool in pools {
        command.args(["--pool-fd", &inheritable(pool)]);
    }
    Daemon::start(command, dir)
}

#[test]
fn a_client_behind_a_front_end_shares_a_segment_with_the_hosts() {
    let daemon = Daemon::serve();
    let mut host = daemon.client();
    let front = join(&mut host, "a", &["--domain", "a"]);
    let (mut guest, fds) = Client::hello(&front.socket(), None).unwrap();
    assert_eq!(guest.welcome.name, "a");
    assert_ne!(guest.welcome.space, 0);
    assert_eq!(fds.len(), 2, "time page and wait page");
    let id = host.shm_get(0x42, 8192).unwrap();
    assert_eq!(guest.shm_get(0x42, 8192), Ok(id));
    let (here, there) = (host.attach(id), guest.attach(id));
    there.words.store32(4096, 4242, Ordering::Relaxed);
    assert_eq!(here.words.load32(4096, Ordering::Relaxed), 4242);
    assert_eq!(host.nattch(id), 2);
    assert_eq!(guest.ask(Request::ShmDetach { id }), Ok(Reply::Done));
    assert_eq!(host.nattch(id), 1);
    assert!(host.status().domains.iter().any(|d| d.name == "a" && d.up));
}

#[test]
fn a_name_is_checked_and_taken_once() {
    let daemon = Daemon::serve();
    let mut host = daemon.client();
    let (stream, pool) = attach(&mut host, "a").unwrap();
    assert_eq!(attach(&mut host, "a").unwrap_err().errno, libc::EEXIST);
    assert_eq!(attach(&mut host, "../a").unwrap_err().errno, libc::EINVAL);
    let dir = tempfile::tempdir().unwrap();
    let mut command = Daemon::command();
    command
        .arg("join")
        .arg("--runtime-dir")
        .arg(dir.path().join("run"))
        .args([
            "--stream-fd",
            &inheritable(&stream),
            "--pool-fd",
            &inheritable(&pool),
        ])
        .args(["--domain", "b"]);
    let output = command.output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("domain \"a\", not \"b\""), "{said}");
    assert!(!dir.path().join("run").exists());
}

#[test]
fn a_stream_that_ends_is_a_domain_that_is_gone() {
    let daemon = Daemon::serve();
    let mut host = daemon.client();
    let mut front = join(&mut host, "a", &[]);
    let id = host.sem_get(7, 1);
    let segment = host.shm_get(8, 4096).unwrap();
    let (set, _) = host.open_set(id);
    let mut there = Helper::start_at(&front.socket(), None, None);
    assert_eq!(there.say(&format!("attach {segment}")), "done");
    assert_eq!(there.say(&format!("undo {id} 2")), "done");
    assert_eq!(SemSet::at(&set.words, 1).value(0), 2);
    // As a VM that is killed: front-end and client are gone at once, nobody says goodbye.
    let front_pid = front_end_pid(&front);
    kill(front.keeper.id(), rustix::process::Signal::KILL);
    front.keeper.wait().unwrap();
    kill(front_pid, rustix::process::Signal::KILL);
    there.kill();
    until("the undo is applied", || {
        (SemSet::at(&set.words, 1).value(0) == 0).then_some(())
    });
    until("the attachment has ended", || {
        (host.nattch(segment) == 0).then_some(())
    });
    until("the domain is down", || {
        host.status()
            .domains
            .iter()
            .any(|d| d.name == "a" && !d.up)
            .then_some(())
    });
    assert!(attach(&mut host, "a").is_ok(), "the name can be used again");
}

/// The daemon process of a front-end: the keeper's only child.
pub(crate) fn front_end_pid(front: &Daemon) -> u32 {
    let keeper = front.keeper.id();
    let children = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap();
    children.split_ascii_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_killed_front_end_comes_back_with_its_clients() {
    let daemon = Daemon::serve();
    let mut host = daemon.client();
    let front = join(&mut host, "a", &[]);
    let (mut guest, _) = Client::hello(&front.socket(), None).unwrap();
    let number = guest.welcome.client;
    let segment = guest.shm_get(8, 4096).unwrap();
    guest.attach(segment);
    let mut other = Helper::start_at(&front.socket(), None, None);
    assert_eq!(other.say(&format!("attach {segment}")), "done");
    assert_eq!(host.nattch(segment), 2);
    let pid = front_end_pid(&front);
    kill(pid, rustix::process::Signal::STOP);
    other.kill();
    kill(pid, rustix::process::Signal::KILL);
    let (mut guest, _) = until("the front-end is back", || {
        Client::hello(&front.socket(), Some(number)).ok()
    });
    assert_eq!(guest.welcome.client, number);
    until("the dead one's attachment has ended", || {
        (host.nattch(segment) == 1).then_some(())
    });
    assert_eq!(guest.nattch(segment), 1);
}

#[test]
fn a_killed_back_end_comes_back_with_its_front_ends() {
    let daemon = Daemon::serve();
    let mut host = daemon.client();
    let number = host.welcome.client;
    let front = join(&mut host, "a", &[]);
    let (mut guest, _) = Client::hello(&front.socket(), None).unwrap();
    let segment = guest.shm_get(8, 4096).unwrap();
    guest.attach(segment);
    daemon.kill();
    // The guest's connection is its front-end's: it has seen nothing of it.
    assert_eq!(guest.nattch(segment), 1);
    let (mut host, _) = Client::hello(&daemon.socket(), Some(number)).unwrap();
    assert_eq!(host.shm_get(8, 4096), Ok(segment));
    host.attach(segment);
    assert_eq!(guest.nattch(segment), 2);
    assert!(
        host.status()
            .domains
            .iter()
            .any(|d| d.name == "a" && d.up && d.clients == 1)
    );
}

#[test]
fn requests_that_meet_a_stopped_back_end_are_answered_when_it_is_back() {
    let daemon = Daemon::serve();
    let mut host = daemon.client();
    let front = join(&mut host, "a", &[]);
    let (mut guest, _) = Client::hello(&front.socket(), None).unwrap();
    let pid = host.status().pid;
    kill(pid, rustix::process::Signal::STOP);
    let asked = std::thread::spawn(move || guest.shm_get(9, 4096));
    std::thread::sleep(std::time::Duration::from_millis(100));
    kill(pid, rustix::process::Signal::KILL);
    assert!(asked.join().unwrap().is_ok());
}

#[test]
fn the_front_end_is_small() {
    let daemon = Daemon::serve();
    let mut host = daemon.client();
    let front = join(&mut host, "a", &[]);
    let (mut guest, _) = Client::hello(&front.socket(), None).unwrap();
    for key in 1..200 {
        let id = guest.shm_get(key, 4096).unwrap();
        guest.attach(id);
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", front_end_pid(&front))).unwrap();
    let kib = |name: &str| -> u64 {
        let line = status.lines().find(|l| l.starts_with(name)).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
    };
    // Code that no compiler has made smaller takes twice the room.
    let all = if cfg!(debug_assertions) { 16 } else { 10 };
    assert!(kib("VmRSS:") < all * 1024, "{status}");
    assert!(kib("RssAnon:") + kib("RssShmem:") < 2 * 1024, "{status}");
}

#[test]
fn sleepers_are_woken_by_a_ring_from_the_host() {
    use vshmem_wire::pages::{ACTIVE_AT, ENTRY, EXPECTED_AT, SEQUENCE_AT, WATCHED_AT};
    let daemon = Daemon::serve();
    let mut host = daemon.client();
    let front = join(&mut host, "a", &[]);
    let (mut guest, fds) = Client::hello(&front.socket(), None).unwrap();
    let page = Mapped::new(&fds[1], 0, 512 * 1024).words;
    let Ok(Reply::Tickets(tickets)) = guest.ask(Request::Tickets { count: 3 }) else {
        panic!("no tickets");
    };
    assert_eq!(tickets.len(), 3);
    let segment = host.shm_get(9, 4096).unwrap();
    let attach = Request::ShmAttach {
        id: segment,
        read_only: false,
        exec: false,
    };
    let Ok(Reply::Attached { memory, .. }) = host.ask(attach) else {
        panic!("not attached");
    };
    let at = memory.extents[0].offset + 128;
    let entry = tickets[1] as usize * ENTRY;
    page.store64(entry + WATCHED_AT, at, Ordering::Relaxed);
    page.store32(entry + EXPECTED_AT, 0, Ordering::Relaxed);
    page.store32(entry + ACTIVE_AT, 1, Ordering::Release);
    let words = host.attach(segment).words;
    words.store32(128, 1, Ordering::Release);
    let ring = Request::Ring {
        space: guest.welcome.space,
        at,
        bell: 0,
    };
    crate::harness::send(&host.fd, 0, ring, &[]).unwrap();
    until("the sleeper is woken", || {
        (page.load32(entry + SEQUENCE_AT, Ordering::Acquire) > 0).then_some(())
    });
    assert_eq!(
        host.ask(Request::Ping),
        Ok(Reply::Done),
        "a ring is not answered and not counted"
    );
}

#[test]
fn what_a_stream_says_out_of_turn_harms_nobody() {
    use std::io::Write;
    let daemon = Daemon::serve();
    let mut host = daemon.client();
    let (stream, _pool) = attach(&mut host, "bad").unwrap();
    let mut stream = std::os::unix::net::UnixStream::from(stream);
    let mut noise = vec![0u8; 300_000];
    noise
        .iter_mut()
        .enumerate()
        .for_each(|(i, b)| *b = (i * 31 % 251) as u8);
    stream.write_all(&noise).unwrap();
    for up in [
        vshmem_wire::Up::Gone {
            client: host.welcome.client,
            exec: false,
        },
        vshmem_wire::Up::Request {
            client: host.welcome.client,
            seq: 1,
            body: Request::Status,
        },
    ] {
        stream.write_all(&vshmem_wire::frame(&up)).unwrap();
    }
    let hello = vshmem_wire::Up::Hello {
        version: vshmem_wire::VERSION,
        layout: crate::harness::LAYOUT,
        domain: None,
        clients: vec![host.welcome.client],
        session: None,
    };
    stream.write_all(&vshmem_wire::frame(&hello)).unwrap();
    let gone = vshmem_wire::Up::Gone {
        client: host.welcome.client,
        exec: false,
    };
    stream.write_all(&vshmem_wire::frame(&gone)).unwrap();
    let id = host.shm_get(5, 4096).unwrap();
    assert!(matches!(
        host.stat(vshmem_wire::Kind::Shm, id).unwrap().body,
        StatBody::Shm { .. }
    ));
    assert_eq!(host.ask(Request::Ping), Ok(Reply::Done));
}

/// One end of a stream, played by hand.
struct Played {
    stream: std::os::unix::net::UnixStream,
    link: vshmem_wire::Link,
}

impl Played {
    fn new(stream: OwnedFd) -> Self {
        let stream = std::os::unix::net::UnixStream::from(stream);
        stream.set_read_timeout(Some(crate::harness::LONG)).unwrap();
        Played {
            stream,
            link: vshmem_wire::Link::new(),
        }
    }

    fn say(&mut self, message: &impl serde::Serialize) {
        self.link.send(message);
        self.flush();
    }

    fn flush(&mut self) {
        use std::io::Write;
        while !self.link.out().is_empty() {
            let bytes = self.link.out().to_vec();
            self.stream.write_all(&bytes).unwrap();
            self.link.wrote(bytes.len());
        }
    }

    fn hear<T: serde::de::DeserializeOwned>(&mut self) -> T {
        use std::io::Read;
        loop {
            if let Some(message) = self.link.take().unwrap() {
                return message;
            }
            self.flush();
            let mut piece = [0; 1000];
            let bytes = self.stream.read(&mut piece).unwrap();
            assert!(bytes > 0, "the stream ended");
            self.link.push(&piece[..bytes]);
        }
    }

    fn hello(version: u32, session: Option<u64>) -> vshmem_wire::Up {
        vshmem_wire::Up::Hello {
            version,
            layout: crate::harness::LAYOUT,
            domain: None,
            clients: Vec::new(),
            session,
        }
    }
}

#[test]
fn a_front_end_of_another_version_is_refused_with_a_reason() {
    use vshmem_wire::Down;
    let daemon = Daemon::serve();
    let mut host = daemon.client();
    let (stream, _pool) = attach(&mut host, "old").unwrap();
    let mut played = Played::new(stream);
    played.say(&Played::hello(vshmem_wire::VERSION + 1, None));
    let said = played.hear();
    assert!(
        matches!(&said, Down::Refused { why } if why.contains("same version")),
        "{said:?}"
    );
    assert_eq!(host.ask(Request::Ping), Ok(Reply::Done));
}

#[test]
fn a_machine_restored_from_a_snapshot_is_told_so_and_refused() {
    use vshmem_wire::{Down, Up, VERSION};
    let daemon = Daemon::serve();
    let mut host = daemon.client();
    let (stream, _pool) = attach(&mut host, "first").unwrap();
    let mut first = Played::new(stream);
    first.say(&Played::hello(VERSION, None));
    let Down::Welcome { session, .. } = first.hear() else {
        panic!("no welcome");
    };
    // The same stay again, as after a restart of the front-end, is fine.
    first.say(&Played::hello(VERSION, Some(session)));
    assert!(matches!(first.hear(), Down::Welcome { session: again, .. } if again == session));

    // A machine whose memory is a copy of the first one's goes on where that was, on a stream of its own.
    let (stream, _pool) = attach(&mut host, "second").unwrap();
    let mut second = Played::new(stream);
    second.say(&Up::Gone {
        client: host.welcome.client,
        exec: false,
    });
    assert_eq!(second.hear::<Down>(), Down::Restarted);
    second.say(&Played::hello(VERSION, Some(session)));
    let said = second.hear();
    assert!(
        matches!(&said, Down::Refused { why } if why.contains("snapshot")),
        "{said:?}"
    );
    assert_eq!(host.ask(Request::Ping), Ok(Reply::Done));
}

/// A line between a front-end and whatever back-end's stream it is led to, as that of a machine that is stopped and restored elsewhere.
struct Switch(Arc<Mutex<UnixStream>>);

/// What came within a moment; None at the end.
fn piece(from: &mut UnixStream) -> Option<Vec<u8>> {
    let mut piece = [0; 4096];
    let moment = std::time::Duration::from_millis(10);
    from.set_read_timeout(Some(moment)).unwrap();
    match from.read(&mut piece) {
        Ok(0) => None,
        Ok(n) => Some(piece[..n].to_vec()),
        Err(_) => Some(Vec::new()),
    }
}

impl Switch {
    /// Gives the front-end's end, too.
    fn to(stream: OwnedFd) -> (Switch, OwnedFd) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let target = Arc::new(Mutex::new(UnixStream::from(stream)));
        let (up, down) = (target.clone(), target.clone());
        let (mut from, mut to) = (ours.try_clone().unwrap(), ours);
        std::thread::spawn(move || {
            while let Some(piece) = piece(&mut from) {
                let _ = up.lock().unwrap().write_all(&piece);
            }
        });
        std::thread::spawn(move || {
            loop {
                let mut now = down.lock().unwrap().try_clone().unwrap();
                let Some(piece) = piece(&mut now) else { return };
                if to.write_all(&piece).is_err() {
                    return;
                }
            }
        });
        (Switch(target), theirs.into())
    }
}

#[test]
fn programs_of_a_restored_machine_are_killed_and_nobody_elses() {
    let daemon = Daemon::serve();
    let mut host = daemon.client();
    let (stream, pool) = attach(&mut host, "first").unwrap();
    let (switch, line) = Switch::to(stream);
    let mut front = join_over(&line, &[&pool], &[]);
    let segment = host.shm_get(1, 4096).unwrap();
    let mut inside = Helper::start(&front);
    let mut beside = Helper::start(&daemon);
    for helper in [&mut inside, &mut beside] {
        assert_eq!(helper.say(&format!("attach {segment}")), "done");
    }
    assert_eq!(host.nattch(segment), 2);
    // The machine goes on elsewhere, or later, with the same memory: what it says comes in a session that is not its own.
    let (stream, _pool) = attach(&mut host, "second").unwrap();
    let first = std::mem::replace(&mut *switch.0.lock().unwrap(), stream.into());
    let ended = until("the front-end ends", || front.keeper.try_wait().unwrap());
    assert!(!ended.success(), "it says why");
    let ended = until("its program is killed", || inside.child.try_wait().unwrap());
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(9));
    assert_eq!(beside.say("ping"), "done");
    first.shutdown(std::net::Shutdown::Both).unwrap();
    until("what the first one had is over", || {
        (host.nattch(segment) == 1).then_some(())
    });
}

#[test]
fn a_hello_that_is_answered_twice_connects_nobody_twice() {
    use vshmem_wire::{Down, Up};
    let daemon = Daemon::serve();
    let mut host = daemon.client();
    let (stream, pool) = attach(&mut host, "slow").unwrap();
    let mut back_end = Played::new(stream);
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut front_end = Played::new(ours.into());

    // The back-end takes longer than a second, so the front-end says its hello again; then both answers come.
    let joining = std::thread::spawn(move || join_over(&theirs.into(), &[&pool], &[]));
    for _ in 0..2 {
        let hello: Up = front_end.hear();
        assert!(matches!(hello, Up::Hello { .. }), "{hello:?}");
        back_end.say(&hello);
    }
    let welcomes: [Down; 2] = [back_end.hear(), back_end.hear()];
    front_end.say(&welcomes[0]);
    let front = joining.join().unwrap();
    let socket = front.socket();
    let client = std::thread::spawn(move || Client::hello(&socket, None).unwrap().0);
    let mut connects = Vec::new();
    while connects.is_empty() {
        connects.extend(Some(front_end.hear::<Up>()).filter(|up| matches!(up, Up::Connect { .. })));
    }
    front_end.say(&welcomes[1]);
    // Whatever is said because of that is said before the next sign of life but one.
    for _ in 0..2 {
        loop {
            match front_end.hear::<Up>() {
                Up::Heartbeat => break,
                up => connects.extend(Some(up).filter(|up| matches!(up, Up::Connect { .. }))),
            }
        }
    }
    assert_eq!(connects.len(), 1, "{connects:?}");
    back_end.say(&connects[0]);
    let connected = loop {
        match back_end.hear() {
            Down::Heartbeat { .. } => {}
            down => break down,
        }
    };
    front_end.say(&connected);
    assert_eq!(client.join().unwrap().welcome.name, "slow");
}

#[test]
fn a_machine_that_was_reset_joins_anew_and_its_former_clients_are_over() {
    use vshmem_wire::{Down, Up, VERSION};
    let daemon = Daemon::serve();
    let mut host = daemon.client();
    let (stream, _pool) = attach(&mut host, "own").unwrap();
    let mut played = Played::new(stream);
    played.say(&Played::hello(VERSION, None));
    assert!(matches!(played.hear(), Down::Welcome { .. }));
    let who = vshmem_wire::Credentials {
        pid: 77,
        start: 1,
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        caps: 0,
        stands_for: 0,
    };
    played.say(&Up::Connect {
        tag: 1,
        who,
        resume: None,
        fork: None,
    });
    let client = loop {
        match played.hear() {
            Down::Connected { outcome, .. } => break outcome.unwrap().client,
            Down::Heartbeat { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    let ping = |played: &mut Played, seq| {
        played.say(&Up::Request {
            client,
            seq,
            body: Request::Ping,
        });
        loop {
            match played.hear() {
                Down::Answer { body, .. } => break body,
                Down::Heartbeat { .. } | Down::Welcome { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    };
    assert_eq!(ping(&mut played, 1), Ok(Reply::Done));
    // A power switch leaves the stream as it is; the machine comes up again and knows of nothing.
    played.say(&Played::hello(VERSION, None));
    assert_eq!(
        ping(&mut played, 2).unwrap_err().errno,
        Errno::STALE.raw_os_error()
    );
}
