//! The state, which command goes where, and what the daemon may ask.
//!
//! What a command does stands in the module of its kind: `life` (domains, clients, forks, sweeps), `get` (the `*get` calls), `attach`
//! (attach, open, close, grow), `control` (the `*ctl` calls), `share`. All of them use `holding` to count who has what.

use crate::command::reads_only;
use crate::errno::*;
use crate::pool::Pool;
use crate::slots::Table;
use crate::state::*;
use crate::{Command, Done, Effect, FIRST_CLIENT, GroupConfig, Outcome, Store, Sweep};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use vshmem_wire::{DomainInfo, Extent, Failure, Info, Kind, Request, slot_of};

/// A group's registry. See the crate's head for what holds of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registry {
    pub(crate) group: GroupConfig,
    pub(crate) next_serial: u64,
    pub(crate) next_client: u32,
    pub(crate) next_undo: u64,
    /// Undo lists that processes share.
    pub(crate) shared: BTreeMap<u64, Sharers>,
    pub(crate) domains: BTreeMap<u16, Domain>,
    pub(crate) names: BTreeMap<String, u16>,
    pub(crate) clients: BTreeMap<u32, Client>,
    pub(crate) processes: BTreeMap<ProcessKey, Process>,
    pub(crate) forks: BTreeMap<(u16, u64), Fork>,
    pub(crate) constructs: BTreeMap<u64, Construct>,
    pub(crate) shm: Table,
    pub(crate) sem: Table,
    pub(crate) msg: Table,
    pub(crate) sweeps: BTreeSet<Sweep>,
    /// Memory of each group.
    pub(crate) pools: Vec<Pool>,
    /// Segments of huge pages: a file each.
    pub(crate) huge: Pool,
    /// Pages of all segments, semaphores of all named sets.
    pub(crate) shm_pages: u64,
    pub(crate) semaphores: u64,
    /// Bytes of constructs removed but still mapped.
    pub(crate) quarantine: u64,
    /// The construct that the last command made or lengthened, and how many extents it had before.
    pub(crate) fresh: Option<(u64, usize)>,
}

/// What the daemon may know of a construct.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConstructView<'a> {
    /// Serial number: never reissued.
    pub serial: u64,
    /// What it is.
    pub kind: Kind,
    /// Its id.
    pub id: i32,
    /// Whether it is in use: not removed, not corrupt. (A segment with SHM_DEST is.)
    pub live: bool,
    /// The control word, 0 for a segment.
    pub control: u64,
    /// Where its pages are.
    pub extents: &'a [Extent],
    /// The most bytes it may grow to.
    pub cap: u64,
    /// Semaphores of a set.
    pub nsems: u32,
    /// Size asked for of a segment.
    pub segsz: u64,
    /// Bytes a queue may hold.
    pub qbytes: u64,
    /// Number of the domain it was made in.
    pub domain: u16,
    /// Number of the group it is of: says in which store its memory is.
    pub group: u16,
    /// Its huge pages, as in [`vshmem_wire::Memory::huge`]: these have a store of their own.
    pub huge: u8,
}

/// What the daemon may know of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientView {
    /// Its number.
    pub client: u32,
    /// Its domain.
    pub domain: u16,
    /// Its process id there.
    pub pid: u32,
    /// Start time of the process.
    pub start: u64,
    /// Its undo list.
    pub undo: u64,
    /// Neither dead nor replaced by exec.
    pub alive: bool,
}

pub(crate) type Effects = Vec<Effect>;

impl Registry {
    /// An empty registry.
    pub fn new(group: GroupConfig) -> Self {
        let stores = std::iter::once(group.store).chain(group.more.iter().map(|more| more.store));
        let pools = stores.map(Pool::new).collect();
        Registry {
            group,
            next_serial: 1,
            next_client: FIRST_CLIENT,
            next_undo: 1,
            shared: BTreeMap::new(),
            domains: BTreeMap::new(),
            names: BTreeMap::new(),
            clients: BTreeMap::new(),
            processes: BTreeMap::new(),
            forks: BTreeMap::new(),
            constructs: BTreeMap::new(),
            shm: Table::default(),
            sem: Table::default(),
            msg: Table::default(),
            sweeps: BTreeSet::new(),
            pools,
            huge: Pool::new(Store::PerConstruct),
            shm_pages: 0,
            semaphores: 0,
            quarantine: 0,
            fresh: None,
        }
    }

