//! A registry with domains and processes in it, checked after every command.

use std::collections::BTreeMap;
use vshmem_registry::{Command, Done, Effect, GroupConfig, Outcome, Registry, Store, Sweep};
use vshmem_wire::request::Which;
use vshmem_wire::{Credentials, Failure, Kind, Memory, Reply, Request, Stat, StatBody};

pub(crate) const EPERM: i32 = 1;
pub(crate) const ENOENT: i32 = 2;
pub(crate) const ENOMEM: i32 = 12;
pub(crate) const EACCES: i32 = 13;
pub(crate) const EEXIST: i32 = 17;
pub(crate) const EINVAL: i32 = 22;
pub(crate) const ENOSPC: i32 = 28;
pub(crate) const EIDRM: i32 = 43;
pub(crate) const ESTALE: i32 = 116;
pub(crate) const CREAT: i32 = 0o1000;
pub(crate) const EXCL: i32 = 0o2000;
pub(crate) const PAGE: u64 = 4096;
pub(crate) const POOL: u64 = 16 << 20;

/// A registry under test.
pub(crate) struct Group {
    pub(crate) registry: Registry,
    pub(crate) now: u64,
    /// Effects of the last command.
    pub(crate) effects: Vec<Effect>,
    /// Every command so far, with its time.
    pub(crate) log: Vec<(u64, Command)>,
    seqs: BTreeMap<u32, u64>,
    pids: u32,
}

impl Group {
    /// A pool of 16 MiB, uids shared, the host's domain up.
    pub(crate) fn new() -> Self {
        Self::with(config())
    }

    pub(crate) fn with(config: GroupConfig) -> Self {
        let mut group = Group {
            registry: Registry::new(config),
            now: 1_000_000,
            effects: Vec::new(),
            log: Vec::new(),
            seqs: BTreeMap::new(),
            pids: 100,
        };
        group.domain("host");
        group
    }

    pub(crate) fn apply(&mut self, command: Command) -> Result<Done, Failure> {
        self.log.push((self.now, command.clone()));
        let Outcome { reply, effects } = self.registry.apply(self.now, command);
        self.effects = effects;
        if let Err(wrong) = self.registry.check_invariants() {
            panic!("{wrong}, after {:?}", self.log.last());
        }
        reply
    }

    /// A domain of the host's kernel if it is the host's own, else a guest.
    pub(crate) fn domain(&mut self, name: &str) -> u16 {
        self.domain_up(name, name != "host")
    }

    /// A domain of the host's kernel.
    pub(crate) fn local_domain(&mut self, name: &str) -> u16 {
        self.domain_up(name, false)
    }

    fn domain_up(&mut self, name: &str, own_space: bool) -> u16 {
        let up = Command::DomainUp {
            name: name.into(),
            port: "test".into(),
            own_space,
        };
        match self.apply(up).unwrap() {
            Done::Domain { number, space } => {
                assert_eq!(space, if own_space { number } else { 0 });
                number
            }
            other => panic!("{other:?}"),
        }
    }

    /// Who a new process is.
    pub(crate) fn who(&mut self, uid: u32) -> Credentials {
        self.pids += 1;
        Credentials {
            pid: self.pids,
            start: u64::from(self.pids) * 10,
            uid,
            gid: uid,
            groups: Vec::new(),
            caps: if uid == 0 { 15 } else { 0 },
            stands_for: 0,
        }
    }

    pub(crate) fn connect(&mut self, domain: u16, who: Credentials) -> u32 {
        self.connect_as(domain, who, None, None).unwrap()
    }

    pub(crate) fn connect_as(
        &mut self,
        domain: u16,
        who: Credentials,
        resume: Option<u32>,
        fork: Option<u64>,
    ) -> Result<u32, i32> {
        let connect = Command::Connect {
            domain,
            who,
            resume,
            fork,
        };
        match self.apply(connect) {
            Ok(Done::Connected(numbers)) => Ok(numbers.client),
            Ok(other) => panic!("{other:?}"),
            Err(failure) => Err(failure.errno),
        }
    }

    /// A new process of the host's domain.
    pub(crate) fn process(&mut self, uid: u32) -> u32 {
        self.process_in(1, uid)
    }

    pub(crate) fn process_in(&mut self, domain: u16, uid: u32) -> u32 {
        let who = self.who(uid);
        self.connect(domain, who)
    }

    pub(crate) fn next_seq(&mut self, client: u32) -> u64 {
        let seq = self.seqs.entry(client).or_default();
        *seq += 1;
        *seq
    }

    pub(crate) fn request(&mut self, client: u32, body: Request) -> Result<Done, i32> {
        let seq = self.next_seq(client);
        self.apply(Command::Request { client, seq, body })
            .map_err(|failure| failure.errno)
    }

