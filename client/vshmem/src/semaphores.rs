//! A V-sem set.

use crate::Error;
use std::time::Duration;
use vshmem_runtime::sysv::{IPC_NOWAIT, SEM_UNDO};
use vshmem_runtime::wire::Kind;
use vshmem_runtime::{Runtime, SemBuf};

/// A set of semaphores. It lives until it is removed ([`SemaphoreSet::remove`]); dropping this value does nothing to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SemaphoreSet {
    id: i32,
}

/// One operation of [`SemaphoreSet::operate`]: semop(2)'s `struct sembuf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    sembuf: SemBuf,
}

impl Operation {
    /// Adds `by` (positive: V; negative: P, waits while the value is too small; 0: waits for zero) to semaphore `number`.
    pub fn new(number: u16, by: i16) -> Operation {
        Operation {
            sembuf: SemBuf {
                num: number,
                op: by,
                flags: 0,
            },
        }
    }
    /// Undo it when the process ends, however it ends: SEM_UNDO.
    pub fn undo(mut self) -> Operation {
        self.sembuf.flags |= SEM_UNDO;
        self
    }
    /// Fail instead of waiting: IPC_NOWAIT.
    pub fn no_wait(mut self) -> Operation {
        self.sembuf.flags |= IPC_NOWAIT;
        self
    }
}

impl SemaphoreSet {
    /// The set with this id.
    pub fn from_id(id: i32) -> SemaphoreSet {
        SemaphoreSet { id }
    }

    /// Its id, as semget(2) gives it.
    pub fn id(&self) -> i32 {
        self.id
    }

    /// Performs all operations at once or none: semop(2).
    ///
    /// # Errors
    /// Those of semop(2): [`Error::WouldBlock`], [`Error::Removed`], [`Error::Interrupted`], [`Error::Range`], …
    pub fn operate(&self, operations: &[Operation]) -> Result<(), Error> {
        self.operate_within(operations, None)
    }

    /// As [`SemaphoreSet::operate`], waiting no longer than `timeout`: semtimedop(2).
    ///
    /// # Errors
    /// As for [`SemaphoreSet::operate`]; [`Error::WouldBlock`] when the time is over.
    pub fn operate_within(&self, operations: &[Operation], timeout: Option<Duration>) -> Result<(), Error> {
        const SHORT: usize = 16;
        let runtime = Runtime::global();
        if operations.len() <= SHORT {
            let mut room = [SemBuf::default(); SHORT];
            for (to, from) in room.iter_mut().zip(operations) {
                *to = from.sembuf;
            }
            return Ok(runtime.semop(self.id, &room[..operations.len()], timeout)?);
        }
        let all: Vec<SemBuf> = operations.iter().map(|o| o.sembuf).collect();
        Ok(runtime.semop(self.id, &all, timeout)?)
    }

    /// V: adds 1.
    ///
    /// # Errors
    /// As for [`SemaphoreSet::operate`].
    #[inline]
    pub fn post(&self, number: u16) -> Result<(), Error> {
        self.operate(&[Operation::new(number, 1)])
    }

    /// P: waits until the value is at least 1 and takes 1.
    ///
    /// # Errors
    /// As for [`SemaphoreSet::operate`].
    #[inline]
    pub fn wait(&self, number: u16) -> Result<(), Error> {
        self.operate(&[Operation::new(number, -1)])
    }

    /// Takes 1 and gives it back when the guard is dropped, or when the process ends, however it ends (SEM_UNDO). It is this process's: a forked child holds
    /// nothing, and gives nothing back.
    ///
    /// # Errors
    /// As for [`SemaphoreSet::operate`].
    pub fn hold(&self, number: u16) -> Result<Held, Error> {
        self.operate(&[Operation::new(number, -1).undo()])?;
        Ok(Held {
            set: *self,
            number,
            process: std::process::id(),
        })
    }

    /// GETVAL.
    ///
    /// # Errors
    /// Those of semctl(2).
    pub fn value(&self, number: u16) -> Result<i32, Error> {
        Ok(Runtime::global().sem_value(self.id, number.into())?)
    }

    /// SETVAL. Forgets every process's pending undo of this semaphore, as the manual says.
    ///
    /// # Errors
    /// Those of semctl(2).
    pub fn set_value(&self, number: u16, value: u16) -> Result<(), Error> {
        Ok(Runtime::global().sem_set_value(self.id, number.into(), value.into())?)
    }

    /// How many processes wait for the value to grow: GETNCNT.
    ///
    /// # Errors
    /// Those of semctl(2).
    pub fn waiting(&self, number: u16) -> Result<i32, Error> {
        Ok(Runtime::global().sem_ncnt(self.id, number.into())?)
    }

    /// Removes the set; everybody waiting in it gets [`Error::Removed`].
    ///
    /// # Errors
    /// Those of semctl(2).
    pub fn remove(&self) -> Result<(), Error> {
        Ok(Runtime::global().remove(Kind::Sem, self.id)?)
    }
}

/// A semaphore taken with SEM_UNDO: given back on drop.
#[derive(Debug)]
pub struct Held {
    set: SemaphoreSet,
    number: u16,
    process: u32,
}

impl Drop for Held {
    fn drop(&mut self) {
        // A forked child has a copy of this value, and not what it stands for.
        if self.process != std::process::id() {
            return;
        }
        // The set may be removed meanwhile: then there is nothing to give back to.
        let _ = self.set.operate(&[Operation::new(self.number, 1).undo()]);
    }
}
