//! V-msgq: System V message queues over construct memory.
//!
//! The truth is in the headers of blocks, each changed by one store; the order, the index of types and the free lists follow from them and are
//! made anew after a death, so there is no journal. Texts are copied once in and once out; long ones without the lock. Nothing here
//! makes a system call; whoever has to wait sleeps through [`World`].
//!
//! | module | what it holds |
//! |---|---|
//! | `layout` | where everything lies, and the tables of states |
//! | `view` | checked access, the queue while its lock is held |
//! | `arena`, `classes` | allocation |
//! | `list`, `index`, `message` | order, types, messages |
//! | `send`, `receive` | msgsnd(2), msgrcv(2) |
//! | `slots`, `wait` | who waits, and how |
//! | `recover` | after a death |
//! | `audit` | a check of the whole |
//!
//! Not here: who may do what, System V's checks of arguments (type below 1, MSGMAX, the flags that go with MSG_COPY), IPC_STAT's other fields. Nothing
//! misbehaves when they are left out.
//!
//! # Growth
//! A queue begins with [`Queue::BYTES`]. When its limits allow a message that its arena cannot take, [`MsgError::NeedExtent`] says so; the caller asks the
//! back-end, which appends [`Queue::extent_bytes`], and maps the extent. The next operation that runs out of room takes it in by itself:
//! it sees that more is mapped than the queue says it uses. Whoever has mapped less than the queue uses gets [`MsgError::Stale`].

mod arena;
mod audit;
mod classes;
mod index;
mod layout;
mod list;
mod message;
mod receive;
mod recover;
mod send;
mod slots;
mod view;
mod wait;

use crate::lock::{LockError, acquire};
use crate::{Corrupt, Kind, Me, World, header};
pub use layout::SHORT;
use layout::{FIRST_BLOCK, FIRST_SLOT, SLOTS, Tag, UNIT, Use, field};
use view::{Held, View};
use vshmem_words::{Foreign, Ordering, Words};

/// Why a queue operation did not do what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MsgError {
    /// The queue is full and the sender does not wait (EAGAIN), or its time-out passed.
    Again,
    /// No message matches and the receiver does not wait (ENOMSG), or its time-out passed.
    NoMessage,
    /// A signal handler ran (EINTR).
    Interrupted,
    /// The message is longer than the buffer and may not be cut (E2BIG).
    TooBig,
    /// The queue was removed (EIDRM).
    Removed,
    /// The control word is not the one the attachment was checked under, or less is mapped than the queue uses: ask the daemon, map again and
    /// repeat. A hostile peer can bring this about at will, so repeat a bounded number of times: when the daemon says that nothing changed and all is mapped,
    /// the queue is corrupt.
    Stale,
    /// The arena has no room for so many bytes, which the limits allow: pass the number to the back-end, which appends
    /// [`Queue::extent_bytes`] of it, map that and repeat. Also when there are more waiters than slots.
    NeedExtent(usize),
    /// The queue's memory is rubbish (EIDRM, and a log line).
    Corrupt(Corrupt),
    /// The lock is held and this caller does not wait for it.
    LockBusy,
    /// The program's memory is not there (EFAULT).
    Fault,
}

/// The text of a message to send.
#[derive(Debug, Clone, Copy)]
pub enum Text<'a> {
    /// Ours.
    Own(&'a [u8]),
    /// The program's, which may not be there.
    Foreign(Foreign),
}

impl Text<'_> {
    fn len(&self) -> usize {
        match self {
            Text::Own(text) => text.len(),
            Text::Foreign(text) => text.len(),
        }
    }
}

