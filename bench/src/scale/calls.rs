//! libc's System V calls by kind, for constructs of which there are many: what any program would call, nothing of Vshmem.
#![allow(unsafe_code)] // The calls are C functions.

use crate::sysv::sembuf;
use std::io::{Error, Result};

/// From linux/shm.h.
const SHM_INFO: i32 = 14;

/// The three kinds, in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Shm,
    Sem,
    Msg,
}

impl Kind {
    /// The kind of the construct number `index`.
    pub(super) fn of(index: usize) -> Kind {
        [Kind::Shm, Kind::Sem, Kind::Msg][index % 3]
    }
}

fn check(result: i32) -> Result<i32> {
    if result < 0 {
        Err(Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// The construct of a key, made if `make`: a page, four semaphores, a queue.
pub(super) fn get(kind: Kind, key: i32, make: bool) -> Result<i32> {
    let flags = if make {
        libc::IPC_CREAT | libc::IPC_EXCL | 0o600
    } else {
        0
    };
    // SAFETY: no pointers.
    check(unsafe {
        match kind {
            Kind::Shm => libc::shmget(key, 4096, flags),
            Kind::Sem => libc::semget(key, 4, flags),
            Kind::Msg => libc::msgget(key, flags),
        }
    })
}

/// IPC_RMID.
pub(super) fn remove(kind: Kind, id: i32) -> Result<()> {
    // SAFETY: IPC_RMID ignores the pointer.
    check(unsafe {
        match kind {
            Kind::Shm => libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()),
            Kind::Sem => libc::semctl(id, 0, libc::IPC_RMID),
            Kind::Msg => libc::msgctl(id, libc::IPC_RMID, std::ptr::null_mut()),
        }
    })
    .map(drop)
}

/// IPC_STAT.
pub(super) fn stat(kind: Kind, id: i32) -> Result<()> {
    // SAFETY: all-zero structures are valid, and each call fills exactly the structure of its kind, through a pointer to it.
    check(unsafe {
        match kind {
            Kind::Shm => libc::shmctl(id, libc::IPC_STAT, &mut std::mem::zeroed()),
            Kind::Sem => {
                let mut ds: libc::semid_ds = std::mem::zeroed();
                libc::semctl(id, 0, libc::IPC_STAT, &raw mut ds)
            }
            Kind::Msg => libc::msgctl(id, libc::IPC_STAT, &mut std::mem::zeroed()),
        }
    })
    .map(drop)
}

/// How many processes have a segment attached.
pub(super) fn nattch(id: i32) -> Result<u64> {
    // SAFETY: an all-zero shmid_ds is valid, and shmctl fills exactly that structure.
    unsafe {
        let mut ds: libc::shmid_ds = std::mem::zeroed();
        check(libc::shmctl(id, libc::IPC_STAT, &mut ds))?;
        Ok(ds.shm_nattch)
    }
}

/// SHM_INFO, SEM_INFO, MSG_INFO: what `ipcs` asks first.
pub(super) fn info(kind: Kind) -> Result<()> {
    // Larger than any of the three structures that the calls fill.
    let mut room = [0u64; 64];
    let at = room.as_mut_ptr();
    // SAFETY: the room is aligned and larger than struct shm_info, seminfo and msginfo.
    check(unsafe {
        match kind {
            Kind::Shm => libc::shmctl(0, SHM_INFO, at.cast()),
            Kind::Sem => libc::semctl(0, 0, libc::SEM_INFO, at),
            Kind::Msg => libc::msgctl(0, libc::MSG_INFO, at.cast()),
        }
    })
    .map(drop)
}

/// GETNCNT.
pub(super) fn waiting(set: i32, number: i32) -> Result<i32> {
    // SAFETY: GETNCNT takes no fourth argument.
    check(unsafe { libc::semctl(set, number, libc::GETNCNT) })
}

/// One operation on one semaphore.
pub(super) fn semop(set: i32, number: u16, change: i16) -> Result<()> {
    let mut op = sembuf(number, change, 0);
    // SAFETY: one valid operation.
    check(unsafe { libc::semop(set, &mut op, 1) }).map(drop)
}

/// A message of 64 bytes there and back.
pub(super) fn message(queue: i32) -> Result<()> {
    #[repr(C)]
    struct Message {
        mtype: i64,
        text: [u8; 64],
    }
    let mut message = Message {
        mtype: 1,
        text: [0x5a; 64],
    };
    let at = &raw mut message;
    // SAFETY: a message of 64 bytes behind its type, as msgop(2) wants it, for reading and for writing.
    unsafe {
        check(libc::msgsnd(queue, at.cast(), 64, 0))?;
        if libc::msgrcv(queue, at.cast(), 64, 0, 0) < 0 {
            return Err(Error::last_os_error());
        }
    }
    Ok(())
}

/// Attaches a segment.
pub(super) fn attach(id: i32) -> Result<usize> {
    // SAFETY: the address is chosen for us.
    let base = unsafe { libc::shmat(id, std::ptr::null(), 0) };
    if base as isize == -1 {
        Err(Error::last_os_error())
    } else {
        Ok(base as usize)
    }
}

/// Detaches what [`attach`] gave.
pub(super) fn detach(base: usize) -> Result<()> {
    // SAFETY: nobody here reads or writes segments; a wrong address is EINVAL.
    check(unsafe { libc::shmdt(base as *const libc::c_void) }).map(drop)
}
