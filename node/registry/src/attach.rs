//! Attaching and detaching segments, opening, growing and closing sets and queues.

use crate::errno::*;
use crate::permission::{EXECUTE, READ, WRITE};
use crate::registry::{Effects, Registry};
use crate::state::*;
use crate::{Done, Effect, sizes};
use vshmem_wire::request::Behalf;
use vshmem_wire::{Failure, Kind, Memory, Reply, Window};

/// Most attachments one client may have of one segment.
const ATTACHMENTS: u32 = 1 << 20;

fn memory(construct: &Construct, writable: bool) -> Memory {
    Memory {
        group: construct.group,
        window: Window::Direct,
        extents: construct.extents.clone(),
        writable,
        grants: None,
        huge: construct.huge,
    }
}

/// What a guest is told that asks for huge pages: with ENOMEM.
pub const OUT_OF_REACH: &str = "segments of huge pages (SHM_HUGETLB) are the host's kernel's alone: this domain is a guest, which cannot reach them";

impl Registry {
    pub(crate) fn shm_attach(
        &mut self,
        now: i64,
        client: u32,
        id: i32,
        read_only: bool,
        exec: bool,
        fx: &mut Effects,
    ) -> Result<Done, Failure> {
        let (serial, record, construct) = self.seen(client, Kind::Shm, id)?;
        let wanted = READ | if read_only { 0 } else { WRITE } | if exec { EXECUTE } else { 0 };
        self.check(record, construct, wanted)?;
        if record.holds.get(&serial).is_some_and(|&n| n >= ATTACHMENTS) {
            return Err(Failure::errno(ENOMEM));
        }
        if construct.huge != 0 && self.has_a_kernel_of_its_own(record.domain) {
            return Err(Failure::because(ENOMEM, OUT_OF_REACH));
        }
        let reply = Reply::Attached {
            memory: memory(construct, !read_only),
            segsz: construct.segsz(),
        };
        let (pid, domain) = (record.pid(), record.domain);
        self.readmit(serial, domain, fx);
        self.hold(client, serial, !read_only, fx);
        self.touch(serial, pid, Touch::Attached(now));
        Ok(Done::WithMemory {
            kind: Kind::Shm,
            serial,
            writable: !read_only,
            counted: true,
            reply,
        })
    }

    pub(crate) fn shm_detach(
        &mut self,
        now: i64,
        client: u32,
        id: i32,
        fx: &mut Effects,
    ) -> Result<Done, Failure> {
        let record = self.alive(client)?;
        let pid = record.pid();
        let serial = *record
            .ids
            .get(&(Kind::Shm, id))
            .ok_or_else(|| Failure::errno(EINVAL))?;
        self.touch(serial, pid, Touch::Detached(now));
        self.unhold(client, serial, 1, fx);
        Ok(Done::Reply(Reply::Done))
    }

    /// The memory of a segment that the client has already, for writing only if it has it so: that others of its domain may write says nothing.
    pub(crate) fn shm_again(&self, record: &Client, id: i32, writable: bool) -> Result<Done, Failure> {
        let serial = record.ids.get(&(Kind::Shm, id)).copied();
        let serial = serial.ok_or_else(|| Failure::errno(EINVAL))?;
        let construct = self
            .constructs
            .get(&serial)
            .ok_or_else(|| Failure::errno(EIDRM))?;
        if !self.sees(record, construct) {
            let why = "the construct is not shared with this domain any more";
            return Err(Failure::because(EACCES, why));
        }
        if writable && !record.writes.contains(&serial) {
            return Err(Failure::errno(EACCES));
        }
        Ok(Done::WithMemory {
            kind: Kind::Shm,
            serial,
            writable,
            counted: false,
            reply: Reply::Attached {
                memory: memory(construct, writable),
                segsz: construct.segsz(),
            },
        })
    }

