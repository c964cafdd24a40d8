//! Which group a construct, a key or a domain belongs to.
//!
//! Groups are numbered, 0 is the first; each has its memory. A key names one construct in each group; ids are one space, so that a client need not know of
//! groups. Not for who sees what within a group: see `permission` and `share`.

use crate::pool::Pool;
use crate::registry::Registry;
use crate::{GroupConfig, Store, Uids};

impl GroupConfig {
    /// Whether the domain of that name is in the group.
    pub fn is_in(&self, domain: &str, group: u16) -> bool {
        match self.memberships.get(domain) {
            Some(membership) => membership.groups.contains(&group),
            None => group == 0,
        }
    }

    /// The group in which the domain of that name looks for a key, and makes what it makes under it.
    pub fn route(&self, domain: &str, key: i32) -> u16 {
        let Some(membership) = self.memberships.get(domain) else {
            return 0;
        };
        let routed = membership
            .routes
            .iter()
            .find(|r| (r.first..=r.last).contains(&(key as u32)))
            .map(|r| r.group)
            .filter(|group| membership.groups.contains(group));
        routed.or(membership.groups.first().copied()).unwrap_or(0)
    }

    /// The group's name; that of the first for a number that is none's.
    pub fn name_of(&self, group: u16) -> &str {
        self.further(group).map_or(&self.name, |more| &more.name)
    }

    /// Whether uids count across domains in the group.
    pub(crate) fn uids_of(&self, group: u16) -> Uids {
        self.further(group).map_or(self.uids, |more| more.uids)
    }

    /// Where the group's memory comes from.
    pub fn store_of(&self, group: u16) -> Store {
        self.further(group).map_or(self.store, |more| more.store)
    }

    /// The groups that the domain of that name is in.
    pub fn groups_of(&self, domain: &str) -> &[u16] {
        self.memberships.get(domain).map_or(&[0], |m| m.groups.as_slice())
    }

    /// Names of all groups, by number.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str()).chain(self.more.iter().map(|more| more.name.as_str()))
    }

    fn further(&self, group: u16) -> Option<&crate::MoreGroup> {
        self.more.get(usize::from(group).checked_sub(1)?)
    }

    /// A further group that the domain of that name is in: one whose memory a guest cannot reach.
    pub(crate) fn out_of_reach(&self, domain: &str) -> Option<u16> {
        let membership = self.memberships.get(domain)?;
        let out = |group: &u16| *group != 0 && self.store_of(*group) == Store::PerConstruct;
        membership.groups.iter().copied().find(out)
    }
}

impl Registry {
    /// Where the memory of a group's constructs comes from, or of segments of huge pages.
    pub(crate) fn pages_of(&mut self, group: u16, huge: u8) -> &mut Pool {
        if huge != 0 {
            return &mut self.huge;
        }
        // A construct's group is one that there is; the first stands for none.
        let at = if self.pools.len() > usize::from(group) {
            usize::from(group)
        } else {
            0
        };
        &mut self.pools[at]
    }

    /// Whether the domain of that number is in the group.
    pub(crate) fn within(&self, domain: u16, group: u16) -> bool {
        self.domains
            .get(&domain)
            .is_some_and(|d| self.group.is_in(&d.name, group))
    }

    /// Whether the domain is a guest.
    pub(crate) fn has_a_kernel_of_its_own(&self, domain: u16) -> bool {
        self.domains.get(&domain).is_some_and(|d| d.space != 0)
    }

    /// The group in which a domain looks for a key.
    pub(crate) fn routed(&self, domain: u16, key: i32) -> u16 {
        self.domains
            .get(&domain)
            .map_or(0, |d| self.group.route(&d.name, key))
    }
}
