//! Sockets for machines that somebody else starts, with this test in the hypervisor's place.

use crate::harness::{Client, Daemon, LONG, inheritable, until};
use crate::socket;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use vshmem_wire::{Doors, Failure, Reply, Request};

pub(crate) const DB: &str = "[[domain]]\nname = \"db\"\nport = \"ivshmem\"\n";

impl Daemon {
    pub(crate) fn machine(&self, domain: &str, socket: &str) -> PathBuf {
        self.dir()
            .join("machines")
            .join(domain)
            .join(format!("{socket}.sock"))
    }
}

/// One message of the device's protocol. None at the end, and where none comes.
pub(crate) fn message(socket: &UnixStream) -> Option<(i64, Option<OwnedFd>)> {
    let time = Timespec {
        tv_sec: LONG.as_secs() as _,
        tv_nsec: 0,
    };
    poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&time)).unwrap();
    let mut bytes = [0; 8];
    let mut got = socket::receive(socket, &mut bytes).ok()??;
    assert_eq!(got.bytes, 8);
    Some((i64::from_le_bytes(bytes), got.descriptors.pop()))
}

pub(crate) fn is_up(host: &mut Client, domain: &str) -> bool {
    let domains = host.status().domains;
    domains.iter().any(|d| d.name == domain && d.up)
}