    /// A client's mapping has become two: no permission is asked for, since it has the segment already.
    pub(crate) fn shm_split(
        &mut self,
        now: i64,
        client: u32,
        id: i32,
        fx: &mut Effects,
    ) -> Result<Done, Failure> {
        let record = self.alive(client)?;
        let pid = record.pid();
        let serial = record.ids.get(&(Kind::Shm, id)).copied();
        let serial = serial.ok_or_else(|| Failure::errno(EINVAL))?;
        if record.holds.get(&serial).is_some_and(|&n| n >= ATTACHMENTS) {
            return Err(Failure::errno(ENOMEM));
        }
        self.hold(client, serial, false, fx);
        self.touch(serial, pid, Touch::Attached(now));
        Ok(Done::Reply(Reply::Done))
    }

    /// What the daemon found a client to have really mapped of a segment.
    pub(crate) fn audited(
        &mut self,
        now: i64,
        client: u32,
        serial: u64,
        attachments: u32,
        fx: &mut Effects,
    ) -> Result<Done, Failure> {
        let record = self.alive(client)?;
        let held = record.holds.get(&serial).copied().unwrap_or(0);
        let shm = self.constructs.get(&serial).is_some_and(|c| c.kind == Kind::Shm);
        if shm && attachments < held {
            self.touch(serial, record.pid(), Touch::Detached(now));
            self.unhold(client, serial, held - attachments, fx);
        }
        Ok(Done::Nothing)
    }

    /// Notes who last attached or detached a segment, and when.
    pub(crate) fn touch(&mut self, serial: u64, pid: vshmem_wire::Pid, what: Touch) {
        if let Some(Construct {
            body: Body::Shm {
                atime, dtime, lpid, ..
            },
            ..
        }) = self.constructs.get_mut(&serial)
        {
            match what {
                Touch::Attached(now) => *atime = now,
                Touch::Detached(now) => *dtime = now,
            }
            if pid.pid != 0 {
                *lpid = pid;
            }
        }
    }

    pub(crate) fn open(
        &mut self,
        client: u32,
        kind: Kind,
        id: i32,
        fx: &mut Effects,
    ) -> Result<Done, Failure> {
        if kind == Kind::Shm {
            return Err(Failure::errno(EINVAL));
        }
        let (serial, record, construct) = self.seen(client, kind, id)?;
        let (read, write) = (
            self.may(record, construct, READ),
            self.may(record, construct, WRITE),
        );
        if !read && !write {
            return Err(Failure::errno(EACCES));
        }
        let reply = Reply::Opened {
            control: construct.control(),
            nsems: construct.nsems(),
            memory: (read && write).then(|| memory(construct, true)),
            read,
            write,
            room: construct.cap().saturating_sub(construct.bytes),
        };
        if !(read && write) {
            return Ok(Done::Reply(reply));
        }
        let (domain, counted) = (record.domain, !record.holds.contains_key(&serial));
        self.readmit(serial, domain, fx);
        if counted {
            self.hold(client, serial, true, fx);
        }
        Ok(Done::WithMemory {
            kind,
            serial,
            writable: true,
            counted,
            reply,
        })
    }

    pub(crate) fn close(
        &mut self,
        client: u32,
        kind: Kind,
        id: i32,
        fx: &mut Effects,
    ) -> Result<Done, Failure> {
        let record = self.alive(client)?;
        let key = record.process();
        let serial = (kind != Kind::Shm)
            .then(|| record.ids.get(&(kind, id)).copied())
            .flatten()
            .ok_or_else(|| Failure::errno(EINVAL))?;
        // It may have left undo records there.
        self.remember_set(key, serial);
        self.unhold(client, serial, u32::MAX, fx);
        Ok(Done::Reply(Reply::Done))
    }

    /// Notes that a set may hold undo records of a process that its client need not have open.
    pub(crate) fn remember_set(&mut self, key: ProcessKey, serial: u64) {
        let live = crate::lists::is_live_set;
        let Some(process) = self.processes.get_mut(&key) else {
            return;
        };
        if live(&self.constructs, serial)
            && process.sets.insert(serial)
            && process.sets.len().is_power_of_two()
        {
            process.sets.retain(|s| live(&self.constructs, *s));
        }
    }

