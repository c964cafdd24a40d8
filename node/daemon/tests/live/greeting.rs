//! A front-end whose back-end is this test: what it makes of answers that come at the wrong moment.

use crate::harness::{Client, Daemon, inheritable};
use rustix::fd::OwnedFd;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vshmem_wire::pool::{GroupPool, PoolHeader};
use vshmem_wire::stream::Connected;
use vshmem_wire::{Down, Limits, Link, Up};

const POOL: u64 = 1 << 20;

/// The back-end's end of the stream.
struct Back {
    stream: UnixStream,
    link: Link,
}

impl Back {
    fn say(&mut self, down: &Down) {
        self.link.send(down);
        while self.link.wants_to_write() {
            let wrote = self.stream.write(self.link.out()).unwrap();
            self.link.wrote(wrote);
        }
    }

    /// What the front-end says next, signs of life left out; None if that is nothing within this time.
    fn hear(&mut self, limit: Duration) -> Option<Up> {
        let until = Instant::now() + limit;
        loop {
            match self.link.take::<Up>().unwrap() {
                Some(Up::Heartbeat) => continue,
                Some(up) => return Some(up),
                None => {}
            }
            let left = until.checked_duration_since(Instant::now())?;
            self.stream
                .set_read_timeout(Some(left.max(Duration::from_millis(1))))
                .unwrap();
            let mut bytes = [0; 1024];
            if let Ok(read) = self.stream.read(&mut bytes) {
                self.link.push(&bytes[..read]);
            }
        }
    }

    /// Waits for a hello, and gives the clients it names.
    fn hello(&mut self) -> Vec<u32> {
        loop {
            if let Up::Hello { clients, .. } = self.hear(Duration::from_secs(10)).expect("no hello came") {
                return clients;
            }
        }
    }

    /// Waits for a Connect.
    fn connect(&mut self) -> u64 {
        loop {
            if let Up::Connect { tag, .. } = self.hear(Duration::from_secs(10)).expect("no Connect came") {
                return tag;
            }
        }
    }

    fn welcome(&mut self) {
        self.say(&Down::Welcome {
            domain: 5,
            name: "a".into(),
            space: 5,
            seconds: 1,
            pools: vec![GroupPool {
                number: 0,
                header: PoolHeader {
                    bytes: POOL,
                    id: 1,
                    group: "default".into(),
                },
            }],
            session: 1,
            keys: None,
        });
    }

    fn connected(&mut self, tag: u64, client: u32) {
        let outcome = Ok(Connected {
            client,
            undo: 1,
            next_seq: 1,
            limits: Limits::default(),
        });
        self.say(&Down::Connected { tag, outcome });
    }
}

/// A front-end that says hello to this test.
fn front() -> (Daemon, Back) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let pool = rustix::fs::memfd_create("pool", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&pool, POOL).unwrap();
    let theirs: OwnedFd = theirs.into();
    let dir = tempfile::tempdir().unwrap();
    let mut command = Daemon::command();
    command
        .arg("join")
        .arg("--runtime-dir")
        .arg(dir.path().join("run"))
        .args([
            "--stream-fd",
            &inheritable(&theirs),
            "--pool-fd",
            &inheritable(&pool),
        ]);
    let link = Link::new();
    (Daemon::start(command, dir), Back { stream: ours, link })
}

/// A process that becomes a client; gives its number.
fn client(front: &Daemon) -> JoinHandle<u32> {
    let path = front.socket();
    std::thread::spawn(move || Client::hello(&path, None).unwrap().0.welcome.client)
}

#[test]
fn a_client_that_a_hello_under_way_does_not_name_asks_again() {
    let (front, mut back) = front();
    back.hello();
    back.welcome();
    let client = client(&front);
    let tag = back.connect();
    // The back-end dies; its successor reads the Connect, and behind it a hello that cannot name the client yet, which ends the client.
    back.say(&Down::Restarted);
    assert!(back.hello().is_empty());
    back.connected(tag, 7);
    back.welcome();
    let tag = back.connect();
    back.connected(tag, 8);
    assert_eq!(client.join().unwrap(), 8);
}

#[test]
fn a_hello_that_was_said_and_answered_twice_has_nobody_connected_twice() {
    let (front, mut back) = front();
    back.hello();
    back.hello();
    back.welcome();
    let client = client(&front);
    let tag = back.connect();
    back.welcome();
    // A second Connect of the same process would make another client of it, and the first one's number worthless.
    assert_eq!(back.hear(Duration::from_millis(300)), None);
    back.connected(tag, 7);
    assert_eq!(client.join().unwrap(), 7);
}
