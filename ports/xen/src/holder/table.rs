//! A grant table of version 1, as the hypervisor reads it: entries of eight bytes, `flags`, `domain`, `frame`.
//!
//! | step | what is done | who sees what |
//! |---|---|---|
//! | grant | frame and domain are stored, then flags by a release | the hypervisor lets that domain map the page from here on |
//! | revoke | the type is cleared from flags, atomically; what says "in use" stays | no new mapping; a domain that has it mapped keeps that |
//! | settle | flags are 0: the hypervisor cleared "in use" with the last unmapping | the entry, and the page, may be used again |
//!
//! Not for who is granted what: [`super::references`].
#![allow(unsafe_code)] // Memory at an address, shared with the hypervisor.

use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

/// `GTF_permit_access`, and the bits of the type.
const PERMIT: u16 = 1;
const TYPE: u16 = 3;
/// `GTF_readonly`.
const READ_ONLY: u16 = 4;
/// Entries that the toolstack has for itself.
pub(crate) const RESERVED: u32 = 8;

#[repr(C)]
struct Entry {
    flags: AtomicU16,
    domain: AtomicU16,
    frame: AtomicU32,
}
const _: () = assert!(size_of::<Entry>() == 8);

/// What an entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) domain: u16,
    pub(crate) frame: u32,
    /// The domain may map it from now on, too.
    pub(crate) permits: bool,
    pub(crate) writable: bool,
}

/// The table.
#[derive(Debug)]
pub(crate) struct Table {
    entries: &'static [Entry],
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x}", self.flags.load(Ordering::Relaxed))
    }
}

impl Table {
    /// The table of `pages` pages at `base`.
    ///
    /// # Safety
    /// They stay mapped for ever, page aligned, for reading and writing.
    pub(crate) unsafe fn at(base: *mut u8, pages: usize) -> Self {
        // SAFETY: promised by the caller; entries are atomics, which others may change at any time.
        let entries =
            unsafe { std::slice::from_raw_parts(base.cast::<Entry>(), pages * 4096 / size_of::<Entry>()) };
        Table { entries }
    }

    /// A table that no hypervisor reads.
    #[cfg(test)]
    pub(crate) fn of_test(pages: usize) -> Self {
        let memory: &'static mut [u64] = Box::leak(vec![0u64; pages * 512].into_boxed_slice());
        // SAFETY: leaked, so it stays; eight bytes aligned, which is what entries need.
        unsafe { Self::at(memory.as_mut_ptr().cast(), pages) }
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> u32 {
        self.entries.len() as u32
    }

    /// Lets `domain` map `frame`. The entry must be free.
    pub(crate) fn grant(&self, reference: u32, domain: u16, frame: u32, writable: bool) {
        let entry = &self.entries[reference as usize];
        entry.frame.store(frame, Ordering::Relaxed);
        entry.domain.store(domain, Ordering::Relaxed);
        let flags = PERMIT | if writable { 0 } else { READ_ONLY };
        // Release: pairs with the hypervisor's reading flags before frame and domain.
        entry.flags.store(flags, Ordering::Release);
    }

    /// No new mapping from now on. Whether the entry is free already.
    pub(crate) fn revoke(&self, reference: u32) -> bool {
        let entry = &self.entries[reference as usize];
        entry.flags.fetch_and(!(TYPE | READ_ONLY), Ordering::AcqRel);
        self.is_free(reference)
    }

    /// Whether nobody has it mapped and nobody may.
    pub(crate) fn is_free(&self, reference: u32) -> bool {
        // Acquire: pairs with the hypervisor's clearing the last bit after the unmapping.
        self.entries[reference as usize].flags.load(Ordering::Acquire) == 0
    }

    /// What an entry says; None if it is free.
    pub(crate) fn said(&self, reference: u32) -> Option<Said> {
        let entry = &self.entries[reference as usize];
        let flags = entry.flags.load(Ordering::Acquire);
        (flags != 0).then(|| Said {
            domain: entry.domain.load(Ordering::Relaxed),
            frame: entry.frame.load(Ordering::Relaxed),
            permits: flags & TYPE == PERMIT,
            writable: flags & READ_ONLY == 0,
        })
    }

    /// What the hypervisor does when the entry is mapped, and when it is unmapped.
    #[cfg(test)]
    pub(crate) fn use_it(&self, reference: u32, used: bool) {
        let flags = &self.entries[reference as usize].flags;
        if used {
            flags.fetch_or(24, Ordering::AcqRel);
        } else {
            flags.fetch_and(!24, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_in_use_is_revoked_and_free_when_it_is_unmapped() {
        let table = Table::of_test(1);
        table.grant(9, 5, 0x1234, true);
        table.use_it(9, true);
        assert!(!table.revoke(9));
        assert!(!table.said(9).unwrap().permits);
        table.use_it(9, false);
        assert!(table.is_free(9) && table.said(9).is_none());
        table.grant(9, 6, 7, false);
        let said = table.said(9).unwrap();
        assert!(said.permits && !said.writable && said.domain == 6 && said.frame == 7);
        assert!(table.revoke(9));
    }
}