    fn id(&mut self, client: u32, body: Request) -> Result<i32, i32> {
        match self.request(client, body)? {
            Done::Reply(Reply::Id(id)) => Ok(id),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn shmget(&mut self, client: u32, key: i32, size: u64, flags: i32) -> Result<i32, i32> {
        self.id(client, Request::ShmGet { key, size, flags })
    }

    pub(crate) fn semget(&mut self, client: u32, key: i32, nsems: i32, flags: i32) -> Result<i32, i32> {
        self.id(client, Request::SemGet { key, nsems, flags })
    }

    pub(crate) fn msgget(&mut self, client: u32, key: i32, flags: i32) -> Result<i32, i32> {
        self.id(client, Request::MsgGet { key, flags })
    }

    /// One of any kind, for rules that hold for all.
    pub(crate) fn get(&mut self, client: u32, kind: Kind, key: i32, flags: i32) -> Result<i32, i32> {
        match kind {
            Kind::Shm => self.shmget(client, key, 100, flags),
            Kind::Sem => self.semget(client, key, 1, flags),
            Kind::Msg => self.msgget(client, key, flags),
        }
    }

    pub(crate) fn attach_as(
        &mut self,
        client: u32,
        id: i32,
        read_only: bool,
        exec: bool,
    ) -> Result<Memory, i32> {
        match self.request(client, Request::ShmAttach { id, read_only, exec })? {
            Done::WithMemory {
                reply: Reply::Attached { memory, .. },
                writable,
                ..
            } => {
                assert_eq!((writable, memory.writable), (!read_only, !read_only));
                Ok(memory)
            }
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn attach(&mut self, client: u32, id: i32) -> Result<Memory, i32> {
        self.attach_as(client, id, false, false)
    }

    pub(crate) fn detach(&mut self, client: u32, id: i32) -> Result<(), i32> {
        self.request(client, Request::ShmDetach { id }).map(|_| ())
    }

    /// (memory, read, write, control)
    pub(crate) fn open(
        &mut self,
        client: u32,
        kind: Kind,
        id: i32,
    ) -> Result<(Option<Memory>, bool, bool, u64), i32> {
        opened(self.request(client, Request::Open { kind, id })?)
    }

    pub(crate) fn close(&mut self, client: u32, kind: Kind, id: i32) -> Result<(), i32> {
        self.request(client, Request::Close { kind, id }).map(|_| ())
    }

    pub(crate) fn remove(&mut self, client: u32, kind: Kind, id: i32) -> Result<(), i32> {
        self.request(client, Request::Remove { kind, id }).map(|_| ())
    }

    pub(crate) fn stat_of(&mut self, client: u32, kind: Kind, which: Which) -> Result<Stat, i32> {
        match self.request(client, Request::Stat { kind, which })? {
            Done::Stat { stat, .. } => Ok(stat),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn stat(&mut self, client: u32, kind: Kind, id: i32) -> Result<Stat, i32> {
        self.stat_of(client, kind, Which::Id(id))
    }

    pub(crate) fn nattch(&mut self, client: u32, id: i32) -> u64 {
        match self.stat(client, Kind::Shm, id).unwrap().body {
            StatBody::Shm { nattch, .. } => nattch,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn gone(&mut self, client: u32, exec: bool) {
        self.apply(Command::Gone { client, exec }).unwrap();
    }

    /// The sweeps that the last command asked for.
    pub(crate) fn asked_sweeps(&self) -> Vec<Sweep> {
        let sweep = |effect: &Effect| match effect {
            Effect::Sweep(sweep) => Some(*sweep),
            _ => None,
        };
        self.effects.iter().filter_map(sweep).collect()
    }

    /// Confirms all sweeps under way; the effects of all confirmations stay to be looked at.
    pub(crate) fn sweep(&mut self) {
        let mut effects = Vec::new();
        for sweep in self.registry.sweeps().collect::<Vec<_>>() {
            self.apply(Command::Swept(sweep)).unwrap();
            effects.append(&mut self.effects);
        }
        self.effects = effects;
    }

    /// Bytes that the last command gave back; None if it gave nothing back.
    pub(crate) fn released(&self) -> Option<u64> {
        self.effects.iter().find_map(|effect| match effect {
            Effect::Release { extents, .. } => Some(extents.iter().map(|e| e.bytes).sum()),
            _ => None,
        })
    }
}

pub(crate) fn config() -> GroupConfig {
    GroupConfig::new("test", Store::Pool { bytes: POOL })
}

pub(crate) fn opened(done: Done) -> Result<(Option<Memory>, bool, bool, u64), i32> {
    match done {
        Done::Reply(Reply::Opened {
            memory,
            read,
            write,
            control,
            ..
        }) => {
            assert_eq!(memory, None);
            Ok((memory, read, write, control))
        }
        Done::WithMemory {
            reply:
                Reply::Opened {
                    memory,
                    read,
                    write,
                    control,
                    ..
                },
            ..
        } => Ok((memory, read, write, control)),
        other => panic!("{other:?}"),
    }
}

pub(crate) const KINDS: [Kind; 3] = [Kind::Shm, Kind::Sem, Kind::Msg];
