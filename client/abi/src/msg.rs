//! msgsnd(2), msgrcv(2) and msgctl(2) with C's arguments.
#![allow(unsafe_code)] // Messages of the program.

use crate::edge;
use crate::layouts::{self, MsqidDs};
use std::ffi::{c_long, c_void};
use vshmem_runtime::runtime::Which;
use vshmem_runtime::{Errno, Foreign, Result, Runtime};
use vshmem_wire::Kind;

const MSG_COPY: i32 = 0o40000;
const MSG_STAT: i32 = 11;
const MSG_INFO: i32 = 12;
const MSG_STAT_ANY: i32 = 13;

/// msgsnd(2).
///
/// # Safety
/// What lies at `message` is the program's, if anything does.
#[inline(always)]
pub unsafe fn send(id: i32, message: *const c_void, bytes: usize, flags: i32) -> Result<i32> {
    let mtype = edge::read(message.cast::<c_long>())?;
    if isize::try_from(bytes).is_err() {
        return Err(Errno::EINVAL);
    }
    let text = message.cast_mut().cast::<u8>().wrapping_add(size_of::<c_long>());
    // SAFETY: promised by the caller; only read.
    let text = unsafe { Foreign::new(text, bytes) };
    Runtime::global().msgsnd_from(id, mtype, text, flags).map(|()| 0)
}

/// msgrcv(2). As in Linux, a wrong address counts only once there is a message, which then is lost.
///
/// # Safety
/// What lies at `message` is the program's, if anything does.
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
    let text = message.cast::<u8>().wrapping_add(size_of::<c_long>());
    // SAFETY: promised by the caller, who wants it overwritten.
    let (whole, text) = unsafe { (Foreign::new(message.cast(), bytes), Foreign::new(text, bytes)) };
    let received = if flags & MSG_COPY == 0 {
        Runtime::global().msgrcv_to(id, text, msgtyp, flags)?
    } else {
        Runtime::global().msgrcv_copy(id, whole, text, msgtyp, flags)?
    };
    edge::write(message.cast::<c_long>(), received.mtype)?;
    Ok(received.len as isize)
}

/// Whether the first argument is an id (and not an index, or nothing).
pub fn takes_id(command: i32) -> bool {
    matches!(command, libc::IPC_RMID | libc::IPC_SET | libc::IPC_STAT)
}

/// msgctl(2). What is read or written at `argument` depends on the command, as in C.
pub fn control(id: i32, command: i32, argument: *mut c_void) -> Result<i32> {
    // Before all else, where nothing is named by it, too.
    if id < 0 {
        return Err(Errno::EINVAL);
    }
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
