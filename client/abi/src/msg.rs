//! msgsnd(2), msgrcv(2) and msgctl(2) with C's arguments.
#![allow(unsafe_code)] // Messages of the program.

use crate::edge;
use crate::layouts::{self, MsqidDs};
use std::ffi::{c_long, c_void};
use vshmem_runtime::runtime::Which;
use vshmem_runtime::{Errno, Result, Runtime};
use vshmem_wire::Kind;

/// No message is longer, whatever a program says that its buffer holds.
const LONGEST: usize = 1 << 30;
const MSG_STAT: i32 = 11;
const MSG_INFO: i32 = 12;
const MSG_STAT_ANY: i32 = 13;

/// msgsnd(2).
///
/// # Safety
/// At `message` there are a long and `bytes` bytes of text, or it is null or nobody's address.
#[inline(always)]
pub unsafe fn send(id: i32, message: *const c_void, bytes: usize, flags: i32) -> Result<i32> {
    let mtype = edge::read(message.cast::<c_long>())?;
    if mtype < 1 || bytes > LONGEST {
        return Err(Errno::EINVAL);
    }
    // SAFETY: promised by the caller. The bytes are only read, by the audited copy.
    let text = unsafe { std::slice::from_raw_parts(message.cast::<u8>().add(size_of::<c_long>()), bytes) };
    Runtime::global().msgsnd(id, mtype, text, flags).map(|()| 0)
}

/// msgrcv(2).
///
/// # Safety
/// At `message` there is room for a long and `bytes` bytes of text, or it is null or nobody's address.
#[inline(always)]
pub unsafe fn receive(
    id: i32,
    message: *mut c_void,
    bytes: usize,
    msgtyp: c_long,
    flags: i32,
) -> Result<isize> {
    if isize::try_from(bytes).is_err() {
        return Err(Errno::EINVAL);
    }
    edge::pointer(message)?;
    // SAFETY: promised by the caller. The bytes are only written.
    let into = unsafe {
        let text = message.cast::<u8>().add(size_of::<c_long>());
        std::slice::from_raw_parts_mut(text, bytes.min(LONGEST))
    };
    let received = Runtime::global().msgrcv(id, into, msgtyp, flags)?;
    edge::write(message.cast::<c_long>(), received.mtype)?;
    Ok(received.len as isize)
}

/// Whether the first argument is an id (and not an index, or nothing).
pub fn takes_id(command: i32) -> bool {
    matches!(command, libc::IPC_RMID | libc::IPC_SET | libc::IPC_STAT)
}

/// msgctl(2). What is read or written at `argument` depends on the command, as in C.
pub fn control(id: i32, command: i32, argument: *mut c_void) -> Result<i32> {
    let runtime = Runtime::global();
    match command {
        libc::IPC_RMID => runtime.remove(Kind::Msg, id).map(|()| 0),
        libc::IPC_SET => {
            let wanted = edge::read(argument.cast::<MsqidDs>())?;
            let mode = wanted.perm.mode as u16 & 0o777;
            let (uid, gid) = (wanted.perm.uid, wanted.perm.gid);
            runtime
                .set(Kind::Msg, id, uid, gid, mode, Some(wanted.qbytes))
                .map(|()| 0)
        }
        libc::IPC_STAT => stat(Which::Id(id), argument.cast()).map(|_| 0),
        MSG_STAT => stat(Which::Index(id), argument.cast()),
        MSG_STAT_ANY => stat(Which::AnyIndex(id), argument.cast()),
        libc::IPC_INFO | MSG_INFO => {
            let info = runtime.info(Kind::Msg)?;
            edge::write(argument.cast(), layouts::msginfo(&info, command == MSG_INFO))?;
            Ok(info.highest as i32)
        }
        _ => Err(Errno::EINVAL),
    }
}

fn stat(which: Which, into: *mut MsqidDs) -> Result<i32> {
    let runtime = Runtime::global();
    let stat = runtime.stat(Kind::Msg, which)?;
    let filled = layouts::msqid_ds(&stat, runtime.domain()?).ok_or(Errno::EPROTO)?;
    edge::write(into, filled)?;
    Ok(stat.id)
}
