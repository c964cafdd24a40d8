//! msgctl(2).
#![allow(unsafe_code)] // A C function by name.

use crate::layouts::{self, MsqidDs};
use crate::{edge, kernel, routes};
use std::ffi::c_void;
use vshmem_runtime::runtime::Which;
use vshmem_runtime::{Errno, Result, Runtime};
use vshmem_wire::Kind;

const MSG_STAT: i32 = 11;
const MSG_INFO: i32 = 12;
const MSG_STAT_ANY: i32 = 13;

/// Whether the first argument is an id (and not an index, or nothing).
fn takes_id(command: i32) -> bool {
    matches!(command, libc::IPC_RMID | libc::IPC_SET | libc::IPC_STAT)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn msgctl(id: i32, command: i32, argument: *mut c_void) -> i32 {
    edge::call_int(|| {
        if takes_id(command) && !routes::id_is_ours(Kind::Msg, id) {
            let arguments = [id as usize, command as usize, argument as usize, 0, 0];
            return Ok(kernel::pass(libc::SYS_msgctl, arguments) as i32);
        }
        control(id, command, argument)
    })
}

fn control(id: i32, command: i32, argument: *mut c_void) -> Result<i32> {
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
