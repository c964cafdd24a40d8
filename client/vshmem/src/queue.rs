//! A V-msgq queue.

use crate::Error;
use vshmem_runtime::Runtime;
use vshmem_runtime::wire::request::Which;
use vshmem_runtime::wire::{Kind, StatBody};

/// A message queue. It lives until it is removed ([`Queue::remove`]); dropping this value does nothing to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    id: i32,
}

/// A received message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its type: at least 1.
    pub mtype: i64,
    /// Its text.
    pub text: Vec<u8>,
}

/// Which message to receive and how: msgop(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Receive {
    msgtyp: i64,
    flags: i32,
}

impl Receive {
    /// The first message whatever its type.
    pub fn any() -> Receive {
        Receive::default()
    }
    /// The first message of this type.
    pub fn of_type(mtype: i64) -> Receive {
        Receive {
            msgtyp: mtype,
            flags: 0,
        }
    }
    /// The first message of the lowest type that is at most this.
    pub fn up_to_type(mtype: i64) -> Receive {
        Receive {
            msgtyp: mtype.wrapping_neg(),
            flags: 0,
        }
    }
    /// The first message of any other type: MSG_EXCEPT.
    pub fn except_type(mtype: i64) -> Receive {
        Receive {
            msgtyp: mtype,
            flags: libc::MSG_EXCEPT,
        }
    }
    /// Fail instead of waiting: IPC_NOWAIT.
    pub fn no_wait(mut self) -> Receive {
        self.flags |= libc::IPC_NOWAIT;
        self
    }
    /// Cut a text that is too long: MSG_NOERROR.
    pub fn cut(mut self) -> Receive {
        self.flags |= libc::MSG_NOERROR;
        self
    }
}

/// What IPC_STAT tells of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueStatus {
    /// Messages in it.
    pub messages: u64,
    /// Bytes of text in it.
    pub bytes: u64,
    /// Most bytes it may hold.
    pub limit: u64,
}

impl Queue {
    /// The queue with this id.
    pub fn from_id(id: i32) -> Queue {
        Queue { id }
    }

    /// Its id, as msgget(2) gives it.
    pub fn id(&self) -> i32 {
        self.id
    }

    /// Sends a message, waiting while the queue is full: msgsnd(2).
    ///
    /// # Errors
    /// Those of msgsnd(2).
    pub fn send(&self, mtype: i64, text: &[u8]) -> Result<(), Error> {
        Ok(Runtime::global().msgsnd(self.id, mtype, text, 0)?)
    }

    /// Sends a message, or fails with [`Error::WouldBlock`] if the queue is full.
    ///
    /// # Errors
    /// Those of msgsnd(2).
    pub fn try_send(&self, mtype: i64, text: &[u8]) -> Result<(), Error> {
        Ok(Runtime::global().msgsnd(self.id, mtype, text, libc::IPC_NOWAIT)?)
    }

    /// Receives the first message of at most `most` bytes, waiting for one: msgrcv(2).
    ///
    /// # Errors
    /// Those of msgrcv(2); a longer message gives [`Error::TooBig`] and stays where it is. [`Error::NoRoom`] if there is no memory for so many bytes.
    pub fn receive(&self, most: usize) -> Result<Message, Error> {
        self.receive_with(most, Receive::any())
    }

    /// Receives a chosen message.
    ///
    /// # Errors
    /// As for [`Queue::receive`]; [`Error::WouldBlock`] with [`Receive::no_wait`].
    pub fn receive_with(&self, most: usize, which: Receive) -> Result<Message, Error> {
        let mut text = Vec::new();
        text.try_reserve_exact(most).map_err(|_| Error::NoRoom)?;
        text.resize(most, 0);
        let (mtype, length) = self.receive_into(&mut text, which)?;
        text.truncate(length);
        Ok(Message { mtype, text })
    }

    /// Receives into a buffer, without allocating: type and length.
    ///
    /// # Errors
    /// As for [`Queue::receive_with`].
    pub fn receive_into(&self, into: &mut [u8], which: Receive) -> Result<(i64, usize), Error> {
        let received = Runtime::global().msgrcv(self.id, into, which.msgtyp, which.flags)?;
        Ok((received.mtype, received.len))
    }

    /// IPC_STAT.
    ///
    /// # Errors
    /// Those of msgctl(2).
    pub fn status(&self) -> Result<QueueStatus, Error> {
        match Runtime::global().stat(Kind::Msg, Which::Id(self.id))?.body {
            StatBody::Msg {
                cbytes, qnum, qbytes, ..
            } => Ok(QueueStatus {
                messages: qnum,
                bytes: cbytes,
                limit: qbytes,
            }),
            _ => Err(Error::NotFound),
        }
    }

    /// Removes the queue; everybody waiting in it gets [`Error::Removed`].
    ///
    /// # Errors
    /// Those of msgctl(2).
    pub fn remove(&self) -> Result<(), Error> {
        Ok(Runtime::global().remove(Kind::Msg, self.id)?)
    }
}
