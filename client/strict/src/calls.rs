//! The twelve calls, made by a stand-in with the arguments and the memory of the one it stands in for.

use crate::errand::{self, Errand, Outcome, Place};
use crate::filter;
use crate::memory;
use crate::notice::Notice;
use rustix::fd::{AsFd, BorrowedFd};
use std::cell::Cell;
use std::ffi::c_void;
use std::time::Duration;
use vshmem_abi::{layouts, msg, sem, shm};
use vshmem_runtime::mappings::Remapping;
use vshmem_runtime::sysv::{MSG_COPY, SEMOPM};
use vshmem_runtime::ward::{Counted, Hands};
use vshmem_runtime::{Errno, Result, Runtime, SemBuf};

const PAGE: usize = 4096;
/// The limit's name in /proc.
const ADDRESS_SPACE: &str = "Max address space";
/// No program has addresses from here on.
const HIGHEST: u64 = (1 << 47) - PAGE as u64;
/// A buffer that is long enough for any message but where the limit allows for more.
const LONG: usize = 1 << 20;
/// What `*_STAT`, `*_INFO` and `*_STAT_ANY` are, beyond the commands that libc names.
const SHM_LOCK: i32 = 11;
const SHM_UNLOCK: i32 = 12;
const SHM_STAT: i32 = 13;
const SHM_INFO: i32 = 14;
const SHM_STAT_ANY: i32 = 15;
const GETALL: i32 = 13;
const SETALL: i32 = 17;
const SEM_STAT: i32 = 18;
const SEM_INFO: i32 = 19;
const SEM_STAT_ANY: i32 = 20;
const MSG_STAT: i32 = 11;
const MSG_INFO: i32 = 12;
const MSG_STAT_ANY: i32 = 13;

/// Makes a call, which must not wait unless it is `patient`. `None`: the supervisor has answered it, or `kernel`, which lets it go there.
pub(crate) fn make(
    notice: &Notice,
    errands: BorrowedFd<'_>,
    patient: bool,
    kernel: impl FnOnce(),
) -> Option<std::result::Result<i64, i32>> {
    let runtime = Runtime::global();
    let n = notice;
    let int = |result: Result<i32>| result.map(i64::from);
    let result = match i64::from(n.number) {
        libc::SYS_shmget => int(runtime.shmget(n.int(0), n.word(1), n.int(2))),
        libc::SYS_shmat => return shmat(n, errands),
        libc::SYS_shmdt => return shmdt(n, errands, kernel),
        libc::SYS_shmctl => int(shmctl(n)),
        libc::SYS_semget => int(runtime.semget(n.int(0), n.int(1), n.int(2))),
        libc::SYS_semop => semop(n, None, patient),
        libc::SYS_semtimedop => timeout(n).and_then(|time| semop(n, time, patient)),
        libc::SYS_semctl => int(semctl(n)),
        libc::SYS_msgget => int(runtime.msgget(n.int(0), n.int(1))),
        libc::SYS_msgsnd => msgsnd(n, patient),
        libc::SYS_msgrcv => msgrcv(n, patient),
        libc::SYS_msgctl => int(msgctl(n)),
        number if filter::REMAP.contains(&number) => {
            remap(n, errands);
            return None;
        }
        _ => Err(Errno::ENOSYS),
    };
    Some(result.map_err(|errno| errno.0))
}

fn read(n: &Notice, at: usize, into: &mut [u8]) -> Result<()> {
    memory::read(n.thread, at, into).map_err(Errno)
}

fn write(n: &Notice, at: usize, from: &[u8]) -> Result<()> {
    memory::write(n.thread, at, from).map_err(Errno)
}

/// Flags of a call that must not wait; and what its error means then.
fn at_once(flags: i32, patient: bool) -> (i32, impl Fn(Errno) -> Errno) {
    let unasked = !patient && flags & libc::IPC_NOWAIT == 0;
    let would_wait = |errno: &Errno| [libc::EAGAIN, libc::ENOMSG].contains(&errno.0);
    let flags = if unasked { flags | libc::IPC_NOWAIT } else { flags };
    (flags, move |errno| {
        if unasked && would_wait(&errno) {
            Errno::ENOMEM
        } else {
            errno
        }
    })
}

