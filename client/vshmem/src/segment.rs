//! An attached V-shm segment.
//!
//! The memory is shared with processes that may write it at any time, so no plain reference to its bytes is ever given out: only atomics
//! ([`Segment::view`], [`Segment::slice`]), cells that load and store ([`Segment::cells`]), and copies.
#![allow(unsafe_code)] // Attached memory is a raw address; this file turns it into views that are sound.

use crate::Error;
use crate::views::{Cells, Plain, Shareable};
use std::ffi::c_void;
use vshmem_runtime::Runtime;
use vshmem_runtime::wire::Kind;

/// An attached segment. Dropping it detaches; the segment itself lives until it is removed ([`Segment::remove`]).
#[derive(Debug)]
pub struct Segment {
    id: i32,
    base: *mut u8,
    bytes: usize,
}

// SAFETY: the attachment belongs to the process, not to a thread, and is only read and written through atomics and copies.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

impl Segment {
    /// Attaches the segment `id`: shmat(2) with a NULL address.
    ///
    /// # Errors
    /// Those of shmat(2).
    pub fn attach(id: i32) -> Result<Segment, Error> {
        // SAFETY: without an address and without SHM_REMAP nothing that exists is replaced.
        let base = unsafe { Runtime::global().shmat(id, std::ptr::null(), 0) }?;
        let bytes = Runtime::global().attached_bytes(base).unwrap_or(0);
        Ok(Segment {
            id,
            base: base.cast(),
            bytes,
        })
    }

    /// Its id, as shmget(2) gives it.
    pub fn id(&self) -> i32 {
        self.id
    }

    /// Its size in bytes, as asked for at creation.
    pub fn size(&self) -> usize {
        self.bytes
    }

    /// Marks it to be freed when the last process has detached: IPC_RMID.
    ///
    /// # Errors
    /// Those of shmctl(2).
    pub fn remove(&self) -> Result<(), Error> {
        Ok(Runtime::global().remove(Kind::Shm, self.id)?)
    }

    /// One atomic (or array of atomics) at byte `offset`.
    ///
    /// # Errors
    /// [`Error::BadView`] if it does not fit or `offset` is not a multiple of its alignment.
    pub fn view<T: Shareable>(&self, offset: usize) -> Result<&T, Error> {
        let place = self.place::<T>(offset, 1)?;
        // SAFETY: in range and aligned (checked), mapped as long as `self` lives; `Shareable` types are valid whatever their bytes are and are
        // only changed through interior mutability by atomic instructions.
        Ok(unsafe { &*place.cast::<T>() })
    }

    /// `count` atomics from byte `offset`.
    ///
    /// # Errors
    /// As for [`Segment::view`].
    pub fn slice<T: Shareable>(&self, offset: usize, count: usize) -> Result<&[T], Error> {
        let place = self.place::<T>(offset, count)?;
        // SAFETY: as in `view`.
        Ok(unsafe { std::slice::from_raw_parts(place.cast::<T>(), count) })
    }

    /// `count` numbers from byte `offset`, to be loaded and stored one at a time (relaxed atomics of their width: on common
    /// processors as fast as plain loads and stores).
    ///
    /// # Errors
    /// As for [`Segment::view`].
    pub fn cells<T: Plain>(&self, offset: usize, count: usize) -> Result<Cells<'_, T>, Error> {
        Ok(Cells::new(self.slice::<T::Atomic>(offset, count)?))
    }

    /// Copies bytes out.
    ///
    /// # Errors
    /// [`Error::BadView`] if they reach beyond the segment.
    pub fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), Error> {
        let from = self.slice::<std::sync::atomic::AtomicU8>(offset, into.len())?;
        for (byte, cell) in into.iter_mut().zip(from) {
            *byte = cell.load(std::sync::atomic::Ordering::Relaxed);
        }
        Ok(())
    }

    /// Copies bytes in.
    ///
    /// # Errors
    /// [`Error::BadView`] if they reach beyond the segment.
    pub fn write(&self, offset: usize, from: &[u8]) -> Result<(), Error> {
        let to = self.slice::<std::sync::atomic::AtomicU8>(offset, from.len())?;
        for (byte, cell) in from.iter().zip(to) {
            cell.store(*byte, std::sync::atomic::Ordering::Relaxed);
        }
        Ok(())
    }

    /// The attachment as memory for algorithms. To be dropped before the segment.
    pub(crate) fn words(&self) -> vshmem_words::Mapping {
        // SAFETY: attachments are page-aligned and `bytes` long; who calls this within this crate keeps the segment for longer, and only
        // views of atomics are ever made of it.
        unsafe { vshmem_words::Mapping::new(self.base, self.bytes) }
    }

    fn place<T>(&self, offset: usize, count: usize) -> Result<*mut u8, Error> {
        let bytes = size_of::<T>().checked_mul(count).ok_or(Error::BadView)?;
        let end = offset.checked_add(bytes).ok_or(Error::BadView)?;
        if end > self.bytes || !offset.is_multiple_of(align_of::<T>()) {
            return Err(Error::BadView);
        }
        // SAFETY: `offset <= bytes`, within the attachment.
        Ok(unsafe { self.base.add(offset) })
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: every view borrows `self`, so none is left.
        let _ = unsafe { Runtime::global().shmdt(self.base.cast::<c_void>()) };
    }
}
