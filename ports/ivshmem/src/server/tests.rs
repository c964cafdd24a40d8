//! The server against clients of our own, and against its own death at every step.

use super::ledger::{Ledger, PLACES};
use super::roster::{MOST_NUMBERS, Message, Place, Roster};
use super::{IvshmemServer, MOST_OF_A_DOMAIN};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;
use std::panic::AssertUnwindSafe;
use vshmem_port::device::{DeviceServer, Hold};

/// A keeper; the daemon dies at its call number `fatal`.
#[derive(Default)]
struct Keeper {
    held: BTreeMap<String, OwnedFd>,
    calls: usize,
    fatal: Option<usize>,
}

/// Why a panic is none of a test's.
struct Died;

impl Keeper {
    fn step(&mut self) {
        self.calls += 1;
        if self.fatal == Some(self.calls) {
            self.fatal = None;
            std::panic::resume_unwind(Box::new(Died));
        }
    }
}

impl Hold for Keeper {
    fn hold(&mut self, name: &str, descriptor: BorrowedFd<'_>) {
        self.held
            .insert(name.to_owned(), descriptor.try_clone_to_owned().unwrap());
        self.step();
    }
    fn let_go(&mut self, name: &str) {
        self.held.remove(name);
        self.step();
    }
}

/// The server and its keeper.
struct Host {
    server: IvshmemServer,
    keeper: Keeper,
    vectors: u16,
}

fn pool() -> OwnedFd {
    let file = rustix::fs::memfd_create("pool", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&file, 1 << 20).unwrap();
    file
}

impl Host {
    fn new(vectors: u16) -> Self {
        let mut host = Host {
            server: IvshmemServer::new(pool(), 1 << 20, vectors).unwrap(),
            keeper: Keeper::default(),
            vectors,
        };
        host.server.resume(BTreeMap::new(), &mut host.keeper);
        host
    }

    /// Does something, and if the daemon dies of it, starts another one.
    fn survive<T>(&mut self, step: impl FnOnce(&mut IvshmemServer, &mut Keeper) -> T) -> Option<T> {
        let (server, keeper) = (&mut self.server, &mut self.keeper);
        match std::panic::catch_unwind(AssertUnwindSafe(|| step(server, keeper))) {
            Ok(value) => Some(value),
            Err(why) => {
                assert!(why.is::<Died>(), "a panic of the server itself");
                self.restart();
                None
            }
        }
    }

    /// kill -9 and a new daemon.
    fn restart(&mut self) {
        self.keeper.fatal = None;
        let pool = self.server.pool.try_clone().unwrap();
        self.server = IvshmemServer::new(pool, 1 << 20, self.vectors).unwrap();
        let copy = |(name, fd): (&String, &OwnedFd)| (name.clone(), fd.try_clone().unwrap());
        let held = self.keeper.held.iter().map(copy).collect();
        self.server.resume(held, &mut self.keeper);
    }

    fn connect(&mut self, domain: &str) -> Client {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let refused = self
            .survive(|server, keeper| server.connected(domain, ours.into(), keeper).is_err())
            .unwrap_or(false);
        Client {
            socket: Some(theirs.into()),
            refused,
            vectors: self.vectors.into(),
            ..Client::default()
        }
    }

    fn serve(&mut self) {
        self.survive(|server, keeper| server.serve(keeper));
    }
}

/// A hypervisor's side of the protocol.
#[derive(Default)]
struct Client {
    socket: Option<OwnedFd>,
    refused: bool,
    heard: Vec<(i64, bool)>,
    id: Option<u16>,
    memory: Option<OwnedFd>,
    peers: BTreeMap<u16, Vec<OwnedFd>>,
    vectors: usize,
    gone: BTreeSet<u16>,
}

