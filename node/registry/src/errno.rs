//! Linux's error numbers, as far as the registry gives them (the same on x86-64 and aarch64).
//!
//! Not for meaning: which call gives which is told where it is given.

pub(crate) const EPERM: i32 = 1;
pub(crate) const ERANGE: i32 = 34;
pub(crate) const ENOENT: i32 = 2;
pub(crate) const EAGAIN: i32 = 11;
pub(crate) const ENOMEM: i32 = 12;
pub(crate) const EACCES: i32 = 13;
pub(crate) const EEXIST: i32 = 17;
pub(crate) const EINVAL: i32 = 22;
pub(crate) const ENOSPC: i32 = 28;
pub(crate) const ENOSYS: i32 = 38;
pub(crate) const EIDRM: i32 = 43;
pub(crate) const ESTALE: i32 = 116;
