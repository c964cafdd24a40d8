//! V-msgq: get, send, receive.

use crate::attach::Attachment;
use crate::errno::{Errno, Result};
use crate::operate::{Step, behalf_waiting, operate};
use crate::runtime::Runtime;
use crate::thread::Thread;
use crate::world::{Caller, Timeout};
use vshmem_ipc::msgq::{MsgError, Queue, ReceiveFlags};
use vshmem_ipc::sysv::{MSG_COPY, MSG_EXCEPT, MSG_NOERROR};
use vshmem_wire::request::Behalf;
use vshmem_wire::{Kind, Reply, Request};

pub use vshmem_ipc::msgq::Received;

fn step<T>(error: MsgError, waited: bool) -> Step<T> {
    match error {
        MsgError::Again => Step::Done(Err(Errno::EAGAIN)),
        MsgError::NoMessage => Step::Done(Err(Errno::ENOMSG)),
        MsgError::Interrupted => Step::Done(Err(Errno::EINTR)),
        MsgError::TooBig => Step::Done(Err(Errno::E2BIG)),
        MsgError::Removed => Step::Removed { waited },
        MsgError::Stale => Step::Stale,
        MsgError::NeedExtent(bytes) => Step::Grow(bytes as u64),
        MsgError::Corrupt(corrupt) => Step::Corrupt(corrupt),
        MsgError::LockBusy => Step::Done(Err(Errno::EAGAIN)),
    }
}

impl Runtime {
    /// msgget(2).
    pub fn msgget(&self, key: i32, flags: i32) -> Result<i32> {
        self.ask_id(&Request::MsgGet { key, flags })
    }

    /// msgsnd(2): `flags` is 0 or IPC_NOWAIT.
    #[inline]
    pub fn msgsnd(&self, id: i32, mtype: i64, text: &[u8], flags: i32) -> Result<()> {
        if mtype < 1 || id < 0 {
            return Err(Errno::EINVAL);
        }
        let nowait = flags & libc::IPC_NOWAIT != 0;
        operate(Kind::Msg, id, |a, thread| {
            if text.len() > a.identity.msgmax as usize {
                return Step::Done(Err(Errno::EINVAL));
            }
            if !a.write {
                return Step::Done(Err(Errno::EACCES));
            }
            let Some(mapped) = &a.mapped else {
                return Step::Done(send_on_behalf(a, thread, mtype, text, nowait));
            };
            let timeout = Timeout::new(None);
            let caller = Caller::new(Kind::Msg, a, &mapped.words, thread, &timeout);
            match Queue::at(&mapped.words).send(&caller, a.control, mtype, text, nowait) {
                Ok(()) => {
                    caller.finish();
                    Step::Done(Ok(()))
                }
                Err(error) => step(error, caller.finish()),
            }
        })
    }

    /// msgrcv(2) into `into`: the type and the length of what came.
    #[inline]
    pub fn msgrcv(&self, id: i32, into: &mut [u8], msgtyp: i64, flags: i32) -> Result<Received> {
        let wanted = |flag: u32| flags as u32 & flag != 0;
        let how = ReceiveFlags {
            nowait: flags & libc::IPC_NOWAIT != 0,
            noerror: wanted(MSG_NOERROR),
            except: wanted(MSG_EXCEPT),
            copy: wanted(MSG_COPY),
        };
        if id < 0 || how.copy && (how.except || !how.nowait) {
            return Err(Errno::EINVAL);
        }
        operate(Kind::Msg, id, |a, thread| {
            if !a.read {
                return Step::Done(Err(Errno::EACCES));
            }
            let Some(mapped) = &a.mapped else {
                return Step::Done(receive_on_behalf(a, thread, into, msgtyp, flags));
            };
            let timeout = Timeout::new(None);
            let caller = Caller::new(Kind::Msg, a, &mapped.words, thread, &timeout);
            match Queue::at(&mapped.words).receive(&caller, a.control, into, msgtyp, how) {
                Ok(received) => {
                    caller.finish();
                    Step::Done(Ok(received))
                }
                Err(error) => step(error, caller.finish()),
            }
        })
    }
}

#[cold]
fn send_on_behalf(a: &Attachment, thread: &Thread, mtype: i64, text: &[u8], nowait: bool) -> Result<()> {
    let operation = Behalf::Send {
        mtype,
        text: text.to_vec(),
    };
    let timeout = Timeout::new(None);
    let waiting = (!nowait).then_some(&timeout);
    behalf_waiting(thread, a.id, &operation, Errno::EAGAIN, waiting).map(drop)
}

#[cold]
fn receive_on_behalf(
    a: &Attachment,
    thread: &Thread,
    into: &mut [u8],
    msgtyp: i64,
    flags: i32,
) -> Result<Received> {
    let operation = Behalf::Receive {
        size: into.len() as u64,
        msgtyp,
        flags: flags | libc::IPC_NOWAIT,
    };
    let timeout = Timeout::new(None);
    let waiting = (flags & libc::IPC_NOWAIT == 0).then_some(&timeout);
    match behalf_waiting(thread, a.id, &operation, Errno::ENOMSG, waiting)? {
        Reply::Message { mtype, text } => {
            let len = text.len().min(into.len());
            into[..len].copy_from_slice(&text[..len]);
            Ok(Received { mtype, len })
        }
        _ => Err(Errno::EPROTO),
    }
}