/// Room for the text of a message that comes.
#[derive(Debug)]
pub enum Room<'a> {
    /// Ours.
    Own(&'a mut [u8]),
    /// The program's, which may not be there; and some of ours, into which short texts are copied while the lock is held.
    Foreign(Foreign, &'a mut [u8; SHORT]),
}

impl Room<'_> {
    fn len(&self) -> usize {
        match self {
            Room::Own(room) => room.len(),
            Room::Foreign(room, _) => room.len(),
        }
    }
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

    /// How many bytes the back-end should append when `wanted` bytes do not fit: whole pages, with room for more of the same, so that a queue that
    /// fills up asks rarely.
    pub const fn extent_bytes(wanted: usize) -> usize {
        const PAGE: usize = 4096;
        const LEAST: usize = 16 * PAGE;
        const MOST: usize = 1 << 33;
        let wanted = if wanted < MOST { wanted } else { MOST };
        (wanted * 2 + LEAST).next_multiple_of(PAGE)
    }

    /// Formats zeroed memory as an empty queue (back-end only). The caller stores the control word afterwards.
    pub fn format(words: &'a W, qbytes: u64) {
        header::format(words, Kind::Msg);
        let end = view::mapped_units(words);
        words.store64(field::QBYTES, qbytes, Ordering::Relaxed);
        words.store32(field::END, end, Ordering::Relaxed);
        let nobody = u64::from(Me::NOWHERE) << 32;
        words.store64(field::LAST_SENDER, nobody, Ordering::Relaxed);
        words.store64(field::LAST_RECEIVER, nobody, Ordering::Relaxed);
        let view = View::new(words);
        let Some(size) = end.checked_sub(FIRST_BLOCK) else {
            return;
        };
        // Neither can fail in memory that nobody else has yet.
        let _ = view.unit(FIRST_BLOCK).and_then(|first| {
            view.set_tag(first, Tag::new(size, Use::Free, 0));
            view.set_size_before(end, size)?;
            view.enlist(first, size)
        });
        let _ = (FIRST_SLOT..FIRST_SLOT + SLOTS)
            .rev()
            .try_for_each(|raw| view.unit(raw).map(|unit| view.free_slot_again(unit)));
    }

    /// Checks magic and version. For attaching; operations use [`Queue::at`].
    ///
    /// # Errors
    /// [`Corrupt`] if it is not a queue of this version.
    pub fn open(words: &'a W) -> Result<Self, Corrupt> {
        header::check(words, Kind::Msg)?;
        Ok(Queue { words })
    }

    /// A queue that was opened before.
    #[inline(always)]
    pub fn at(words: &'a W) -> Self {
        Queue { words }
    }

    /// The queue's numbers. A hostile peer may have written any of them.
    pub fn stat(&self) -> QueueStat {
        let get64 = |at| self.words.load64(at, Ordering::Relaxed);
        let pid = |at| {
            let who = get64(at) as u32;
            ((who >> 22) as u16, who & 0x3f_ffff)
        };
        QueueStat {
            qnum: self.words.load32(field::QNUM, Ordering::Relaxed).into(),
            cbytes: get64(field::CBYTES),
            qbytes: get64(field::QBYTES),
            stime: get64(field::STIME),
            rtime: get64(field::RTIME),
            ctime: get64(field::CTIME),
            lspid: pid(field::LAST_SENDER),
            lrpid: pid(field::LAST_RECEIVER),
        }
    }

    /// Changes the limit and lets waiting senders go on that fit now (back-end only).
    ///
    /// # Errors
    /// [`MsgError::LockBusy`]: the limit is changed; call again to let the senders go on.
    pub fn set_qbytes(&self, world: &impl World, qbytes: u64) -> Result<(), MsgError> {
        self.words.store64(field::QBYTES, qbytes, Ordering::Relaxed);
        self.locked(world, |queue| {
            if !queue.covered()? {
                return Err(MsgError::Stale);
            }
            Ok(queue.admit()?)
        })
    }

    /// Sets the time of change (back-end only).
    pub fn set_ctime(&self, seconds: u64) {
        self.words.store64(field::CTIME, seconds, Ordering::Relaxed);
    }

    /// Takes the lock, does `work`, releases the lock and wakes those whom `work` noted, also when it failed.
    #[inline]
    fn locked<D: World, R>(
        &self,
        world: &D,
        work: impl FnOnce(&mut Held<'_, W, D>) -> Result<R, MsgError>,
    ) -> Result<R, MsgError> {
        let guard = acquire(self.words, world).map_err(|error| match error {
            LockError::Busy => MsgError::LockBusy,
            LockError::Corrupt(corrupt) => MsgError::Corrupt(corrupt),
        })?;
        let mut held = Held::new(self.words, world);
        let result = work(&mut held);
        drop(guard);
        held.ring();
        result
    }
}

const _: () = assert!(Queue::<vshmem_words::Heap>::BYTES >= (FIRST_BLOCK as usize + 64) * UNIT);
