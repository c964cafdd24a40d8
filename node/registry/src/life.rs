//! Domains, clients and forks: how they come and go, and what they leave behind.
//!
//! | a client is | and gets there by | what it has |
//! |---|---|---|
//! | alive | Connect | whatever it attached and opened |
//! | replaced | Gone with exec; another Connect of the same process | sets and queues still to be swept, without undo |
//! | dead | Gone; DomainDown; not named in Alive | sets and queues still to be swept, with undo |
//!
//! Attachments of segments end at once. A set or queue stays open for the dead until each of its sweeps was confirmed, so that a lock word with its number
//! is known for what it is. A client that has nothing to be swept and whose process needs it no more is forgotten.

use crate::attach::Touch;
use crate::errno::*;
use crate::registry::{Effects, Registry};
use crate::state::*;
use crate::{Done, Effect, Sweep};
use std::collections::{BTreeMap, BTreeSet};
use vshmem_wire::stream::Connected;
use vshmem_wire::{Credentials, Failure, Kind, Pid};

/// Highest number of a domain: construct memory has ten bits for it.
const DOMAINS: u16 = 1023;
/// Most living clients of a domain.
const CLIENTS: u32 = 1 << 16;
/// Most forks of a domain under way.
const FORKS: u32 = 1 << 16;
/// Highest pid: construct memory has 22 bits for it.
const PIDS: u32 = 1 << 22;
/// Most supplementary groups, as Linux's NGROUPS_MAX.
const GROUPS: usize = 1 << 16;

impl Registry {
    pub(crate) fn domain_up(&mut self, name: String, port: String, own_space: bool) -> Result<Done, Failure> {
        if !self.member(&name) {
            return Err(Failure::because(
                EPERM,
                format!("{name:?} may not join group {}", self.group.name),
            ));
        }
        if let Some(group) = self.group.out_of_reach(&name).filter(|_| own_space) {
            let group = self.group.name_of(group);
            let why = format!(
                "{name:?} is in group {group}, whose memory is a file per construct, which a guest cannot reach: give that group a pool"
            );
            return Err(Failure::because(EPERM, why));
        }
        let number = match self.names.get(&name) {
            Some(&number) => number,
            None => self.domain_number()?,
        };
        let space = if own_space { number } else { 0 };
        let domain = self.domains.entry(number).or_insert_with(|| Domain {
            name: name.clone(),
            port: String::new(),
            space,
            up: false,
            clients: 0,
            forks: 0,
            constructs: 0,
            bytes: 0,
        });
        domain.port = port;
        domain.space = space;
        domain.up = true;
        self.names.insert(name, number);
        Ok(Done::Domain { number, space })
    }

    /// A number for a new domain: one never used, else that of a domain that is gone and left nothing.
    fn domain_number(&mut self) -> Result<u16, Failure> {
        let unused = self.domains.last_key_value().map_or(1, |(&n, _)| n + 1);
        if unused <= DOMAINS {
            return Ok(unused);
        }
        let in_use: BTreeSet<u16> = self.clients.values().map(|c| c.domain).collect();
        let gone = self
            .domains
            .iter()
            .find(|(n, d)| !d.up && d.constructs == 0 && !in_use.contains(n))
            .map(|(&n, _)| n);
        let number = gone.ok_or_else(|| Failure::because(ENOSPC, "the group has too many domains"))?;
        if let Some(domain) = self.domains.remove(&number) {
            self.names.remove(&domain.name);
        }
        Ok(number)
    }

    pub(crate) fn domain_down(&mut self, now: i64, domain: u16, fx: &mut Effects) -> Result<Done, Failure> {
        let known = self.domains.get_mut(&domain);
        known.ok_or_else(|| Failure::errno(EINVAL))?.up = false;
        self.only_alive(now, domain, &[], fx)?;
        let forks: Vec<u64> = self
            .forks
            .range((domain, 0)..=(domain, u64::MAX))
            .map(|(&(_, fork), _)| fork)
            .collect();
        for fork in forks {
            self.fork_abandoned(now, domain, fork, fx)?;
        }
        Ok(Done::Nothing)
    }

    pub(crate) fn only_alive(
        &mut self,
        now: i64,
        domain: u16,
        alive: &[u32],
        fx: &mut Effects,
    ) -> Result<Done, Failure> {
        let alive: BTreeSet<u32> = alive.iter().copied().collect();
        let dead: Vec<u32> = self
            .clients
            .iter()
            .filter(|(n, c)| c.domain == domain && c.image != Image::Dead && !alive.contains(n))
            .map(|(&n, _)| n)
            .collect();
        for client in dead {
            // An image that was replaced long ago says nothing about its process: the image after it does.
            let last = self
                .clients
                .get(&client)
                .and_then(|c| self.processes.get(&c.process()));
            if last.is_some_and(|p| p.client == client) {
                self.gone(now, client, false, fx)?;
            }
        }
        Ok(Done::Nothing)
    }

