//! shmctl(2), semctl(2) and msgctl(2), as far as they concern the registry; lists; complaints about locks and rubbish.

use crate::errno::*;
use crate::holding::SHM_LOCKED;
use crate::permission::READ;
use crate::registry::{Effects, Registry};
use crate::state::*;
use crate::{Done, Effect, FIRST_CLIENT, PAGE, Sweep};
use vshmem_ipc::lock::BACKEND;
use vshmem_wire::request::Which;
use vshmem_wire::{Failure, Kind, Pid, Reply, Stat, StatBody, caps};

/// Constructs in one answer to List.
const PER_LIST: usize = 512;
/// Longest description of rubbish that is passed on, in bytes.
const WHAT: usize = 200;

impl Registry {
    pub(crate) fn stat(&self, record: &Client, kind: Kind, which: Which) -> Result<Done, Failure> {
        let invalid = || Failure::errno(EINVAL);
        let by_index = |index: i32| {
            u32::try_from(index)
                .ok()
                .and_then(|slot| self.at_slot(kind, slot))
                .ok_or_else(invalid)
        };
        let (serial, construct, any) = match which {
            Which::Id(id) => {
                let (serial, construct) = self.find(kind, id)?;
                (serial, construct, false)
            }
            Which::Index(index) => {
                let (serial, construct) = by_index(index)?;
                (serial, construct, false)
            }
            Which::AnyIndex(index) => {
                let (serial, construct) = by_index(index)?;
                (serial, construct, true)
            }
        };
        match (self.sees(record, construct), any) {
            (true, true) => {}
            (true, false) => self.check(record, construct, READ)?,
            (false, true) => return Err(invalid()),
            (false, false) => return Err(Failure::errno(EACCES)),
        }
        Ok(Done::Stat {
            serial,
            stat: stat_of(construct),
        })
    }

    pub(crate) fn list(&self, record: &Client, kind: Kind, from: u32) -> Done {
        let mut stats = Vec::new();
        for (&slot, &serial) in self.table(kind).slots.range(from..) {
            if stats.len() == PER_LIST {
                return Done::List {
                    stats,
                    next: Some(slot),
                };
            }
            if let Some(construct) = self.constructs.get(&serial).filter(|c| self.sees(record, c)) {
                stats.push((serial, stat_of(construct)));
            }
        }
        Done::List { stats, next: None }
    }

    pub(crate) fn set(
        &mut self,
        now: i64,
        client: u32,
        (kind, id): (Kind, i32),
        (uid, gid, mode): (u32, u32, u16),
        qbytes: Option<u64>,
        fx: &mut Effects,
    ) -> Result<Done, Failure> {
        let (serial, record, construct) = self.seen(client, kind, id)?;
        self.check_owner(record, construct)?;
        let qbytes = qbytes.filter(|_| kind == Kind::Msg);
        if qbytes.is_some_and(|q| q > u64::from(self.group.limits.msgmnb)) {
            self.check_resource(record, construct)?;
        }
        if uid == u32::MAX || gid == u32::MAX {
            return Err(Failure::errno(EINVAL));
        }
        let Some(construct) = self.constructs.get_mut(&serial) else {
            return Err(Failure::errno(EINVAL));
        };
        construct.perm.uid = uid;
        construct.perm.gid = gid;
        construct.perm.mode = construct.perm.mode & !0o777 | mode & 0o777;
        construct.permission = construct.permission.wrapping_add(1);
        construct.ctime = now;
        if let (Body::Msg { qbytes: old }, Some(new)) = (&mut construct.body, qbytes)
            && *old != new
        {
            *old = new;
            construct.limits = construct.limits.wrapping_add(1) & 0xff_ffff;
            fx.push(Effect::SetQbytes { serial, qbytes: new });
        }
        if kind != Kind::Shm {
            fx.push(Effect::SetCtime {
                kind,
                serial,
                seconds: now as u64,
            });
            fx.push(Effect::Control {
                kind,
                serial,
                control: construct.control(),
            });
        }
        Ok(Done::Reply(Reply::Done))
    }

    pub(crate) fn remove(
        &mut self,
        client: u32,
        kind: Kind,
        id: i32,
        fx: &mut Effects,
    ) -> Result<Done, Failure> {
        let (serial, record, construct) = self.seen(client, kind, id)?;
        self.check_owner(record, construct)?;
        match kind {
            Kind::Shm => self.doom(serial, fx),
            Kind::Sem | Kind::Msg => self.retire(serial, Life::Removed, fx),
        }
        Ok(Done::Reply(Reply::Done))
    }

