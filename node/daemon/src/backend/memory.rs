//! Construct memory as the back-end itself maps it: sets and queues.
//!
//! What lies in a group's pool in one piece is reached through the mapping of the whole pool. The rest is mapped by itself, a bounded number at a time, the least
//! recently used given up first.
#![allow(unsafe_code)] // Promising how long a mapping stays mapped.

use super::stores::Stores;
use std::collections::BTreeMap;
use std::io;
use vshmem_port::store::{Mapped, Serial};
use vshmem_wire::Extent;
use vshmem_words::{Mapping, Words};

/// Most constructs that are mapped at a time: half of what Linux allows a process by default.
const MOST: usize = 1 << 15;

/// One construct's memory.
#[derive(Debug)]
struct Entry {
    group: u16,
    mapped: Mapped,
    mapping: Mapping,
    used: u64,
}

/// The mappings.
#[derive(Debug, Default)]
pub(super) struct Mappings {
    entries: BTreeMap<u64, Entry>,
    /// Serial numbers by when they were last used.
    by_use: BTreeMap<u64, u64>,
    clock: u64,
    /// The part of the pool that was asked for last.
    window: Option<Mapping>,
}

impl Mappings {
    /// The memory of a construct, mapped as far as `extents` reach. Valid until the next call.
    pub(super) fn get(
        &mut self,
        stores: &mut Stores,
        pool: Option<&Mapping>,
        (group, serial): (u16, u64),
        extents: &[Extent],
    ) -> io::Result<&Mapping> {
        if let (Some(pool), [extent]) = (pool, extents)
            && let Some(window) = window(pool, *extent)
        {
            return Ok(self.window.insert(window));
        }
        self.clock += 1;
        let wanted = extents.iter().fold(0u64, |sum, e| sum.saturating_add(e.bytes)) as usize;
        if self
            .entries
            .get(&serial)
            .is_some_and(|e| e.mapped.bytes != wanted)
        {
            self.drop_one(stores, serial);
        }
        if !self.entries.contains_key(&serial) {
            if self.entries.len() >= MOST {
                let oldest = self.by_use.first_key_value().map(|(_, s)| *s);
                oldest.into_iter().for_each(|s| self.drop_one(stores, s));
            }
            let mapped = stores.of_mut(group).map(Serial(serial), extents, 0)?;
            // SAFETY: `mapped` stays mapped until `drop_one`, which also drops the Mapping; borrows of it end before that call. No reference
            // into the memory is made anywhere.
            let mapping = unsafe { Mapping::new(mapped.base, mapped.bytes) };
            let used = self.clock;
            self.entries.insert(
                serial,
                Entry {
                    group,
                    mapped,
                    mapping,
                    used,
                },
            );
        }
        let entry = self.entries.get_mut(&serial).ok_or(io::ErrorKind::NotFound)?;
        self.by_use.remove(&entry.used);
        self.by_use.insert(self.clock, serial);
        entry.used = self.clock;
        Ok(&entry.mapping)
    }

    /// Gives a construct's mapping up.
    pub(super) fn drop_one(&mut self, stores: &mut Stores, serial: u64) {
        let Some(entry) = self.entries.remove(&serial) else {
            return;
        };
        self.by_use.remove(&entry.used);
        if let Err(e) = stores.of_mut(entry.group).unmap(entry.mapped) {
            tracing::error!(serial, "a construct cannot be unmapped: {e}");
        }
    }
}

/// An extent's part of the whole pool.
fn window(pool: &Mapping, extent: Extent) -> Option<Mapping> {
    let (at, bytes) = (
        usize::try_from(extent.offset).ok()?,
        usize::try_from(extent.bytes).ok()?,
    );
    let end = at.checked_add(bytes)?;
    if end > pool.len() || !at.is_multiple_of(4096) {
        return None;
    }
    // SAFETY: inside the mapping of the pool, which is never unmapped, and page-aligned as that is. No reference into the memory is made anywhere.
    Some(unsafe { Mapping::new(pool.base().wrapping_add(at), bytes) })
}