impl Client {
    fn receive(&self) -> Result<Option<(i64, Option<OwnedFd>)>, Errno> {
        let Some(socket) = &self.socket else {
            return Ok(None);
        };
        let mut bytes = [0; 8];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = rustix::net::recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::empty(),
        )?;
        let mut descriptor = None;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
                descriptor = descriptors.next();
            }
        }
        Ok((got.bytes == 8).then_some((i64::from_le_bytes(bytes), descriptor)))
    }

    /// Takes in all there is. A set-up that is out of order fails the test.
    fn read(&mut self) {
        loop {
            let (number, descriptor) = match self.receive() {
                Err(Errno::AGAIN) => return,
                Ok(None) | Err(_) => return self.socket = None,
                Ok(Some(message)) => message,
            };
            self.heard.push((number, descriptor.is_some()));
            match (self.heard.len(), number, descriptor) {
                (1, 0, None) => {}
                (2, id, None) => self.id = Some(u16::try_from(id).unwrap()),
                (3, -1, Some(memory)) => self.memory = Some(memory),
                (1..=3, _, _) => panic!("out of order: {:?}", self.heard),
                // As QEMU: no more vectors than there are are taken, and who is gone is gone.
                (_, peer, Some(vector)) => {
                    let peer = u16::try_from(peer).unwrap();
                    assert!(!self.gone.contains(&peer), "a number comes again");
                    let known = self.peers.entry(peer).or_default();
                    if known.len() < self.vectors {
                        known.push(vector);
                    }
                }
                (_, peer, None) => {
                    let peer = u16::try_from(peer).unwrap();
                    assert_ne!(Some(peer), self.id, "told of its own end");
                    assert!(self.gone.insert(peer), "an end is told twice");
                    self.peers.remove(&peer);
                }
            }
        }
    }

    fn is_whole(&self, vectors: u16) -> bool {
        let own = self.id.and_then(|id| self.peers.get(&id));
        self.socket.is_some() && own.is_some_and(|own| own.len() == usize::from(vectors))
    }
}

fn ring(vector: &OwnedFd) {
    rustix::io::write(vector, &1_u64.to_ne_bytes()).unwrap();
}

fn rang(vector: &OwnedFd) -> bool {
    let mut count = [0; 8];
    rustix::io::read(vector, &mut count).is_ok()
}

/// Everybody reads, then everybody knows everybody, and every bell rings where it should and nowhere else.
fn check(host: &mut Host, clients: &mut Vec<Client>) {
    for _ in 0..20 {
        host.serve();
        clients.iter_mut().for_each(Client::read);
    }
    clients.retain(|client| client.socket.is_some());
    let vectors = usize::from(host.vectors);
    let ids: Vec<u16> = clients.iter().map(|c| c.id.unwrap()).collect();
    for client in clients.iter() {
        assert!(client.memory.is_some());
        let known: Vec<u16> = client.peers.keys().copied().collect();
        let mut wanted = ids.clone();
        wanted.sort_unstable();
        assert_eq!(known, wanted, "what {:?} knows", client.id);
        for (peer, known) in &client.peers {
            assert_eq!(known.len(), vectors, "vectors of {peer} at {:?}", client.id);
        }
    }
    for from in clients.iter() {
        for to in clients.iter() {
            let id = to.id.unwrap();
            for vector in 0..vectors {
                ring(&from.peers[&id][vector]);
                for other in clients.iter() {
                    for own in 0..vectors {
                        let expected = other.id == to.id && own == vector;
                        assert_eq!(rang(&other.peers[&other.id.unwrap()][own]), expected);
                    }
                }
            }
        }
    }
}

#[test]
fn a_device_is_set_up_in_the_protocols_order() {
    let mut host = Host::new(2);
    let mut first = host.connect("a");
    first.read();
    let shown = [(0, false), (0, false), (-1, true), (0, true), (0, true)];
    assert_eq!(first.heard, shown);
    let mut second = host.connect("b");
    second.read();
    let set_up = [
        (0, false),
        (1, false),
        (-1, true),
        (0, true),
        (0, true),
        (1, true),
        (1, true),
    ];
    assert_eq!(second.heard, set_up);
    first.read();
    assert_eq!(first.heard[5..], [(1, true), (1, true)]);
    second.socket = None;
    host.serve();
    first.read();
    assert_eq!(first.heard[7..], [(1, false)]);
    let memory = first.memory.as_ref().unwrap();
    assert_eq!(rustix::fs::fstat(memory).unwrap().st_size, 1 << 20);
    check(&mut host, &mut vec![first]);
}

