//! What the administrator says of a group.
//!
//! Not for reading configuration files: that is the daemon's.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use vshmem_wire::Limits;

/// Where the memory of a group's constructs comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Store {
    /// One file or device holds every construct; the registry divides it. Its first page stays unused ([`crate::RESERVED`]).
    Pool {
        /// Its size.
        bytes: u64,
    },
    /// Each construct has a file of its own, and its extents follow one another in it from offset 0.
    PerConstruct,
}

/// Whether a uid means the same in every domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Uids {
    /// It does, as with NFS.
    #[default]
    Shared,
    /// It does not: a caller is "other" to constructs of other domains.
    Separate,
}

/// The most a domain may have made at a time. None: no limit but the group's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Quota {
    /// Constructs of all kinds.
    pub constructs: Option<u32>,
    /// Bytes of their memory, those waiting for the last user to unmap included.
    pub bytes: Option<u64>,
}

/// A group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupConfig {
    /// Its name.
    pub name: String,
    /// Where memory comes from.
    pub store: Store,
    /// Whether uids count across domains.
    pub uids: Uids,
    /// System V's limits.
    pub limits: Limits,
    /// Quota of every domain that has none of its own.
    pub quota: Quota,
    /// Quotas by domain name.
    pub quotas: BTreeMap<String, Quota>,
    /// The domains that may join; None: every domain.
    pub members: Option<BTreeSet<String>>,
    /// Name of the host's own domain, whose privileged processes may do everything.
    pub host: String,
    /// Further groups, numbered from 1; the one above is group 0.
    pub more: Vec<MoreGroup>,
    /// Sizes of the host's huge pages, as powers of two, the default first. Segments of such pages have a file each, in whatever group.
    pub huge: Vec<u8>,
    /// Domains that are not just in group 0, by name.
    pub memberships: BTreeMap<String, Membership>,
}

/// A group beside the first: keys and memory of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoreGroup {
    /// Its name.
    pub name: String,
    /// Where memory comes from.
    pub store: Store,
    /// Whether uids count across domains.
    pub uids: Uids,
}

/// Which groups a domain is in, and which keys it looks for where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Numbers of groups. Keys that no route names are those of the first.
    pub groups: Vec<u16>,
    /// Routes that do not overlap.
    pub routes: Vec<Route>,
}

/// Keys that a domain looks for in one of its groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The first key. IPC_PRIVATE is 0.
    pub first: u32,
    /// The last key.
    pub last: u32,
    /// Number of the group.
    pub group: u16,
}

impl GroupConfig {
    /// A group with Linux's limits, no quotas, shared uids and open to every domain.
    pub fn new(name: impl Into<String>, store: Store) -> Self {
        GroupConfig {
            name: name.into(),
            store,
            uids: Uids::Shared,
            limits: Limits::default(),
            quota: Quota::default(),
            quotas: BTreeMap::new(),
            members: None,
            host: "host".into(),
            more: Vec::new(),
            huge: Vec::new(),
            memberships: BTreeMap::new(),
        }
    }
}
