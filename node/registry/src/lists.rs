//! Undo lists that are shared, left and begun anew: CLONE_SYSVSEM.
//!
//! A process has one list, which its threads use. Processes share one if a fork says so; a thread may leave for one of its own. Whoever uses a list last
//! has it applied.
//!
//! | a list | is used by | is applied when |
//! |---|---|---|
//! | a process's own | its threads | the process dies, or its only thread leaves it for a new one |
//! | shared | processes and forks under way, counted in `shared` | the last of them dies, leaves it or is abandoned |
//! | a thread's | one thread | that thread ends or leaves it, or its process dies |

use crate::Done;
use crate::errno::*;
use crate::registry::{Effects, Registry};
use crate::state::*;
use std::collections::{BTreeMap, BTreeSet};
use vshmem_wire::{Failure, Kind, Reply};

/// Most threads of a process with a list of their own.
const MOST: usize = 1 << 15;

/// Whether a set is there and in use.
pub(crate) fn is_live_set(constructs: &BTreeMap<u64, Construct>, serial: u64) -> bool {
    constructs
        .get(&serial)
        .is_some_and(|c| c.kind == Kind::Sem && c.life == Life::Live)
}

impl Registry {
    pub(crate) fn new_list(&mut self) -> u64 {
        let list = self.next_undo;
        self.next_undo += 1;
        list
    }

    /// The child of the client's next fork will share its list.
    pub(crate) fn share_undo(&mut self, client: u32) -> Result<Done, Failure> {
        let key = self.alive(client)?.process();
        let process = self.processes.get_mut(&key);
        process.ok_or_else(|| Failure::errno(ESTALE))?.shares = true;
        Ok(Done::Reply(Reply::Done))
    }

    /// The list that a fork of the client shares, counted for it; None if it shares none.
    pub(crate) fn shared_by_next_fork(&mut self, client: u32) -> Option<u64> {
        let key = self.clients.get(&client)?.process();
        let process = self.processes.get_mut(&key)?;
        if !std::mem::take(&mut process.shares) {
            return None;
        }
        let undo = process.undo;
        let first = Sharers {
            count: 1,
            sets: BTreeSet::new(),
        };
        self.shared.entry(undo).or_insert(first).count += 1;
        Some(undo)
    }

    pub(crate) fn leave_undo(
        &mut self,
        client: u32,
        list: u64,
        alone: bool,
        begin: bool,
        fx: &mut Effects,
    ) -> Result<Done, Failure> {
        let key = self.alive(client)?.process();
        let process = self.processes.get(&key).ok_or_else(|| Failure::errno(ESTALE))?;
        let whole = list == process.undo;
        if !whole && !process.lists.contains(&list) {
            return Err(Failure::errno(EINVAL));
        }
        // A process has a list of its own as long as it lives.
        let begin = begin || (whole && alone);
        if begin && process.lists.len() >= MOST {
            return Err(Failure::errno(EAGAIN));
        }
        let mut sets = process.sets.clone();
        sets.extend(
            self.opened(client)
                .into_iter()
                .filter(|(_, kind)| *kind == Kind::Sem)
                .map(|(serial, _)| serial),
        );
        let new = if begin { self.new_list() } else { 0 };
        if !whole || alone {
            self.leave_list(list, sets, None, fx);
        }
        if let Some(process) = self.processes.get_mut(&key) {
            process.lists.remove(&list);
            match (begin, whole && alone) {
                (true, true) => process.undo = new,
                (true, false) => {
                    process.lists.insert(new);
                }
                (false, _) => {}
            }
            let undo = process.undo;
            if let Some(record) = self.clients.get_mut(&client) {
                record.undo = undo;
            }
        }
        Ok(Done::Reply(Reply::Undo(new)))
    }

    /// One who used a list uses it no more, and may have left records of it in these sets. The last one has it applied, by sweeps of `client` if that is dead,
    /// else by those of a number that nobody has: what the living have there otherwise stays.
    pub(crate) fn leave_list(
        &mut self,
        list: u64,
        mut sets: BTreeSet<u64>,
        client: Option<u32>,
        fx: &mut Effects,
    ) {
        if let Some(sharers) = self.shared.get_mut(&list) {
            sharers.count = sharers.count.saturating_sub(1);
            sharers.sets.append(&mut sets);
            if sharers.count > 0 {
                // However long a list is shared, the sets that are gone are not remembered.
                let constructs = &self.constructs;
                sharers.sets.retain(|serial| is_live_set(constructs, *serial));
                return;
            }
            sets = self.shared.remove(&list).unwrap_or_default().sets;
        }
        sets.retain(|serial| is_live_set(&self.constructs, *serial));
        if sets.is_empty() {
            // Numbers are taken for sweeps alone: there are only so many.
            return;
        }
        let client = client.unwrap_or(self.next_client);
        if client == self.next_client {
            self.next_client = self.next_client.saturating_add(1);
        }
        for serial in sets {
            self.begin_sweep(serial, Kind::Sem, client, Some(list), fx);
        }
    }
}
