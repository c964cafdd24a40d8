//! The server with this test in the hypervisors' place, and in the kernel's.

use super::*;
use crate::vsock::front::greet_for_tests as greet;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;

const DB: u32 = 42;
const LONG: Duration = Duration::from_secs(20);

/// A machine called `db`: its hypervisor's socket, and the privileged place in it.
struct World {
    _folder: tempfile::TempDir,
    server: VsockServer,
    hypervisor: UnixListener,
    place: PathBuf,
    inside: PathBuf,
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let (place, inside) = (folder.path().join("host"), folder.path().join("inside"));
    let mut server = VsockServer::new().unwrap();
    // Without the kernel's part: another test may have the port.
    server.machines.push(Machine {
        domain: "db".into(),
        cid: DB,
        place: place.clone(),
    });
    World {
        server,
        hypervisor: UnixListener::bind(&place).unwrap(),
        place,
        inside,
        _folder: folder,
    }
}

/// Serves until something has come of it.
fn outcome(server: &mut VsockServer) -> Arrival {
    let until = Instant::now() + LONG;
    loop {
        if let Some(arrival) = server.serve().pop() {
            return arrival;
        }
        assert!(Instant::now() < until, "nothing comes of it");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn refusal(arrival: Arrival) -> String {
    match arrival {
        Arrival::Refused { who, why } => format!("{who}: {why}"),
        Arrival::Stream { domain, .. } => panic!("a stream of {domain}"),
    }
}

fn knock(server: &mut VsockServer) -> UnixStream {
    let (near, far) = UnixStream::pair().unwrap();
    far.set_nonblocking(true).unwrap();
    server.connected("db", far.into());
    near.set_read_timeout(Some(LONG)).unwrap();
    near
}

fn line(from: &UnixStream) -> String {
    let mut line = String::new();
    BufReader::new(from.try_clone().unwrap())
        .read_line(&mut line)
        .unwrap();
    line
}

/// The hypervisor connects to what listens in the machine, and carries what is said there.
fn carry(hypervisor: UnixListener, inside: PathBuf) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let (mut host, _) = hypervisor.accept().unwrap();
        let mut called = [0; 13];
        host.read_exact(&mut called).unwrap();
        assert_eq!(&called, b"CONNECT 1007\n");
        let Ok(mut guest) = UnixStream::connect(inside) else {
            return;
        };
        host.write_all(b"OK 0\n").unwrap();
        let _ = std::io::copy(&mut host, &mut guest);
    })
}

#[test]
fn a_front_end_proves_itself_and_its_first_byte_is_the_next_one() {
    let mut world = world();
    let door = UnixListener::bind(&world.inside).unwrap();
    let carried = carry(world.hypervisor, world.inside.clone());
    let near = knock(&mut world.server);
    let guest = std::thread::spawn(move || {
        let stream = OwnedFd::from(near);
        greet(&stream, &OwnedFd::from(door)).unwrap();
        rustix::io::write(&stream, b"hello").unwrap();
        stream
    });
    let Arrival::Stream { domain, stream } = outcome(&mut world.server) else {
        panic!("refused");
    };
    assert_eq!(domain, "db");
    Line::Open.say(&stream).unwrap();
    let guest = guest.join().unwrap();
    let mut bytes = [0; 16];
    assert_eq!(rustix::io::read(&stream, &mut bytes).unwrap(), 5);
    assert_eq!(&bytes[..5], b"hello");
    assert!(world.server.candidates.is_empty());
    drop((guest, world.server));
    carried.join().unwrap();
}

#[test]
fn whoever_was_not_told_the_secret_is_refused_and_told_why() {
    let mut world = world();
    // A privileged program listens, for a stream of its own; this one is another's.
    let _door = UnixListener::bind(&world.inside).unwrap();
    let _carried = carry(world.hypervisor, world.inside.clone());
    let mut near = knock(&mut world.server);
    assert!(line(&near).starts_with("vshmem-stream 1 prove "));
    while world
        .server
        .candidates
        .values()
        .any(|one| one.state == State::Dialled)
    {
        assert!(world.server.serve().is_empty());
        std::thread::sleep(Duration::from_millis(2));
    }
    near.write_all(&[b'0'; 33]).unwrap();
    let why = refusal(outcome(&mut world.server));
    assert!(
        why.contains("domain db") && why.contains("does not know"),
        "{why}"
    );
    assert!(line(&near).contains("refused it does not know"));
    assert_eq!(near.read(&mut [0; 8]).unwrap(), 0, "and that is its end");
}

#[test]
fn without_a_privileged_listener_or_a_hypervisor_or_patience_there_is_no_stream() {
    let mut world = world();
    let nobody = carry(world.hypervisor, world.inside.clone());
    let near = knock(&mut world.server);
    let why = refusal(outcome(&mut world.server));
    assert!(why.contains("vshmem join"), "{why}");
    nobody.join().unwrap();
    assert!(line(&near).contains("prove"));
    // The hypervisor has gone: its socket is left.
    let _near = knock(&mut world.server);
    let why = refusal(outcome(&mut world.server));
    assert!(why.contains("does not listen at"), "{why}");
    // Something else lies where its socket should be.
    std::fs::remove_file(&world.place).unwrap();
    std::os::unix::fs::symlink("/run/other", &world.place).unwrap();
    let _near = knock(&mut world.server);
    assert!(refusal(outcome(&mut world.server)).contains("does not listen at"));
    std::fs::remove_file(&world.place).unwrap();
    let silent = UnixListener::bind(&world.place).unwrap();
    let mut near = knock(&mut world.server);
    near.write_all(b"me first").unwrap();
    assert!(refusal(outcome(&mut world.server)).contains("before it is asked"));
    let _near = knock(&mut world.server);
    assert!(world.server.second().is_empty());
    for candidate in world.server.candidates.values_mut() {
        candidate.since -= PATIENCE + Duration::from_secs(1);
    }
    let why = refusal(world.server.second().pop().unwrap());
    assert!(why.contains("too long"), "{why}");
    drop(silent);
}

#[test]
fn a_flood_of_candidates_is_bounded_and_the_latest_are_heard() {
    let mut world = world();
    let near: Vec<UnixStream> = (0..50).map(|_| knock(&mut world.server)).collect();
    assert_eq!(world.server.candidates.len(), MOST_OF_A_DOMAIN);
    let mut said = String::new();
    (&near[0]).read_to_string(&mut said).unwrap();
    assert!(
        said.contains("prove 1\n") && said.contains("refused too many"),
        "{said}"
    );
    let refused = world.server.serve();
    assert_eq!(refused.len(), 50 - MOST_OF_A_DOMAIN);
    assert!(world.server.candidates.keys().all(|number| *number > 46));
}

#[test]
fn the_kernels_word_says_which_domain_it_is_and_that_the_program_is_privileged() {
    let mut world = world();
    let mut came = |cid, port| {
        let (near, far) = UnixStream::pair().unwrap();
        world.server.came(far.into(), Address { cid, port });
        (outcome(&mut world.server), near)
    };
    let (arrival, _near) = came(DB, 1023);
    assert!(matches!(arrival, Arrival::Stream { domain, .. } if domain == "db"));
    let (arrival, near) = came(DB, 1024);
    let why = refusal(arrival);
    assert!(why.contains("domain db") && why.contains("port 1024"), "{why}");
    assert!(line(&near).contains("refused it comes from port 1024"));
    let (arrival, near) = came(43, 1000);
    let why = refusal(arrival);
    assert!(why.contains("CID 43") && why.contains("cid = 43"), "{why}");
    assert!(line(&near).contains("cid = 43"));
}
