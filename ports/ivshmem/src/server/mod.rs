//! The server of `ivshmem-doorbell` devices: it gives each the group's pool, a number, and an event for each interrupt vector of each other device.
//!
//! The protocol is QEMU's, version 0 (its `docs/specs/ivshmem-spec`): numbers of eight bytes, descriptors beside some. A connection is one device. Clients say
//! nothing; one that speaks, or ends, is gone, and the others are told.
//!
//! | module | what it holds |
//! |---|---|
//! | `roster` | who knows of whom, and what each is told next; no sockets |
//! | `message` | one message on a socket |
//!
//! **Restart.** Each peer's socket and events are held by [`Hold`] before the peer is told anything, under names that say how far it is: see `roster`. A
//! successor finds them and goes on; the hypervisors notice nothing. Names: `peer/NUMBER/STANDING/DOMAIN`, `vector/NUMBER/VECTOR`, `gone/NUMBER`. A new name
//! is held before the old one is let go; of two names for one peer the more cautious is believed.
//!
//! **Limits.** So many devices a domain ([`MOST_OF_A_DOMAIN`]) and in all ([`MOST`]); a peer that does not read costs nothing more than what the roster knows of
//! it, and during set-up it has [`PATIENCE`].

mod message;
mod roster;
#[cfg(test)]
mod tests;

use roster::{Id, Message, Roster, Standing};
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
pub const MOST: u16 = 512;
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
    /// The name under which its socket is held.
    name: String,
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
    vectors: u16,
    epoll: OwnedFd,
    peers: BTreeMap<Id, Peer>,
    roster: Roster,
}

fn name(id: Id, standing: Standing, domain: &str) -> String {
    let standing = match standing {
        Standing::SetUp => "set-up",
        Standing::Arriving => "arriving",
        Standing::Settled => "settled",
    };
    format!("peer/{id}/{standing}/{domain}")
}

fn vector_name(id: Id, vector: usize) -> String {
    format!("vector/{id}/{vector}")
}

fn gone_name(id: Id) -> String {
    format!("gone/{id}")
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
    sockets: BTreeMap<&'static str, (String, OwnedFd)>,
    vectors: BTreeMap<u16, OwnedFd>,
    /// The others may not know yet that it is gone.
    gone: bool,
}

impl Held {
    /// How far it was, if it goes on.
    fn standing(&self, vectors: u16) -> Option<&'static str> {
        let whole = !self.gone && self.vectors.len() == usize::from(vectors);
        let standing = ["arriving", "settled"].into_iter();
        let mut known = standing.filter(|standing| self.sockets.contains_key(standing));
        known.next().filter(|_| whole)
    }
}

impl IvshmemServer {
    /// A server that shows `pool`, of `bytes` bytes, to devices of `vectors` interrupt vectors each.
    ///
    /// # Errors
    /// If no device can show such a pool: the text says what to do.
    pub fn new(pool: OwnedFd, bytes: u64, vectors: u16) -> io::Result<Self> {
        check_pool(bytes).map_err(io::Error::other)?;
        Ok(IvshmemServer {
            pool,
            vectors: vectors.clamp(1, MOST_VECTORS),
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            peers: BTreeMap::new(),
            roster: Roster::new(vectors.clamp(1, MOST_VECTORS)),
        })
    }

    fn watch(&mut self, id: Id, peer: Peer) -> io::Result<()> {
        let data = epoll::EventData::new_u64(id.into());
        epoll::add(&self.epoll, &peer.socket, data, events(false))?;
        self.peers.insert(id, peer);
        Ok(())
    }

    /// Tells everybody what there is to tell, as far as they take it.
    fn tell_all(&mut self, hold: &mut dyn Hold) {
        loop {
            let mut changed = false;
            let ids: Vec<Id> = self.peers.keys().copied().collect();
            for id in ids {
                match self.tell(id, hold) {
                    Ok(news) => changed |= news,
                    Err(why) => {
                        self.lose(id, &why.to_string(), hold);
                        changed = true;
                    }
                }
            }
            self.settle(hold);
            if !changed {
                return;
            }
        }
    }

