//! shmget(2), semget(2) and msgget(2): `ipcget` of Linux, errors in its order.

use crate::errno::*;
use crate::holding::SHM_DEST;
use crate::registry::{Effects, Registry};
use crate::slots::Table;
use crate::state::*;
use crate::{Done, Effect, PAGE, sizes};
use vshmem_wire::{Failure, Kind, Perm, Pid, Reply, SLOTS, caps};

const IPC_PRIVATE: i32 = 0;
const IPC_CREAT: i32 = 0o1000;
const IPC_EXCL: i32 = 0o2000;
const SHM_HUGETLB: i32 = 0o4000;
const SHM_HUGE_SHIFT: u32 = 26;
/// Pieces a new segment may lie in.
const SEGMENT_PIECES: usize = 64;
/// Pieces a new set or queue may lie in.
const PIECES: usize = 4;

/// A construct to be made, once its key is found to be free.
struct New {
    kind: Kind,
    key: i32,
    flags: i32,
    body: Body,
    /// Bytes, in pages.
    bytes: u64,
    pieces: usize,
    /// Huge pages, as in [`vshmem_wire::Memory::huge`].
    huge: u8,
}

impl Registry {
    pub(crate) fn shm_get(
        &mut self,
        now: i64,
        client: u32,
        key: i32,
        size: u64,
        flags: i32,
        fx: &mut Effects,
    ) -> Result<Done, Failure> {
        if let Some(serial) = self.existing(client, Kind::Shm, key, flags)? {
            return self.give_id(client, serial, flags, |c| size <= c.segsz());
        }
        let limits = self.group.limits;
        if size == 0 || size > limits.shmmax || size > i64::MAX as u64 - PAGE {
            return Err(Failure::errno(EINVAL));
        }
        let mut bytes = sizes::pages_up(size).ok_or_else(|| Failure::errno(EINVAL))?;
        if self
            .shm_pages
            .checked_add(bytes / PAGE)
            .is_none_or(|pages| pages > limits.shmall)
        {
            return Err(Failure::because(
                ENOSPC,
                "shmall: all segments together are too large",
            ));
        }
        let mut huge = 0;
        if flags & SHM_HUGETLB != 0 {
            huge = self.huge_pages(client, flags)?;
            bytes = size
                .checked_next_multiple_of(1 << huge)
                .ok_or_else(|| Failure::errno(ENOMEM))?;
        }
        let body = Body::Shm {
            segsz: size,
            atime: 0,
            dtime: 0,
            cpid: self.alive(client)?.pid(),
            lpid: Pid::default(),
        };
        let new = New {
            kind: Kind::Shm,
            key,
            flags,
            body,
            bytes,
            pieces: SEGMENT_PIECES,
            huge,
        };
        self.make(now, client, new, fx)
    }

    pub(crate) fn sem_get(
        &mut self,
        now: i64,
        client: u32,
        key: i32,
        nsems: i32,
        flags: i32,
        fx: &mut Effects,
    ) -> Result<Done, Failure> {
        let limits = self.group.limits;
        let most = limits.semmsl.min(vshmem_ipc::sysv::SEMMSL);
        let nsems = u32::try_from(nsems)
            .ok()
            .filter(|&n| n <= most)
            .ok_or_else(|| Failure::errno(EINVAL))?;
        if let Some(serial) = self.existing(client, Kind::Sem, key, flags)? {
            return self.give_id(client, serial, flags, |c| nsems <= c.nsems());
        }
        if nsems == 0 {
            return Err(Failure::errno(EINVAL));
        }
        if self.semaphores + u64::from(nsems) > u64::from(limits.semmns) {
            return Err(Failure::because(ENOSPC, "semmns: too many semaphores in all"));
        }
        let new = New {
            kind: Kind::Sem,
            key,
            flags,
            body: Body::Sem { nsems },
            bytes: sizes::pages_up(sizes::set_bytes(nsems)).ok_or_else(|| Failure::errno(ENOMEM))?,
            pieces: PIECES,
            huge: 0,
        };
        self.make(now, client, new, fx)
    }

