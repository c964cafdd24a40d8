//! Who is there, who knows of whom, and what each is to be told next: the server's state without its sockets.
//!
//! A peer is not sent a queue of messages but what it lacks: for each peer it is known what it was told of each other, and the next message is computed
//! from that and from who is there. So a peer that does not read costs no memory, however many come and go meanwhile, and hears nothing of those who came and
//! went.
//!
//! A peer's life: set-up (version, number, memory, the others' vectors, its own vectors last), then it is *shown* to the others. A number is given to nobody
//! else before all who knew it have been told that its peer is gone.
//!
//! | standing | meaning | after a restart |
//! |---|---|---|
//! | [`Standing::SetUp`] | it has not been told all of its set-up | its connection is closed: the hypervisor was still starting and says so |
//! | [`Standing::Arriving`] | shown; somebody may not know it yet, or it somebody | it and the others are told of each other anew: departure, then arrival |
//! | [`Standing::Settled`] | it and all who are shown know each other | nothing to do |
//! | gone | somebody may not know yet that it is | all are told |

use std::collections::{BTreeMap, BTreeSet};

/// A peer's number, as the device shows it to its guest.
pub(super) type Id = u16;

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
        of: Id,
        /// Which.
        number: u16,
    },
    /// A peer is gone.
    Departure {
        /// Which.
        of: Id,
    },
}

/// How far a peer is, as it is written down for a successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    SetUp,
    Arriving,
    Settled,
}

/// Steps of a set-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Version,
    Number,
    Memory,
    Others,
    Own(u16),
    Shown,
}

/// What a peer was told of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// That many vectors.
    Vectors(u16),
    /// Nobody knows.
    Unsure,
}

#[derive(Debug)]
struct Peer {
    stage: Stage,
    settled: bool,
    told: BTreeMap<Id, Told>,
}

/// All peers.
#[derive(Debug)]
pub(super) struct Roster {
    vectors: u16,
    peers: BTreeMap<Id, Peer>,
    /// Numbers of peers that are gone, as long as somebody who knew them was not told.
    gone: BTreeSet<Id>,
}

impl Roster {
    /// Nobody yet. Each peer has so many vectors.
    pub(super) fn new(vectors: u16) -> Self {
        Roster {
            vectors,
            peers: BTreeMap::new(),
            gone: BTreeSet::new(),
        }
    }

    /// A new peer, below `most`; None if so many are there.
    pub(super) fn arrive(&mut self, most: Id) -> Option<Id> {
        let id = (0..most).find(|id| !self.peers.contains_key(id) && !self.gone.contains(id))?;
        let peer = Peer {
            stage: Stage::Version,
            settled: false,
            told: BTreeMap::new(),
        };
        self.peers.insert(id, peer);
        Some(id)
    }

    /// A peer of a former life that was shown, settled or not. Call [`Roster::recall_gone`] for those that went, then this for the others.
    pub(super) fn recall(&mut self, id: Id, settled: bool) {
        let mut told: BTreeMap<Id, Told> = self.gone.iter().map(|id| (*id, Told::Unsure)).collect();
        for (other, peer) in &mut self.peers {
            let known = if settled && peer.settled {
                Told::Vectors(self.vectors)
            } else {
                Told::Unsure
            };
            told.insert(*other, known);
            peer.told.insert(id, known);
        }
        let stage = Stage::Shown;
        self.peers.insert(id, Peer { stage, settled, told });
    }

    /// A peer of a former life that is gone, which somebody may not know.
    pub(super) fn recall_gone(&mut self, id: Id) {
        self.gone.insert(id);
    }

    /// A peer is gone. Whether anybody has to be told.
    pub(super) fn depart(&mut self, id: Id) -> bool {
        if self.peers.remove(&id).is_none() {
            return false;
        }
        let known = self.peers.values().any(|peer| peer.told.contains_key(&id));
        if known {
            self.gone.insert(id);
        }
        known
    }