    pub(crate) fn lock(
        &mut self,
        client: u32,
        id: i32,
        on: bool,
        most: Option<u64>,
    ) -> Result<Done, Failure> {
        let (serial, record, construct) = self.seen(client, Kind::Shm, id)?;
        self.check_lock(record, construct)?;
        let bound = most.filter(|_| on && !self.capable(record, construct, caps::IPC_LOCK));
        if bound == Some(0) {
            return Err(Failure::errno(EPERM));
        }
        // Huge pages are never swapped: Linux does nothing, and says that it did.
        if construct.huge != 0 {
            return Ok(Done::Reply(Reply::Done));
        }
        if let Some(most) = bound
            && construct.perm.mode & SHM_LOCKED == 0
        {
            let pages = |construct: &Construct| construct.segsz().div_ceil(PAGE);
            let locked: u64 = self
                .constructs
                .values()
                .filter(|c| c.perm.mode & SHM_LOCKED != 0 && self.owns(record, c))
                .map(pages)
                .fold(0, u64::saturating_add);
            if locked.saturating_add(pages(construct)) > most / PAGE {
                return Err(Failure::errno(ENOMEM));
            }
        }
        if let Some(construct) = self.constructs.get_mut(&serial) {
            if on {
                construct.perm.mode |= SHM_LOCKED;
            } else {
                construct.perm.mode &= !SHM_LOCKED;
            }
        }
        Ok(Done::Reply(Reply::Done))
    }

    /// A client waited long for a lock. Its owner may live (then that is that), be dead (then its sweep is overdue), have gone on for a moment after it was given up
    /// and swept (a machine whose line ended before it did: then it is swept once more), be the back-end (then one in a
    /// former life, since this one does not answer requests while it holds a lock), or be nobody who could. Nobody sweeps a construct that was removed
    /// meanwhile: EIDRM, so that the waiter waits no longer.
    pub(crate) fn lock_stuck(
        &mut self,
        client: u32,
        kind: Kind,
        id: i32,
        owner: u64,
        fx: &mut Effects,
    ) -> Result<Done, Failure> {
        let serial = self.opened_by(client, kind, id)?;
        let number = owner as u32;
        let once_more = Effect::Sweep(Sweep {
            kind,
            serial,
            client: number,
            undo: None,
        });
        if number == BACKEND {
            fx.push(once_more);
        } else if number != 0 {
            let holds = self
                .clients
                .get(&number)
                .is_some_and(|owner| owner.holds.contains_key(&serial));
            let before = fx.len();
            fx.extend(self.sweeps_of(kind, serial, number).map(Effect::Sweep));
            if fx.len() == before && !holds {
                fx.push(if self.is_dead(number) {
                    once_more
                } else {
                    Effect::CheckLock { kind, serial, owner }
                });
            }
        }
        Ok(Done::Reply(Reply::Done))
    }

    /// Whether this is the number of a client that is no more.
    fn is_dead(&self, client: u32) -> bool {
        let given_out = (FIRST_CLIENT..self.next_client).contains(&client);
        let record = self.clients.get(&client);
        given_out && record.is_none_or(|record| record.image == Image::Dead)
    }

    /// The set or queue a client has open under an id: EIDRM if it was removed, or if the client does not have it open.
    fn opened_by(&self, client: u32, kind: Kind, id: i32) -> Result<u64, Failure> {
        let serial = self.alive(client)?.ids.get(&(kind, id)).copied();
        serial
            .filter(|_| kind != Kind::Shm)
            .filter(|serial| self.constructs.get(serial).is_some_and(|c| c.life == Life::Live))
            .ok_or_else(|| Failure::errno(EIDRM))
    }

    pub(crate) fn corrupt(
        &mut self,
        client: u32,
        kind: Kind,
        id: i32,
        what: String,
        fx: &mut Effects,
    ) -> Result<Done, Failure> {
        let serial = self.opened_by(client, kind, id)?;
        let what: String = what.chars().filter(|c| !c.is_control()).take(WHAT).collect();
        fx.push(Effect::Inspect { kind, serial, what });
        Ok(Done::Reply(Reply::Done))
    }
}

/// What the registry knows of a construct.
pub(crate) fn stat_of(construct: &Construct) -> Stat {
    let body = match construct.body {
        Body::Shm {
            segsz,
            atime,
            dtime,
            cpid,
            lpid,
        } => StatBody::Shm {
            segsz,
            atime,
            dtime,
            cpid,
            lpid,
            nattch: construct.nattch,
            rss: 0,
        },
        Body::Sem { nsems } => StatBody::Sem { nsems, otime: 0 },
        Body::Msg { qbytes } => StatBody::Msg {
            cbytes: 0,
            qnum: 0,
            qbytes,
            stime: 0,
            rtime: 0,
            lspid: Pid::default(),
            lrpid: Pid::default(),
        },
    };
    Stat {
        id: construct.id,
        perm: construct.perm,
        ctime: construct.ctime,
        domain: construct.domain,
        body,
    }
}
