//! libc's System V calls with Rust's errors: what any program would call, nothing of Vshmem.
#![allow(unsafe_code)] // The calls are C functions; this file and `scale/calls.rs` are the only ones of the benchmark that make them.

use std::io::{Error, Result};
use std::sync::atomic::{AtomicU64, Ordering};

fn check(result: i32) -> Result<i32> {
    if result < 0 {
        Err(Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// A semaphore set.
#[derive(Clone, Copy)]
pub(crate) struct Sem(i32);

impl Sem {
    pub(crate) fn get(key: i32, nsems: i32) -> Result<Sem> {
        // SAFETY: no pointers.
        check(unsafe { libc::semget(key, nsems, libc::IPC_CREAT | 0o600) }).map(Sem)
    }
    #[inline]
    pub(crate) fn op(self, ops: &mut [libc::sembuf]) -> Result<()> {
        // SAFETY: a valid slice of operations and its length.
        check(unsafe { libc::semop(self.0, ops.as_mut_ptr(), ops.len()) }).map(drop)
    }
    pub(crate) fn remove(self) -> Result<()> {
        // SAFETY: IPC_RMID takes no fourth argument.
        check(unsafe { libc::semctl(self.0, 0, libc::IPC_RMID) }).map(drop)
    }
}

/// One operation.
pub(crate) fn sembuf(num: u16, op: i16, flags: i32) -> libc::sembuf {
    libc::sembuf {
        sem_num: num,
        sem_op: op,
        sem_flg: flags as i16,
    }
}

/// A message queue.
#[derive(Clone, Copy)]
pub(crate) struct Queue(i32);

/// A message of up to 64 KiB as msgop(2) wants it.
#[repr(C)]
pub(crate) struct Message {
    pub(crate) mtype: i64,
    pub(crate) text: [u8; 65536],
}

impl Message {
    pub(crate) fn boxed(mtype: i64) -> Box<Message> {
        Box::new(Message {
            mtype,
            text: [0x5a; 65536],
        })
    }
}

impl Queue {
    pub(crate) fn get(key: i32) -> Result<Queue> {
        // SAFETY: no pointers.
        check(unsafe { libc::msgget(key, libc::IPC_CREAT | 0o600) }).map(Queue)
    }
    #[inline]
    pub(crate) fn send(self, message: &Message, bytes: usize) -> Result<()> {
        // SAFETY: the message holds 65536 bytes of text, and callers ask for no more.
        check(unsafe { libc::msgsnd(self.0, std::ptr::from_ref(message).cast(), bytes.min(65536), 0) })
            .map(drop)
    }
    #[inline]
    pub(crate) fn receive(self, message: &mut Message, bytes: usize, mtype: i64) -> Result<usize> {
        // SAFETY: the message has room for 65536 bytes of text, and callers ask for no more.
        let got = unsafe {
            libc::msgrcv(
                self.0,
                std::ptr::from_mut(message).cast(),
                bytes.min(65536),
                mtype,
                0,
            )
        };
        if got < 0 {
            Err(Error::last_os_error())
        } else {
            Ok(got as usize)
        }
    }
    /// IPC_SET of msg_qbytes.
    pub(crate) fn set_qbytes(self, qbytes: u64) -> Result<()> {
        // SAFETY: an all-zero msqid_ds is valid, and msgctl fills and reads exactly that structure.
        unsafe {
            let mut ds: libc::msqid_ds = std::mem::zeroed();
            check(libc::msgctl(self.0, libc::IPC_STAT, &mut ds))?;
            ds.msg_qbytes = qbytes;
            check(libc::msgctl(self.0, libc::IPC_SET, &mut ds)).map(drop)
        }
    }
    pub(crate) fn remove(self) -> Result<()> {
        // SAFETY: IPC_RMID ignores the pointer.
        check(unsafe { libc::msgctl(self.0, libc::IPC_RMID, std::ptr::null_mut()) }).map(drop)
    }
}

/// An attached segment.
pub(crate) struct Segment {
    id: i32,
    base: *mut u8,
    bytes: usize,
}

impl Segment {
    pub(crate) fn attach(key: i32, bytes: usize) -> Result<Segment> {
        Segment::attach_id(Segment::get(key, bytes)?, bytes)
    }
    pub(crate) fn get(key: i32, bytes: usize) -> Result<i32> {
        // SAFETY: no pointers.
        check(unsafe { libc::shmget(key, bytes, libc::IPC_CREAT | 0o600) })
    }
    pub(crate) fn attach_id(id: i32, bytes: usize) -> Result<Segment> {
        // SAFETY: the kernel (or Vshmem) picks the address.
        let base = unsafe { libc::shmat(id, std::ptr::null(), 0) };
        if base as isize == -1 {
            return Err(Error::last_os_error());
        }
        Ok(Segment {
            id,
            base: base.cast(),
            bytes,
        })
    }
    pub(crate) fn remove_id(id: i32) -> Result<()> {
        // SAFETY: IPC_RMID ignores the pointer.
        check(unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) }).map(drop)
    }
    /// The `index`th cache line's first word.
    pub(crate) fn line(&self, index: usize) -> &AtomicU64 {
        assert!(index * 64 + 64 <= self.bytes);
        // SAFETY: in range (asserted), aligned (attachments are page-aligned), mapped while `self` lives.
        unsafe { AtomicU64::from_ptr(self.base.add(index * 64).cast()) }
    }
    /// The segment as construct memory, for the audited copy routine.
    pub(crate) fn words(&self) -> vshmem_words::Mapping {
        // SAFETY: the segment stays attached while `self` lives, and callers keep it for longer than the mapping.
        unsafe { vshmem_words::Mapping::new(self.base, self.bytes) }
    }
    pub(crate) fn remove(&self) -> Result<()> {
        Segment::remove_id(self.id)
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: `base` is what shmat gave, detached once.
        unsafe { libc::shmdt(self.base.cast()) };
    }
}

/// Spins until `word` is `value`.
#[inline]
pub(crate) fn await_value(word: &AtomicU64, value: u64) {
    while word.load(Ordering::Acquire) != value {
        std::hint::spin_loop();
    }
}
