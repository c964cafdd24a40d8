//! Groups' pools in huge pages: those of which the configuration says so, those for which the start of a guest asked, and those that a former life had there.

use super::Backend;
use super::stores::prefix;
use anyhow::Context;
use vshmem_wire::{Failure, Reply, Verdict};

impl Backend {
    /// At a daemon's start, before anything is done to construct memory.
    ///
    /// # Errors
    /// If this is a first life and cannot do what the configuration says.
    pub(super) fn use_huge_pages_from_the_start(&mut self) -> anyhow::Result<()> {
        let names: Vec<String> = self.registry.group().names().map(str::to_owned).collect();
        for (group, name) in (0..).zip(names) {
            let place = self.config.places.get(&group);
            let asked = place.is_some_and(|place| place.hugepages);
            if !asked && self.stores.of(group).huge_pages().is_none() {
                continue;
            }
            let used = self
                .use_huge_pages(group)
                .with_context(|| format!("the memory of group {name} in huge pages"));
            match used {
                Err(e) if self.restarts > 0 => tracing::error!("{e:#}: it goes on in ordinary ones"),
                other => other?,
            }
        }
        Ok(())
    }

    fn use_huge_pages(&mut self, group: u16) -> std::io::Result<()> {
        let in_use = self.registry.extents_in_use(group);
        self.stores.of_mut(group).use_huge_pages(&in_use)
    }

    /// A guest is to be started, and its groups' pools are to lie in huge pages from now on.
    pub(super) fn put_into_huge_pages(&mut self, client: u32, domain: &str) -> Verdict {
        self.check_may_bring_in(client)?;
        for group in self.registry.group().groups_of(domain).to_vec() {
            if self.stores.of(group).huge_pages().is_some() {
                continue;
            }
            let before = self.kept_names(group);
            self.use_huge_pages(group)
                .map_err(|e| Failure::because(libc::EOPNOTSUPP, e.to_string()))?;
            self.keep_store();
            let after = self.kept_names(group);
            before
                .into_iter()
                .filter(|name| !after.contains(name))
                .for_each(|name| self.keeper.drop_kept(name));
            tracing::info!(group, "its pool lies in huge pages from now on");
        }
        Ok(Reply::Done)
    }

    /// The names under which the keeper holds a group's memory.
    fn kept_names(&self, group: u16) -> Vec<String> {
        let kept = self.stores.of(group).keep().into_iter();
        kept.map(|(name, _)| format!("{}{name}", prefix((group, 0))))
            .collect()
    }
}