#[test]
fn all_know_each_other_after_a_restart_and_hear_nothing_of_it() {
    let mut host = Host::new(3);
    let mut clients: Vec<Client> = (0..4).map(|_| host.connect("a")).collect();
    check(&mut host, &mut clients);
    let heard: Vec<usize> = clients.iter().map(|c| c.heard.len()).collect();
    // A bell that was rung before is heard after.
    let id = clients[1].id.unwrap();
    ring(&clients[0].peers[&id][2]);
    host.restart();
    host.restart();
    assert!(rang(&clients[1].peers[&id][2]));
    check(&mut host, &mut clients);
    assert_eq!(clients.iter().map(|c| c.heard.len()).collect::<Vec<_>>(), heard);
    clients.push(host.connect("b"));
    clients.remove(0);
    check(&mut host, &mut clients);
    assert_eq!(clients.len(), 4);
}

#[test]
fn it_may_die_at_any_step_of_arrivals_and_departures() {
    let mut deaths = 0;
    for fatal in 1..20 {
        let mut host = Host::new(2);
        let mut clients: Vec<Client> = (0..3).map(|_| host.connect("a")).collect();
        check(&mut host, &mut clients);
        host.keeper.fatal = Some(host.keeper.calls + fatal);
        clients.push(host.connect("b"));
        clients.push(host.connect("c"));
        clients.remove(1);
        host.serve();
        clients.remove(1);
        host.serve();
        deaths += u32::from(host.keeper.fatal.is_none());
        host.keeper.fatal = None;
        let before = clients.len();
        check(&mut host, &mut clients);
        // Who was still being set up may have been sent away, whole or not at all; nobody else.
        assert!(before - clients.len() <= 1, "death at step {fatal}");
        assert!(clients.iter().all(|c| c.is_whole(2)));
        let mut late = vec![host.connect("d")];
        clients.append(&mut late);
        check(&mut host, &mut clients);
        clients.clear();
        host.serve();
        let held: Vec<&String> = host.keeper.held.keys().collect();
        assert_eq!(held, ["ledger"], "death at step {fatal}");
    }
    assert!(deaths >= 10, "only {deaths} deaths");
}

#[test]
fn who_never_reads_harms_nobody_while_thousands_come_and_go() {
    let mut host = Host::new(4);
    let mut lazy = host.connect("lazy");
    let mut clients = vec![host.connect("a")];
    for _ in 0..10_000 {
        let passing = host.connect("flood");
        drop(passing);
        host.serve();
        clients[0].read();
    }
    let names = host.keeper.held.len();
    assert!(names < 400, "{names} descriptors are held");
    clients.push(host.connect("b"));
    for _ in 0..3 {
        host.serve();
        clients.iter_mut().for_each(Client::read);
    }
    assert!(clients[1].is_whole(4), "a newcomer is served");
    lazy.read();
    clients.push(lazy);
    check(&mut host, &mut clients);
    assert_eq!(clients.len(), 3, "who reads late is still there");
}

#[test]
fn who_speaks_is_sent_away_and_a_domain_has_so_many_devices() {
    let mut host = Host::new(1);
    let mut clients: Vec<Client> = (0..MOST_OF_A_DOMAIN).map(|_| host.connect("a")).collect();
    assert!(clients.iter().all(|c| !c.refused));
    assert!(host.connect("a").refused);
    let mut talker = host.connect("b");
    rustix::io::write(talker.socket.as_ref().unwrap(), b"GET / HTTP/1.1\r\n").unwrap();
    assert!(has_something(host.server.ready()));
    host.serve();
    (0..2).for_each(|_| talker.read());
    assert!(talker.socket.is_none());
    check(&mut host, &mut clients);
    assert_eq!(clients.len(), MOST_OF_A_DOMAIN);
}

fn has_something(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut fds, Some(&now)).unwrap() == 1
}

#[test]
fn a_pool_that_no_device_can_show_is_refused_with_what_to_do() {
    let why = IvshmemServer::new(pool(), 3 << 20, 1).unwrap_err().to_string();
    assert!(why.contains("--pool 4194304"), "{why}");
}