    /// The group's configuration.
    pub fn group(&self) -> &GroupConfig {
        &self.group
    }

    /// The snapshot.
    pub fn snapshot(&self) -> Result<Vec<u8>, postcard::Error> {
        postcard::to_allocvec(self)
    }

    /// The registry a snapshot was made of.
    pub fn restore(snapshot: &[u8]) -> Result<Self, postcard::Error> {
        postcard::from_bytes(snapshot)
    }

    /// Carries a command out. `now` is in seconds since the epoch.
    pub fn apply(&mut self, now: u64, command: Command) -> Outcome {
        let mut fx = Vec::new();
        if let Command::Request { client, body, .. } = &command
            && reads_only(body)
        {
            let reply = self.ask(*client, body);
            return Outcome { reply, effects: fx };
        }
        let fresh = self.fresh.take();
        let seconds = i64::try_from(now).unwrap_or(i64::MAX);
        let reply = match command {
            Command::DomainUp {
                name,
                port,
                own_space,
            } => self.domain_up(name, port, own_space),
            Command::DomainDown { domain } => self.domain_down(seconds, domain, &mut fx),
            Command::Alive { domain, clients } => self.only_alive(seconds, domain, &clients, &mut fx),
            Command::Connect {
                domain,
                who,
                resume,
                fork,
            } => self.connect(seconds, domain, who, resume, fork, &mut fx),
            Command::ForkPrepare { client, fork } => self.fork_prepare(seconds, client, fork, &mut fx),
            Command::ForkAbandoned { domain, fork } => self.fork_abandoned(seconds, domain, fork, &mut fx),
            Command::Gone { client, exec } => self.gone(seconds, client, exec, &mut fx),
            Command::Request { client, seq, body } => self.once(seconds, client, seq, body, &mut fx),
            Command::Answered { client, seq, verdict } => self.answered(client, seq, verdict),
            Command::NotHandedOut { client, seq, failure } => {
                self.not_handed_out(client, seq, failure, &mut fx)
            }
            Command::Swept(sweep) => self.swept(sweep, &mut fx),
            Command::DeclareCorrupt { serial, what: _ } => self.declare_corrupt(serial, &mut fx),
            Command::NotProvided { serial } => self.not_provided(serial, fresh, &mut fx),
            Command::Extend { serial, wanted } => {
                self.append(serial, wanted, &mut fx).map(|()| Done::Nothing)
            }
            Command::Audited {
                client,
                serial,
                attachments,
            } => self.audited(seconds, client, serial, attachments, &mut fx),
            Command::SetLimits(limits) => {
                self.group.limits = limits;
                Ok(Done::Nothing)
            }
        };
        fx.sort_by_key(Effect::leads_on);
        Outcome { reply, effects: fx }
    }

    /// Carries a request out unless it was before.
    fn once(
        &mut self,
        now: i64,
        client: u32,
        seq: u64,
        body: Request,
        fx: &mut Effects,
    ) -> Result<Done, Failure> {
        let record = self.alive(client)?;
        if seq == record.seq
            && let Some(last) = &record.last
        {
            let last = last.clone();
            return self.repeated(client, seq, last, fx);
        }
        if seq <= record.seq {
            let why = format!("request {seq} came after request {}", record.seq);
            return Err(Failure::because(EINVAL, why));
        }
        let reply = self.request(now, client, body, fx);
        if let Some(record) = self.clients.get_mut(&client) {
            record.seq = seq;
            record.last = Some(reply.clone());
        }
        reply
    }