// Semaphores.

fn semop(n: &Notice, timeout: Option<Duration>, patient: bool) -> Result<i64> {
    let count = n.int(2) as u32 as usize;
    if count > SEMOPM {
        return Err(Errno::E2BIG);
    }
    let mut bytes = [0; SEMOPM * 6];
    let bytes = &mut bytes[..count * 6];
    read(n, n.word(1), bytes)?;
    let half = |at: &[u8]| i16::from_le_bytes([at[0], at[1]]);
    let operation = |at: &[u8]| SemBuf {
        num: half(at) as u16,
        op: half(&at[2..]),
        flags: half(&at[4..]),
    };
    let mut operations = [SemBuf::default(); 8];
    let asked = bytes
        .chunks_exact(6)
        .fold(0, |flags, at| flags | i32::from(half(&at[4..])));
    let (_, error) = at_once(asked, patient || timeout == Some(Duration::ZERO));
    let timeout = if patient { timeout } else { Some(Duration::ZERO) };
    if count <= operations.len() {
        for (into, from) in operations.iter_mut().zip(bytes.chunks_exact(6)) {
            *into = operation(from);
        }
        let done = Runtime::global().semop(n.int(0), &operations[..count], timeout);
        done.map_err(error)?;
    } else {
        let operations: Vec<SemBuf> = bytes.chunks_exact(6).map(operation).collect();
        let done = Runtime::global().semop(n.int(0), &operations, timeout);
        done.map_err(error)?;
    }
    Ok(0)
}

fn timeout(n: &Notice) -> Result<Option<Duration>> {
    if n.word(3) == 0 {
        return Ok(None);
    }
    let mut bytes = [0; 16];
    read(n, n.word(3), &mut bytes)?;
    let (seconds, nanos) = bytes.split_at(8);
    let long = |at: &[u8]| at.try_into().map_or(-1, i64::from_le_bytes);
    match (u64::try_from(long(seconds)), u32::try_from(long(nanos))) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Ok(Some(Duration::new(seconds, nanos))),
        _ => Err(Errno::EINVAL),
    }
}

fn semctl(n: &Notice) -> Result<i32> {
    let (id, number, command) = (n.int(0), n.int(1), n.int(2));
    let control = |at: *mut c_void| sem::control(id, number, command, at);
    let whole = size_of::<layouts::SemidDs>();
    match command {
        GETALL | SETALL => {
            let count = Runtime::global().sem_count_for(id, command == SETALL)? as usize;
            let mut bytes = vec![0; count * 2];
            if command == SETALL {
                read(n, n.word(3), &mut bytes)?;
            }
            // An array of 16-bit numbers, to be passed as one.
            let mut values: Vec<u16> = bytes
                .chunks_exact(2)
                .map(|two| u16::from_le_bytes([two[0], two[1]]))
                .collect();
            let result = control(values.as_mut_ptr().cast())?;
            if command == GETALL {
                let bytes: Vec<u8> = values.into_iter().flat_map(u16::to_le_bytes).collect();
                write(n, n.word(3), &bytes)?;
            }
            Ok(result)
        }
        libc::IPC_SET => with_structure(n, 3, whole, 0, control),
        libc::IPC_STAT | SEM_STAT | SEM_STAT_ANY => with_structure(n, 3, 0, whole, control),
        libc::IPC_INFO | SEM_INFO => with_structure(n, 3, 0, size_of::<layouts::Seminfo>(), control),
        _ => control(n.word(3) as *mut c_void),
    }
}

/// Makes a call that reads so much at an argument, or writes so much there.
fn with_structure(
    n: &Notice,
    argument: usize,
    reads: usize,
    writes: usize,
    call: impl FnOnce(*mut c_void) -> Result<i32>,
) -> Result<i32> {
    let mut space = [0u64; 16];
    let mut bytes = [0u8; 128];
    read(n, n.word(argument), &mut bytes[..reads])
        .or_else(|errno| if reads == 0 { Ok(()) } else { Err(errno) })?;
    for (word, eight) in space.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*eight);
    }
    let result = call(space.as_mut_ptr().cast())?;
    if writes > 0 {
        let bytes: Vec<u8> = space.iter().flat_map(|word| word.to_le_bytes()).collect();
        write(n, n.word(argument), &bytes[..writes])?;
    }
    Ok(result)
}

