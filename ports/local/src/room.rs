//! Extents of a file, mapped one after another into reserved address room: how the back-end reaches constructs.
//!
//! The room behind the extents is reserved with an inaccessible mapping, so that a construct grows in place and nothing else of the
//! process ever lands there. Here is, too, what the kernel does to a file only through a mapping: huge pages, and the NUMA node.
#![allow(unsafe_code)] // Mapping memory over reserved addresses, and ending such mappings, cannot be said in safe code.

use crate::blocks::BLOCK;
use crate::file;
use rustix::fd::BorrowedFd;
use rustix::mm::{MapFlags, ProtFlags};
use std::io;
use std::os::fd::AsFd;
use vshmem_port::store::{Mapped, PAGE};
use vshmem_wire::Extent;

/// The most address room one construct may ask for: 64 TiB. A wrong number is refused here rather than by the kernel's mood.
const MOST: u64 = 1 << 46;

fn too_large() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::NOMEM.raw_os_error())
}

/// Maps `extents` one after another and keeps `room` bytes of address space behind them.
pub(crate) fn map(file: BorrowedFd<'_>, limit: u64, extents: &[Extent], room: u64) -> io::Result<Mapped> {
    let mut total = room.checked_next_multiple_of(PAGE).ok_or_else(too_large)?;
    for &extent in extents {
        file::check(extent, limit)?;
        total = total.checked_add(extent.bytes).ok_or_else(too_large)?;
    }
    if total == 0 || total > MOST {
        return Err(too_large());
    }
    // SAFETY: a new mapping at an address of the kernel's choice; nothing of ours lies there.
    let base = unsafe {
        rustix::mm::mmap_anonymous(
            std::ptr::null_mut(),
            total as usize,
            ProtFlags::empty(),
            MapFlags::PRIVATE | MapFlags::NORESERVE,
        )?
    };
    let mut mapped = Mapped {
        base: base.cast(),
        bytes: 0,
        room: total as usize,
    };
    for &extent in extents {
        if let Err(error) = extend(file, limit, &mut mapped, extent) {
            let _ = unmap(mapped);
            return Err(error);
        }
    }
    Ok(mapped)
}

/// Maps one more extent right behind those mapped, into the reserved room.
pub(crate) fn extend(
    file: BorrowedFd<'_>,
    limit: u64,
    mapped: &mut Mapped,
    extent: Extent,
) -> io::Result<()> {
    file::check(extent, limit)?;
    let bytes = usize::try_from(extent.bytes).map_err(|_| too_large())?;
    if bytes > mapped.room {
        return Err(too_large());
    }
    // SAFETY: `bytes + room` bytes from `base` are one reservation made by `map` (the only maker of `Mapped` here), and the part from `bytes` on, `room` long,
    // is still inaccessible: replacing it takes nothing from anybody.
    unsafe {
        rustix::mm::mmap(
            mapped.base.add(mapped.bytes).cast(),
            bytes,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED | MapFlags::FIXED,
            file,
            extent.offset,
        )?;
    }
    mapped.bytes += bytes;
    mapped.room -= bytes;
    Ok(())
}

/// Has the kernel set huge pages aside for a file's first `bytes` bytes: it does so when they are mapped, and they stay set aside for the file when that mapping
/// is gone. The error is that there are none left.
pub(crate) fn set_aside(file: BorrowedFd<'_>, bytes: u64) -> io::Result<()> {
    let bytes = usize::try_from(bytes).map_err(|_| too_large())?;
    // SAFETY: a new mapping at an address of the kernel's choice, which nobody is told and which is ended at once.
    unsafe {
        let at = rustix::mm::mmap(
            std::ptr::null_mut(),
            bytes,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
            file,
            0,
        )?;
        rustix::mm::munmap(at, bytes)?;
    }
    Ok(())
}

/// Ends a mapping, its room included.
pub(crate) fn unmap(mapped: Mapped) -> io::Result<()> {
    // SAFETY: base and length are those of one reservation made by `map`; the caller of `Store::unmap` promises not to use it any more.
    unsafe { rustix::mm::munmap(mapped.base.cast(), mapped.bytes + mapped.room)? };
    Ok(())
}

