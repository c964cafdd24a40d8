//! V-msgq: get, send, receive.

use crate::attach::Attachment;
use crate::errno::{Errno, Result};
use crate::operate::{Step, behalf_waiting, operate_in};
use crate::runtime::Runtime;
use crate::thread::{self, Thread};
use crate::world::{Caller, Timeout};
use crate::{pages, user};
use vshmem_ipc::msgq::{MsgError, Queue, ReceiveFlags, Room, SHORT, Text};
use vshmem_ipc::sysv::{MSG_COPY, MSG_EXCEPT, MSG_NOERROR};
use vshmem_wire::request::Behalf;
use vshmem_wire::{Kind, Reply, Request};
use vshmem_words::Foreign;

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
        MsgError::Fault => Step::Done(Err(Errno::EFAULT)),
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
        send(thread::current(), id, mtype, Text::Own(text), flags)
    }

    /// msgsnd(2) of a text of the program, at an address that may be wrong.
    #[inline]
    pub fn msgsnd_from(&self, id: i32, mtype: i64, text: Foreign, flags: i32) -> Result<()> {
        if mtype < 1 || id < 0 || text.len() > longest() {
            return Err(Errno::EINVAL);
        }
        let thread = thread::current();
        if text.len() <= SHORT {
            return user::with_scratch(thread, |scratch| {
                let scratch = &mut scratch[..text.len()];
                user::access_in(thread, || text.read(scratch))?;
                send(thread, id, mtype, Text::Own(scratch), flags)
            });
        }
        user::readable(text)?;
        if user::directly(thread) {
            return send(thread, id, mtype, Text::Foreign(text), flags);
        }
        let text = own_copy(&text)?;
        send(thread, id, mtype, Text::Own(&text), flags)
    }

    /// msgrcv(2) into `into`: the type and the length of what came.
    #[inline]
    pub fn msgrcv(&self, id: i32, into: &mut [u8], msgtyp: i64, flags: i32) -> Result<Received> {
        receive(thread::current(), id, &mut Room::Own(into), msgtyp, flags)
    }

    /// msgrcv(2) to an address of the program that may be wrong. A message that was taken and cannot be put there is lost.
    #[inline]
    pub fn msgrcv_to(&self, id: i32, into: Foreign, msgtyp: i64, flags: i32) -> Result<Received> {
        let thread = thread::current();
        if user::directly(thread) {
            return user::with_scratch(thread, |scratch| {
                receive(thread, id, &mut Room::Foreign(into, scratch), msgtyp, flags)
            });
        }
        self.receive_and_write(id, into, msgtyp, flags)
    }

    /// msgrcv(2) with MSG_COPY. As in Linux, what lies at the address must be readable before: `whole` with the type, as many bytes as the text has room.
    #[cold]
    pub fn msgrcv_copy(
        &self,
        id: i32,
        whole: Foreign,
        into: Foreign,
        msgtyp: i64,
        flags: i32,
    ) -> Result<Received> {
        copy_may_be_asked(id, flags)?;
        user::readable(whole.first(longest()))?;
        uncut(flags, |flags| self.receive_and_write(id, into, msgtyp, flags))
    }

    /// msgrcv(2) with MSG_COPY into `into`. `readable` looks whether so many bytes can be read where the message is to go in the end.
    #[cold]
    pub fn msgrcv_copy_into(
        &self,
        id: i32,
        into: &mut [u8],
        msgtyp: i64,
        flags: i32,
        readable: impl FnOnce(usize) -> Result<()>,
    ) -> Result<Received> {
        copy_may_be_asked(id, flags)?;
        readable(longest())?;
        uncut(flags, |flags| self.msgrcv(id, into, msgtyp, flags))
    }

    #[cold]
    fn receive_and_write(&self, id: i32, into: Foreign, msgtyp: i64, flags: i32) -> Result<Received> {
        let mut own = vec![0; into.len().min(LONGEST)];
        let received = receive(thread::current(), id, &mut Room::Own(&mut own), msgtyp, flags)?;
        let text = own.get(..received.len).ok_or(Errno::EPROTO)?;
        user::access(|| into.write(text))?;
        Ok(received)
    }
}

