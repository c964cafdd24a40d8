//! The time page and the wait page: memfds that a daemon shares with its clients. Layout: `vshmem_wire::pages`.
//!
//! The time page reaches clients read-only. The wait page is writable for every client of the domain, hence hostile: it is read through
//! [`Words`] like construct memory.
#![allow(unsafe_code)] // Mapping memory, and promising that it stays mapped.

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};
use vshmem_wire::pages::{
    DOORS, DOORS_AT, ENTRY, LOW_IDS_AT, MSGMAX_AT, RESTARTS_AT, SECONDS_AT, SEMOPM_AT, TICKETS, door,
};
use vshmem_words::{Mapping, Ordering, Words};

/// Bytes of the time page.
const TIME_BYTES: usize = 4096;
/// Bytes of the wait page.
const WAIT_BYTES: usize = ENTRY * TICKETS as usize;

/// Memory of this process, mapped from a file for as long as the process lives.
///
/// # Errors
/// What mmap says.
pub(crate) fn map_for_ever(fd: impl AsFd, bytes: usize) -> io::Result<Mapping> {
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a fresh mapping at an address of the kernel's choosing.
    let base = unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, prot, MapFlags::SHARED, fd, 0)? };
    // SAFETY: page-aligned, `bytes` long, never unmapped, and no reference into it is ever made.
    Ok(unsafe { Mapping::new(base.cast(), bytes) })
}

/// A memfd that cannot be made smaller, mode 0600.
pub(crate) fn sealed_memfd(name: &str, bytes: u64) -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::fchmod(&fd, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::ftruncate(&fd, bytes)?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&fd, seals)?;
    Ok(fd)
}

/// The same file, opened again for reading only.
pub(crate) fn read_only(fd: &OwnedFd) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    Ok(rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// Seconds since the epoch.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}

/// Seconds since the epoch as time(2) tells them, which follows [`now`] by up to a tick: for times that programs compare with it.
pub(crate) fn as_programs_see_it() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    u64::try_from(time.tv_sec).unwrap_or(0)
}

/// The page that tells clients the time.
#[derive(Debug)]
pub(crate) struct TimePage {
    file: OwnedFd,
    reader: OwnedFd,
    words: Mapping,
}

impl TimePage {
    /// A new one.
    pub(crate) fn new() -> io::Result<Self> {
        Self::adopt(sealed_memfd("vshmem-time", TIME_BYTES as u64)?)
    }

    /// The one a former life of this daemon made.
    pub(crate) fn adopt(file: OwnedFd) -> io::Result<Self> {
        Ok(TimePage {
            reader: read_only(&file)?,
            words: map_for_ever(&file, TIME_BYTES)?,
            file,
        })
    }

    /// Writes the seconds.
    pub(crate) fn tick(&self, seconds: u64) {
        self.words.store64(SECONDS_AT, seconds, Ordering::Relaxed);
    }

    /// Writes the limits that clients keep themselves.
    pub(crate) fn set_limits(&self, msgmax: u32, semopm: u32) {
        self.words
            .store32(MSGMAX_AT, msgmax.saturating_add(1), Ordering::Relaxed);
        self.words
            .store32(SEMOPM_AT, semopm.saturating_add(1), Ordering::Relaxed);
    }

    /// Writes whether ids without [`vshmem_wire::ID_BIT`] have been asked for.
    pub(crate) fn set_low_ids(&self, low_ids: bool) {
        self.words
            .store32(LOW_IDS_AT, u32::from(low_ids), Ordering::Relaxed);
    }

    /// Writes all that a heartbeat tells.
    pub(crate) fn beat(&self, seconds: u64, msgmax: u32, semopm: u32, low_ids: bool) {
        self.tick(seconds);
        self.set_limits(msgmax, semopm);
        self.set_low_ids(low_ids);
    }

    /// Whether they have; a daemon that was restarted finds it here.
    pub(crate) fn low_ids(&self) -> bool {
        self.words.load32(LOW_IDS_AT, Ordering::Relaxed) != 0
    }

    /// Writes whom this domain's clients ring by which numbers: space, bell, number. What there is no room for is rung by the daemons.
    pub(crate) fn set_doors(&self, rows: &[(u16, u16, u32)]) {
        for place in 0..DOORS {
            let row = rows.get(place);
            let row = row.map_or(0, |&(space, bell, number)| door(space, bell, number));
            self.words.store64(DOORS_AT + 8 * place, row, Ordering::Release);
        }
    }

    /// The seconds last written.
    pub(crate) fn seconds(&self) -> u64 {
        self.words.load64(SECONDS_AT, Ordering::Relaxed)
    }

    /// Writes how often the daemon was restarted.
    pub(crate) fn set_restarts(&self, restarts: u32) {
        self.words.store32(RESTARTS_AT, restarts, Ordering::Relaxed);
    }

    /// For the keeper.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// For clients.
    pub(crate) fn reader(&self) -> io::Result<OwnedFd> {
        Ok(rustix::io::fcntl_dupfd_cloexec(&self.reader, 0)?)
    }
}

/// The page that clients of a guest sleep in.
#[derive(Debug)]
pub(crate) struct WaitPage {
    file: OwnedFd,
    /// Its words.
    pub(crate) words: Mapping,
}

impl WaitPage {
    /// A new one.
    pub(crate) fn new() -> io::Result<Self> {
        Self::adopt(sealed_memfd("vshmem-wait", WAIT_BYTES as u64)?)
    }

    /// The one a former life of this daemon made.
    pub(crate) fn adopt(file: OwnedFd) -> io::Result<Self> {
        Ok(WaitPage {
            words: map_for_ever(&file, WAIT_BYTES)?,
            file,
        })
    }

    /// For the keeper and for clients.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Wakes everybody who waits on the futex at `at`; nothing if it does not lie in the mapping.
pub(crate) fn wake_futex(mapping: &Mapping, at: usize) {
    if !at.is_multiple_of(4) || at.checked_add(4).is_none_or(|end| end > mapping.len()) {
        return;
    }
    // SAFETY: inside the mapping, which stays mapped as long as the value lives, and aligned; the kernel only uses the address.
    let word = unsafe { std::sync::atomic::AtomicU32::from_ptr(mapping.base().add(at).cast()) };
    let _ = rustix::thread::futex::wake(word, rustix::thread::futex::Flags::empty(), i32::MAX as u32);
}
