//! Making, sealing, punching and reopening the files that construct memory lives in.
//!
//! A memfd is born with mode 0777, and a descriptor opened read-only can be reopened for writing through /proc by whoever passes the
//! file's mode: so each is made 0600 before anybody else can see it.

use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags};
use std::io;
use vshmem_port::store::PAGE;
use vshmem_wire::Extent;

/// `MFD_HUGE_SHIFT`.
const HUGE_SHIFT: u32 = 26;

/// A new empty memfd that only its owner's uid may reopen.
pub(crate) fn create(name: &str) -> io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR)?;
    Ok(file)
}

/// The same of huge pages: of two to the power of `huge` bytes each. 0: of ordinary pages.
pub(crate) fn create_of(name: &str, huge: u8) -> io::Result<OwnedFd> {
    if huge == 0 {
        return create(name);
    }
    let size = MemfdFlags::from_bits_retain(u32::from(huge) << HUGE_SHIFT);
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB | size;
    let file = rustix::fs::memfd_create(name, flags)?;
    rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR)?;
    Ok(file)
}

/// Makes the file `bytes` long, sparse.
pub(crate) fn resize(file: BorrowedFd<'_>, bytes: u64) -> io::Result<()> {
    Ok(rustix::fs::ftruncate(file, bytes)?)
}

/// Forbids what `seals` says, for everybody and for good. Sealing twice is fine.
pub(crate) fn seal(file: BorrowedFd<'_>, seals: SealFlags) -> io::Result<()> {
    let have = rustix::fs::fcntl_get_seals(file)?;
    if have.contains(seals) {
        return Ok(());
    }
    Ok(rustix::fs::fcntl_add_seals(file, seals)?)
}

/// How long the file is.
pub(crate) fn length(file: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(rustix::fs::fstat(file)?.st_size as u64)
}

/// Zeroes the extent and gives its pages back to the kernel. Whoever has it mapped, guests included, reads zeros from now on.
pub(crate) fn punch(file: BorrowedFd<'_>, extent: Extent) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(rustix::fs::fallocate(file, flags, extent.offset, extent.bytes)?)
}

/// Zeroes the extent by storing: its pages stay.
pub(crate) fn zero(file: BorrowedFd<'_>, extent: Extent) -> io::Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let (mut at, end) = (extent.offset, extent.offset + extent.bytes);
    while at < end {
        let most = (end - at).min(ZEROS.len() as u64) as usize;
        match rustix::io::pwrite(file, &ZEROS[..most], at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => at += written as u64,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Takes memory for the extent now, so that touching it later cannot fail.
pub(crate) fn fill(file: BorrowedFd<'_>, extent: Extent) -> io::Result<()> {
    Ok(rustix::fs::fallocate(
        file,
        FallocateFlags::KEEP_SIZE,
        extent.offset,
        extent.bytes,
    )?)
}

/// A descriptor for somebody else: the same file, open for writing or only for reading.
pub(crate) fn hand_out(file: BorrowedFd<'_>, writable: bool) -> io::Result<OwnedFd> {
    if writable {
        return file.try_clone_to_owned();
    }
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// An extent made of whole pages that ends within `limit` bytes, or EINVAL.
pub(crate) fn check(extent: Extent, limit: u64) -> io::Result<u64> {
    let end = extent.offset.checked_add(extent.bytes).filter(|&end| {
        end <= limit && extent.bytes > 0 && (extent.offset | extent.bytes).is_multiple_of(PAGE)
    });
    end.ok_or_else(|| {
        let what = format!(
            "extent {}+{} does not fit {limit} bytes in whole pages",
            extent.offset, extent.bytes
        );
        io::Error::new(io::ErrorKind::InvalidInput, what)
    })
}