    /// The answer that a request got, once more. Memory is given again only to whom the construct is still shared with: else whoever asked for it last would have it
    /// for ever.
    fn repeated(
        &mut self,
        client: u32,
        seq: u64,
        last: Result<Done, Failure>,
        fx: &mut Effects,
    ) -> Result<Done, Failure> {
        let Ok(Done::WithMemory { serial, .. }) = last else {
            return last;
        };
        let record = self.clients.get(&client);
        let construct = self.constructs.get(&serial);
        if record
            .zip(construct)
            .is_none_or(|(record, construct)| self.sees(record, construct))
        {
            return last;
        }
        let failure = Failure::because(EACCES, "the construct is not shared with this domain any more");
        self.not_handed_out(client, seq, failure.clone(), fx)?;
        Err(failure)
    }

    fn answered(&mut self, client: u32, seq: u64, verdict: vshmem_wire::Verdict) -> Result<Done, Failure> {
        if let Some(record) = self.clients.get_mut(&client)
            && record.seq == seq
            && record.last.is_some()
        {
            record.last = Some(verdict.map(Done::Reply));
        }
        Ok(Done::Nothing)
    }

    fn not_handed_out(
        &mut self,
        client: u32,
        seq: u64,
        failure: Failure,
        fx: &mut Effects,
    ) -> Result<Done, Failure> {
        let record = self.clients.get_mut(&client).filter(|c| c.seq == seq);
        let Some(last) = record.and_then(|record| record.last.as_mut()) else {
            return Ok(Done::Nothing);
        };
        if let Ok(Done::WithMemory { serial, counted, .. }) = *last {
            *last = Err(failure);
            if counted {
                self.unhold(client, serial, 1, fx);
            }
        }
        Ok(Done::Nothing)
    }

    fn request(&mut self, now: i64, client: u32, body: Request, fx: &mut Effects) -> Result<Done, Failure> {
        match body {
            Request::ShmGet { key, size, flags } => self.shm_get(now, client, key, size, flags, fx),
            Request::SemGet { key, nsems, flags } => self.sem_get(now, client, key, nsems, flags, fx),
            Request::MsgGet { key, flags } => self.msg_get(now, client, key, flags, fx),
            Request::ShmAttach { id, read_only, exec } => {
                self.shm_attach(now, client, id, read_only, exec, fx)
            }
            Request::ShmDetach { id } => self.shm_detach(now, client, id, fx),
            Request::SetLimit { setting, values } => self.set_limit(client, setting, &values, fx),
            Request::ShmSplit { id } => self.shm_split(now, client, id, fx),
            Request::Open { kind, id } => self.open(client, kind, id, fx),
            Request::Close { kind, id } => self.close(client, kind, id, fx),
            Request::Grow {
                kind,
                id,
                wanted,
                have,
            } => self.grow(client, (kind, id), wanted, have, fx),
            Request::Set {
                kind,
                id,
                uid,
                gid,
                mode,
                qbytes,
            } => self.set(now, client, (kind, id), (uid, gid, mode), qbytes, fx),
            Request::Remove { kind, id } => self.remove(client, kind, id, fx),
            Request::Lock { id, on, most } => self.lock(client, id, on, most),
            Request::LockStuck { kind, id, owner } => self.lock_stuck(client, kind, id, owner, fx),
            Request::Corrupt { kind, id, what } => self.corrupt(client, kind, id, what, fx),
            Request::OnBehalf { id, operation } => self.on_behalf(client, id, &operation),
            Request::ShareUndo => self.share_undo(client),
            Request::LeaveUndo { list, alone, begin } => self.leave_undo(client, list, alone, begin, fx),
            Request::Share { kind, id, domains } => self.share(client, (kind, id), domains, true, fx),
            Request::Unshare { kind, id, domains } => self.share(client, (kind, id), domains, false, fx),
            Request::Stat { .. } | Request::Info { .. } | Request::List { .. } | Request::ShmAgain { .. } => {
                self.ask(client, &body)
            }
            Request::Hello { .. }
            | Request::Ring { .. }
            | Request::Tickets { .. }
            | Request::Bell { .. }
            | Request::ForkPrepare
            | Request::AttachDomain { .. }
            | Request::OpenDomain { .. }
            | Request::UseHugePages { .. }
            | Request::Status
            | Request::Ping => Err(Failure::because(
                ENOSYS,
                "this request is the daemon's, not the registry's",
            )),
        }
    }