pub(crate) fn open(host: &mut Client, name: &str) -> Result<Doors, Failure> {
    let request = Request::OpenDomain {
        name: name.into(),
        port: "ivshmem".into(),
        vsock: None,
    };
    match host.ask(request)? {
        Reply::DomainOpen(doors) => Ok(doors),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn join(stream: OwnedFd, pool: OwnedFd) -> Daemon {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Daemon::command();
    command
        .arg("join")
        .arg("--runtime-dir")
        .arg(dir.path().join("run"));
    command.args([
        "--stream-fd",
        &inheritable(&stream),
        "--pool-fd",
        &inheritable(&pool),
    ]);
    Daemon::start(command, dir)
}

#[test]
fn a_machine_comes_by_its_socket_goes_and_comes_back() {
    let daemon = Daemon::serve_with(&["--pool", "64M"], DB);
    let mut host = daemon.client();
    let id = host.shm_get(0x42, 8192).unwrap();
    for round in 0..3 {
        assert!(!is_up(&mut host, "db"), "round {round}");
        let stream = UnixStream::connect(daemon.machine("db", "control")).unwrap();
        let pool = std::fs::File::options()
            .read(true)
            .write(true)
            .open(daemon.dir().join("pool"))
            .unwrap();
        let front = join(stream.into(), pool.into());
        let (mut guest, _) = Client::hello(&front.socket(), None).unwrap();
        assert_eq!(guest.welcome.name, "db", "the name is the socket's");
        assert_eq!(guest.shm_get(0x42, 8192), Ok(id));
        assert!(is_up(&mut host, "db"));
        drop(front);
        until("the domain is down", || (!is_up(&mut host, "db")).then_some(()));
        if round == 1 {
            daemon.kill();
            host = daemon.client();
        }
    }
}

#[test]
fn the_device_socket_gives_the_pool_and_outlives_the_daemon() {
    let daemon = Daemon::serve_with(&["--pool", "64M"], &format!("{DB}[machines]\nvectors = 2\n"));
    let device = UnixStream::connect(daemon.machine("db", "device")).unwrap();
    let (version, id, memory) = (message(&device), message(&device), message(&device));
    assert_eq!(version.unwrap().0, 0);
    assert_eq!(id.unwrap().0, 0);
    let (number, memory) = memory.unwrap();
    assert_eq!(number, -1);
    let memory = memory.unwrap();
    assert_eq!(rustix::fs::fstat(&memory).unwrap().st_size, 64 << 20);
    for _ in 0..2 {
        assert!(matches!(message(&device), Some((0, Some(_)))));
    }
    daemon.kill();
    let other = UnixStream::connect(daemon.machine("db", "device")).unwrap();
    let bells: Vec<OwnedFd> = (0..2)
        .map(|_| match message(&device) {
            Some((1, Some(bell))) => bell,
            other => panic!("{other:?}"),
        })
        .collect();
    let heard: Vec<i64> = (0..7).map(|_| message(&other).unwrap().0).collect();
    assert_eq!(heard, [0, 1, -1, 0, 0, 1, 1]);
    drop(other);
    assert!(matches!(message(&device), Some((1, None))), "{bells:?}");
}

#[test]
fn a_flood_at_a_machines_sockets_harms_nobody() {
    let config = format!("{DB}[[domain]]\nname = \"other\"\nport = \"ivshmem\"\n");
    let daemon = Daemon::serve_with(&["--pool", "64M"], &config);
    let mut host = daemon.client();
    let stream = UnixStream::connect(daemon.machine("db", "control")).unwrap();
    until("the domain is up", || is_up(&mut host, "db").then_some(()));
    // Whatever else comes by this socket while it is up is sent away.
    let second = UnixStream::connect(daemon.machine("db", "control")).unwrap();
    assert!(message(&second).is_none());
    let path = daemon.machine("db", "device");
    let flood = std::thread::spawn(move || {
        let mut kept = Vec::new();
        let mut connected = 0;
        let end = std::time::Instant::now() + std::time::Duration::from_secs(3);
        while std::time::Instant::now() < end && connected < 10_000 {
            let Ok(socket) = UnixStream::connect(&path) else {
                continue;
            };
            connected += 1;
            // Some stay and never read, some speak, some go at once.
            let _ = (connected % 3 == 0).then(|| rustix::io::write(&socket, &[1; 4096]));
            if connected % 3 == 1 && kept.len() < 100 {
                kept.push(socket);
            }
        }
        connected
    });
    let begun = std::time::Instant::now();
    for _ in 0..50 {
        assert_eq!(host.ask(Request::Ping), Ok(Reply::Done));
    }
    assert!(
        begun.elapsed() < std::time::Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    let neighbour = UnixStream::connect(daemon.machine("other", "device")).unwrap();
    assert!(matches!(message(&neighbour), Some((0, None))));
    assert!(flood.join().unwrap() > 100);
    assert!(is_up(&mut host, "db") && host.status().restarts == 0);
    drop(stream);
}

#[test]
fn a_domain_is_opened_while_the_daemon_runs_and_nothing_is_left_behind() {
    let mut daemon = Daemon::serve();
    let mut host = daemon.client();
    let doors = open(&mut host, "late").unwrap();
    assert!(!doors.configured && doors.pools[0].pool.bytes == 64 << 20 && doors.vectors == 1);
    assert_eq!(open(&mut host, "late").unwrap(), doors, "asking again is fine");
    let mode = std::fs::metadata(&doors.pools[0].device)
        .unwrap()
        .permissions()
        .mode();
    assert_eq!((mode & 0o777, doors.mode), (0o600, 0o600));
    for bad in ["host", "../x", ""] {
        assert_eq!(open(&mut host, bad).unwrap_err().errno, libc::EINVAL);
    }
    daemon.kill();
    let device = UnixStream::connect(&doors.pools[0].device).unwrap();
    assert!(matches!(message(&device), Some((0, None))));
    daemon.stop();
    assert!(!daemon.dir().exists());
}

#[test]
fn what_cannot_be_opened_is_refused_with_what_to_do() {
    let closed = Daemon::serve_with(&["--pool", "64M"], &format!("{DB}[group]\nclosed = true\n"));
    let why = open(&mut closed.client(), "stranger").unwrap_err();
    assert!(
        why.errno == libc::EPERM && why.why.contains("[[domain]]"),
        "{why:?}"
    );
    assert!(open(&mut closed.client(), "db").unwrap().configured);
    let odd = Daemon::serve_with(&["--pool", "3M"], "");
    let why = open(&mut odd.client(), "db").unwrap_err();
    assert!(why.why.contains("--pool 4194304"), "{why:?}");
    let files = Daemon::serve_with(&[], "[group]\nmemory = \"memfd\"\n");
    assert_eq!(
        open(&mut files.client(), "db").unwrap_err().errno,
        libc::EOPNOTSUPP
    );
}

#[test]
fn a_domain_has_all_its_sockets_or_none() {
    // The socket of the second group's pool has too long a name, the others have not.
    let (group, domain) = ("g".repeat(63), "d".repeat(40));
    let config = format!("[[groups]]\nname = \"{group}\"\npool = \"64M\"\nmembers = [\"{domain}\"]\n");
    let daemon = Daemon::serve_with(&["--pool", "64M"], &config);
    let mut host = daemon.client();
    for _ in 0..2 {
        let refused = open(&mut host, &domain).unwrap_err();
        assert!(refused.why.contains("107 bytes"), "{refused:?}");
        assert!(UnixStream::connect(daemon.machine(&domain, "control")).is_err());
    }
    assert!(open(&mut host, "short").is_ok());
}

#[test]
fn a_pool_that_no_device_can_show_is_named_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("vshmem.toml");
    std::fs::write(&file, DB).unwrap();
    let run = dir.path().join("run");
    let mut command = Daemon::command();
    command.args(["serve", "--pool", "3M", "--runtime-dir"]).arg(&run);
    let output = command.arg("--config").arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("domain \"db\"") && said.contains("power of two"),
        "{said}"
    );
    assert!(!output.status.success() && !run.exists());
}
