//! What can go wrong, in domain words; the errno is kept for those who want it.

use vshmem_runtime::Errno;

/// Why an operation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No daemon answers (ENOSYS).
    #[error("no Vshmem daemon answers; start `vshmem serve` on the host or `vshmem join` in the guest")]
    NoDaemon,
    /// No construct has this key (ENOENT). An id that names none gives EINVAL, as [`Error::Os`].
    #[error("there is no such construct")]
    NotFound,
    /// The key is taken (EEXIST).
    #[error("a construct with this key exists already")]
    Exists,
    /// Permission bits or ownership forbid it (EACCES, EPERM).
    #[error("permission denied")]
    Denied,
    /// The construct was removed, or found corrupt (EIDRM).
    #[error("the construct was removed")]
    Removed,
    /// Not possible now without waiting, or the time-out passed (EAGAIN, ENOMSG).
    #[error("it would have to wait")]
    WouldBlock,
    /// A signal handler ran (EINTR).
    #[error("interrupted by a signal")]
    Interrupted,
    /// A limit or the pool is exhausted (ENOSPC, ENOMEM).
    #[error("no room: a limit or the pool is exhausted")]
    NoRoom,
    /// The message is longer than the buffer (E2BIG).
    #[error("the message is too long for the buffer")]
    TooBig,
    /// A semaphore's value or adjustment would leave its range (ERANGE).
    #[error("out of a semaphore's range")]
    Range,
    /// A view reaches beyond the segment, or is misaligned.
    #[error("the view does not fit the segment")]
    BadView,
    /// Anything else: the errno.
    #[error("{0}")]
    Os(Errno),
}

impl Error {
    /// The errno a C program would see, or the first of those that the variant stands for.
    pub fn errno(self) -> Errno {
        match self {
            Error::NoDaemon => Errno::ENOSYS,
            Error::NotFound => Errno::ENOENT,
            Error::Exists => Errno::EEXIST,
            Error::Denied => Errno::EACCES,
            Error::Removed => Errno::EIDRM,
            Error::WouldBlock => Errno::EAGAIN,
            Error::Interrupted => Errno::EINTR,
            Error::NoRoom => Errno::ENOSPC,
            Error::TooBig => Errno::E2BIG,
            Error::Range => Errno::ERANGE,
            Error::BadView => Errno::EINVAL,
            Error::Os(errno) => errno,
        }
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Error {
        match errno {
            Errno::ENOSYS => Error::NoDaemon,
            Errno::ENOENT => Error::NotFound,
            Errno::EEXIST => Error::Exists,
            Errno::EACCES | Errno::EPERM => Error::Denied,
            Errno::EIDRM => Error::Removed,
            Errno::EAGAIN | Errno::ENOMSG => Error::WouldBlock,
            Errno::EINTR => Error::Interrupted,
            Errno::ENOSPC | Errno::ENOMEM => Error::NoRoom,
            Errno::E2BIG => Error::TooBig,
            Errno::ERANGE => Error::Range,
            other => Error::Os(other),
        }
    }
}
