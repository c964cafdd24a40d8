//! [`Runtime`]: the one of a process, and requests that are not about one kind of construct.

use crate::errno::{Errno, Result};
use crate::{attach, pages, process};
use rustix::fd::{BorrowedFd, OwnedFd};
use vshmem_wire::request::Welcome;
use vshmem_wire::{Failure, Info, Kind, Reply, Request, SLOTS, Setting, Stat};

pub use vshmem_wire::request::Which;

/// A process's side of Vshmem. There is one, made at first use; it connects when it is first needed.
#[derive(Debug)]
pub struct Runtime {
    _one: (),
}

static RUNTIME: Runtime = Runtime { _one: () };

impl Runtime {
    /// The process's runtime.
    pub fn global() -> &'static Runtime {
        &RUNTIME
    }

    /// A number that stands for this process as it is: another one in a child, however that was made, and after the process has become another client. One load.
    #[inline]
    pub fn epoch(&self) -> u64 {
        process::epoch()
    }

    /// Connects if that has not happened yet, and gives what the daemon said first. `ENOSYS` without a daemon.
    pub fn connect(&self) -> Result<Welcome> {
        let mut state = process::lock();
        state.identity()?;
        let connection = state.connected()?;
        connection
            .welcome()
            .map(|(welcome, _)| welcome.clone())
            .map_err(|_| Errno::ENOSYS)
    }

    /// Whether an id that does not look like Vshmem's is one all the same, since somebody asked for it (`shm_next_id` and its like).
    pub fn has_low_id(&self, kind: Kind, id: i32) -> bool {
        if process::never_used() && self.connect().is_err() || !pages::low_ids() {
            return false;
        }
        let index = id & (SLOTS as i32 - 1);
        self.stat(kind, Which::AnyIndex(index))
            .is_ok_and(|stat| stat.id == id)
    }

    /// The process's user or groups have changed: nothing that was checked before counts any more.
    pub fn identity_changed(&self) {
        if !process::never_used() {
            let mut state = process::lock();
            state.identity_changed();
        }
    }

    /// unshare(2) with CLONE_SYSVSEM: the calling thread begins a new list of what is to undo. Whoever leaves the former one last has it applied.
    pub fn leave_undo(&self) -> Result<()> {
        process::lock().leave_undo(true)
    }

    /// Makes a child that shares what is to undo (clone(2) with CLONE_SYSVSEM, without CLONE_VM): `make` gives 0 in the child, as fork does.
    pub fn fork_sharing(&self, make: impl FnOnce() -> isize) -> isize {
        process::fork_sharing(make)
    }

    /// In a child made by [`Runtime::fork_sharing`] that does not come back from `make`.
    pub fn forked_sharing(&self) {
        process::forked_sharing();
    }

    /// The number of this process's domain.
    pub fn domain(&self) -> Result<u16> {
        Ok(process::lock().identity()?.domain)
    }

    /// Everything that ended before this call has ended for Vshmem too when it returns: attachments, and what was to undo. A process that is no client
    /// does not ask. Waits for a restarted daemon no longer than a second.
    pub fn settle(&self) -> Result<()> {
        crate::settle::settle()
    }

    /// Asks the daemon anything.
    pub fn request(&self, request: &Request) -> core::result::Result<(Reply, Vec<OwnedFd>), Failure> {
        self.request_with(request, &[])
    }

    /// Asks the daemon anything, with descriptors beside the message.
    pub fn request_with(
        &self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> core::result::Result<(Reply, Vec<OwnedFd>), Failure> {
        process::lock().request(request, descriptors)
    }

    /// IPC_STAT and its like.
    pub fn stat(&self, kind: Kind, which: Which) -> Result<Stat> {
        match self.ask(&Request::Stat { kind, which })? {
            Reply::Stat(stat) if stat.body.kind() == kind => Ok(stat),
            _ => Err(Errno::EPROTO),
        }
    }

    /// IPC_SET. `qbytes` is for queues.
    pub fn set(&self, kind: Kind, id: i32, uid: u32, gid: u32, mode: u16, qbytes: Option<u64>) -> Result<()> {
        self.ask_done(&Request::Set {
            kind,
            id,
            uid,
            gid,
            mode,
            qbytes,
        })
    }

    /// IPC_RMID.
    pub fn remove(&self, kind: Kind, id: i32) -> Result<()> {
        self.ask_done(&Request::Remove { kind, id })?;
        if kind != Kind::Shm {
            attach::forget(kind, id);
        }
        Ok(())
    }

    /// IPC_INFO, SHM_INFO and its like.
    pub fn info(&self, kind: Kind) -> Result<Info> {
        match self.ask(&Request::Info { kind })? {
            Reply::Info(info) => Ok(info),
            _ => Err(Errno::EPROTO),
        }
    }

    /// Changes a limit, as a write below `/proc/sys/kernel` does.
    pub fn set_limit(&self, setting: Setting, values: Vec<u64>) -> Result<()> {
        self.ask_done(&Request::SetLimit { setting, values })
    }

    pub(crate) fn ask(&self, request: &Request) -> Result<Reply> {
        self.request(request)
            .map(|(reply, _)| reply)
            .map_err(|failure| (&failure).into())
    }

    pub(crate) fn ask_done(&self, request: &Request) -> Result<()> {
        match self.ask(request)? {
            Reply::Done => Ok(()),
            _ => Err(Errno::EPROTO),
        }
    }

    pub(crate) fn ask_id(&self, request: &Request) -> Result<i32> {
        match self.ask(request)? {
            Reply::Id(id) => Ok(id),
            _ => Err(Errno::EPROTO),
        }
    }
}