// Queues.

fn msgsnd(n: &Notice, patient: bool) -> Result<i64> {
    let (id, at, bytes) = (n.int(0), n.word(1), n.word(2));
    let mut mtype = [0; 8];
    read(n, at, &mut mtype)?;
    let mtype = i64::from_le_bytes(mtype);
    if bytes > Runtime::global().longest_message()? || id < 0 || mtype < 1 {
        return Err(Errno::EINVAL);
    }
    let mut text = vec![0; bytes];
    read(n, at.wrapping_add(8), &mut text)?;
    let (flags, error) = at_once(n.int(3), patient);
    let sent = Runtime::global().msgsnd(id, mtype, &text, flags);
    sent.map(|()| 0).map_err(error)
}

fn msgrcv(n: &Notice, patient: bool) -> Result<i64> {
    let (id, at, bytes) = (n.int(0), n.word(1), n.word(2));
    if isize::try_from(bytes).is_err() {
        return Err(Errno::EINVAL);
    }
    // Messages may be longer than they might now be, if the limit was lowered.
    let longest = Runtime::global().longest_message()?;
    let mut message = vec![0; 8 + bytes.min(longest.max(LONG))];
    let msgtyp = n.arguments[3] as i64;
    let (flags, error) = at_once(n.int(4), patient);
    let received = if flags as u32 & MSG_COPY == 0 {
        let received = Runtime::global().msgrcv(id, &mut message[8..], msgtyp, flags);
        received.map_err(error)?
    } else {
        // As with the kernel, what is there is read first.
        let readable = |longest: usize| read(n, at, &mut vec![0; bytes.min(longest)]);
        Runtime::global().msgrcv_copy_into(id, &mut message[8..], msgtyp, flags, readable)?
    };
    message[..8].copy_from_slice(&received.mtype.to_le_bytes());
    // As with the kernel, a message that cannot be written to where the program wants it is lost.
    write(n, at, &message[..8 + received.len])?;
    Ok(received.len as i64)
}

fn msgctl(n: &Notice) -> Result<i32> {
    let (id, command) = (n.int(0), n.int(1));
    let control = |at: *mut c_void| msg::control(id, command, at);
    let whole = size_of::<layouts::MsqidDs>();
    match command {
        libc::IPC_SET => with_structure(n, 2, whole, 0, control),
        libc::IPC_STAT | MSG_STAT | MSG_STAT_ANY => with_structure(n, 2, 0, whole, control),
        libc::IPC_INFO | MSG_INFO => with_structure(n, 2, 0, size_of::<layouts::Msginfo>(), control),
        _ => control(n.word(2) as *mut c_void),
    }
}

// Segments.

fn shmctl(n: &Notice) -> Result<i32> {
    let (id, command) = (n.int(0), n.int(1));
    let control = |at: *mut c_void| shm::control(id, command, at);
    let whole = size_of::<layouts::ShmidDs>();
    match command {
        libc::IPC_SET => with_structure(n, 2, whole, 0, control),
        libc::IPC_STAT | SHM_STAT | SHM_STAT_ANY => with_structure(n, 2, 0, whole, control),
        libc::IPC_INFO => with_structure(n, 2, 0, size_of::<layouts::Shminfo>(), control),
        SHM_INFO => with_structure(n, 2, 0, size_of::<layouts::ShmInfo>(), control),
        SHM_LOCK | SHM_UNLOCK => {
            let most = memory::limit(n.thread, "Max locked memory");
            let on = command == SHM_LOCK;
            Runtime::global().shm_lock_within(id, on, most).map(|()| 0)
        }
        _ => control(n.word(2) as *mut c_void),
    }
}

