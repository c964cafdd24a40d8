//! What must hold: the harness's own account of what was done, beside the memory it was done to.

use crate::backend::Disk;
use crate::baton::Sim;
use crate::memory::Mapped;
use std::collections::{BTreeMap, BTreeSet};
use vshmem_ipc::sem::SemSet;

/// Semaphores of every set: a mutex, tokens that are taken with SEM_UNDO, and two between which there are transfers.
pub(crate) const INITIAL: [u16; 4] = [1, 5, 6, 4];
/// Semaphores in a set.
pub(crate) const NSEMS: u32 = INITIAL.len() as u32;

/// Whether the creator of a set has set its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begun {
    /// The creator is at it, or died at it.
    Perhaps,
    Yes,
}

/// A set.
#[derive(Debug)]
pub(crate) struct SetAccount {
    pub(crate) begun: Begun,
    /// The process inside the mutex.
    pub(crate) inside: Option<u32>,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Its sender is at it, or died at it.
    Perhaps,
    Sent,
    Failed,
    Received,
}

/// A queue.
#[derive(Debug, Default)]
pub(crate) struct QueueAccount {
    pub(crate) messages: BTreeMap<u64, Fate>,
    /// Receivers that died receiving: each may have taken one message with it.
    pub(crate) lost_with: u32,
}

impl QueueAccount {
    /// A message came out of the queue.
    pub(crate) fn received(&mut self, number: u64) -> Result<(), String> {
        match self.messages.insert(number, Fate::Received) {
            Some(Fate::Perhaps | Fate::Sent) => Ok(()),
            other => Err(format!("message {number} was received, and it was {other:?}")),
        }
    }

    /// Nothing is in the queue any more.
    pub(crate) fn check_empty(&self) -> Result<(), String> {
        let missing = self.messages.values().filter(|f| **f == Fate::Sent).count();
        if missing > self.lost_with as usize {
            return Err(format!(
                "{missing} messages are lost, and {} receivers died receiving",
                self.lost_with
            ));
        }
        Ok(())
    }
}

/// The account of everything.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// By serial number.
    pub(crate) sets: BTreeMap<u64, SetAccount>,
    pub(crate) queues: BTreeMap<u64, QueueAccount>,
    /// Processes that live, by pid; exec does not end a process.
    pub(crate) living: BTreeSet<u32>,
    /// Domains that are up.
    pub(crate) up: BTreeSet<&'static str>,
    pub(crate) messages: u64,
    pub(crate) forks: u64,
}

impl Ledger {
    /// A process comes into the mutex of a set.
    pub(crate) fn come_in(&mut self, serial: u64, pid: u32) -> Result<(), String> {
        let Some(set) = self.sets.get_mut(&serial) else {
            return Ok(());
        };
        match set.inside.replace(pid) {
            Some(other) if self.living.contains(&other) => Err(format!(
                "{pid} and {other} are both inside the mutex of set {serial}"
            )),
            _ => Ok(()),
        }
    }

    /// What holds whenever nobody runs and nothing is to be swept.
    pub(crate) fn check_quiet(&self, sim: &Sim, disk: &Disk) -> Result<(), String> {
        for (&serial, set) in &self.sets {
            let Some(extents) = disk.live.get(&serial) else {
                continue;
            };
            let words = Mapped::new(sim, None, extents);
            let mut values = [0; INITIAL.len()];
            SemSet::at(&words, NSEMS).values(&mut values);
            let sum = values[2] + values[3];
            let expected = INITIAL[2] + INITIAL[3];
            if sum != expected && !(set.begun != Begun::Yes && sum == 0) {
                return Err(format!(
                    "set {serial} has {values:?}: the sum of the last two is not {expected}"
                ));
            }
        }
        Ok(())
    }

    /// What holds of a live set when everybody is dead and swept.
    pub(crate) fn check_set(&self, serial: u64, values: &[u16]) -> Result<(), String> {
        let Some(set) = self.sets.get(&serial) else {
            return Ok(());
        };
        let whole = values[..2] == INITIAL[..2] && values[2] + values[3] == INITIAL[2] + INITIAL[3];
        let never_begun = set.begun != Begun::Yes && values.iter().all(|&v| v == 0);
        if whole || never_begun {
            Ok(())
        } else {
            Err(format!(
                "set {serial} ends with {values:?} and began with {INITIAL:?}"
            ))
        }
    }
}