    /// Tells one peer what it lacks. Whether it is shown to the others from now on.
    fn tell(&mut self, id: Id, hold: &mut dyn Hold) -> Result<bool, Errno> {
        let mut news = false;
        while let Some(message) = self.roster.next(id) {
            match self.send(id, message) {
                Ok(()) => {}
                Err(Errno::AGAIN) => {
                    self.block(id, true);
                    return Ok(news);
                }
                // Too many descriptors are under way to those who do not read.
                Err(Errno::TOOMANYREFS | Errno::NOBUFS | Errno::NOMEM | Errno::INTR) => {
                    if let Some(peer) = self.peers.get_mut(&id) {
                        peer.refused = true;
                    }
                    self.block(id, false);
                    return Ok(news);
                }
                Err(e) => return Err(e),
            }
            let before = self.roster.standing(id);
            self.roster.told(id, message);
            if before != self.roster.standing(id) {
                self.rename(id, hold);
                news = true;
            }
        }
        self.block(id, false);
        Ok(news)
    }

    fn send(&self, id: Id, message: Message) -> Result<(), Errno> {
        let peer = self.peers.get(&id).ok_or(Errno::NOENT)?;
        let (number, descriptor) = match message {
            Message::Version => (message::VERSION, None),
            Message::Number => (i64::from(id), None),
            Message::Memory => (message::MEMORY, Some(self.pool.as_fd())),
            Message::Departure { of } => (i64::from(of), None),
            Message::Vector { of, number } => {
                let vectors = self.peers.get(&of).map(|p| &p.vectors);
                let vector = vectors.and_then(|v| v.get(usize::from(number)));
                (i64::from(of), Some(vector.ok_or(Errno::NOENT)?.as_fd()))
            }
        };
        message::send(&peer.socket, number, descriptor)
    }

    fn block(&mut self, id: Id, blocked: bool) {
        if let Some(peer) = self.peers.get_mut(&id).filter(|p| p.blocked != blocked) {
            peer.blocked = blocked;
            let data = epoll::EventData::new_u64(id.into());
            let _ = epoll::modify(&self.epoll, &peer.socket, data, events(blocked));
        }
    }

    /// Has a peer's socket held under the name that fits how far it is.
    fn rename(&mut self, id: Id, hold: &mut dyn Hold) {
        let (Some(standing), Some(peer)) = (self.roster.standing(id), self.peers.get_mut(&id)) else {
            return;
        };
        let name = name(id, standing, &peer.domain);
        if name != peer.name {
            hold.hold(&name, peer.socket.as_fd());
            hold.let_go(&peer.name);
            peer.name = name;
        }
    }

    fn settle(&mut self, hold: &mut dyn Hold) {
        let (settled, free) = self.roster.settle();
        for id in settled {
            self.rename(id, hold);
        }
        for id in free {
            hold.let_go(&gone_name(id));
        }
    }

    /// A peer is gone.
    fn lose(&mut self, id: Id, why: &str, hold: &mut dyn Hold) {
        let Some(peer) = self.peers.remove(&id) else {
            return;
        };
        tracing::info!(domain = %peer.domain, peer = id, "an ivshmem device is gone: {why}");
        let _ = epoll::delete(&self.epoll, &peer.socket);
        if self.roster.depart(id) {
            hold.hold(&gone_name(id), peer.socket.as_fd());
        }
        // Others hold the socket, too; the other end must see that it is over.
        let _ = rustix::net::shutdown(&peer.socket, rustix::net::Shutdown::Both);
        hold.let_go(&peer.name);
        for vector in 0..peer.vectors.len() {
            hold.let_go(&vector_name(id, vector));
        }
    }

    /// Whether a peer has ended or has spoken, which no device does.
    fn is_over(&self, id: Id) -> Option<&'static str> {
        let peer = self.peers.get(&id)?;
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
    fn resume_peer(&mut self, id: Id, standing: &str, held: Held, hold: &mut dyn Hold) {
        let Held {
            mut sockets, vectors, ..
        } = held;
        let Some((domain, socket)) = sockets.remove(standing) else {
            return;
        };
        for (stale, (domain, _)) in &sockets {
            hold.let_go(&format!("peer/{id}/{stale}/{domain}"));
        }
        self.roster.recall(id, standing == "settled");
        let peer = Peer {
            name: format!("peer/{id}/{standing}/{domain}"),
            domain,
            socket,
            vectors: vectors.into_values().collect(),
            since: Instant::now(),
            blocked: false,
            refused: false,
        };
        if let Err(e) = self.watch(id, peer) {
            tracing::error!(peer = id, "an ivshmem device cannot be watched: {e}");
            self.roster.depart(id);
        }
    }

