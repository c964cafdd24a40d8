//! The server of `ivshmem-doorbell` devices: it gives each the group's pool, a number, and an event for each interrupt vector of each other device.
//!
//! The protocol is QEMU's, version 0 (its `docs/specs/ivshmem-spec`): numbers of eight bytes, descriptors beside some. A connection is one device. Clients say
//! nothing; one that speaks, or ends, is gone, and the others are told.
//!
//! | module | what it holds |
//! |---|---|
//! | `roster` | who knows of whom, and what each is told next; no sockets |
//! | `ledger` | the same, written down for a successor |
//! | `message` | one message on a socket |
//!
//! **Restart.** Each peer's socket and events are held by [`Hold`] before the peer is told anything, and the ledger says what it was told. A successor goes on with
//! the next message; the hypervisors notice nothing. Names: `ledger`, `peer/PLACE/DOMAIN`, `vector/PLACE/VECTOR`.
//!
//! **Limits.** So many devices a domain ([`MOST_OF_A_DOMAIN`]) and in all ([`MOST`]); a peer that does not read costs nothing more than what the roster knows of
//! it, and during set-up it has [`PATIENCE`].

mod ledger;
mod message;
mod roster;
#[cfg(test)]
mod tests;

use ledger::Ledger;
use roster::{Message, Place, Roster};
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};
use vshmem_port::device::{DeviceServer, Hold};

/// Most devices of one domain.
pub const MOST_OF_A_DOMAIN: usize = 8;
/// Most devices in all.
pub const MOST: u16 = ledger::PLACES;
/// Most interrupt vectors of a device.
pub const MOST_VECTORS: u16 = 64;
/// How long a device's set-up may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connected device.
#[derive(Debug)]
struct Peer {
    domain: String,
    socket: OwnedFd,
    vectors: Vec<OwnedFd>,
    since: Instant,
    /// It is watched for room.
    blocked: bool,
    /// The system refuses for now: tried again with the next second.
    refused: bool,
}

/// The server.
#[derive(Debug)]
pub struct IvshmemServer {
    pool: OwnedFd,
    vectors: u8,
    epoll: OwnedFd,
    peers: BTreeMap<Place, Peer>,
    roster: Roster,
}

/// The name under which the ledger is held.
const LEDGER: &str = "ledger";

fn peer_name(place: Place, domain: &str) -> String {
    format!("peer/{place}/{domain}")
}

fn vector_name(place: Place, vector: usize) -> String {
    format!("vector/{place}/{vector}")
}

fn events(blocked: bool) -> epoll::EventFlags {
    if blocked {
        epoll::EventFlags::IN | epoll::EventFlags::OUT
    } else {
        epoll::EventFlags::IN
    }
}

/// What was held of one peer.
#[derive(Default)]
struct Held {
    socket: Option<(String, OwnedFd)>,
    vectors: BTreeMap<u8, OwnedFd>,
}

impl IvshmemServer {
    /// A server that shows `pool`, of `bytes` bytes, to devices of `vectors` interrupt vectors each.
    ///
    /// # Errors
    /// If no device can show such a pool: the text says what to do.
    pub fn new(pool: OwnedFd, bytes: u64, vectors: u16) -> io::Result<Self> {
        check_pool(bytes).map_err(io::Error::other)?;
        let vectors = vectors.clamp(1, MOST_VECTORS) as u8;
        Ok(IvshmemServer {
            pool,
            vectors,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            peers: BTreeMap::new(),
            roster: Roster::new(vectors, Ledger::new()?),
        })
    }

    fn watch(&mut self, place: Place, peer: Peer) -> io::Result<()> {
        let data = epoll::EventData::new_u64(place.into());
        epoll::add(&self.epoll, &peer.socket, data, events(false))?;
        self.peers.insert(place, peer);
        Ok(())
    }

    /// Tells everybody what there is to tell, as far as they take it.
    fn tell_all(&mut self, hold: &mut dyn Hold) {
        loop {
            let mut changed = false;
            let places: Vec<Place> = self.peers.keys().copied().collect();
            for place in places {
                match self.tell(place) {
                    Ok(news) => changed |= news,
                    Err(why) => {
                        self.lose(place, &why.to_string(), hold);
                        changed = true;
                    }
                }
            }
            if !changed {
                return;
            }
        }
    }

