//! How long the region behind `/dev/mmapper` is, found without touching it.
//!
//! The driver does not tell. Reading beyond the end would, but 6.1 takes a file of whole pages for one page longer than it is, and reading that
//! page is a bus error in the guest's kernel. So lengths are tried by mapping: longer than the region gives EFAULT, and nothing is touched.
#![allow(unsafe_code)] // Maps memory, to find out whether that is allowed.

use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

const PAGE: u64 = 4096;
/// A UML kernel addresses far less.
const MOST: u64 = 1 << 40;

/// Bytes that `device` lets map, a multiple of the page size: 0 if nothing.
pub(crate) fn mappable(device: BorrowedFd<'_>) -> Result<u64, Errno> {
    longest(|bytes| {
        let bytes = usize::try_from(bytes).map_err(|_| Errno::INVAL)?;
        // SAFETY: a new mapping at an address of the kernel's choice, not touched, and ended at once.
        unsafe {
            let base = match rustix::mm::mmap(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ,
                MapFlags::SHARED,
                device,
                0,
            ) {
                Ok(base) => base,
                Err(Errno::FAULT | Errno::INVAL | Errno::NOMEM | Errno::AGAIN) => return Ok(false),
                Err(other) => return Err(other),
            };
            rustix::mm::munmap(base, bytes)?;
        }
        Ok(true)
    })
}

/// The largest multiple of the page size up to which `fits` says yes: doubling, then halving.
fn longest(fits: impl Fn(u64) -> Result<bool, Errno>) -> Result<u64, Errno> {
    let (mut good, mut bad) = (0, PAGE);
    while bad <= MOST && fits(bad)? {
        (good, bad) = (bad, bad * 2);
    }
    while bad - good > PAGE {
        let middle = good + (bad - good) / 2 / PAGE * PAGE;
        *(if fits(middle)? { &mut good } else { &mut bad }) = middle;
    }
    Ok(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_length_is_found() {
        for pages in [0, 1, 2, 3, 4, 5, 255, 256, 257, 100_000] {
            let found = longest(|bytes| Ok(bytes <= pages * PAGE)).unwrap();
            assert_eq!(found, pages * PAGE);
        }
        assert_eq!(longest(|_| Err(Errno::PERM)), Err(Errno::PERM));
        assert!(longest(|_| Ok(true)).unwrap() >= MOST);
    }
}
