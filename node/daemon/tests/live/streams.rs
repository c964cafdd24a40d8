//! Streams that machines open themselves, with this test in the hypervisor's place, and in those of programs in the machine.

use crate::harness::{Client, Daemon, LONG, until};
use crate::machines::{is_up, join};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use vshmem_wire::{Doors, Failure, Reply, Request};

const PROVE: &str = "vshmem-stream 1 prove ";
const DB: &str = "[[domain]]\nname = \"db\"\nport = \"ivshmem\"\ncid = 42\n";

fn place(daemon: &Daemon) -> PathBuf {
    daemon.dir().join("machines/db/vsock/host")
}

/// The hypervisor of `db`, which turns vsock into unix sockets.
struct Hypervisor {
    calls: UnixListener,
    back_end: PathBuf,
}

impl Hypervisor {
    fn of(daemon: &Daemon) -> Self {
        let place = place(daemon);
        let _ = std::fs::remove_file(&place);
        Hypervisor {
            calls: UnixListener::bind(&place).unwrap(),
            back_end: place.with_file_name("host_1007"),
        }
    }

    /// A program in the machine connects to the host.
    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.back_end).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
    }

    /// The secret that is told to the privileged program in the machine, of the stream that bears this name. What is called for others, which may have ended, is
    /// let through and heard by nobody.
    fn secret_of(&self, id: &str) -> String {
        loop {
            let (mut call, _) = self.calls.accept().unwrap();
            call.set_read_timeout(Some(LONG)).unwrap();
            if line(&call) != "CONNECT 1007" || call.write_all(b"OK 7\n").is_err() {
                continue;
            }
            if let Some((of, secret)) = line(&call).split_once(' ')
                && of == id
            {
                return secret.to_owned();
            }
        }
    }

    /// A front-end's stream, which is opened as it should be; and the last word on it.
    fn front_end(&self) -> (UnixStream, String) {
        let mut stream = self.connect();
        let asked = line(&stream);
        let secret = self.secret_of(asked.strip_prefix(PROVE).unwrap());
        stream.write_all(format!("{secret}\n").as_bytes()).unwrap();
        let last = line(&stream);
        (stream, last)
    }
}

/// A line, and not a byte more.
fn line(from: &UnixStream) -> String {
    let mut line = String::new();
    let mut reader = BufReader::with_capacity(1, from.try_clone().unwrap());
    // The end of a connection that was cut off is the line's end, too.
    let _ = reader.read_line(&mut line);
    line.trim_end().to_owned()
}

fn pool(daemon: &Daemon) -> std::fs::File {
    let pool = daemon.dir().join("pool");
    std::fs::File::options()
        .read(true)
        .write(true)
        .open(pool)
        .unwrap()
}