/// Where shmat(2) is to put a segment.
fn place(address: usize, flags: i32) -> Result<Place> {
    let remap = flags & libc::SHM_REMAP != 0;
    let over = address % PAGE;
    let at = (address - over) as u64;
    match (address, at, remap) {
        (0, _, false) => Ok(Place::Any),
        _ if over != 0 && flags & libc::SHM_RND == 0 => Err(Errno::EINVAL),
        (_, 0, true) => Err(Errno::EINVAL),
        // Rounded down to the very first page: the kernel looks for nothing there, and says who may map it.
        (_, 0, false) => Ok(Place::Over(0)),
        (_, at, true) => Ok(Place::Over(at)),
        (_, at, false) => Ok(Place::Free(at)),
    }
}

/// Sends an errand and waits for what came of it.
fn run(errands: BorrowedFd<'_>, errand: &Errand, descriptors: &[BorrowedFd<'_>]) -> Outcome {
    let gone = |_| libc::EIO;
    errand::send(errands, errand, descriptors).map_err(gone)?;
    match errand::receive::<Outcome, { errand::ORDER }>(errands).map_err(gone)? {
        Some((outcome, _)) => outcome,
        None => Err(libc::EIO),
    }
}

/// A thread that has a list of what is to undo for itself: its number, and how many threads its process has.
pub(crate) fn leave_undo(n: &Notice, errands: BorrowedFd<'_>, own: u64) -> Option<u64> {
    let hands = Supervisor::of(n, errands, Place::Any);
    let alone = memory::threads_of(n.thread) < 2;
    Runtime::global().leave_undo_in_ward(own, alone, &hands)
}

/// The supervisor, which holds the calling thread and has it do what is asked for. The call is thereby answered.
struct Supervisor<'a> {
    notice: &'a Notice,
    errands: BorrowedFd<'a>,
    place: Place,
    answered: Cell<bool>,
}

impl<'a> Supervisor<'a> {
    fn of(notice: &'a Notice, errands: BorrowedFd<'a>, place: Place) -> Supervisor<'a> {
        Supervisor {
            notice,
            errands,
            place,
            answered: Cell::new(false),
        }
    }

    fn run(&self, errand: &Errand, descriptors: &[BorrowedFd<'_>]) -> Result<usize> {
        self.answered.set(true);
        let outcome = run(self.errands, errand, descriptors);
        outcome.map(|value| value as usize).map_err(Errno)
    }
}

impl Hands for Supervisor<'_> {
    fn is_doubtful(&self) -> bool {
        match self.place {
            Place::Any => memory::limit(self.notice.thread, ADDRESS_SPACE).is_some(),
            Place::Free(_) | Place::Over(_) => true,
        }
    }

    fn fits(&self, segsz: u64) -> Result<()> {
        let page = PAGE as u64;
        let whole = segsz.max(1).checked_next_multiple_of(page).ok_or(Errno::ENOMEM)?;
        if let Place::Free(at) = self.place {
            at.checked_add(segsz).ok_or(Errno::EINVAL)?;
            let after = at.checked_add(whole).ok_or(Errno::ENOMEM)?;
            if memory::is_mapped(self.notice.thread, at, after) {
                return Err(Errno::EINVAL);
            }
            if after > HIGHEST {
                return Err(Errno::ENOMEM);
            }
        }
        if let Place::Over(at) = self.place {
            let after = at.checked_add(whole).ok_or(Errno::ENOMEM)?;
            if after > HIGHEST {
                return Err(Errno::ENOMEM);
            }
            if memory::is_mapped(self.notice.thread, at, after) {
                return Ok(());
            }
        }
        let most = memory::limit(self.notice.thread, ADDRESS_SPACE).unwrap_or(u64::MAX);
        if memory::address_space(self.notice.thread).saturating_add(whole) > most {
            return Err(Errno::ENOMEM);
        }
        Ok(())
    }

    fn map(&self, counted: &Counted) -> Result<usize> {
        let flags = self.notice.int(2);
        let mut protection = libc::PROT_READ;
        if flags & libc::SHM_RDONLY == 0 {
            protection |= libc::PROT_WRITE;
        }
        if flags & libc::SHM_EXEC != 0 {
            protection |= libc::PROT_EXEC;
        }
        let errand = Errand::Attach {
            notice: *self.notice,
            place: self.place,
            protection: protection as u64,
            bytes: counted.bytes as u64,
            page: counted.memory.page(),
            window: counted.memory.window,
            extents: counted.memory.extents.clone(),
        };
        self.run(&errand, &[counted.from.as_fd()])
    }

    fn unmap(&self, ranges: &[(usize, usize)]) -> Result<()> {
        let errand = Errand::Unmap {
            notice: *self.notice,
            ranges: wide(ranges),
        };
        self.run(&errand, &[]).map(drop)
    }

    fn call(&self) -> Result<usize> {
        let errand = Errand::Call { notice: *self.notice };
        let done = self.run(&errand, &[])?;
        let flags = match i64::from(self.notice.number) {
            libc::SYS_unshare => self.notice.int(0),
            libc::SYS_setns => libc::CLONE_NEWIPC,
            _ => 0,
        };
        if flags & libc::CLONE_NEWIPC != 0 {
            vshmem_runtime::error!(
                "another IPC namespace of the kernel: keys that Vshmem serves stay those of its group (--keys says which those are)"
            );
        }
        Ok(done)
    }

    fn release(&self, ranges: Vec<(usize, usize)>) {
        if self.answered.get() {
            let attached = wide(&ranges);
            // Without it the supervisor is gone, and so are we.
            let _ = errand::send(self.errands, &Errand::Release { attached }, &[]);
        }
    }
}