    pub(crate) fn connect(
        &mut self,
        now: i64,
        domain: u16,
        who: Credentials,
        resume: Option<u32>,
        fork: Option<u64>,
        fx: &mut Effects,
    ) -> Result<Done, Failure> {
        let Some(fork) = fork else {
            return self.admit(now, domain, who, resume, None, fx);
        };
        // A child is nobody yet that it could go on as.
        let outcome = self.admit(now, domain, who, None, Some(fork), fx);
        if outcome.is_err() {
            // Nobody else will come for what was counted for it.
            self.fork_abandoned(now, domain, fork, fx)?;
        }
        outcome
    }

    fn admit(
        &mut self,
        now: i64,
        domain: u16,
        mut who: Credentials,
        resume: Option<u32>,
        fork: Option<u64>,
        fx: &mut Effects,
    ) -> Result<Done, Failure> {
        let up = self.domains.get(&domain).filter(|d| d.up);
        let clients = up
            .ok_or_else(|| Failure::because(ESTALE, "the domain is not up"))?
            .clients;
        if who.pid == 0 || who.pid >= PIDS || who.stands_for >= PIDS || who.groups.len() > GROUPS {
            return Err(Failure::errno(EINVAL));
        }
        who.groups.sort_unstable();
        who.groups.dedup();
        let key = ProcessKey {
            domain,
            pid: who.pid,
            start: who.start,
        };
        if let Some(number) = resume {
            return self.resume(number, key, who);
        }
        if let (Some(process), Some(_)) = (self.processes.get(&key), fork) {
            // The same child says it once more: its first answer was lost.
            let number = process.client;
            if self.alive(number).is_ok_and(|c| c.fork == fork) {
                return self.resume(number, key, who);
            }
        }
        if clients >= CLIENTS {
            return Err(Failure::because(EAGAIN, "the domain has too many clients"));
        }
        let number = self.next_client;
        let next = number.checked_add(1);
        let next = next.ok_or_else(|| Failure::because(ENOSPC, "all client numbers were given out"))?;
        // Taken last: what fails before leaves the fork to be abandoned.
        let inherited = fork.map(|fork| self.take_fork(domain, fork)).transpose()?;
        let inherited = inherited.unwrap_or_default();
        self.next_client = next;
        let client = Client {
            domain,
            who,
            undo: self.process_of(now, key, number, inherited.undo, fx),
            image: Image::Alive,
            fork,
            seq: 0,
            last: None,
            ids: BTreeMap::new(),
            holds: BTreeMap::new(),
            writes: inherited.writes,
            sweeps: 0,
        };
        self.enrol(number, client, inherited.holds);
        Ok(self.connected(number))
    }

    /// Takes a client in, with what was counted for it.
    fn enrol(&mut self, number: u32, client: Client, holds: BTreeMap<u64, u32>) {
        if let Some(domain) = self.domains.get_mut(&client.domain) {
            domain.clients += 1;
        }
        self.clients.insert(number, client);
        for (serial, count) in holds {
            self.inherit(number, serial, count);
        }
    }

    /// The undo list of a process whose new client is `number`: `shared` if it comes from a fork that shares one. An older image of its is retired.
    fn process_of(
        &mut self,
        now: i64,
        key: ProcessKey,
        number: u32,
        shared: Option<u64>,
        fx: &mut Effects,
    ) -> u64 {
        let Some(process) = self.processes.get_mut(&key) else {
            let undo = shared.unwrap_or_else(|| self.new_list());
            self.processes.insert(
                key,
                Process {
                    undo,
                    lists: BTreeSet::new(),
                    shares: false,
                    client: number,
                    sets: BTreeSet::new(),
                },
            );
            return undo;
        };
        let undo = process.undo;
        let old = std::mem::replace(&mut process.client, number);
        if let Some(shared) = shared {
            // It has a list already, and takes no part in its parent's.
            self.leave_list(shared, BTreeSet::new(), None, fx);
        }
        self.replace(now, old, fx);
        self.forget(old);
        undo
    }

    /// What was counted for a child becomes its own; by domain and in all it counts already.
    fn inherit(&mut self, client: u32, serial: u64, count: u32) {
        let (Some(record), Some(construct)) =
            (self.clients.get_mut(&client), self.constructs.get_mut(&serial))
        else {
            return;
        };
        record.holds.insert(serial, count);
        record.ids.insert((construct.kind, construct.id), serial);
        construct.holders.insert(client, count);
    }