    /// Tells one peer what it lacks. Whether that is news for others.
    fn tell(&mut self, place: Place) -> Result<bool, Errno> {
        let mut news = false;
        while let Some(message) = self.roster.next(place) {
            self.roster.begin(place, message);
            match self.send(place, message) {
                Ok(()) => news |= self.roster.done(place, message),
                Err(why) => {
                    self.roster.undo(place, message);
                    // Too many descriptors are under way to those who do not read: later.
                    let refused = matches!(
                        why,
                        Errno::TOOMANYREFS | Errno::NOBUFS | Errno::NOMEM | Errno::INTR
                    );
                    if !refused && why != Errno::AGAIN {
                        return Err(why);
                    }
                    if let Some(peer) = self.peers.get_mut(&place) {
                        peer.refused |= refused;
                    }
                    self.block(place, !refused);
                    return Ok(news);
                }
            }
        }
        self.block(place, false);
        Ok(news)
    }

    fn send(&self, place: Place, message: Message) -> Result<(), Errno> {
        let peer = self.peers.get(&place).ok_or(Errno::NOENT)?;
        let id = |place: Place| self.roster.id(place).map(i64::from).ok_or(Errno::NOENT);
        let (number, descriptor) = match message {
            Message::Version => (message::VERSION, None),
            Message::Number => (id(place)?, None),
            Message::Memory => (message::MEMORY, Some(self.pool.as_fd())),
            Message::Departure { of } => (id(of)?, None),
            Message::Vector { of, number } => {
                let vectors = self.peers.get(&of).map(|p| &p.vectors);
                let vector = vectors.and_then(|v| v.get(usize::from(number)));
                (id(of)?, Some(vector.ok_or(Errno::NOENT)?.as_fd()))
            }
        };
        message::send(&peer.socket, number, descriptor)
    }

    fn block(&mut self, place: Place, blocked: bool) {
        if let Some(peer) = self.peers.get_mut(&place).filter(|p| p.blocked != blocked) {
            peer.blocked = blocked;
            let data = epoll::EventData::new_u64(place.into());
            let _ = epoll::modify(&self.epoll, &peer.socket, data, events(blocked));
        }
    }

    /// A peer is gone.
    fn lose(&mut self, place: Place, why: &str, hold: &mut dyn Hold) {
        let Some(peer) = self.peers.remove(&place) else {
            return;
        };
        tracing::info!(domain = %peer.domain, peer = self.roster.id(place), "an ivshmem device is gone: {why}");
        let _ = epoll::delete(&self.epoll, &peer.socket);
        // Others hold the socket, too; the other end must see that it is over.
        let _ = rustix::net::shutdown(&peer.socket, rustix::net::Shutdown::Both);
        self.roster.depart(place);
        hold.let_go(&peer_name(place, &peer.domain));
        for vector in 0..peer.vectors.len() {
            hold.let_go(&vector_name(place, vector));
        }
    }

    /// Whether a peer has ended or has spoken, which no device does.
    fn is_over(&self, place: Place) -> Option<&'static str> {
        let peer = self.peers.get(&place)?;
        let mut said = [0_u8; 64];
        match rustix::io::read(&peer.socket, &mut said) {
            Ok(0) => Some("it ended"),
            Ok(_) => {
                Some("it spoke, which no device does: what connects to this socket is no ivshmem-doorbell")
            }
            Err(Errno::AGAIN | Errno::INTR) => None,
            Err(_) => Some("its connection broke"),
        }
    }

    /// A peer that a killed daemon had, and that goes on.
    fn resume_peer(&mut self, place: Place, (domain, socket): (String, OwnedFd), vectors: Vec<OwnedFd>) {
        let peer = Peer {
            domain,
            socket,
            vectors,
            since: Instant::now(),
            blocked: false,
            refused: false,
        };
        if let Err(e) = self.watch(place, peer) {
            tracing::error!(place, "an ivshmem device cannot be watched: {e}");
            self.roster.depart(place);
        }
    }

    /// A peer whose set-up was under way, or that was being cut off: its hypervisor sees the end, and where it was still starting, says so.
    fn end_peer(place: Place, held: &Held, hold: &mut dyn Hold) {
        if let Some((domain, socket)) = &held.socket {
            tracing::warn!(%domain, "an ivshmem device was being set up when the daemon was killed: its machine has to ask again");
            let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
            hold.let_go(&peer_name(place, domain));
        }
        for vector in held.vectors.keys() {
            hold.let_go(&vector_name(place, usize::from(*vector)));
        }
    }
}

/// Whether a device can show a pool of this size.
///
/// # Errors
/// If not: the text says what to do.
pub fn check_pool(bytes: u64) -> Result<(), String> {
    if bytes.is_power_of_two() {
        return Ok(());
    }
    let next = bytes.checked_next_power_of_two().unwrap_or(1 << 40);
    Err(format!(
        "the pool has {bytes} bytes, and the memory of an ivshmem device is a power of two: start the back-end with --pool {next}, or say so in its configuration \
         (a pool is sparse: only what constructs use is taken)"
    ))
}

