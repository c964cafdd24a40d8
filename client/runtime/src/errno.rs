//! Linux's error numbers, as the System V calls give them.
//!
//! Not for words: what only people need goes to the log.

use std::fmt;
use vshmem_wire::Failure;

/// An error number of Linux.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

/// What a System V call gives.
pub type Result<T> = core::result::Result<T, Errno>;

macro_rules! numbers {
    ($($name:ident)*) => {
        impl Errno {
            $(#[doc = concat!("`", stringify!($name), "`")] pub const $name: Errno = Errno(libc::$name);)*

            /// The symbolic name, where System V IPC knows it.
            pub fn name(self) -> Option<&'static str> {
                match self { $(Errno::$name => Some(stringify!($name)),)* _ => None }
            }
        }
    };
}

numbers! {
    E2BIG EACCES EAGAIN EEXIST EFAULT EFBIG EIDRM EINTR EINVAL EIO EMFILE ENFILE ENODEV ENOENT ENOMEM ENOMSG ENOSPC ENOSYS
    EPERM EPROTO ERANGE ETIMEDOUT EOPNOTSUPP
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl std::error::Error for Errno {}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Failure {
        Failure::errno(errno.0)
    }
}

impl From<&Failure> for Errno {
    fn from(failure: &Failure) -> Errno {
        Errno(failure.errno)
    }
}

impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Errno {
        Errno(errno.raw_os_error())
    }
}
