//! The calls of Linux's Xen devices: `/dev/xen/gntdev` (map what another domain grants), `gntalloc` (grant a page of one's own) and `evtchn` (events).
//!
//! Not for what the pages hold. The kernel's interface is fixed (`include/uapi/xen/`); sizes and numbers are pinned below.
#![allow(unsafe_code)] // ioctl takes a number and an address.

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::io;
use std::path::Path;

/// A Xen domain's number.
pub type DomId = u16;

const MAP_GRANT_REF: libc::c_ulong = number(24, b'G', 0);
const ALLOC_GREF: libc::c_ulong = number(24, b'G', 5);
const BIND_INTERDOMAIN: libc::c_ulong = number(8, b'E', 1);
const BIND_UNBOUND_PORT: libc::c_ulong = number(4, b'E', 2);
const UNBIND: libc::c_ulong = number(4, b'E', 3);
/// What rings.
pub(crate) const NOTIFY: libc::c_ulong = number(4, b'E', 4);

/// `GNTALLOC_FLAG_WRITABLE`.
const WRITABLE: u16 = 1;

/// `_IOC(_IOC_NONE, group, number, bytes)`.
const fn number(bytes: u32, group: u8, number: u8) -> libc::c_ulong {
    (bytes << 16 | (group as u32) << 8 | number as u32) as libc::c_ulong
}

/// Calls a device with an argument that lies in `words`.
fn call(device: BorrowedFd<'_>, what: libc::c_ulong, words: &mut [u32]) -> io::Result<u32> {
    // SAFETY: every number above names a structure that is no longer than what its caller passes here (asserted by `words` of that length or, for a list
    // whose length stands in it, as long as it says); the kernel writes within it.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), what, words.as_mut_ptr()) };
    u32::try_from(done).map_err(|_| io::Error::last_os_error())
}

/// Opens a device, for writing or not.
///
/// # Errors
/// The kernel's.
pub fn open(path: &Path, writable: bool) -> io::Result<OwnedFd> {
    let mode = if writable { OFlags::RDWR } else { OFlags::RDONLY };
    Ok(rustix::fs::open(path, mode | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens a device of events that never makes its reader wait.
///
/// # Errors
/// The kernel's.
pub fn open_waiting_for_nothing(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Has gntdev prepare the mapping of pages that `from` grants this domain: they can then be mapped, once, at the offset that is returned. Whether the
/// references are any good shows at mmap.
///
/// # Errors
/// The kernel's.
pub fn map_references(gntdev: impl AsFd, from: DomId, references: &[u32]) -> io::Result<u64> {
    let count = u32::try_from(references.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut words = vec![count, 0, 0, 0];
    words.extend(
        references
            .iter()
            .flat_map(|&reference| [u32::from(from), reference]),
    );
    // The structure has room for one in any case.
    words.resize(words.len().max(6), 0);
    call(gntdev.as_fd(), MAP_GRANT_REF, &mut words)?;
    Ok(u64::from(words[2]) | u64::from(words[3]) << 32)
}

/// Grants `to` fresh, zeroed pages of this domain; gives the offset at which they are mapped and their references. They go with the descriptor.
///
/// # Errors
/// The kernel's: ENOSPC where the module's `limit` is reached.
pub fn grant_pages(gntalloc: impl AsFd, to: DomId, pages: u32) -> io::Result<(u64, Vec<u32>)> {
    let mut words = vec![u32::from(to) | u32::from(WRITABLE) << 16, pages, 0, 0];
    words.resize(4 + (pages as usize).max(2), 0);
    call(gntalloc.as_fd(), ALLOC_GREF, &mut words)?;
    let at = u64::from(words[2]) | u64::from(words[3]) << 32;
    Ok((at, words[4..4 + pages as usize].to_vec()))
}

/// Makes an event channel that `with` may bind to; gives this side's port.
///
/// # Errors
/// The kernel's.
pub fn offer_events(evtchn: impl AsFd, with: DomId) -> io::Result<u32> {
    call(evtchn.as_fd(), BIND_UNBOUND_PORT, &mut [u32::from(with)])
}

/// Binds to an event channel that `with` offers as `port`; gives this side's port. One event comes at once, for nothing.
///
/// # Errors
/// The kernel's.
pub fn bind_events(evtchn: impl AsFd, with: DomId, port: u32) -> io::Result<u32> {
    call(evtchn.as_fd(), BIND_INTERDOMAIN, &mut [u32::from(with), port])
}

/// Sends an event by a port of this side.
///
/// # Errors
/// The kernel's.
pub fn send_event(evtchn: impl AsFd, port: u32) -> io::Result<()> {
    call(evtchn.as_fd(), NOTIFY, &mut [port]).map(drop)
}

/// Ends an event channel by its port of this side.
///
/// # Errors
/// The kernel's.
pub fn end_events(evtchn: impl AsFd, port: u32) -> io::Result<()> {
    call(evtchn.as_fd(), UNBIND, &mut [port]).map(drop)
}

/// Takes the events that have come, and lets further ones come.
///
/// # Errors
/// The kernel's; AGAIN if none has come.
pub fn take_events(evtchn: impl AsFd) -> io::Result<()> {
    let mut ports = [0; 64];
    let read = rustix::io::read(&evtchn, &mut ports)?;
    if read == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    rustix::io::write(&evtchn, &ports[..read])?;
    Ok(())
}

/// Lets events come by these ports of this side.
///
/// # Errors
/// The kernel's.
pub fn let_come(evtchn: impl AsFd, ports: &[u32]) -> io::Result<()> {
    let bytes: Vec<u8> = ports.iter().flat_map(|port| port.to_ne_bytes()).collect();
    rustix::io::write(&evtchn, &bytes)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_kernels() {
        // As the kernel's headers make them.
        assert_eq!(
            [
                MAP_GRANT_REF,
                ALLOC_GREF,
                BIND_INTERDOMAIN,
                BIND_UNBOUND_PORT,
                UNBIND,
                NOTIFY
            ],
            [
                0x0018_4700,
                0x0018_4705,
                0x0008_4501,
                0x0004_4502,
                0x0004_4503,
                0x0004_4504
            ]
        );
    }

    #[test]
    fn what_is_no_device_of_xen_says_so() {
        let null = open(Path::new("/dev/null"), true).unwrap();
        assert!(map_references(&null, 0, &[8, 9]).is_err());
        assert!(grant_pages(&null, 1, 2).is_err());
        assert!(offer_events(&null, 1).is_err() && send_event(&null, 1).is_err());
    }
}