    fn resume(&mut self, number: u32, key: ProcessKey, who: Credentials) -> Result<Done, Failure> {
        let record = self.clients.get_mut(&number);
        let record = record.filter(|c| c.image == Image::Alive && c.process() == key);
        let record = record.ok_or_else(|| {
            Failure::because(
                ESTALE,
                format!("client {number} is not this process, or not any more"),
            )
        })?;
        record.who = who;
        Ok(self.connected(number))
    }

    fn connected(&self, number: u32) -> Done {
        let (undo, seq) = self.clients.get(&number).map_or((0, 0), |c| (c.undo, c.seq));
        Done::Connected(Connected {
            client: number,
            undo,
            next_seq: seq.saturating_add(1),
            limits: self.group.limits,
        })
    }

    pub(crate) fn fork_prepare(
        &mut self,
        now: i64,
        client: u32,
        fork: u64,
        fx: &mut Effects,
    ) -> Result<Done, Failure> {
        let record = self.alive(client)?;
        let (domain, pid) = (record.domain, record.pid());
        if self.forks.contains_key(&(domain, fork)) {
            return Ok(Done::Nothing);
        }
        let (holds, writes) = (record.holds.clone(), record.writes.clone());
        let record = self
            .domains
            .get_mut(&domain)
            .ok_or_else(|| Failure::errno(EINVAL))?;
        if record.forks >= FORKS {
            return Err(Failure::because(
                EAGAIN,
                "the domain has too many forks under way",
            ));
        }
        record.forks += 1;
        for (&serial, &count) in &holds {
            let writable = self
                .constructs
                .get(&serial)
                .and_then(|c| c.present.get(&domain))
                .is_some_and(|p| p.writable);
            self.arrive(serial, domain, writable, count, fx);
            self.touch(serial, pid, Touch::Attached(now));
        }
        let undo = self.shared_by_next_fork(client);
        let counted = Fork { holds, writes, undo };
        self.forks.insert((domain, fork), counted);
        Ok(Done::Nothing)
    }

    fn take_fork(&mut self, domain: u16, fork: u64) -> Result<Fork, Failure> {
        let taken = self.forks.remove(&(domain, fork));
        let taken = taken.ok_or_else(|| Failure::because(ESTALE, "that fork is not known any more"))?;
        if let Some(record) = self.domains.get_mut(&domain) {
            record.forks = record.forks.saturating_sub(1);
        }
        Ok(taken)
    }

    pub(crate) fn fork_abandoned(
        &mut self,
        now: i64,
        domain: u16,
        fork: u64,
        fx: &mut Effects,
    ) -> Result<Done, Failure> {
        // Said twice, or after the child connected: nothing is left to do.
        let Ok(fork) = self.take_fork(domain, fork) else {
            return Ok(Done::Nothing);
        };
        for (serial, count) in fork.holds {
            self.touch(serial, Pid::default(), Touch::Detached(now));
            self.leave(serial, domain, count, fx);
        }
        if let Some(undo) = fork.undo {
            self.leave_list(undo, BTreeSet::new(), None, fx);
        }
        Ok(Done::Nothing)
    }

    pub(crate) fn gone(
        &mut self,
        now: i64,
        client: u32,
        exec: bool,
        fx: &mut Effects,
    ) -> Result<Done, Failure> {
        let Some(record) = self.clients.get(&client) else {
            return Ok(Done::Nothing);
        };
        let key = record.process();
        if exec {
            self.replace(now, client, fx);
            self.forget(client);
        } else if let Some(process) = self.processes.get(&key) {
            let last = process.client;
            self.die(now, last, fx);
            self.doom_orphans(fx);
        }
        Ok(Done::Nothing)
    }

    /// The image ends, its process goes on.
    fn replace(&mut self, now: i64, client: u32, fx: &mut Effects) {
        let Some(key) = self.end(now, client, Image::Replaced, fx) else {
            return;
        };
        for (serial, kind) in self.opened(client) {
            self.remember_set(key, serial);
            self.begin_sweep(serial, kind, client, None, fx);
        }
    }

    /// The process of its last client ends.
    fn die(&mut self, now: i64, client: u32, fx: &mut Effects) {
        let Some(record) = self.clients.get(&client) else {
            return;
        };
        let key = record.process();
        let Some(process) = self.processes.remove(&key) else {
            return;
        };
        let mut left = self.opened(client);
        if self.end(now, client, Image::Dead, fx).is_none() {
            // Its image ended before: only undo is left to do.
            left.clear();
        }
        for serial in process.sets {
            let live = self.constructs.get(&serial).is_some_and(|c| c.life == Life::Live);
            if live {
                left.insert(serial, Kind::Sem);
            }
        }
        let sets: BTreeSet<u64> = left
            .iter()
            .filter(|(_, kind)| **kind == Kind::Sem)
            .map(|(&s, _)| s)
            .collect();
        // What it left but records is swept too where its list goes on.
        let shared = self.shared.contains_key(&process.undo);
        for list in process.lists.into_iter().chain([process.undo]) {
            self.leave_list(list, sets.clone(), Some(client), fx);
        }
        for (serial, kind) in left {
            if kind != Kind::Sem || shared {
                self.begin_sweep(serial, kind, client, None, fx);
            }
        }
        if let Some(record) = self.clients.get_mut(&client) {
            record.image = Image::Dead;
        }
        self.forget(client);
    }

