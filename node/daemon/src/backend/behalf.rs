//! Operations on sets and queues for callers who may not map them, since they may only read or only write. Never waits.

use super::Backend;
use super::effects::describe;
use super::world::BackWorld;
use vshmem_ipc::Control;
use vshmem_ipc::msgq::{MsgError, Queue, ReceiveFlags};
use vshmem_ipc::sem::{SemError, SemSet};
use vshmem_ipc::sysv::{self, SemBuf};
use vshmem_registry::Command;
use vshmem_wire::request::Behalf;
use vshmem_wire::{Failure, Pid, Reply, Verdict};
use vshmem_words::Mapping;

/// Extents made for one operation: the first may be too small for what it needs next.
const MOST_EXTENTS: usize = 3;

/// The longest message that fits an answer.
const MOST_TEXT: u64 = vshmem_wire::MAX_MESSAGE as u64 - 64;

/// What the registry said of the construct and the caller.
#[derive(Debug, Clone, Copy)]
pub(super) struct Permitted {
    /// Its serial number.
    pub(super) serial: u64,
    /// The control word it was permitted under.
    pub(super) control: u64,
    /// Semaphores.
    pub(super) nsems: u32,
    /// The caller's undo list.
    pub(super) undo: u64,
    /// The caller.
    pub(super) pid: Pid,
}

/// What came of a try.
enum Tried {
    Verdict(Verdict),
    /// It needs an extent with so much room.
    NeedExtent(u64),
    Corrupt(String),
}

impl From<Verdict> for Tried {
    fn from(verdict: Verdict) -> Self {
        Tried::Verdict(verdict)
    }
}

impl Backend {
    /// Carries an operation out; where it needs room, after making some.
    pub(super) fn on_behalf(&mut self, mut what: Permitted, operation: &Behalf, msgmax: u32) -> Verdict {
        for _ in 0..MOST_EXTENTS {
            match self.attempt_behalf(what, operation, msgmax) {
                Some(Tried::Verdict(verdict)) => return verdict,
                Some(Tried::Corrupt(found)) => {
                    self.declare_corrupt(what.serial, found);
                    return Err(Failure::errno(libc::EIDRM));
                }
                Some(Tried::NeedExtent(wanted)) => {
                    let serial = what.serial;
                    self.apply(Command::Extend { serial, wanted })?;
                    what.control = self
                        .registry
                        .construct(serial)
                        .map_or(what.control, |c| c.control);
                }
                None => break,
            }
        }
        Err(Failure::errno(libc::ENOMEM))
    }

    fn attempt_behalf(&mut self, what: Permitted, operation: &Behalf, msgmax: u32) -> Option<Tried> {
        let queue = matches!(operation, Behalf::Send { .. } | Behalf::Receive { .. });
        let (tried, rung) = self.with_known(what.serial, |words, _| {
            let world = BackWorld::on_behalf(words, what.pid, what.undo);
            let tried = if queue {
                on_queue(words, &world, what, operation, msgmax)
            } else {
                on_set(words, &world, what, operation)
            };
            (Some(tried), world.rung())
        });
        self.ring_all(rung);
        tried
    }
}

fn sem_failure(error: SemError) -> Tried {
    let errno = match error {
        SemError::Again | SemError::LockBusy | SemError::Stale => libc::EAGAIN,
        SemError::Interrupted => libc::EINTR,
        SemError::Range => libc::ERANGE,
        SemError::TooBig => libc::EFBIG,
        SemError::Removed => libc::EIDRM,
        SemError::NeedExtent => return Tried::NeedExtent(0),
        SemError::Corrupt(corrupt) => return Tried::Corrupt(describe(&corrupt)),
    };
    Err(Failure::errno(errno)).into()
}

fn msg_failure(error: MsgError) -> Tried {
    let errno = match error {
        MsgError::Again | MsgError::LockBusy | MsgError::Stale => libc::EAGAIN,
        MsgError::NoMessage => libc::ENOMSG,
        MsgError::Interrupted => libc::EINTR,
        MsgError::TooBig => libc::E2BIG,
        MsgError::Fault => libc::EFAULT,
        MsgError::Removed => libc::EIDRM,
        MsgError::NeedExtent(wanted) => return Tried::NeedExtent(wanted as u64),
        MsgError::Corrupt(corrupt) => return Tried::Corrupt(describe(&corrupt)),
    };
    Err(Failure::errno(errno)).into()
}

