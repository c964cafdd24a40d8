//! V-msgq: System V message queues over construct memory.
#![allow(dead_code)] // Filled in below.

use crate::{Control, Corrupt, Kind, Sweep, World, header};
use vshmem_words::Words;

/// Why a queue operation did not do what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MsgError {
    /// The queue is full and the sender does not wait (EAGAIN), or its time-out passed.
    Again,
    /// No message matches and the receiver does not wait (ENOMSG).
    NoMessage,
    /// A signal handler ran (EINTR).
    Interrupted,
    /// The message is longer than the buffer and may not be cut (E2BIG).
    TooBig,
    /// The queue was removed (EIDRM).
    Removed,
    /// The control word is not the one the attachment was checked under, or the mapping is shorter than the queue: ask the daemon, map
    /// again and repeat.
    Stale,
    /// The arena has no room for a message that the limits allow: ask the back-end for an extent of so many bytes, then repeat.
    NeedExtent(usize),
    /// The queue's memory is rubbish (EIDRM, and a log line).
    Corrupt(Corrupt),
    /// The lock is held and this caller does not wait for it.
    LockBusy,
}

impl From<Corrupt> for MsgError {
    fn from(corrupt: Corrupt) -> Self {
        MsgError::Corrupt(corrupt)
    }
}

/// How to receive: msgrcv(2)'s flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReceiveFlags {
    /// `IPC_NOWAIT`: do not wait.
    pub nowait: bool,
    /// `MSG_NOERROR`: cut a message that is too long.
    pub noerror: bool,
    /// `MSG_EXCEPT`: any type but the given one, if that is positive.
    pub except: bool,
    /// `MSG_COPY`: copy the message at the given position (from 0) and leave it where it is.
    pub copy: bool,
}

/// What was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// The message's type.
    pub mtype: i64,
    /// Bytes written into the buffer.
    pub len: usize,
}

/// The queue's numbers, as msgctl(2)'s IPC_STAT gives them. Read without the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueStat {
    /// Messages in the queue.
    pub qnum: u64,
    /// Bytes of text in the queue.
    pub cbytes: u64,
    /// Most bytes (and most messages) it may hold.
    pub qbytes: u64,
    /// Time of the last send.
    pub stime: u64,
    /// Time of the last receive.
    pub rtime: u64,
    /// Time of creation or of the last change.
    pub ctime: u64,
    /// Domain and pid of the last sender.
    pub lspid: (u16, u32),
    /// Domain and pid of the last receiver.
    pub lrpid: (u16, u32),
}

/// A queue in construct memory. Cheap to make, one per operation.
#[derive(Debug)]
pub struct Queue<'a, W: Words> {
    words: &'a W,
}

impl<'a, W: Words> Queue<'a, W> {
    /// Bytes of a new queue.
    pub const BYTES: usize = 8192;

    /// How many bytes the back-end should append when a message of `wanted` bytes does not fit.
    pub const fn extent_bytes(wanted: usize) -> usize {
        (wanted + 4096).div_ceil(4096) * 4096
    }

    /// Formats zeroed memory as an empty queue (back-end only). The caller stores the control word afterwards.
    pub fn format(words: &'a W, qbytes: u64) {
        header::format(words, Kind::Msg);
        let _ = qbytes;
    }

    /// Checks magic and version. For attaching; operations use [`Queue::at`].
    pub fn open(words: &'a W) -> Result<Self, Corrupt> {
        header::check(words, Kind::Msg)?;
        Ok(Queue { words })
    }

    /// A queue that was opened before.
    #[inline(always)]
    pub fn at(words: &'a W) -> Self {
        Queue { words }
    }

    /// msgsnd(2). The caller has checked the type, the permission and MSGMAX; `control` is the control word it checked them under.
    pub fn send(
        &self,
        world: &impl World,
        control: Control,
        mtype: i64,
        text: &[u8],
        nowait: bool,
    ) -> Result<(), MsgError> {
        let _ = (world, control, mtype, text, nowait);
        Err(MsgError::Again)
    }

    /// msgrcv(2) into `into`. The caller has checked the flags and the permission; `control` is the control word it checked them under.
    pub fn receive(
        &self,
        world: &impl World,
        control: Control,
        into: &mut [u8],
        msgtyp: i64,
        flags: ReceiveFlags,
    ) -> Result<Received, MsgError> {
        let _ = (world, control, into, msgtyp, flags);
        Err(MsgError::NoMessage)
    }

    /// The queue's numbers. A hostile peer may have written any of them.
    pub fn stat(&self) -> QueueStat {
        QueueStat::default()
    }

    /// Changes the limit and lets senders that fit now go on (back-end only).
    pub fn set_qbytes(&self, world: &impl World, qbytes: u64) -> Result<(), MsgError> {
        let _ = (world, qbytes);
        Ok(())
    }

    /// Sets the time of change (back-end only).
    pub fn set_ctime(&self, seconds: u64) {
        let _ = seconds;
    }

    /// The construct now reaches `len` bytes (back-end only; the control word that says so is stored afterwards, by the caller). Never blocks:
    /// the next user of the queue that needs room takes the extent in.
    pub fn grown(&self, world: &impl World, len: usize) {
        let _ = (world, len);
    }

    /// Wakes everybody who sleeps in the queue (back-end only). The control word already says removed; never blocks.
    pub fn remove(&self, world: &impl World) {
        let _ = world;
    }

    /// Cleans up after a dead client (back-end only): takes over its lock and rebuilds the queue, drops its slots, frees its blocks, and wakes
    /// again whoever was granted something. May be repeated at any point.
    pub fn sweep(&self, world: &impl World, dead: u32) -> Result<Sweep, Corrupt> {
        let _ = (world, dead);
        Ok(Sweep::Done)
    }
}
