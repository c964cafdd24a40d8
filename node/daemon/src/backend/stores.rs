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

/// In which store a construct is: its group's, or that of its huge pages.
pub(super) type Home = (u16, u8);

/// Before the names of what a store has the keeper hold.
pub(super) fn prefix((group, huge): Home) -> String {
    match huge {
        0 => format!("memory/{group}/"),
        huge => format!("huge/{huge}/"),
    }
}

/// The stores.
pub(super) struct Stores {
    /// By the groups' numbers; there is one at least.
    groups: Vec<Box<dyn Store>>,
    /// By the sizes of huge pages.
    huge: BTreeMap<u8, Box<dyn Store>>,
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
        let ahead = config.grants.ahead();
        let places = &config.places;
        let config = config.registry_group();
        let mut stores = Stores {
            groups: Vec::new(),
            huge: BTreeMap::new(),
            files: 0,
            most_files: most_files(),
        };
        for (group, name) in (0..).zip(config.names()) {
            stores.groups.push(match config.store_of(group) {
                Shape::Pool { bytes } if granted && group == 0 => {
                    let prefix = prefix((group, 0));
                    let record = kept.keys().find(|name| name.starts_with(&prefix)).cloned();
                    let record = record.and_then(|name| kept.remove(&name));
                    vshmem_port_select::grant_store(bytes, ahead, record)
                        .with_context(|| format!("memory of group {name} in grants"))?
                }
                Shape::Pool { bytes } => {
                    let node = places.get(&group).and_then(|place| place.numa_node);
                    vshmem_port_select::pool_store(bytes, node)
                        .with_context(|| format!("making the pool of group {name}"))?
                }
                Shape::PerConstruct => vshmem_port_select::file_store(),
            });
            stores.adopt((group, 0), kept)?;
        }
        for &huge in &config.huge {
            let store = vshmem_port_select::huge_page_store(huge);
            stores.huge.insert(huge, store);
            stores.adopt((0, huge), kept)?;
        }
        Ok(stores)
    }

    /// Takes over what the keeper held of a store.
    fn adopt(&mut self, home: Home, kept: &mut BTreeMap<String, OwnedFd>) -> anyhow::Result<()> {
        let prefix = prefix(home);
        let names: Vec<String> = kept.keys().filter(|n| n.starts_with(&prefix)).cloned().collect();
        for name in names {
            if let Some(fd) = kept.remove(&name) {
                let adopted = self.home_mut(home).adopt(&name[prefix.len()..], fd);
                adopted.with_context(|| format!("taking {name} over"))?;
                self.files += 1;
            }
        }
        Ok(())
    }

    /// How many constructs may have a file each.
    pub(super) fn most_files(&self) -> u64 {
        self.most_files
    }

    /// Makes an extent of a construct exist. What the keeper must hold from now on, if anything.
    pub(super) fn provide(
        &mut self,
        home: Home,
        (kind, serial): (Kind, Serial),
        extent: Extent,
    ) -> io::Result<Option<(String, BorrowedFd<'_>)>> {
        let known = self.home(home).keep_of(serial).is_some();
        if !known && self.files >= self.most_files && self.home(home).reach() == Reach::PerConstruct {
            let why = format!(
                "{} constructs have a file each, and that is as many as this daemon's limit of open files allows: \
                 raise it (LimitNOFILE= of the service, or ulimit -n) and start the daemon anew, or use memory = \"pool\"",
                self.files
            );
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, why));
        }
        self.home_mut(home).provide((kind, serial), extent)?;
        if known {
            return Ok(None);
        }
        self.files += u64::from(self.home(home).keep_of(serial).is_some());
        let prefix = prefix(home);
        let kept = self.home(home).keep_of(serial);
        Ok(kept.map(|(name, fd)| (format!("{prefix}{name}"), fd)))
    }

    /// Gives extents of a construct back. The name of what the keeper need not hold any more, if anything.
    pub(super) fn release(
        &mut self,
        home: Home,
        serial: Serial,
        extents: &[Extent],
    ) -> io::Result<Option<String>> {
        let kept = self.home(home).keep_of(serial).map(|(name, _)| name);
        self.home_mut(home).release(serial, extents)?;
        let gone = kept.filter(|_| self.home(home).keep_of(serial).is_none());
        self.files -= u64::from(gone.is_some()).min(self.files);
        Ok(gone.map(|name| format!("{}{name}", prefix(home))))
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

    /// A second has passed.
    pub(super) fn second(&mut self) {
        self.groups.iter_mut().for_each(|store| store.second());
    }

    /// The back-end stops for good.
    pub(super) fn retire(&mut self) {
        self.groups.iter_mut().for_each(|store| store.retire());
    }

    /// Where a construct's memory is.
    pub(super) fn home(&self, (group, huge): Home) -> &dyn Store {
        match self.huge.get(&huge) {
            Some(store) => store.as_ref(),
            None => self.of(group),
        }
    }

    /// The same, to change it.
    pub(super) fn home_mut(&mut self, (group, huge): Home) -> &mut dyn Store {
        let place = self.place(group);
        match self.huge.get_mut(&huge) {
            Some(store) => store.as_mut(),
            None => self.groups[place].as_mut(),
        }
    }

    /// The stores by the groups' numbers.
    pub(super) fn all(&self) -> impl Iterator<Item = (u16, &dyn Store)> {
        (0..).zip(self.groups.iter().map(Box::as_ref))
    }

    /// What the keeper must hold, by name.
    pub(super) fn keep(&self) -> impl Iterator<Item = (String, BorrowedFd<'_>)> {
        let groups = self.all().map(|(group, store)| ((group, 0), store));
        let huge = self.huge.iter().map(|(&huge, store)| ((0, huge), store.as_ref()));
        groups.chain(huge).flat_map(|(home, store)| {
            let (prefix, kept) = (prefix(home), store.keep().into_iter());
            kept.map(move |(name, fd)| (format!("{prefix}{name}"), fd))
        })
    }
}