    pub(crate) fn msg_get(
        &mut self,
        now: i64,
        client: u32,
        key: i32,
        flags: i32,
        fx: &mut Effects,
    ) -> Result<Done, Failure> {
        if let Some(serial) = self.existing(client, Kind::Msg, key, flags)? {
            return self.give_id(client, serial, flags, |_| true);
        }
        let qbytes = u64::from(self.group.limits.msgmnb);
        let new = New {
            kind: Kind::Msg,
            key,
            flags,
            body: Body::Msg { qbytes },
            bytes: sizes::pages_up(sizes::queue_bytes()).ok_or_else(|| Failure::errno(ENOMEM))?,
            pieces: PIECES,
            huge: 0,
        };
        self.make(now, client, new, fx)
    }

    /// The construct a key names; None where one is to be made; ENOENT, EEXIST.
    fn existing(&self, client: u32, kind: Kind, key: i32, flags: i32) -> Result<Option<u64>, Failure> {
        let domain = self.alive(client)?.domain;
        if key == IPC_PRIVATE {
            return Ok(None);
        }
        match self.table(kind).keys.get(&(self.routed(domain, key), key)) {
            None if flags & IPC_CREAT == 0 => Err(Failure::errno(ENOENT)),
            None => Ok(None),
            Some(_) if flags & IPC_CREAT != 0 && flags & IPC_EXCL != 0 => Err(Failure::errno(EEXIST)),
            Some(&serial) => Ok(Some(serial)),
        }
    }

    /// The id of an existing construct: EINVAL if it does not fit what was asked, EACCES if the caller may not what the mode in `flags` asks.
    fn give_id(
        &self,
        client: u32,
        serial: u64,
        flags: i32,
        fits: impl FnOnce(&Construct) -> bool,
    ) -> Result<Done, Failure> {
        let record = self.alive(client)?;
        let construct = self
            .constructs
            .get(&serial)
            .ok_or_else(|| Failure::errno(ENOENT))?;
        if !self.sees(record, construct) {
            return Err(Failure::because(
                EACCES,
                "the key belongs to a construct that is not shared with this domain",
            ));
        }
        if !fits(construct) {
            return Err(Failure::errno(EINVAL));
        }
        self.check(record, construct, flags as u16 & 0o777)?;
        Ok(Done::Reply(Reply::Id(construct.id)))
    }

    /// Which huge pages SHM_HUGETLB in `flags` asks for; errors in Linux's order. That there are none left is found out when they are provided.
    fn huge_pages(&self, client: u32, flags: i32) -> Result<u8, Failure> {
        let asked = (flags as u32 >> SHM_HUGE_SHIFT) as u8;
        let known = &self.group.huge;
        let found = match asked {
            0 => known.first(),
            shift => known.iter().find(|known| **known == shift),
        };
        let Some(&shift) = found.filter(|shift| (12..48).contains(*shift)) else {
            return Err(Failure::because(EINVAL, "there are no huge pages of this size"));
        };
        let record = self.alive(client)?;
        if record.who.caps & caps::HUGE == 0 {
            return Err(Failure::because(
                EPERM,
                "SHM_HUGETLB is for those with CAP_IPC_LOCK, or in the group of /proc/sys/vm/hugetlb_shm_group",
            ));
        }
        if self.has_a_kernel_of_its_own(record.domain) {
            return Err(Failure::because(ENOMEM, crate::attach::OUT_OF_REACH));
        }
        Ok(shift)
    }

    fn make(&mut self, now: i64, client: u32, new: New, fx: &mut Effects) -> Result<Done, Failure> {
        let record = self.alive(client)?;
        let domain = record.domain;
        let (uid, gid) = (record.who.uid, record.who.gid);
        let group = self.routed(domain, new.key);
        self.check_quota(domain, 1, new.bytes)?;
        let limits = self.group.limits;
        let most = match new.kind {
            Kind::Shm => limits.shmmni,
            Kind::Sem => limits.semmni,
            Kind::Msg => limits.msgmni,
        };
        // Those in quarantine have no slot; they are kept from becoming too many by a limit on all that exist.
        let full = self.table(new.kind).slots.len() as u32 >= most.min(SLOTS);
        if full || self.constructs.len() >= 4 * SLOTS as usize {
            return Err(Failure::because(ENOSPC, "all ids of this kind are in use"));
        }
        let extents = self
            .pages_of(group, new.huge)
            .take(0, new.bytes, new.pieces)
            .ok_or_else(no_memory)?;
        let serial = self.next_serial;
        let Some((slot, seq)) = self.take_slot(new.kind, serial) else {
            self.pages_of(group, new.huge).give_back(&extents);
            return Err(Failure::errno(ENOSPC));
        };
        self.next_serial += 1;
        let construct = Construct {
            kind: new.kind,
            slot,
            id: Table::id(slot, seq),
            perm: Perm {
                key: new.key,
                uid,
                gid,
                cuid: uid,
                cgid: gid,
                mode: new.flags as u16 & 0o777,
                seq,
            },
            group,
            huge: new.huge,
            domain,
            life: Life::Live,
            sight: Sight::AllBut(Default::default()),
            ctime: now,
            body: new.body,
            extents,
            bytes: new.bytes,
            permission: 0,
            limits: 0,
            holders: Default::default(),
            present: Default::default(),
            nattch: 0,
        };
        if new.key != IPC_PRIVATE {
            self.table_mut(new.kind).keys.insert((group, new.key), serial);
        }
        match new.body {
            Body::Shm { segsz, .. } => self.shm_pages += segsz.div_ceil(PAGE),
            Body::Sem { nsems } => self.semaphores += u64::from(nsems),
            Body::Msg { .. } => {}
        }
        self.charge(domain, 1, new.bytes as i64);
        self.fresh = Some((serial, 0));
        announce(serial, &construct, fx);
        let id = construct.id;
        self.constructs.insert(serial, construct);
        Ok(Done::Reply(Reply::Id(id)))
    }

