//! Who is there, who knows of whom, and what each is to be told next: the server's state without its sockets.
//!
//! A peer is not sent a queue of messages but what it lacks: for each peer it is known what it was told of each other, and the next message is computed
//! from that and from who is there. So a peer that does not read costs no memory, however many come and go meanwhile, and hears nothing of those who came and
//! went.
//!
//! A peer's life: set-up (version, number, memory, the others' vectors, its own vectors last), then it is *shown* to the others, then gone, until all who knew
//! it have been told. Its place is free afterwards; its number is not.
//!
//! **Numbers are not used twice** while anybody is connected, and no end is told twice: QEMU (at least up to 7.2) frees what it has of a peer when it is told of its
//! end, and does not allocate it anew when the number comes again. A domain that uses up [`MOST_NUMBERS`] is refused more until the server is empty, so
//! that it cannot use up all there are.
//!
//! **A killed daemon.** [`super::ledger`] says what was told. At any step it may be open whether the last message was sent:
//! 1. *Of a set-up.* The peer's connection is closed: its hypervisor was still starting, and says so.
//! 2. *A peer's end.* It is not told again. Who does not know rings a bell that nobody hears.
//! 3. *A peer's last vector.* It is told again: QEMU takes no more vectors than there are.
//! 4. *A vector before the last.* Told again it would be taken for the next one. The newcomer whose vector it was is sent away.

use super::ledger::{Ledger, PLACES, State, UNDER_WAY};
use std::collections::BTreeMap;

/// A peer's number, as the device shows it to its guest.
pub(super) type Id = u16;
/// A peer's place in the ledger.
pub(super) type Place = u16;

/// Most numbers that a domain may use up before the server is empty again.
pub(super) const MOST_NUMBERS: u32 = 4096;

/// What is sent: a number, and beside it a descriptor or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    /// The protocol's version.
    Version,
    /// The peer's own number.
    Number,
    /// The shared memory.
    Memory,
    /// A vector of a peer, which may be the one that is told.
    Vector {
        /// Whose.
        of: Place,
        /// Which.
        number: u8,
    },
    /// A peer is gone.
    Departure {
        /// Which.
        of: Place,
    },
}

/// Steps of a life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Version,
    Number,
    Memory,
    Others,
    Own(u8),
    Shown,
    Gone,
}

#[derive(Debug)]
struct Peer {
    id: Id,
    stage: Stage,
    /// How many vectors of the others it was told.
    told: BTreeMap<Place, u8>,
}

/// All peers.
#[derive(Debug)]
pub(super) struct Roster {
    vectors: u8,
    ledger: Ledger,
    peers: BTreeMap<Place, Peer>,
    /// Numbers used up, by domain.
    used: BTreeMap<String, u32>,
}

impl Roster {
    /// Nobody yet. Each peer has so many vectors.
    pub(super) fn new(vectors: u8, ledger: Ledger) -> Self {
        Roster {
            vectors,
            ledger,
            peers: BTreeMap::new(),
            used: BTreeMap::new(),
        }
    }

    /// Goes on with what the ledger says. `is_whole` tells whether a peer's descriptors are all there. Gives the places of those who go on.
    pub(super) fn recall(&mut self, is_whole: impl Fn(Place) -> bool) -> Vec<Place> {
        let mut cut = Vec::new();
        for place in 0..PLACES {
            let (state, id) = self.ledger.row(place);
            let stage = match state {
                State::Free => continue,
                State::SetUp => {
                    self.free(place);
                    continue;
                }
                State::Shown if is_whole(place) => Stage::Shown,
                State::Shown | State::Gone => Stage::Gone,
            };
            let mut told = BTreeMap::new();
            for (other, vectors) in (0..).zip(self.ledger.told(place)) {
                let sent = vectors & !UNDER_WAY;
                if vectors & UNDER_WAY != 0 && sent + 1 < self.vectors {
                    cut.push(other);
                }
                if vectors != 0 {
                    told.insert(other, sent);
                }
            }
            self.peers.insert(place, Peer { id, stage, told });
        }
        for place in cut {
            if let Some(peer) = self.peers.get_mut(&place) {
                peer.stage = Stage::Gone;
            }
        }
        let gone: Vec<Place> = self.places(|peer| peer.stage == Stage::Gone);
        gone.into_iter().for_each(|place| self.depart(place));
        self.places(|peer| peer.stage == Stage::Shown)
    }

    fn places(&self, of: impl Fn(&Peer) -> bool) -> Vec<Place> {
        let those = self.peers.iter().filter(|(_, peer)| of(peer));
        those.map(|(place, _)| *place).collect()
    }