    /// A peer whose set-up was under way, or that was being cut off: its hypervisor sees the end, and where it was still starting, says so.
    fn end_peer(id: Id, held: &Held, hold: &mut dyn Hold) {
        for (standing, (domain, socket)) in &held.sockets {
            let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
            hold.let_go(&format!("peer/{id}/{standing}/{domain}"));
        }
        for vector in held.vectors.keys() {
            hold.let_go(&vector_name(id, usize::from(*vector)));
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
        "the pool has {bytes} bytes, and the memory of an ivshmem device is a power of two: start the back-end with --pool {next} (it is sparse: only what \
         constructs use is taken)"
    ))
}

impl DeviceServer for IvshmemServer {
    fn ready(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    fn resume(&mut self, held: BTreeMap<String, OwnedFd>, hold: &mut dyn Hold) {
        let mut peers: BTreeMap<Id, Held> = BTreeMap::new();
        for (name, descriptor) in held {
            let words: Vec<&str> = name.splitn(4, '/').collect();
            let Some(id) = words.get(1).and_then(|id| id.parse::<Id>().ok()) else {
                hold.let_go(&name);
                continue;
            };
            let of_peer = peers.entry(id).or_default();
            match words[..] {
                ["peer", _, standing, domain] => {
                    let known = ["set-up", "arriving", "settled"]
                        .into_iter()
                        .find(|s| *s == standing);
                    if let Some(standing) = known {
                        of_peer.sockets.insert(standing, (domain.to_owned(), descriptor));
                    }
                }
                ["vector", _, number] => {
                    if let Ok(number) = number.parse() {
                        of_peer.vectors.insert(number, descriptor);
                    }
                }
                ["gone", _] => of_peer.gone = true,
                _ => hold.let_go(&name),
            }
        }
        for (id, held) in peers.iter().filter(|(_, held)| held.gone) {
            self.roster.recall_gone(*id);
            Self::end_peer(*id, held, hold);
        }
        for (id, held) in peers.into_iter().filter(|(_, held)| !held.gone) {
            match held.standing(self.vectors) {
                Some(standing) => self.resume_peer(id, standing, held, hold),
                None => Self::end_peer(id, &held, hold),
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
        let id = self.roster.arrive(MOST);
        let id = id.ok_or_else(|| io::Error::other(format!("there are {MOST} ivshmem devices")))?;
        for (number, vector) in vectors.iter().enumerate() {
            hold.hold(&vector_name(id, number), vector.as_fd());
        }
        let peer = Peer {
            name: name(id, Standing::SetUp, domain),
            domain: domain.to_owned(),
            socket,
            vectors,
            since: Instant::now(),
            blocked: false,
            refused: false,
        };
        hold.hold(&peer.name, peer.socket.as_fd());
        if let Err(e) = self.watch(id, peer) {
            self.roster.depart(id);
            return Err(e);
        }
        tracing::info!(%domain, peer = id, "an ivshmem device comes");
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
            let Ok(id) = Id::try_from(data.u64()) else {
                continue;
            };
            if flags != epoll::EventFlags::OUT
                && let Some(why) = self.is_over(id)
            {
                self.lose(id, why, hold);
            }
        }
        self.tell_all(hold);
    }

    fn second(&mut self, hold: &mut dyn Hold) {
        let slow = |(id, peer): (&Id, &Peer)| {
            let late = peer.since.elapsed() > PATIENCE;
            (late && self.roster.standing(*id) == Some(Standing::SetUp)).then_some(*id)
        };
        let slow: Vec<Id> = self.peers.iter().filter_map(slow).collect();
        let refused = self.peers.values_mut().filter(|p| p.refused);
        let again = refused.map(|p| p.refused = false).count() > 0;
        for id in &slow {
            self.lose(*id, "it did not take its set-up", hold);
        }
        if again || !slow.is_empty() {
            self.tell_all(hold);
        }
    }

    fn connections(&self, domain: &str) -> usize {
        self.peers.values().filter(|p| p.domain == domain).count()
    }
}
