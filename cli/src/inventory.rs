//! Constructs as the daemon lists them, with the names of domains, users and groups: what the ipcs family shows.
//!
//! Not for how they are laid out on a screen: each command does that.

use crate::connection::Connection;
use crate::system::{group_name, user_name};
use crate::trouble::{Trouble, reason};
use std::collections::BTreeMap;
use vshmem_wire::request::Behalf;
use vshmem_wire::{Info, Kind, Perm, Pid, Reply, Request, Stat, StatBody, Status};

/// Bit of a segment's mode: to be freed at the last detach.
pub(crate) const SHM_DEST: u16 = 0o1000;
/// Bit of a segment's mode: locked in memory.
pub(crate) const SHM_LOCKED: u16 = 0o2000;
/// The kinds, in the order in which ipcs shows them.
pub(crate) const KINDS: [Kind; 3] = [Kind::Msg, Kind::Shm, Kind::Sem];

/// One semaphore of a set.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct Semaphore {
    /// Its number in the set.
    pub(crate) num: u32,
    /// Value.
    pub(crate) value: i64,
    /// Processes that wait for it to grow.
    pub(crate) ncount: i64,
    /// Processes that wait for zero.
    pub(crate) zcount: i64,
    /// Last operator, as this domain sees it.
    pub(crate) pid: i64,
}

/// A connection and the names that go with what it tells.
pub(crate) struct Inventory {
    connection: Connection,
    domains: BTreeMap<u16, String>,
}

impl Inventory {
    /// Asks for the domains' names.
    pub(crate) fn open(connection: Connection) -> Result<Self, Trouble> {
        let mut inventory = Inventory {
            connection,
            domains: BTreeMap::new(),
        };
        inventory.refresh()?;
        Ok(inventory)
    }

    /// Asks for the domains' names again, and gives the rest of the status.
    pub(crate) fn refresh(&mut self) -> Result<Status, Trouble> {
        let status = self.connection.status()?;
        self.domains = status
            .domains
            .iter()
            .map(|domain| (domain.number, domain.name.clone()))
            .collect();
        Ok(status)
    }

    /// All constructs of a kind, by slot.
    pub(crate) fn list(&mut self, kind: Kind) -> Result<Vec<Stat>, Trouble> {
        self.connection.list(kind)
    }

    /// The one with this id.
    pub(crate) fn find(&mut self, kind: Kind, id: i32) -> Result<Stat, Trouble> {
        let found = self.list(kind)?.into_iter().find(|stat| stat.id == id);
        found.ok_or_else(|| Trouble::new(format!("id {id}"), format!("no such {}", noun(kind))))
    }

    /// Limits and use.
    pub(crate) fn info(&mut self, kind: Kind) -> Result<Info, Trouble> {
        match self.connection.ask(&Request::Info { kind }) {
            Ok(Reply::Info(info)) => Ok(info),
            Ok(other) => Err(Trouble::new("limits", format!("unexpected answer {other:?}"))),
            Err(failure) => Err(Trouble::refused("limits", &failure)),
        }
    }

    /// The semaphores of a set, for a caller who may read them.
    pub(crate) fn semaphores(&mut self, id: i32, nsems: u32) -> Result<Vec<Semaphore>, Trouble> {
        let values = match self.connection.ask(&Request::OnBehalf {
            id,
            operation: Behalf::GetAll,
        }) {
            Ok(Reply::Values(values)) => values,
            Ok(other) => {
                return Err(Trouble::new(
                    format!("set {id}"),
                    format!("unexpected answer {other:?}"),
                ));
            }
            Err(failure) => return Err(Trouble::new(format!("set {id}"), reason(&failure))),
        };
        let mut all = Vec::with_capacity(values.len());
        for (num, value) in (0..nsems).zip(values) {
            all.push(Semaphore {
                num,
                value: value.into(),
                ncount: self.value(id, Behalf::GetNcnt(num))?,
                zcount: self.value(id, Behalf::GetZcnt(num))?,
                pid: self.value(id, Behalf::GetPid(num))?,
            });
        }
        Ok(all)
    }

    fn value(&mut self, id: i32, operation: Behalf) -> Result<i64, Trouble> {
        match self.connection.ask(&Request::OnBehalf { id, operation }) {
            Ok(Reply::Value(value)) => Ok(value),
            Ok(other) => Err(Trouble::new(
                format!("set {id}"),
                format!("unexpected answer {other:?}"),
            )),
            Err(failure) => Err(Trouble::new(format!("set {id}"), reason(&failure))),
        }
    }

