//! semop(2), semtimedop(2) and semctl(2) with C's arguments.
#![allow(unsafe_code)] // Arrays of the program.

use crate::edge;
use crate::layouts::{self, SemidDs};
use std::ffi::c_void;
use std::time::Duration;
use vshmem_runtime::runtime::Which;
use vshmem_runtime::sysv::SEMOPM;
use vshmem_runtime::{Errno, Result, Runtime, SemBuf};
use vshmem_wire::Kind;

const GETPID: i32 = 11;
const GETVAL: i32 = 12;
const GETALL: i32 = 13;
const GETNCNT: i32 = 14;
const GETZCNT: i32 = 15;
const SETVAL: i32 = 16;
const SETALL: i32 = 17;
const SEM_STAT: i32 = 18;
const SEM_INFO: i32 = 19;
const SEM_STAT_ANY: i32 = 20;

/// Whether the first argument is an id (and not an index, or nothing).
pub fn takes_id(command: i32) -> bool {
    matches!(
        command,
        libc::IPC_RMID | libc::IPC_SET | libc::IPC_STAT | GETPID..=SETALL
    )
}

/// semop and semtimedop on a set of Vshmem.
///
/// # Safety
/// `operations` is an array of `count` operations, or null.
#[inline(always)]
pub unsafe fn operate(
    id: i32,
    operations: *const SemBuf,
    count: usize,
    timeout: Option<Duration>,
) -> Result<i32> {
    if count == 0 {
        return Err(Errno::EINVAL);
    }
    if count > SEMOPM {
        return Err(Errno::E2BIG);
    }
    edge::pointer(operations)?;
    // SAFETY: promised by the caller; `SemBuf` is `struct sembuf`.
    let operations = unsafe { std::slice::from_raw_parts(operations, count) };
    Runtime::global().semop(id, operations, timeout).map(|()| 0)
}

/// semtimedop's time-out: none if the pointer is null.
pub fn timeout(at: *const libc::timespec) -> Result<Option<Duration>> {
    match at.is_null() {
        true => Ok(None),
        false => duration(edge::read(at)?).map(Some),
    }
}

fn duration(time: libc::timespec) -> Result<Duration> {
    let seconds = u64::try_from(time.tv_sec).map_err(|_| Errno::EINVAL)?;
    match u32::try_from(time.tv_nsec) {
        Ok(nanos) if nanos < 1_000_000_000 => Ok(Duration::new(seconds, nanos)),
        _ => Err(Errno::EINVAL),
    }
}

/// semctl(2). What `argument` is depends on the command, as in C: a union that arrives where a pointer would.
pub fn control(id: i32, num: i32, command: i32, argument: *mut c_void) -> Result<i32> {
    let runtime = Runtime::global();
    match command {
        GETVAL => runtime.sem_value(id, num),
        GETPID => runtime.sem_pid(id, num),
        GETNCNT => runtime.sem_ncnt(id, num),
        GETZCNT => runtime.sem_zcnt(id, num),
        SETVAL => runtime
            .sem_set_value(id, num, argument as usize as i32)
            .map(|()| 0),
        GETALL => {
            let values = values(id, argument)?;
            runtime.sem_values(id, values).map(|()| 0)
        }
        SETALL => {
            let values = values(id, argument)?;
            runtime.sem_set_values(id, values).map(|()| 0)
        }
        libc::IPC_RMID => runtime.remove(Kind::Sem, id).map(|()| 0),
        libc::IPC_SET => {
            let perm = edge::read(argument.cast::<SemidDs>())?.perm;
            let mode = perm.mode as u16 & 0o777;
            runtime
                .set(Kind::Sem, id, perm.uid, perm.gid, mode, None)
                .map(|()| 0)
        }
        libc::IPC_STAT => stat(Which::Id(id), argument.cast()).map(|_| 0),
        SEM_STAT => stat(Which::Index(id), argument.cast()),
        SEM_STAT_ANY => stat(Which::AnyIndex(id), argument.cast()),
        libc::IPC_INFO | SEM_INFO => {
            let info = runtime.info(Kind::Sem)?;
            edge::write(argument.cast(), layouts::seminfo(&info, command == SEM_INFO))?;
            Ok(info.highest as i32)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// The program's array, which is as long as the set.
fn values<'a>(id: i32, argument: *mut c_void) -> Result<&'a mut [u16]> {
    let count = Runtime::global().sem_count(id)?;
    edge::pointer(argument)?;
    // SAFETY: the program says that its array is as long as the set; nobody else uses it during the call.
    Ok(unsafe { std::slice::from_raw_parts_mut(argument.cast(), count as usize) })
}

fn stat(which: Which, into: *mut SemidDs) -> Result<i32> {
    let stat = Runtime::global().stat(Kind::Sem, which)?;
    edge::write(into, layouts::semid_ds(&stat).ok_or(Errno::EPROTO)?)?;
    Ok(stat.id)
}