/// What is wrong with the arguments of a msgrcv(2) with MSG_COPY is so before anything is read.
fn copy_may_be_asked(id: i32, flags: i32) -> Result<()> {
    if id < 0 || flags as u32 & MSG_EXCEPT != 0 || flags & libc::IPC_NOWAIT == 0 {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// Linux cuts no copy: with MSG_NOERROR, one that does not fit has another error, that is all.
fn uncut(flags: i32, receive: impl FnOnce(i32) -> Result<Received>) -> Result<Received> {
    let cut = flags as u32 & MSG_NOERROR;
    receive(flags & !(cut as i32)).map_err(|errno| match errno {
        Errno::E2BIG if cut != 0 => Errno::EINVAL,
        other => other,
    })
}

/// No message is longer. Memory that is not written costs nothing.
const LONGEST: usize = 1 << 30;

/// MSGMAX; no limit before it is known.
#[inline(always)]
fn longest() -> usize {
    pages::msgmax().unwrap_or(LONGEST)
}

/// What a program's text is now.
fn own_copy(text: &Foreign) -> Result<Vec<u8>> {
    let mut own = vec![0; text.len()];
    user::access(|| text.read(&mut own))?;
    Ok(own)
}

#[inline]
fn send(thread: &'static Thread, id: i32, mtype: i64, text: Text<'_>, flags: i32) -> Result<()> {
    let len = match &text {
        Text::Own(text) => text.len(),
        Text::Foreign(text) => text.len(),
    };
    let nowait = flags & libc::IPC_NOWAIT != 0;
    operate_in(thread, Kind::Msg, id, |a, thread| {
        if len > pages::msgmax().unwrap_or(a.identity.msgmax as usize) {
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
        match Queue::at(&mapped.words).send_text(&caller, a.control, mtype, text, nowait) {
            Ok(()) => {
                caller.finish();
                Step::Done(Ok(()))
            }
            Err(error) => step(error, caller.finish()),
        }
    })
}

#[inline]
fn receive(
    thread: &'static Thread,
    id: i32,
    into: &mut Room<'_>,
    msgtyp: i64,
    flags: i32,
) -> Result<Received> {
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
    operate_in(thread, Kind::Msg, id, |a, thread| {
        if !a.read {
            return Step::Done(Err(Errno::EACCES));
        }
        let Some(mapped) = &a.mapped else {
            return Step::Done(receive_on_behalf(a, thread, into, msgtyp, flags));
        };
        let timeout = Timeout::new(None);
        let caller = Caller::new(Kind::Msg, a, &mapped.words, thread, &timeout);
        match Queue::at(&mapped.words).receive_into(&caller, a.control, into, msgtyp, how) {
            Ok(received) => {
                caller.finish();
                Step::Done(Ok(received))
            }
            Err(error) => step(error, caller.finish()),
        }
    })
}

#[cold]
fn send_on_behalf(a: &Attachment, thread: &Thread, mtype: i64, text: Text<'_>, nowait: bool) -> Result<()> {
    let text = match text {
        Text::Own(text) => text.to_vec(),
        Text::Foreign(text) => own_copy(&text)?,
    };
    let operation = Behalf::Send { mtype, text };
    let timeout = Timeout::new(None);
    let waiting = (!nowait).then_some(&timeout);
    behalf_waiting(thread, a.id, &operation, Errno::EAGAIN, waiting).map(drop)
}

#[cold]
fn receive_on_behalf(
    a: &Attachment,
    thread: &Thread,
    into: &mut Room<'_>,
    msgtyp: i64,
    flags: i32,
) -> Result<Received> {
    let room = match into {
        Room::Own(into) => into.len(),
        Room::Foreign(into, _) => into.len(),
    };
    let operation = Behalf::Receive {
        size: room as u64,
        msgtyp,
        flags: flags | libc::IPC_NOWAIT,
    };
    let timeout = Timeout::new(None);
    let waiting = (flags & libc::IPC_NOWAIT == 0).then_some(&timeout);
    match behalf_waiting(thread, a.id, &operation, Errno::ENOMSG, waiting)? {
        Reply::Message { mtype, text } => {
            let len = text.len().min(room);
            match into {
                Room::Own(into) => into[..len].copy_from_slice(&text[..len]),
                Room::Foreign(into, _) => user::access(|| into.write(&text[..len]))?,
            }
            Ok(Received { mtype, len })
        }
        _ => Err(Errno::EPROTO),
    }
}