    /// How far a peer is.
    pub(super) fn standing(&self, id: Id) -> Option<Standing> {
        let peer = self.peers.get(&id)?;
        Some(match (peer.stage, peer.settled) {
            (Stage::Shown, true) => Standing::Settled,
            (Stage::Shown, false) => Standing::Arriving,
            _ => Standing::SetUp,
        })
    }

    fn is_shown(&self, id: Id) -> bool {
        self.peers.get(&id).is_some_and(|p| p.stage == Stage::Shown)
    }

    /// What a peer is to be told next.
    pub(super) fn next(&self, id: Id) -> Option<Message> {
        let peer = self.peers.get(&id)?;
        match peer.stage {
            Stage::Version => return Some(Message::Version),
            Stage::Number => return Some(Message::Number),
            Stage::Memory => return Some(Message::Memory),
            Stage::Own(number) => return Some(Message::Vector { of: id, number }),
            Stage::Others | Stage::Shown => {}
        }
        let stale = |(of, told): (&Id, &Told)| *told == Told::Unsure || !self.is_shown(*of);
        if let Some((of, _)) = peer.told.iter().find(|&entry| stale(entry)) {
            return Some(Message::Departure { of: *of });
        }
        let shown = self
            .peers
            .iter()
            .filter(|(of, other)| **of != id && other.stage == Stage::Shown);
        for (of, _) in shown {
            let number = match peer.told.get(of) {
                Some(Told::Vectors(told)) => *told,
                _ => 0,
            };
            if number < self.vectors {
                return Some(Message::Vector { of: *of, number });
            }
        }
        match peer.stage {
            Stage::Others => Some(Message::Vector { of: id, number: 0 }),
            _ => None,
        }
    }

    /// A peer was told what [`Roster::next`] gave. True if a standing may have changed.
    pub(super) fn told(&mut self, id: Id, message: Message) -> bool {
        let vectors = self.vectors;
        let Some(peer) = self.peers.get_mut(&id) else {
            return false;
        };
        match message {
            Message::Version => peer.stage = Stage::Number,
            Message::Number => peer.stage = Stage::Memory,
            Message::Memory => peer.stage = Stage::Others,
            Message::Departure { of } => {
                peer.told.remove(&of);
            }
            Message::Vector { of, number } if of == id => {
                let next = number + 1;
                peer.stage = if next < vectors {
                    Stage::Own(next)
                } else {
                    Stage::Shown
                };
            }
            Message::Vector { of, number } => {
                peer.told.insert(of, Told::Vectors(number + 1));
            }
        }
        peer.stage == Stage::Shown
    }

    /// Peers that are settled from now on, and numbers that may be given to others from now on.
    pub(super) fn settle(&mut self) -> (Vec<Id>, Vec<Id>) {
        let shown: Vec<Id> = self
            .peers
            .keys()
            .copied()
            .filter(|id| self.is_shown(*id))
            .collect();
        let knows = |id: Id, of: Id| {
            self.peers
                .get(&id)
                .is_some_and(|p| p.told.get(&of) == Some(&Told::Vectors(self.vectors)))
        };
        let settled: Vec<Id> = shown
            .iter()
            .copied()
            .filter(|&id| !self.peers.get(&id).is_some_and(|p| p.settled))
            .filter(|&id| {
                let others = shown.iter().filter(|&&other| other != id);
                others
                    .into_iter()
                    .all(|&other| knows(id, other) && knows(other, id))
            })
            .collect();
        for id in &settled {
            if let Some(peer) = self.peers.get_mut(id) {
                peer.settled = true;
            }
        }
        let known: BTreeSet<Id> = self.peers.values().flat_map(|p| p.told.keys().copied()).collect();
        let free: Vec<Id> = self.gone.difference(&known).copied().collect();
        self.gone.retain(|id| known.contains(id));
        (settled, free)
    }
}
