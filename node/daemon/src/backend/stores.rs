//! The stores of the daemon's groups: that of group 0, and one of a file per construct for all the others.
//!
//! A construct's group says where its memory is; nothing is ever looked for in both places.
//!
//! Files of constructs may take only a part of the descriptors that the daemon may have open, so that it can still take in connections when there
//! are as many constructs as it can have.

use crate::config::{Config, Memory};
use anyhow::Context;
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::process::Resource;
use std::collections::BTreeMap;
use std::io;
use vshmem_port::store::{Reach, Serial, Store};
use vshmem_wire::{Extent, Kind};

/// Before the names that group 0's store gives.
const FIRST: &str = "memory/";
/// Before those of the others.
const FURTHER: &str = "groups/";

/// Before the names of what a group's store has the keeper hold.
fn prefix(group: u16) -> &'static str {
    if group == 0 { FIRST } else { FURTHER }
}

/// The stores.
pub(super) struct Stores {
    first: Box<dyn Store>,
    further: Box<dyn Store>,
    /// Constructs with a file of their own, and how many there may be.
    files: u64,
    most_files: u64,
}

/// How many constructs may have a file each: three of four descriptors that this process may have, and at least 256 left for connections.
fn most_files() -> u64 {
    let all = rustix::process::getrlimit(Resource::Nofile)
        .current
        .unwrap_or(u64::MAX);
    (all - all / 4).min(all.saturating_sub(256))
}

impl Stores {
    /// Those of a former life, as far as the keeper held anything of them, else empty ones.
    pub(super) fn open(config: &Config, kept: &mut BTreeMap<String, OwnedFd>) -> anyhow::Result<Self> {
        let first = match config.group.memory {
            Memory::Pool => vshmem_port_select::pool_store(config.group.pool).context("making the pool")?,
            Memory::Memfd => vshmem_port_select::file_store(),
        };
        let further = vshmem_port_select::file_store();
        let mut stores = Stores {
            first,
            further,
            files: 0,
            most_files: most_files(),
        };
        for (prefix, group) in [(FIRST, 0), (FURTHER, 1)] {
            let names: Vec<String> = kept.keys().filter(|n| n.starts_with(prefix)).cloned().collect();
            for name in names {
                if let Some(fd) = kept.remove(&name) {
                    let adopted = stores.of_mut(group).adopt(&name[prefix.len()..], fd);
                    adopted.with_context(|| format!("taking {name} over"))?;
                    stores.files += 1;
                }
            }
        }
        Ok(stores)
    }

    /// How many constructs may have a file each.
    pub(super) fn most_files(&self) -> u64 {
        self.most_files
    }

    /// Makes an extent of a construct exist. What the keeper must hold from now on, if anything.
    pub(super) fn provide(
        &mut self,
        group: u16,
        (kind, serial): (Kind, Serial),
        extent: Extent,
    ) -> io::Result<Option<(String, BorrowedFd<'_>)>> {
        let known = self.of(group).keep_of(serial).is_some();
        if !known && self.files >= self.most_files && self.of(group).reach() == Reach::PerConstruct {
            let why = format!(
                "{} constructs have a file each, and that is as many as this daemon's limit of open files allows: \
                 raise it (LimitNOFILE= of the service, or ulimit -n) and start the daemon anew, or use memory = \"pool\"",
                self.files
            );
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, why));
        }
        self.of_mut(group).provide((kind, serial), extent)?;
        if known {
            return Ok(None);
        }
        self.files += u64::from(self.of(group).keep_of(serial).is_some());
        let prefix = prefix(group);
        let kept = self.of(group).keep_of(serial);
        Ok(kept.map(|(name, fd)| (format!("{prefix}{name}"), fd)))
    }

    /// Gives extents of a construct back. The name of what the keeper need not hold any more, if anything.
    pub(super) fn release(
        &mut self,
        group: u16,
        serial: Serial,
        extents: &[Extent],
    ) -> io::Result<Option<String>> {
        let kept = self.of(group).keep_of(serial).map(|(name, _)| name);
        self.of_mut(group).release(serial, extents)?;
        let gone = kept.filter(|_| self.of(group).keep_of(serial).is_none());
        self.files -= u64::from(gone.is_some()).min(self.files);
        Ok(gone.map(|name| format!("{}{name}", prefix(group))))
    }

    /// Where the memory of a group's constructs is.
    pub(super) fn of(&self, group: u16) -> &dyn Store {
        if group == 0 {
            self.first.as_ref()
        } else {
            self.further.as_ref()
        }
    }

    /// The same, to change it.
    pub(super) fn of_mut(&mut self, group: u16) -> &mut dyn Store {
        if group == 0 {
            self.first.as_mut()
        } else {
            self.further.as_mut()
        }
    }

    /// What the keeper must hold, by name.
    pub(super) fn keep(&self) -> impl Iterator<Item = (String, BorrowedFd<'_>)> {
        let stores = [(FIRST, &self.first), (FURTHER, &self.further)];
        stores.into_iter().flat_map(|(prefix, store)| {
            let kept = store.keep().into_iter();
            kept.map(move |(name, fd)| (format!("{prefix}{name}"), fd))
        })
    }
}