    /// A new peer, at a place below `most`.
    ///
    /// # Errors
    /// If there is no room: the text says why.
    pub(super) fn arrive(&mut self, domain: &str, most: Place) -> Result<Place, String> {
        if self.peers.is_empty() {
            self.ledger.set_next(0);
            self.used.clear();
        }
        let place = (0..most.min(PLACES)).find(|place| !self.peers.contains_key(place));
        let place = place.ok_or_else(|| format!("there are {most} devices, which is the most"))?;
        let next = self.ledger.next();
        let used = self.used.entry(domain.to_owned()).or_default();
        let id = match Id::try_from(next) {
            Ok(id) if *used < MOST_NUMBERS => id,
            _ => {
                return Err(format!(
                    "{used} devices of domain {domain} have come and gone while others stayed, and numbers are not used twice: end the other machines once"
                ));
            }
        };
        *used += 1;
        self.ledger.set_next(next + 1);
        self.ledger.set_row(place, State::SetUp, id);
        let (stage, told) = (Stage::Version, BTreeMap::new());
        self.peers.insert(place, Peer { id, stage, told });
        Ok(place)
    }

    /// A peer is gone.
    pub(super) fn depart(&mut self, place: Place) {
        let Some(peer) = self.peers.get_mut(&place) else {
            return;
        };
        peer.stage = Stage::Gone;
        peer.told.clear();
        self.ledger.set_row(place, State::Gone, peer.id);
        self.ledger.forget(place);
        self.reap();
    }

    /// Frees the places of those who are gone, as far as all who knew them were told.
    fn reap(&mut self) {
        let known = |place: &Place| self.peers.values().any(|peer| peer.told.contains_key(place));
        let free = self.places(|peer| peer.stage == Stage::Gone);
        let free: Vec<Place> = free.into_iter().filter(|place| !known(place)).collect();
        free.into_iter().for_each(|place| self.free(place));
    }

    fn free(&mut self, place: Place) {
        self.peers.remove(&place);
        self.ledger.forget(place);
        self.ledger.set_row(place, State::Free, 0);
    }

    /// A peer's number.
    pub(super) fn id(&self, place: Place) -> Option<Id> {
        self.peers.get(&place).map(|peer| peer.id)
    }

    /// Whether a peer's set-up is under way.
    pub(super) fn is_new(&self, place: Place) -> bool {
        let done = |peer: &Peer| matches!(peer.stage, Stage::Shown | Stage::Gone);
        self.peers.get(&place).is_some_and(|peer| !done(peer))
    }

    fn is(&self, place: Place, stage: Stage) -> bool {
        self.peers.get(&place).is_some_and(|peer| peer.stage == stage)
    }

    /// What a peer is to be told next.
    pub(super) fn next(&self, place: Place) -> Option<Message> {
        let peer = self.peers.get(&place)?;
        match peer.stage {
            Stage::Version => return Some(Message::Version),
            Stage::Number => return Some(Message::Number),
            Stage::Memory => return Some(Message::Memory),
            Stage::Own(number) => return Some(Message::Vector { of: place, number }),
            Stage::Gone => return None,
            Stage::Others | Stage::Shown => {}
        }
        if let Some(of) = peer.told.keys().find(|of| !self.is(**of, Stage::Shown)) {
            return Some(Message::Departure { of: *of });
        }
        let lacks = self.peers.iter().find_map(|(of, other)| {
            let told = peer.told.get(of).copied().unwrap_or(0);
            let wanted = *of != place && other.stage == Stage::Shown && told < self.vectors;
            wanted.then_some(Message::Vector {
                of: *of,
                number: told,
            })
        });
        match peer.stage {
            Stage::Others => lacks.or(Some(Message::Vector { of: place, number: 0 })),
            _ => lacks,
        }
    }

    /// A message is about to be sent: what a successor must know if it ends here.
    pub(super) fn begin(&self, place: Place, message: Message) {
        match message {
            Message::Vector { of, number } if of != place => {
                self.ledger.set_told(place, of, number | UNDER_WAY);
            }
            Message::Departure { of } => self.ledger.set_told(place, of, 0),
            _ => {}
        }
    }

    /// It was not sent.
    pub(super) fn undo(&self, place: Place, message: Message) {
        if let Message::Vector { of, .. } | Message::Departure { of } = message
            && of != place
        {
            let told = self.peers.get(&place).and_then(|peer| peer.told.get(&of));
            self.ledger.set_told(place, of, told.copied().unwrap_or(0));
        }
    }

    /// It was sent. True if the peer is shown to the others from now on, or a place is free.
    pub(super) fn done(&mut self, place: Place, message: Message) -> bool {
        let Some(peer) = self.peers.get_mut(&place) else {
            return false;
        };
        match message {
            Message::Version => peer.stage = Stage::Number,
            Message::Number => peer.stage = Stage::Memory,
            Message::Memory => peer.stage = Stage::Others,
            Message::Departure { of } => {
                peer.told.remove(&of);
                self.reap();
                return true;
            }
            Message::Vector { of, number } if of == place => {
                peer.stage = Stage::Own(number + 1);
                if number + 1 == self.vectors {
                    peer.stage = Stage::Shown;
                    self.ledger.set_row(place, State::Shown, peer.id);
                    return true;
                }
            }
            Message::Vector { of, number } => {
                peer.told.insert(of, number + 1);
                self.ledger.set_told(place, of, number + 1);
            }
        }
        false
    }

    /// The ledger, to be held.
    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}