fn value(value: impl Into<i64>) -> Tried {
    Ok(Reply::Value(value.into())).into()
}

fn on_set(words: &Mapping, world: &BackWorld<'_>, what: Permitted, operation: &Behalf) -> Tried {
    let set = match SemSet::open(words, what.nsems) {
        Ok(set) => set,
        Err(corrupt) => return Tried::Corrupt(describe(&corrupt)),
    };
    let control = Control(what.control);
    let number = match operation {
        Behalf::GetValue(i) | Behalf::GetPid(i) | Behalf::GetNcnt(i) | Behalf::GetZcnt(i) => *i,
        Behalf::SetValue(i, _) => *i,
        _ => 0,
    };
    if number >= what.nsems {
        return Err(Failure::errno(libc::EINVAL)).into();
    }
    let done = |result: Result<(), SemError>| match result {
        Ok(()) => Ok(Reply::Done).into(),
        Err(error) => sem_failure(error),
    };
    match operation {
        Behalf::SemOp(ops) => {
            let ops: Vec<SemBuf> = ops
                .iter()
                .map(|&(num, op, flags)| SemBuf {
                    num,
                    op,
                    flags: flags | sysv::IPC_NOWAIT,
                })
                .collect();
            if ops.is_empty() || ops.len() > sysv::SEMOPM {
                let errno = if ops.is_empty() { libc::EINVAL } else { libc::E2BIG };
                return Err(Failure::errno(errno)).into();
            }
            done(set.op(world, control, &ops))
        }
        Behalf::GetValue(i) => value(set.value(*i)),
        Behalf::GetPid(i) => {
            let (domain, pid) = set.pid(world, *i);
            value(if domain == what.pid.domain { pid } else { 0 })
        }
        Behalf::GetNcnt(i) => value(set.ncnt(*i)),
        Behalf::GetZcnt(i) => value(set.zcnt(*i)),
        Behalf::GetAll => {
            let mut values = vec![0; what.nsems as usize];
            set.values(&mut values);
            Ok(Reply::Values(values)).into()
        }
        Behalf::SetValue(i, new) => match u16::try_from(*new).ok().filter(|v| *v <= sysv::SEMVMX) {
            Some(new) => done(set.set_value(world, control, *i, new)),
            None => Err(Failure::errno(libc::ERANGE)).into(),
        },
        Behalf::SetAll(values) => {
            if values.len() != what.nsems as usize {
                return Err(Failure::errno(libc::EINVAL)).into();
            }
            if values.iter().any(|v| *v > sysv::SEMVMX) {
                return Err(Failure::errno(libc::ERANGE)).into();
            }
            done(set.set_all(world, control, values))
        }
        Behalf::Send { .. } | Behalf::Receive { .. } => Err(Failure::errno(libc::EINVAL)).into(),
    }
}

fn on_queue(
    words: &Mapping,
    world: &BackWorld<'_>,
    what: Permitted,
    operation: &Behalf,
    msgmax: u32,
) -> Tried {
    let queue = match Queue::open(words) {
        Ok(queue) => queue,
        Err(corrupt) => return Tried::Corrupt(describe(&corrupt)),
    };
    let control = Control(what.control);
    match operation {
        Behalf::Send { mtype, text } => {
            if *mtype < 1 || text.len() > msgmax as usize {
                return Err(Failure::errno(libc::EINVAL)).into();
            }
            match queue.send(world, control, *mtype, text, true) {
                Ok(()) => Ok(Reply::Done).into(),
                Err(error) => msg_failure(error),
            }
        }
        Behalf::Receive { size, msgtyp, flags } => {
            let has = |flag: u32| *flags as u32 & flag != 0;
            let flags = ReceiveFlags {
                nowait: true,
                noerror: has(sysv::MSG_NOERROR),
                except: has(sysv::MSG_EXCEPT),
                copy: has(sysv::MSG_COPY),
            };
            // Not bounded by msgmax: what was sent before that was lowered may be longer.
            let mut text = vec![0; (*size).min(MOST_TEXT) as usize];
            match queue.receive(world, control, &mut text, *msgtyp, flags) {
                Ok(got) => {
                    text.truncate(got.len);
                    let mtype = got.mtype;
                    Ok(Reply::Message { mtype, text }).into()
                }
                Err(error) => msg_failure(error),
            }
        }
        _ => Err(Failure::errno(libc::EINVAL)).into(),
    }
}
