//! V-msgq: get, send, receive.

use crate::errno::{Errno, Result};
use crate::runtime::Runtime;
use vshmem_wire::Request;

pub use vshmem_ipc::msgq::Received;

impl Runtime {
    /// msgget(2).
    pub fn msgget(&self, key: i32, flags: i32) -> Result<i32> {
        self.ask_id(&Request::MsgGet { key, flags })
    }

    /// msgsnd(2): `flags` is 0 or IPC_NOWAIT.
    pub fn msgsnd(&self, id: i32, mtype: i64, text: &[u8], flags: i32) -> Result<()> {
        let _ = (id, mtype, text, flags);
        Err(Errno::ENOSYS)
    }

    /// msgrcv(2) into `into`: the type and the length of what came.
    pub fn msgrcv(&self, id: i32, into: &mut [u8], msgtyp: i64, flags: i32) -> Result<Received> {
        let _ = (id, into, msgtyp, flags);
        Err(Errno::ENOSYS)
    }
}