    /// A domain's name.
    pub(crate) fn domain(&self, number: u16) -> String {
        match self.domains.get(&number) {
            Some(name) => name.clone(),
            None => format!("#{number}"),
        }
    }

    /// A process, as `domain:pid`; `0` for none.
    pub(crate) fn pid(&self, pid: Pid) -> String {
        if pid.pid == 0 {
            "0".to_owned()
        } else {
            format!("{}:{}", self.domain(pid.domain), pid.pid)
        }
    }

    /// The command line of a process, if it is one of this domain and still there.
    pub(crate) fn command(&self, pid: Pid) -> String {
        if pid.pid == 0 || pid.domain != self.connection.welcome.domain {
            return String::new();
        }
        let bytes = std::fs::read(format!("/proc/{}/cmdline", pid.pid)).unwrap_or_default();
        let words: Vec<_> = bytes
            .split(|byte| *byte == 0)
            .filter(|word| !word.is_empty())
            .collect();
        String::from_utf8_lossy(&words.join(&b' ')).into_owned()
    }
}

/// What a construct is called.
pub(crate) fn noun(kind: Kind) -> &'static str {
    match kind {
        Kind::Shm => "shared memory segment",
        Kind::Sem => "semaphore set",
        Kind::Msg => "message queue",
    }
}

/// A user's name, else the number.
pub(crate) fn user(uid: u32) -> String {
    user_name(uid).unwrap_or_else(|| uid.to_string())
}

/// A group's name, else the number.
pub(crate) fn group(gid: u32) -> String {
    group_name(gid).unwrap_or_else(|| gid.to_string())
}

/// A key as ipcs writes it.
pub(crate) fn key(perm: &Perm) -> String {
    format!("{:#010x}", perm.key)
}

/// Words for the mode bits of a segment beyond the permissions.
pub(crate) fn shm_status(mode: u16) -> Vec<&'static str> {
    let mut words = Vec::new();
    if mode & SHM_DEST != 0 {
        words.push("dest");
    }
    if mode & SHM_LOCKED != 0 {
        words.push("locked");
    }
    words
}

/// A construct as `--json` shows it: keys and permissions as ipcs writes them, numbers as numbers, times in seconds or null.
pub(crate) fn json(inventory: &Inventory, stat: &Stat) -> serde_json::Value {
    let perm = &stat.perm;
    let mut object = serde_json::json!({
        "key": key(perm),
        "id": stat.id,
        "domain": inventory.domain(stat.domain),
        "owner": user(perm.uid),
        "perms": format!("{:03o}", perm.mode & 0o777),
        "uid": perm.uid, "gid": perm.gid, "cuid": perm.cuid, "cgid": perm.cgid,
        "ctime": time(stat.ctime),
    });
    let more = match &stat.body {
        StatBody::Shm {
            segsz,
            atime,
            dtime,
            cpid,
            lpid,
            nattch,
            ..
        } => serde_json::json!({
            "bytes": segsz, "nattch": nattch, "status": shm_status(perm.mode),
            "atime": time(*atime), "dtime": time(*dtime),
            "cpid": process(inventory, *cpid), "lpid": process(inventory, *lpid),
        }),
        StatBody::Sem { nsems, otime } => serde_json::json!({ "nsems": nsems, "otime": time(*otime) }),
        StatBody::Msg {
            cbytes,
            qnum,
            qbytes,
            stime,
            rtime,
            lspid,
            lrpid,
        } => serde_json::json!({
            "used_bytes": cbytes, "messages": qnum, "qbytes": qbytes,
            "stime": time(*stime), "rtime": time(*rtime),
            "lspid": process(inventory, *lspid), "lrpid": process(inventory, *lrpid),
        }),
    };
    if let (Some(object), serde_json::Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
    object
}

fn time(seconds: i64) -> Option<i64> {
    (seconds != 0).then_some(seconds)
}

fn process(inventory: &Inventory, pid: Pid) -> serde_json::Value {
    if pid.pid == 0 {
        return serde_json::Value::Null;
    }
    serde_json::json!({ "domain": inventory.domain(pid.domain), "pid": pid.pid })
}