/// Maps an extent for a moment, at an address that lies in a huge page where the offset does.
fn with_window<T>(
    file: BorrowedFd<'_>,
    extent: Extent,
    act: impl FnOnce(*mut libc::c_void, usize) -> io::Result<T>,
) -> io::Result<T> {
    let bytes = usize::try_from(extent.bytes).map_err(|_| too_large())?;
    let room = bytes.checked_add(BLOCK as usize).ok_or_else(too_large)?;
    // SAFETY: a new reservation at an address of the kernel's choice, which nobody else is told; the extent is mapped within it, and all of it is ended below.
    unsafe {
        let none = ProtFlags::empty();
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        let base = rustix::mm::mmap_anonymous(std::ptr::null_mut(), room, none, flags)?;
        let over = (extent.offset as usize).wrapping_sub(base.addr()) % BLOCK as usize;
        let at = base.wrapping_byte_add(over);
        let both = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        let done = rustix::mm::mmap(at, bytes, both, flags, file, extent.offset)
            .map_err(io::Error::from)
            .and_then(|at| act(at, bytes));
        rustix::mm::munmap(base, room)?;
        done
    }
}

/// The answer of a system call that gives 0 when it worked.
fn check(answer: libc::c_long) -> io::Result<()> {
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `MADV_COLLAPSE`, since Linux 6.1.
const COLLAPSE: libc::c_int = 25;

/// Gathers whole blocks of a file, in each of which there is a page at least, into huge pages; what lies there stays. The error is that of one of the blocks.
pub(crate) fn gather(file: BorrowedFd<'_>, extent: Extent) -> io::Result<()> {
    with_window(file, extent, |at, bytes| {
        // SAFETY: changes where the pages of a mapping lie, not what they hold.
        check(unsafe { libc::madvise(at, bytes, COLLAPSE) }.into())
    })
}

const SIZE: &str = "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size";

/// Whether this kernel gathers any file's pages into huge pages; not whether it has memory for it just now.
///
/// # Errors
/// Why not, and what to do.
pub(crate) fn can_gather() -> io::Result<()> {
    let refusal = |why: String| Err(io::Error::new(io::ErrorKind::Unsupported, why));
    let size = std::fs::read_to_string(SIZE).unwrap_or_default();
    if let Ok(bytes) = size.trim().parse::<u64>()
        && bytes != BLOCK
    {
        return refusal(format!(
            "this kernel's huge pages have {} MiB, and a pool lies in such of {} MiB only: leave huge pages out",
            bytes >> 20,
            BLOCK >> 20
        ));
    }
    let whole = Extent {
        offset: 0,
        bytes: BLOCK,
    };
    let probe = file::create("vshmem-probe")?;
    file::resize(probe.as_fd(), BLOCK)?;
    file::fill(
        probe.as_fd(),
        Extent {
            offset: 0,
            bytes: 4096,
        },
    )?;
    match gather(probe.as_fd(), whole) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => refusal(
            "this kernel gathers no shared memory into huge pages: it must be Linux 6.1 or later with transparent huge pages, and \
             /sys/kernel/mm/transparent_hugepage/shmem_enabled must not say \"deny\"; or leave huge pages out"
                .to_owned(),
        ),
        _ => Ok(()),
    }
}

/// `MPOL_BIND`.
const BIND: libc::c_long = 2;
/// Most NUMA nodes that Linux can be built for.
const NODES: usize = 1024;

/// Has the pages of a file come from one NUMA node: those that are not there yet, whoever touches them, as long as the file lives.
pub(crate) fn bind(file: BorrowedFd<'_>, bytes: u64, node: u32) -> io::Result<()> {
    let unknown = || {
        let why = format!("this host has no NUMA node {node}: /sys/devices/system/node has those there are");
        io::Error::new(io::ErrorKind::InvalidInput, why)
    };
    let number = usize::try_from(node).ok().filter(|number| *number < NODES);
    let number = number.ok_or_else(unknown)?;
    let mut nodes = [0_u64; NODES / 64];
    nodes[number / 64] = 1 << (number % 64);
    with_window(file, Extent { offset: 0, bytes }, |at, bytes| {
        // SAFETY: reads a mask that lives as long as the call; says where pages of a mapping are to come from.
        let answer = unsafe {
            // The kernel takes one bit less than it is told.
            libc::syscall(libc::SYS_mbind, at, bytes, BIND, nodes.as_ptr(), NODES + 1, 0)
        };
        check(answer).map_err(|e| match e.raw_os_error() {
            Some(libc::EINVAL) => unknown(),
            _ => e,
        })
    })
}
