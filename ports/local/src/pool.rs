//! One sparse file that holds every construct of a group, so that guests can be shown all of it at once.
//!
//! The file's size is fixed and sealed when it is made; memory is used only where constructs lie. It never shrinks, so nobody who maps it can
//! be hurt by SIGBUS. A domain that maps the pool for writing can write all of it, free pages included: [`Store::provide`] zeroes again whatever
//! lies where a construct is about to be.

use crate::{file, room};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::SealFlags;
use std::io;
use vshmem_port::store::{Domain, Mapped, PAGE, Reach, Serial, Store};
use vshmem_wire::{Extent, Kind, Window};

/// The pool's name in /proc and towards the keeper.
pub const NAME: &str = "vshmem-pool";

/// Memory of a pool-backed group: see the module.
#[derive(Debug)]
pub struct PoolStore {
    file: OwnedFd,
    bytes: u64,
}

impl PoolStore {
    /// Makes an empty pool of `bytes` bytes, rounded up to whole pages. Memory is used when constructs are.
    pub fn new(bytes: u64) -> io::Result<Self> {
        let bytes = bytes.max(1).checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
        let file = file::create(NAME)?;
        file::resize(file.as_fd(), bytes)?;
        let store = PoolStore { file, bytes };
        store.seal()?;
        Ok(store)
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The pool's file, for whoever starts a guest that is to see it.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn seal(&self) -> io::Result<()> {
        file::seal(
            self.file.as_fd(),
            SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
        )
    }
}

impl Store for PoolStore {
    fn reach(&self) -> Reach {
        Reach::Pool { bytes: self.bytes }
    }

    fn provide(&mut self, what: (Kind, Serial), extent: Extent) -> io::Result<()> {
        file::check(extent, self.bytes)?;
        file::punch(self.file.as_fd(), extent)?;
        if what.0 != Kind::Shm {
            // The back-end itself touches sets and queues: being out of memory must show here, not as a signal there.
            file::fill(self.file.as_fd(), extent)?;
        }
        Ok(())
    }

    fn descriptor(&self, _: Serial, writable: bool) -> io::Result<(OwnedFd, Window)> {
        Ok((file::hand_out(self.file.as_fd(), writable)?, Window::Direct))
    }

    fn admit(&mut self, _: Serial, _: Domain, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn revoke(&mut self, _: Serial, _: Domain) -> io::Result<bool> {
        // Who maps what of a pool is not to be seen from here.
        Ok(false)
    }

    fn release(&mut self, _: Serial, extents: &[Extent]) -> io::Result<()> {
        for &extent in extents {
            file::check(extent, self.bytes)?;
            file::punch(self.file.as_fd(), extent)?;
        }
        Ok(())
    }

    fn map(&mut self, _: Serial, extents: &[Extent], free: u64) -> io::Result<Mapped> {
        room::map(self.file.as_fd(), self.bytes, extents, free)
    }

    fn extend(&mut self, _: Serial, mapped: &mut Mapped, extent: Extent) -> io::Result<()> {
        room::extend(self.file.as_fd(), self.bytes, mapped, extent)
    }

    fn unmap(&mut self, mapped: Mapped) -> io::Result<()> {
        room::unmap(mapped)
    }

    fn keep(&self) -> Vec<(String, BorrowedFd<'_>)> {
        vec![(NAME.to_owned(), self.file.as_fd())]
    }

    fn adopt(&mut self, name: &str, descriptor: OwnedFd) -> io::Result<()> {
        if name != NAME {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{name} is no pool"),
            ));
        }
        self.bytes = file::length(descriptor.as_fd())?;
        self.file = descriptor;
        self.seal()
    }
}
