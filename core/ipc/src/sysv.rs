//! System V's limits, flags and small types, spelled as the man pages spell them.
//!
//! Not for the ABI structures of libc (`semid_ds` and so on): the edges convert.

/// No two sleeping operations differ in this flag alone: do not wait (semop(2), msgop(2)).
pub const IPC_NOWAIT: i16 = 0o4000;
/// Undo the operation when the process ends (semop(2)).
pub const SEM_UNDO: i16 = 0x1000;
/// Largest value of a semaphore.
pub const SEMVMX: u16 = 32767;
/// Most semaphores in a set.
pub const SEMMSL: u32 = 32000;
/// Most operations in one semop call.
pub const SEMOPM: usize = 500;
/// Largest adjustment kept for an undo.
pub const SEMAEM: i32 = 32767;
/// Largest message text unless the administrator says otherwise.
pub const MSGMAX: usize = 8192;
/// Bytes a new queue may hold unless the administrator says otherwise.
pub const MSGMNB: u64 = 16384;
/// Cut a message that is too long instead of failing (msgop(2)).
pub const MSG_NOERROR: u32 = 0o10000;
/// Any type but the given one (msgop(2)).
pub const MSG_EXCEPT: u32 = 0o20000;
/// Copy without removing (msgop(2)).
pub const MSG_COPY: u32 = 0o40000;

/// One operation of semop(2): `struct sembuf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct SemBuf {
    /// Which semaphore of the set.
    pub num: u16,
    /// What to add; 0 waits for zero.
    pub op: i16,
    /// `IPC_NOWAIT`, `SEM_UNDO`.
    pub flags: i16,
}
