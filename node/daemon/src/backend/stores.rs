//! The stores of the daemon's groups, one each: a pool, a file per construct, or for the first one grants.
//!
//! A construct's group says where its memory is; nothing is ever looked for in two places.
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
use vshmem_registry::Store as Shape;
use vshmem_wire::{Extent, Kind};

/// Before the names of what a group's store has the keeper hold.
fn prefix(group: u16) -> String {
    format!("memory/{group}/")
}

/// The stores.
pub(super) struct Stores {
    /// By the groups' numbers; there is one at least.
    groups: Vec<Box<dyn Store>>,
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
        let granted = config.group.memory == Memory::Grants;
        let config = config.registry_group();
        let mut stores = Stores {
            groups: Vec::new(),
            files: 0,
            most_files: most_files(),
        };
        for (group, name) in (0..).zip(config.names()) {
            stores.groups.push(match config.store_of(group) {
                Shape::Pool { bytes } if granted && group == 0 => {
                    let prefix = prefix(group);
                    let record = kept.keys().find(|name| name.starts_with(&prefix)).cloned();
                    let record = record.and_then(|name| kept.remove(&name));
                    vshmem_port_select::grant_store(bytes, record)
                        .with_context(|| format!("memory of group {name} in grants"))?
                }
                Shape::Pool { bytes } => vshmem_port_select::pool_store(bytes)
                    .with_context(|| format!("making the pool of group {name}"))?,
                Shape::PerConstruct => vshmem_port_select::file_store(),
            });
            let prefix = prefix(group);
            let names: Vec<String> = kept.keys().filter(|n| n.starts_with(&prefix)).cloned().collect();
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

    /// Where a group's store stands: a number that is none's is the first's.
    fn place(&self, group: u16) -> usize {
        let place = usize::from(group);
        if place < self.groups.len() { place } else { 0 }
    }

    /// Where the memory of a group's constructs is.
    pub(super) fn of(&self, group: u16) -> &dyn Store {
        self.groups[self.place(group)].as_ref()
    }

    /// The same, to change it.
    pub(super) fn of_mut(&mut self, group: u16) -> &mut dyn Store {
        let place = self.place(group);
        self.groups[place].as_mut()
    }

    /// Tells all of them of a domain, by the name of its machine or, with none, as one of this machine.
    pub(super) fn introduce(&mut self, domain: u16, machine: Option<&str>) -> io::Result<()> {
        self.groups
            .iter_mut()
            .try_for_each(|store| store.introduce(domain, machine))
    }

    /// The back-end stops for good.
    pub(super) fn retire(&mut self) {
        self.groups.iter_mut().for_each(|store| store.retire());
    }

    /// The stores by the groups' numbers.
    pub(super) fn all(&self) -> impl Iterator<Item = (u16, &dyn Store)> {
        (0..).zip(self.groups.iter().map(Box::as_ref))
    }

    /// What the keeper must hold, by name.
    pub(super) fn keep(&self) -> impl Iterator<Item = (String, BorrowedFd<'_>)> {
        self.all().flat_map(|(group, store)| {
            let (prefix, kept) = (prefix(group), store.keep().into_iter());
            kept.map(move |(name, fd)| (format!("{prefix}{name}"), fd))
        })
    }
}