    /// ENOSPC if a domain's quota does not allow so much more.
    pub(crate) fn check_quota(&self, domain: u16, constructs: u32, bytes: u64) -> Result<(), Failure> {
        let Some(record) = self.domains.get(&domain) else {
            return Err(Failure::errno(EINVAL));
        };
        let quota = self.group.quotas.get(&record.name).unwrap_or(&self.group.quota);
        let too_many = quota
            .constructs
            .is_some_and(|most| record.constructs.saturating_add(constructs) > most);
        if too_many && constructs > 0 {
            return Err(Failure::because(
                ENOSPC,
                format!("domain {} may have no more constructs", record.name),
            ));
        }
        if quota
            .bytes
            .is_some_and(|most| record.bytes.saturating_add(bytes) > most)
        {
            return Err(Failure::because(
                ENOSPC,
                format!("domain {} may have no more memory", record.name),
            ));
        }
        Ok(())
    }

    /// The memory that the last command asked for is not to be had: as if it had not been.
    pub(crate) fn not_provided(
        &mut self,
        serial: u64,
        fresh: Option<(u64, usize)>,
        fx: &mut Effects,
    ) -> Result<Done, Failure> {
        let Some((_, before)) = fresh.filter(|&(s, _)| s == serial) else {
            return Err(Failure::because(
                EINVAL,
                "the last command asked for no memory there",
            ));
        };
        let Some(construct) = self.constructs.get_mut(&serial) else {
            return Err(Failure::errno(EINVAL));
        };
        if before > 0 {
            let gone = construct.extents.split_off(before);
            let bytes: u64 = gone.iter().map(|e| e.bytes).sum();
            construct.bytes -= bytes;
            let (domain, group, huge) = (construct.domain, construct.group, construct.huge);
            self.pages_of(group, huge).give_back(&gone);
            self.charge(domain, 0, -(bytes as i64));
            return Ok(Done::Nothing);
        }
        match construct.kind {
            Kind::Shm => self.doom(serial, fx),
            _ => self.retire(serial, Life::Removed, fx),
        }
        // Nothing was formatted: there is nobody to tell.
        fx.retain(|e| matches!(e, Effect::Release { .. }));
        Ok(Done::Nothing)
    }
}

/// The pool is exhausted: what Linux says when memory is, for every kind.
fn no_memory() -> Failure {
    Failure::because(ENOMEM, "the group's pool has no room for it")
}

/// The effects that bring a new construct about.
fn announce(serial: u64, construct: &Construct, fx: &mut Effects) {
    let (kind, group, huge) = (construct.kind, construct.group, construct.huge);
    debug_assert_eq!(construct.perm.mode & SHM_DEST, 0);
    for &extent in &construct.extents {
        fx.push(Effect::Provide {
            group,
            huge,
            kind,
            serial,
            extent,
        });
    }
    if kind != Kind::Shm {
        fx.push(Effect::Format {
            kind,
            serial,
            nsems: construct.nsems(),
            qbytes: construct.qbytes(),
            ctime: construct.ctime as u64,
            extents: construct.extents.clone(),
        });
        fx.push(Effect::Control {
            kind,
            serial,
            control: construct.control(),
        });
    }
}
