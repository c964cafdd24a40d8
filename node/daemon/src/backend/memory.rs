//! Construct memory as the back-end itself maps it: sets and queues, a bounded number at a time, the least recently used given up first.
#![allow(unsafe_code)] // Promising how long a mapping stays mapped.

use super::stores::Stores;
use std::collections::BTreeMap;
use std::io;
use vshmem_port::store::{Mapped, Serial};
use vshmem_wire::Extent;
use vshmem_words::Mapping;

/// Most constructs that are mapped at a time.
const MOST: usize = 256;

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
    clock: u64,
}

impl Mappings {
    /// The memory of a construct, mapped as far as `extents` reach. Valid until the next call.
    pub(super) fn get(
        &mut self,
        stores: &mut Stores,
        (group, serial): (u16, u64),
        extents: &[Extent],
    ) -> io::Result<&Mapping> {
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
                let oldest = self.entries.iter().min_by_key(|(_, e)| e.used).map(|(s, _)| *s);
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
        entry.used = self.clock;
        Ok(&entry.mapping)
    }

    /// Gives a construct's mapping up.
    pub(super) fn drop_one(&mut self, stores: &mut Stores, serial: u64) {
        if let Some(entry) = self.entries.remove(&serial)
            && let Err(e) = stores.of_mut(entry.group).unmap(entry.mapped)
        {
            tracing::error!(serial, "a construct cannot be unmapped: {e}");
        }
    }
}
