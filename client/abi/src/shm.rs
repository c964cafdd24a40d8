//! shmctl(2) with C's arguments.

use crate::edge;
use crate::layouts::{self, ShmidDs};
use std::ffi::c_void;
use vshmem_runtime::runtime::Which;
use vshmem_runtime::{Errno, Result, Runtime};
use vshmem_wire::Kind;

const SHM_LOCK: i32 = 11;
const SHM_UNLOCK: i32 = 12;
const SHM_STAT: i32 = 13;
const SHM_INFO: i32 = 14;
const SHM_STAT_ANY: i32 = 15;

/// Whether the first argument is an id (and not an index, or nothing).
pub fn takes_id(command: i32) -> bool {
    matches!(
        command,
        libc::IPC_RMID | libc::IPC_SET | libc::IPC_STAT | SHM_LOCK | SHM_UNLOCK
    )
}

/// shmctl(2). What is read or written at `argument` depends on the command, as in C.
pub fn control(id: i32, command: i32, argument: *mut c_void) -> Result<i32> {
    // Before all else, where nothing is named by it, too.
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    let runtime = Runtime::global();
    match command {
        libc::IPC_RMID => runtime.remove(Kind::Shm, id).map(|()| 0),
        libc::IPC_SET => {
            let perm = edge::read(argument.cast::<ShmidDs>())?.perm;
            let mode = perm.mode as u16 & 0o777;
            runtime
                .set(Kind::Shm, id, perm.uid, perm.gid, mode, None)
                .map(|()| 0)
        }
        libc::IPC_STAT => stat(Which::Id(id), argument.cast()).map(|_| 0),
        SHM_STAT => stat(Which::Index(id), argument.cast()),
        SHM_STAT_ANY => stat(Which::AnyIndex(id), argument.cast()),
        SHM_LOCK => runtime.shm_lock(id, true).map(|()| 0),
        SHM_UNLOCK => runtime.shm_lock(id, false).map(|()| 0),
        libc::IPC_INFO => {
            let info = runtime.info(Kind::Shm)?;
            edge::write(argument.cast(), layouts::shminfo(&info))?;
            Ok(info.highest as i32)
        }
        SHM_INFO => {
            let info = runtime.info(Kind::Shm)?;
            edge::write(argument.cast(), layouts::shm_info(&info))?;
            Ok(info.highest as i32)
        }
        _ => Err(Errno::EINVAL),
    }
}

fn stat(which: Which, into: *mut ShmidDs) -> Result<i32> {
    let runtime = Runtime::global();
    let stat = runtime.stat(Kind::Shm, which)?;
    let filled = layouts::shmid_ds(&stat, runtime.domain()?).ok_or(Errno::EPROTO)?;
    edge::write(into, filled)?;
    Ok(stat.id)
}