    pub(crate) fn grow(
        &mut self,
        client: u32,
        (kind, id): (Kind, i32),
        wanted: u64,
        have: u16,
        fx: &mut Effects,
    ) -> Result<Done, Failure> {
        let (serial, record, construct) = self.seen(client, kind, id)?;
        let may = self.may(record, construct, READ) && self.may(record, construct, WRITE);
        if may && kind != Kind::Shm && construct.extents.len() <= usize::from(have) {
            if !record.holds.contains_key(&serial) {
                return Err(Failure::because(EINVAL, "only who has it open can make it grow"));
            }
            self.append(serial, wanted, fx)?;
        }
        self.open(client, kind, id, fx)
    }

    /// Appends an extent of at least `wanted` usable bytes.
    pub(crate) fn append(&mut self, serial: u64, wanted: u64, fx: &mut Effects) -> Result<(), Failure> {
        let none = |why: &str| Failure::because(ENOMEM, why);
        let construct = self
            .constructs
            .get(&serial)
            .ok_or_else(|| Failure::errno(EINVAL))?;
        let (domain, before, now) = (construct.domain, construct.extents.len(), construct.bytes);
        let (group, huge) = (construct.group, construct.huge);
        let extent = match construct.body {
            Body::Sem { nsems } => sizes::set_extent(nsems, wanted),
            _ => sizes::queue_extent(wanted).ok_or_else(|| none("no queue holds such a message"))?,
        };
        let (least, best) = sizes::growth(now, construct.cap(), extent)
            .ok_or_else(|| none("it has grown as far as it may"))?;
        let pieces = sizes::EXTENTS.saturating_sub(before).min(8);
        let within = |registry: &Self, bytes| registry.check_quota(domain, 0, bytes).is_ok();
        let mut taken = None;
        if within(self, best) && pieces > 0 {
            taken = self.pages_of(group, huge).take(now, best, 1);
        }
        if taken.is_none() && within(self, least) {
            taken = self.pages_of(group, huge).take(now, least, pieces);
        }
        let taken = taken.ok_or_else(|| none("the pool or the domain's quota has no room for it to grow"))?;
        let bytes: u64 = taken.iter().map(|e| e.bytes).sum();
        self.charge(domain, 0, bytes as i64);
        self.fresh = Some((serial, before));
        let Some(construct) = self.constructs.get_mut(&serial) else {
            return Ok(());
        };
        let kind = construct.kind;
        fx.extend(taken.iter().map(|&extent| Effect::Provide {
            group,
            huge,
            kind,
            serial,
            extent,
        }));
        construct.extents.extend(taken);
        construct.bytes += bytes;
        fx.push(Effect::Grown {
            kind,
            serial,
            extents: construct.extents.clone(),
        });
        fx.push(Effect::Control {
            kind,
            serial,
            control: construct.control(),
        });
        Ok(())
    }

    /// Whether the caller may have an operation done for it.
    pub(crate) fn on_behalf(&mut self, client: u32, id: i32, operation: &Behalf) -> Result<Done, Failure> {
        let (kind, wanted) = match operation {
            Behalf::SemOp(ops) if ops.iter().any(|&(_, op, _)| op != 0) => (Kind::Sem, WRITE),
            Behalf::SemOp(_)
            | Behalf::GetValue(_)
            | Behalf::GetPid(_)
            | Behalf::GetNcnt(_)
            | Behalf::GetZcnt(_)
            | Behalf::GetAll => (Kind::Sem, READ),
            Behalf::SetValue(..) | Behalf::SetAll(_) => (Kind::Sem, WRITE),
            Behalf::Send { .. } => (Kind::Msg, WRITE),
            Behalf::Receive { .. } => (Kind::Msg, READ),
        };
        let (serial, record, construct) = self.seen(client, kind, id)?;
        self.check(record, construct, wanted)?;
        let done = Done::Behalf {
            kind,
            serial,
            control: construct.control(),
            nsems: construct.nsems(),
            undo: record.undo,
            pid: record.pid(),
        };
        let key = record.process();
        if matches!(operation, Behalf::SemOp(_)) {
            self.remember_set(key, serial);
        }
        Ok(done)
    }
}

/// What happened to a segment.
pub(crate) enum Touch {
    /// Attached then.
    Attached(i64),
    /// Detached then.
    Detached(i64),
}
