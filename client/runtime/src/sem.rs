//! V-sem: get, operate, values.

use crate::errno::{Errno, Result};
use crate::runtime::Runtime;
use std::time::Duration;
use vshmem_ipc::sysv::SemBuf;
use vshmem_wire::Request;

impl Runtime {
    /// semget(2).
    pub fn semget(&self, key: i32, nsems: i32, flags: i32) -> Result<i32> {
        self.ask_id(&Request::SemGet { key, nsems, flags })
    }

    /// semop(2), or semtimedop(2) with a time-out.
    pub fn semop(&self, id: i32, operations: &[SemBuf], timeout: Option<Duration>) -> Result<()> {
        let _ = (id, operations, timeout);
        Err(Errno::ENOSYS)
    }

    /// GETVAL.
    pub fn sem_value(&self, id: i32, num: i32) -> Result<i32> {
        let _ = (id, num);
        Err(Errno::ENOSYS)
    }

    /// GETPID: the process that last changed the semaphore, 0 if it is in another domain.
    pub fn sem_pid(&self, id: i32, num: i32) -> Result<i32> {
        let _ = (id, num);
        Err(Errno::ENOSYS)
    }

    /// GETNCNT.
    pub fn sem_ncnt(&self, id: i32, num: i32) -> Result<i32> {
        let _ = (id, num);
        Err(Errno::ENOSYS)
    }

    /// GETZCNT.
    pub fn sem_zcnt(&self, id: i32, num: i32) -> Result<i32> {
        let _ = (id, num);
        Err(Errno::ENOSYS)
    }

    /// Number of semaphores in the set.
    pub fn sem_count(&self, id: i32) -> Result<u32> {
        let _ = id;
        Err(Errno::ENOSYS)
    }

    /// GETALL into `into`, which must be as long as the set.
    pub fn sem_values(&self, id: i32, into: &mut [u16]) -> Result<()> {
        let _ = (id, into);
        Err(Errno::ENOSYS)
    }

    /// SETVAL.
    pub fn sem_set_value(&self, id: i32, num: i32, value: i32) -> Result<()> {
        let _ = (id, num, value);
        Err(Errno::ENOSYS)
    }

    /// SETALL: as many values as the set has semaphores.
    pub fn sem_set_values(&self, id: i32, values: &[u16]) -> Result<()> {
        let _ = (id, values);
        Err(Errno::ENOSYS)
    }
}