fn open(host: &mut Client, name: &str, vsock: Option<u32>) -> Result<Doors, Failure> {
    let request = Request::OpenDomain {
        name: name.into(),
        port: "ivshmem".into(),
        vsock,
    };
    match host.ask(request)? {
        Reply::DomainOpen(doors) => Ok(doors),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_machine_opens_its_stream_itself_and_a_killed_back_end_is_nothing_to_it() {
    let daemon = Daemon::serve_with(&["--pool", "64M"], DB);
    let mut host = daemon.client();
    let id = host.shm_get(0x42, 8192).unwrap();
    let hypervisor = Hypervisor::of(&daemon);
    for round in 0..3 {
        let (stream, last) = hypervisor.front_end();
        assert_eq!(last, "vshmem-stream 1 open", "round {round}");
        until("the domain is up", || is_up(&mut host, "db").then_some(()));
        let front = join(stream.into(), pool(&daemon).into());
        let (mut guest, _) = Client::hello(&front.socket(), None).unwrap();
        assert_eq!(guest.welcome.name, "db");
        assert_eq!(guest.shm_get(0x42, 8192), Ok(id));
        daemon.kill();
        host = daemon.client();
        assert_eq!(guest.shm_get(0x42, 8192), Ok(id), "its stream was kept");
        // Another front-end of this machine is sent away as long as this one lives.
        let (_second, last) = hypervisor.front_end();
        assert!(
            last.starts_with("vshmem-stream 1 refused there is a domain"),
            "{last}"
        );
        drop(front);
        until("the domain is down", || (!is_up(&mut host, "db")).then_some(()));
    }
}

#[test]
fn programs_of_a_machine_that_prove_nothing_get_no_stream_and_harm_nobody() {
    let daemon = Daemon::serve_with(&["--pool", "64M"], DB);
    let mut host = daemon.client();
    let hypervisor = Hypervisor::of(&daemon);
    // One speaks at once, one guesses.
    let mut hasty = hypervisor.connect();
    hasty.write_all(&[7; 4096]).unwrap();
    drop(hypervisor.calls.accept().unwrap());
    let mut guesser = hypervisor.connect();
    let secret = hypervisor.secret_of(line(&guesser).strip_prefix(PROVE).unwrap());
    guesser.write_all(&[b'0'; 33]).unwrap();
    for refused in [&mut hasty, &mut guesser] {
        let mut rest = String::new();
        // Cut off where it had said more than was read.
        let _ = refused.read_to_string(&mut rest);
        assert!(
            !rest.contains("stream 1 open") && !rest.contains(&secret),
            "{rest}"
        );
    }
    assert!(!is_up(&mut host, "db"));
    // Many more, all at once, while the host is served.
    let many: Vec<UnixStream> = (0..60).map(|_| hypervisor.connect()).collect();
    for _ in 0..50 {
        assert_eq!(host.ask(Request::Ping), Ok(Reply::Done));
    }
    drop(many);
    let (stream, last) = hypervisor.front_end();
    assert_eq!(last, "vshmem-stream 1 open");
    until("the domain is up", || is_up(&mut host, "db").then_some(()));
    assert_eq!(host.status().restarts, 0);
    drop(stream);
}

#[test]
fn a_stream_that_nobody_was_told_the_end_of_gives_way_to_the_machines_next_one() {
    let daemon = Daemon::serve_with(&["--pool", "64M"], DB);
    let mut host = daemon.client();
    let hypervisor = Hypervisor::of(&daemon);
    let (left, last) = hypervisor.front_end();
    assert_eq!(last, "vshmem-stream 1 open");
    let (_stream, first) = hypervisor.front_end();
    assert!(first.contains("refused"), "{first}");
    let next = until("the silent one gives way", || {
        let (stream, last) = hypervisor.front_end();
        (last == "vshmem-stream 1 open").then_some(stream)
    });
    until("the domain is up", || is_up(&mut host, "db").then_some(()));
    let mut left = left;
    assert_eq!(left.read(&mut [0; 64]).unwrap(), 0, "it has ended");
    drop(next);
}

#[test]
fn the_back_end_chooses_an_address_and_knows_it_after_it_was_killed() {
    let mut daemon = Daemon::serve_with(&["--pool", "64M"], &format!("{DB}[machines]\nmode = \"0660\"\n"));
    let mut host = daemon.client();
    assert_eq!(open(&mut host, "db", None).unwrap().vsock.unwrap().cid, 42);
    assert_eq!(open(&mut host, "late", None).unwrap().vsock, None);
    let doors = open(&mut host, "late", Some(0)).unwrap();
    let vsock = doors.vsock.clone().unwrap();
    assert_eq!(vsock.cid, 1000);
    assert_eq!(
        open(&mut host, "later", Some(0)).unwrap().vsock.unwrap().cid,
        1001
    );
    let folder = PathBuf::from(&vsock.place).parent().unwrap().to_owned();
    let mode = |path: &PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o770, "who may connect may listen there");
    assert_eq!(mode(&folder.join("host_1007")), 0o660);
    daemon.kill();
    let mut host = daemon.client();
    assert_eq!(open(&mut host, "late", Some(0)).unwrap(), doors);
    assert!(UnixStream::connect(folder.join("host_1007")).is_ok());
    for (name, cid, word) in [
        ("late", 7, "CID 1000"),
        ("other", 42, "\"db\""),
        ("other", 1001, "\"later\""),
        ("other", 2, "no machine has CID 2"),
    ] {
        let why = open(&mut host, name, Some(cid)).unwrap_err();
        assert!(why.errno == libc::EINVAL && why.why.contains(word), "{why:?}");
    }
    daemon.stop();
    assert!(!daemon.dir().exists());
}