fn wide(ranges: &[(usize, usize)]) -> Vec<(u64, u64)> {
    ranges.iter().map(|&(a, b)| (a as u64, b as u64)).collect()
}

fn shmat(n: &Notice, errands: BorrowedFd<'_>) -> Option<std::result::Result<i64, i32>> {
    let (id, flags) = (n.int(0), n.int(2));
    let place = match place(n.word(1), flags) {
        Ok(place) => place,
        Err(errno) => return Some(Err(errno.0)),
    };
    let hands = Supervisor::of(n, errands, place);
    let result = Runtime::global().shmat_in_ward(id, flags, &hands);
    (!hands.answered.get()).then(|| result.map(|at| at as i64).map_err(|errno| errno.0))
}

/// What is not attached of Vshmem's may be so of the kernel's.
fn shmdt(
    n: &Notice,
    errands: BorrowedFd<'_>,
    kernel: impl FnOnce(),
) -> Option<std::result::Result<i64, i32>> {
    let hands = Supervisor::of(n, errands, Place::Any);
    match Runtime::global().shmdt_in_ward(n.word(0), &hands) {
        Ok(false) => kernel(),
        Err(errno) if !hands.answered.get() => return Some(Err(errno.0)),
        _ => {}
    }
    None
}

/// A call that may cut, move or protect parts of segments.
fn remap(n: &Notice, errands: BorrowedFd<'_>) {
    let (at, bytes) = (n.word(0), n.word(1));
    let remapping = match i64::from(n.number) {
        libc::SYS_mprotect => Remapping::Protected {
            at,
            bytes,
            protection: n.int(2),
        },
        libc::SYS_mremap => Remapping::Moved {
            old: at,
            old_bytes: bytes,
            new_bytes: n.word(2),
            flags: n.int(3),
        },
        _ => Remapping::Gone { at, bytes },
    };
    let hands = Supervisor::of(n, errands, Place::Any);
    let _ = Runtime::global().remap_in_ward(remapping, &hands);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_follow_the_rules_of_shmat() {
        assert_eq!(place(0, 0), Ok(Place::Any));
        assert_eq!(place(0, libc::SHM_REMAP), Err(Errno::EINVAL));
        assert_eq!(place(0x5001, 0), Err(Errno::EINVAL));
        assert_eq!(place(0x5001, libc::SHM_RND), Ok(Place::Free(0x5000)));
        assert_eq!(place(0x5000, libc::SHM_REMAP), Ok(Place::Over(0x5000)));
        assert_eq!(place(0x10, libc::SHM_RND), Ok(Place::Over(0)));
    }
}