impl DeviceServer for IvshmemServer {
    fn ready(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    fn resume(&mut self, mut held: BTreeMap<String, OwnedFd>, hold: &mut dyn Hold) {
        if let Some(ledger) = held.remove(LEDGER) {
            self.roster = Roster::new(self.vectors, Ledger::adopt(ledger));
        } else {
            hold.hold(LEDGER, self.roster.ledger().file());
        }
        let mut peers: BTreeMap<Place, Held> = BTreeMap::new();
        for (name, descriptor) in held {
            let words: Vec<&str> = name.splitn(3, '/').collect();
            let place = words.get(1).and_then(|place| place.parse::<Place>().ok());
            match (&words[..], place) {
                (["peer", _, domain], Some(place)) => {
                    peers.entry(place).or_default().socket = Some(((*domain).to_owned(), descriptor));
                }
                (["vector", _, number], Some(place)) if number.parse::<u8>().is_ok() => {
                    let number = number.parse().unwrap_or_default();
                    peers.entry(place).or_default().vectors.insert(number, descriptor);
                }
                _ => hold.let_go(&name),
            }
        }
        let wanted = usize::from(self.vectors);
        let is_whole = |place: Place| {
            let held = peers.get(&place);
            held.is_some_and(|held| held.socket.is_some() && held.vectors.len() == wanted)
        };
        let those = self.roster.recall(is_whole);
        for (place, mut held) in peers {
            match held.socket.take_if(|_| those.contains(&place)) {
                Some(socket) => self.resume_peer(place, socket, held.vectors.into_values().collect()),
                None => Self::end_peer(place, &held, hold),
            }
        }
        self.tell_all(hold);
    }

    fn connected(&mut self, domain: &str, socket: OwnedFd, hold: &mut dyn Hold) -> io::Result<()> {
        let most = format!("{domain} has {MOST_OF_A_DOMAIN} ivshmem devices, which is the most");
        if self.connections(domain) >= MOST_OF_A_DOMAIN {
            return Err(io::Error::other(most));
        }
        rustix::io::ioctl_fionbio(&socket, true)?;
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let vectors = (0..self.vectors)
            .map(|_| eventfd(0, flags))
            .collect::<Result<Vec<OwnedFd>, Errno>>()?;
        let place = self.roster.arrive(domain, MOST).map_err(io::Error::other)?;
        for (number, vector) in vectors.iter().enumerate() {
            hold.hold(&vector_name(place, number), vector.as_fd());
        }
        let peer = Peer {
            domain: domain.to_owned(),
            socket,
            vectors,
            since: Instant::now(),
            blocked: false,
            refused: false,
        };
        hold.hold(&peer_name(place, domain), peer.socket.as_fd());
        if let Err(e) = self.watch(place, peer) {
            self.roster.depart(place);
            return Err(e);
        }
        tracing::info!(%domain, peer = self.roster.id(place), "an ivshmem device comes");
        self.tell_all(hold);
        Ok(())
    }

    fn serve(&mut self, hold: &mut dyn Hold) {
        let mut found: Vec<epoll::Event> = Vec::with_capacity(64);
        let now = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let _ = epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut found),
            Some(&now),
        );
        for event in found {
            let (flags, data) = (event.flags, event.data);
            let Ok(place) = Place::try_from(data.u64()) else {
                continue;
            };
            if flags != epoll::EventFlags::OUT
                && let Some(why) = self.is_over(place)
            {
                self.lose(place, why, hold);
            }
        }
        self.tell_all(hold);
    }

    fn second(&mut self, hold: &mut dyn Hold) {
        let slow = |(place, peer): (&Place, &Peer)| {
            let late = peer.since.elapsed() > PATIENCE;
            (late && self.roster.is_new(*place)).then_some(*place)
        };
        let slow: Vec<Place> = self.peers.iter().filter_map(slow).collect();
        let refused = self.peers.values_mut().filter(|p| p.refused);
        let again = refused.map(|p| p.refused = false).count() > 0;
        for place in &slow {
            self.lose(*place, "it did not take its set-up", hold);
        }
        if again || !slow.is_empty() {
            self.tell_all(hold);
        }
    }

    fn connections(&self, domain: &str) -> usize {
        self.peers.values().filter(|p| p.domain == domain).count()
    }
}
