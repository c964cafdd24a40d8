//! The pool's header, read through a device: which group's memory this is, if it is one at all.
#![allow(unsafe_code)] // Maps a page of a device and loads words from it.

use crate::device::Device;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use vshmem_wire::pool::{HEADER_BYTES, NoHeader, PoolHeader};

const PAGE: usize = 4096;

/// Which pool a device shows; the error says what it holds instead.
pub(crate) fn look(device: &Device) -> Result<PoolHeader, String> {
    let memory = device.open(false).map_err(|why| format!("{why:#}"))?;
    let bytes = header(memory.as_fd()).map_err(|errno| format!("its memory cannot be mapped: {errno}"))?;
    PoolHeader::read(&bytes).map_err(|why| match why {
        NoHeader::Empty => "it is empty: no back-end has shown this memory to a guest".to_owned(),
        NoHeader::Foreign => "it holds another program's data".to_owned(),
        NoHeader::Version(version) => {
            format!("it is a pool of layout {version}, of another version of Vshmem")
        }
    })
}

/// The first bytes of `memory`, read once.
fn header(memory: BorrowedFd<'_>) -> Result<[u8; HEADER_BYTES], Errno> {
    const { assert!(HEADER_BYTES <= PAGE && HEADER_BYTES.is_multiple_of(8)) };
    let mut bytes = [0; HEADER_BYTES];
    // SAFETY: a new mapping at an address of the kernel's choice, which nobody else knows, ended below. The loads are volatile, aligned and within its one page;
    // whatever they find is a value, since others may write there at any time.
    unsafe {
        let base = rustix::mm::mmap(
            std::ptr::null_mut(),
            PAGE,
            ProtFlags::READ,
            MapFlags::SHARED,
            memory,
            0,
        )?;
        let words = base.cast::<u64>();
        for (index, piece) in bytes.chunks_exact_mut(8).enumerate() {
            piece.copy_from_slice(&words.add(index).read_volatile().to_ne_bytes());
        }
        rustix::mm::munmap(base, PAGE)?;
    }
    Ok(bytes)
}