/// A roster whose daemon dies at one message, before or after it is sent.
struct Told {
    roster: Roster,
    vectors: u8,
    /// What each peer was told of the others, by their numbers, as QEMU would have it.
    known: BTreeMap<Place, BTreeMap<u16, u8>>,
    gone: BTreeMap<Place, BTreeSet<u16>>,
    steps: usize,
    fatal: usize,
    after: bool,
}

impl Told {
    fn hear(&mut self, place: Place, message: Message) {
        let (Message::Vector { of, .. } | Message::Departure { of }) = message else {
            return;
        };
        let id = self.roster.id(of).unwrap();
        let known = self.known.entry(place).or_default();
        let gone = self.gone.entry(place).or_default();
        if message == (Message::Departure { of }) {
            assert!(gone.insert(id), "an end is told twice");
            known.remove(&id);
        } else {
            assert!(!gone.contains(&id), "a number comes again");
            let vectors = known.entry(id).or_default();
            *vectors = self.vectors.min(*vectors + 1);
        }
    }

    fn forget(&mut self, place: Place) {
        self.known.remove(&place);
        self.gone.remove(&place);
    }

    fn run(&mut self) {
        while let Some((place, message)) = (0..PLACES).find_map(|p| Some((p, self.roster.next(p)?))) {
            self.steps += 1;
            self.roster.begin(place, message);
            if self.steps == self.fatal && !self.after {
                return self.die();
            }
            self.hear(place, message);
            if self.steps == self.fatal {
                return self.die();
            }
            self.roster.done(place, message);
        }
    }

    fn die(&mut self) {
        let file = self.roster.ledger().file().try_clone_to_owned().unwrap();
        self.roster = Roster::new(self.vectors, Ledger::adopt(file));
        let there = self.roster.recall(|_| true);
        self.known.retain(|place, _| there.contains(place));
        self.gone.retain(|place, _| there.contains(place));
        self.run();
    }
}

#[test]
fn whoever_is_told_something_when_the_daemon_dies_is_told_right() {
    let mut deaths = 0;
    for (fatal, after, vectors) in
        (1..80).flat_map(|f| [(f, true, 1), (f, false, 1), (f, true, 3), (f, false, 3)])
    {
        let mut told = Told {
            roster: Roster::new(vectors, Ledger::new().unwrap()),
            vectors,
            known: BTreeMap::new(),
            gone: BTreeMap::new(),
            steps: 0,
            fatal,
            after,
        };
        for _ in 0..4 {
            told.roster.arrive("a", PLACES).unwrap();
            told.run();
        }
        told.roster.depart(1);
        told.forget(1);
        told.run();
        told.roster.arrive("b", PLACES).unwrap();
        told.run();
        deaths += u32::from(told.steps >= fatal);
        let ids: Vec<u16> = told.known.keys().map(|p| told.roster.id(*p).unwrap()).collect();
        // The one that was arriving may be gone; an end that may have been told may be unknown.
        assert!(ids.len() >= 3, "{ids:?} after {fatal}");
        for (place, known) in &told.known {
            let lacking: Vec<&u16> = ids.iter().filter(|id| known.get(id) != Some(&vectors)).collect();
            assert!(
                lacking.is_empty(),
                "{place} lacks {lacking:?} after {fatal}, {after}"
            );
        }
    }
    assert!(deaths > 150, "{deaths}");
}

#[test]
fn a_domain_cannot_use_up_all_numbers() {
    let mut roster = Roster::new(1, Ledger::new().unwrap());
    let stays = roster.arrive("a", PLACES).unwrap();
    let mut refused = 0;
    for _ in 0..MOST_NUMBERS + 5 {
        match roster.arrive("b", PLACES) {
            Ok(place) => roster.depart(place),
            Err(why) => refused += u32::from(why.contains("domain b")),
        }
    }
    assert_eq!(refused, 5);
    roster.depart(stays);
    let first = roster.arrive("b", PLACES).unwrap();
    assert_eq!(roster.id(first), Some(0), "the server was empty");
}