    /// Answers a request that changes nothing (Stat, Info, List, ShmAgain).
    pub fn ask(&self, client: u32, body: &Request) -> Result<Done, Failure> {
        let record = self.alive(client)?;
        match *body {
            Request::ShmAgain { id, writable } => self.shm_again(record, id, writable),
            Request::Stat { kind, which } => self.stat(record, kind, which),
            Request::Info { kind } => Ok(Done::Info(self.info(kind))),
            Request::List { kind, from } => Ok(self.list(record, kind, from)),
            _ => Err(Failure::because(
                ENOSYS,
                "this request is not one that changes nothing in the registry",
            )),
        }
    }

    /// After the daemon was restarted, and the log replayed: what was under way and must be begun again.
    pub fn restarted(&self) -> Vec<Effect> {
        let sweeps = self.sweeps.iter().copied().map(Effect::Sweep);
        // Nobody says when senders have heard of a changed limit.
        let changed = |c: &&Construct| c.life == Life::Live && c.limits != 0;
        let limits = self.msg.slots.values().filter_map(|&serial| {
            let construct = self.constructs.get(&serial).filter(changed)?;
            let qbytes = construct.qbytes();
            Some(Effect::SetQbytes { serial, qbytes })
        });
        sweeps.chain(limits).collect()
    }

    /// Sweeps under way.
    pub fn sweeps(&self) -> impl Iterator<Item = Sweep> {
        self.sweeps.iter().copied()
    }

