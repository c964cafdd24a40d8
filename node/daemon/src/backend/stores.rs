//! The stores of the daemon's groups: that of group 0, and one of a file per construct for all the others.
//!
//! A construct's group says where its memory is; nothing is ever looked for in both places.

use crate::config::{Config, Memory};
use anyhow::Context;
use rustix::fd::{BorrowedFd, OwnedFd};
use std::collections::BTreeMap;
use vshmem_port::store::Store;

/// Before the names that group 0's store gives.
const FIRST: &str = "memory/";
/// Before those of the others.
const FURTHER: &str = "groups/";

/// The stores.
pub(super) struct Stores {
    first: Box<dyn Store>,
    further: Box<dyn Store>,
}

impl Stores {
    /// Those of a former life, as far as the keeper held anything of them, else empty ones.
    pub(super) fn open(config: &Config, kept: &mut BTreeMap<String, OwnedFd>) -> anyhow::Result<Self> {
        let first = match config.group.memory {
            Memory::Pool => vshmem_port_select::pool_store(config.group.pool).context("making the pool")?,
            Memory::Memfd => vshmem_port_select::file_store(),
        };
        let further = vshmem_port_select::file_store();
        let mut stores = Stores { first, further };
        for (prefix, group) in [(FIRST, 0), (FURTHER, 1)] {
            let names: Vec<String> = kept.keys().filter(|n| n.starts_with(prefix)).cloned().collect();
            for name in names {
                if let Some(fd) = kept.remove(&name) {
                    let adopted = stores.of_mut(group).adopt(&name[prefix.len()..], fd);
                    adopted.with_context(|| format!("taking {name} over"))?;
                }
            }
        }
        Ok(stores)
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