    /// A living client lives no more: its attachments end, and what it has of removed sets and queues. None if it did not live.
    fn end(&mut self, now: i64, client: u32, image: Image, fx: &mut Effects) -> Option<ProcessKey> {
        let record = self
            .clients
            .get_mut(&client)
            .filter(|c| c.image == Image::Alive)?;
        record.image = image;
        record.last = None;
        record.who.groups = Vec::new();
        let (key, pid) = (record.process(), record.pid());
        let holds: Vec<u64> = record.holds.keys().copied().collect();
        if let Some(domain) = self.domains.get_mut(&key.domain) {
            domain.clients = domain.clients.saturating_sub(1);
        }
        for serial in holds {
            let construct = self.constructs.get(&serial);
            let (kind, life) = construct.map_or((Kind::Shm, Life::Removed), |c| (c.kind, c.life));
            if kind == Kind::Shm {
                self.touch(serial, pid, Touch::Detached(now));
                self.unhold(client, serial, u32::MAX, fx);
            } else if life != Life::Live {
                self.unhold(client, serial, u32::MAX, fx);
            }
        }
        Some(key)
    }

    /// The sets and queues a client has open.
    pub(crate) fn opened(&self, client: u32) -> BTreeMap<u64, Kind> {
        let holds = self.clients.get(&client).map(|c| &c.holds);
        holds
            .into_iter()
            .flat_map(|holds| holds.keys())
            .filter_map(|serial| Some((*serial, self.constructs.get(serial)?)))
            .filter(|(_, c)| c.kind != Kind::Shm && c.life == Life::Live)
            .map(|(serial, c)| (serial, c.kind))
            .collect()
    }

    pub(crate) fn begin_sweep(
        &mut self,
        serial: u64,
        kind: Kind,
        client: u32,
        undo: Option<u64>,
        fx: &mut Effects,
    ) {
        let sweep = Sweep {
            kind,
            serial,
            client,
            undo,
        };
        if self.sweeps.insert(sweep) {
            if let Some(record) = self.clients.get_mut(&client) {
                record.sweeps += 1;
            }
            fx.push(Effect::Sweep(sweep));
        }
    }

    /// The sweeps of one client under way in one construct.
    pub(crate) fn sweeps_of(&self, kind: Kind, serial: u64, client: u32) -> impl Iterator<Item = Sweep> {
        let sweep = |undo| Sweep {
            kind,
            serial,
            client,
            undo,
        };
        self.sweeps.range(sweep(None)..=sweep(Some(u64::MAX))).copied()
    }

    pub(crate) fn swept(&mut self, sweep: Sweep, fx: &mut Effects) -> Result<Done, Failure> {
        if !self.sweeps.remove(&sweep) {
            return Ok(Done::Nothing);
        }
        let Sweep {
            kind, serial, client, ..
        } = sweep;
        if let Some(record) = self.clients.get_mut(&client) {
            record.sweeps = record.sweeps.saturating_sub(1);
        }
        if self.sweeps_of(kind, serial, client).next().is_none() {
            self.unhold(client, serial, u32::MAX, fx);
        }
        self.forget(client);
        Ok(Done::Nothing)
    }

    /// Sweeps in a construct that is removed need not be done any more.
    pub(crate) fn void_sweeps(&mut self, kind: Kind, serial: u64) {
        let of = |client| Sweep {
            kind,
            serial,
            client,
            undo: None,
        };
        let end = Sweep {
            undo: Some(u64::MAX),
            ..of(u32::MAX)
        };
        let void: Vec<Sweep> = self.sweeps.range(of(0)..=end).copied().collect();
        for sweep in void {
            self.sweeps.remove(&sweep);
            if let Some(record) = self.clients.get_mut(&sweep.client) {
                record.sweeps = record.sweeps.saturating_sub(1);
            }
            self.forget(sweep.client);
        }
    }

    /// Forgets a client that lives no more once nothing needs it: no sweep, and no process that may still die.
    pub(crate) fn forget(&mut self, client: u32) {
        let Some(record) = self.clients.get(&client) else {
            return;
        };
        let last = self
            .processes
            .get(&record.process())
            .is_some_and(|p| p.client == client);
        let needed = match record.image {
            Image::Alive => true,
            Image::Replaced => last,
            Image::Dead => false,
        };
        if !needed && record.sweeps == 0 && record.holds.is_empty() {
            self.clients.remove(&client);
        }
    }
}