    /// A construct by its serial number.
    pub fn construct(&self, serial: u64) -> Option<ConstructView<'_>> {
        self.constructs.get(&serial).map(|c| view(serial, c))
    }

    /// A live construct by its id.
    pub fn construct_by_id(&self, kind: Kind, id: i32) -> Option<ConstructView<'_>> {
        let (serial, construct) = self.find(kind, id).ok()?;
        Some(view(serial, construct))
    }

    /// All constructs whose memory exists, in order of serial numbers: also those removed that somebody still maps.
    pub fn constructs(&self) -> impl Iterator<Item = ConstructView<'_>> {
        self.constructs.iter().map(|(&serial, c)| view(serial, c))
    }

    /// Serial numbers of the constructs of a kind that have an id, in order of indices.
    pub fn named(&self, kind: Kind) -> impl Iterator<Item = u64> {
        self.table(kind).slots.values().copied()
    }

    /// A client, as long as anything of it is remembered.
    pub fn client(&self, client: u32) -> Option<ClientView> {
        self.clients.get(&client).map(|c| client_view(client, c))
    }

    /// All clients that anything is remembered of.
    pub fn clients(&self) -> impl Iterator<Item = ClientView> {
        self.clients.iter().map(|(&number, c)| client_view(number, c))
    }

    /// Whether a fork is under way.
    pub fn has_fork(&self, domain: u16, fork: u64) -> bool {
        self.forks.contains_key(&(domain, fork))
    }

    /// What a client has attached or open: serial numbers and how often.
    pub fn holdings(&self, client: u32) -> impl Iterator<Item = (u64, u32)> {
        let holds = self.clients.get(&client).map(|c| &c.holds);
        holds
            .into_iter()
            .flatten()
            .map(|(&serial, &count)| (serial, count))
    }

    /// Number of a domain.
    pub fn domain(&self, name: &str) -> Option<u16> {
        self.names.get(name).copied()
    }

    /// The domains ever seen.
    pub fn domains(&self) -> Vec<DomainInfo> {
        self.domains
            .iter()
            .map(|(&number, d)| DomainInfo {
                number,
                name: d.name.clone(),
                port: d.port.clone(),
                up: d.up,
                clients: d.clients,
            })
            .collect()
    }

    /// The extents of all that lies in a group's pool.
    pub fn extents_in_use(&self, group: u16) -> Vec<Extent> {
        let ours = |construct: &&Construct| construct.group == group && construct.huge == 0;
        let all = self.constructs.values().filter(ours);
        all.flat_map(|construct| construct.extents.iter().copied())
            .collect()
    }

    /// Bytes of a group's pool; 0 without one.
    pub fn pool_bytes(&self, group: u16) -> u64 {
        match self.group.store_of(group) {
            Store::Pool { bytes } => bytes,
            Store::PerConstruct => 0,
        }
    }

    /// Bytes of construct memory in use, those in quarantine included.
    pub fn bytes_used(&self) -> u64 {
        self.pools.iter().map(Pool::used).sum::<u64>() + self.huge.used()
    }

    /// The part of [`Registry::bytes_used`] that is a group's.
    pub fn bytes_used_by(&self, group: u16) -> u64 {
        self.pools.get(usize::from(group)).map_or(0, Pool::used)
    }

    /// Bytes of removed constructs that wait for the last user to unmap.
    pub fn bytes_quarantined(&self) -> u64 {
        self.quarantine
    }

    /// `*_INFO` and `IPC_INFO`. For queues, messages and their bytes are the daemon's to add.
    pub fn info(&self, kind: Kind) -> Info {
        let table = self.table(kind);
        Info {
            limits: self.group.limits,
            highest: table.highest(),
            used: table.slots.len() as u32,
            units: match kind {
                Kind::Shm => self.shm_pages,
                Kind::Sem => self.semaphores,
                Kind::Msg => 0,
            },
            bytes: 0,
        }
    }

    pub(crate) fn table(&self, kind: Kind) -> &Table {
        match kind {
            Kind::Shm => &self.shm,
            Kind::Sem => &self.sem,
            Kind::Msg => &self.msg,
        }
    }

    pub(crate) fn table_mut(&mut self, kind: Kind) -> &mut Table {
        match kind {
            Kind::Shm => &mut self.shm,
            Kind::Sem => &mut self.sem,
            Kind::Msg => &mut self.msg,
        }
    }

    /// A client that may send requests.
    pub(crate) fn alive(&self, client: u32) -> Result<&Client, Failure> {
        self.clients
            .get(&client)
            .filter(|c| c.image == Image::Alive)
            .ok_or_else(|| Failure::because(ESTALE, format!("there is no client {client}")))
    }

    /// The construct with an id, or EINVAL: Linux makes no difference between an id that never was and one that is stale.
    pub(crate) fn find(&self, kind: Kind, id: i32) -> Result<(u64, &Construct), Failure> {
        slot_of(id)
            .and_then(|slot| self.at_slot(kind, slot))
            .filter(|(_, c)| c.id == id)
            .ok_or_else(|| Failure::errno(EINVAL))
    }

    /// The construct in a slot.
    pub(crate) fn at_slot(&self, kind: Kind, slot: u32) -> Option<(u64, &Construct)> {
        let serial = *self.table(kind).slots.get(&slot)?;
        Some((serial, self.constructs.get(&serial)?))
    }

    /// The construct with an id, as one of the client's requests names it: EINVAL, or EACCES where its domain does not see it.
    pub(crate) fn seen(
        &self,
        client: u32,
        kind: Kind,
        id: i32,
    ) -> Result<(u64, &Client, &Construct), Failure> {
        let record = self.alive(client)?;
        let (serial, construct) = self.find(kind, id)?;
        if !self.sees(record, construct) {
            return Err(Failure::because(
                EACCES,
                "the construct is not shared with this domain",
            ));
        }
        Ok((serial, record, construct))
    }
}

fn view(serial: u64, construct: &Construct) -> ConstructView<'_> {
    ConstructView {
        serial,
        kind: construct.kind,
        id: construct.id,
        live: construct.named(),
        control: construct.control(),
        extents: &construct.extents,
        cap: construct.cap(),
        nsems: construct.nsems(),
        segsz: construct.segsz(),
        qbytes: construct.qbytes(),
        domain: construct.domain,
        group: construct.group,
        huge: construct.huge,
    }
}

fn client_view(number: u32, client: &Client) -> ClientView {
    ClientView {
        client: number,
        domain: client.domain,
        pid: client.who.pid,
        start: client.who.start,
        undo: client.undo,
        alive: client.image == Image::Alive,
    }
}
