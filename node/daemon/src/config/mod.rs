//! The back-end's configuration: what a file may say, and what is made of it.
//!
//! [`file`] holds the TOML as it is written, and refuses what it does not know, naming file, line and field; [`groups`] does so for groups and routes. [`Config`] is what the daemon uses, and
//! what a restarted daemon gets: the file is read once, by the keeper.

mod file;
mod groups;
mod size;

use anyhow::{Context, anyhow, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use vshmem_registry::{GroupConfig, Membership, MoreGroup, Quota, Store, Uids};
use vshmem_wire::Limits;

pub use size::parse_size;

/// Bytes of the pool unless the configuration says otherwise. It is sparse: only what constructs use is taken.
pub(crate) const POOL: u64 = 1 << 30;

/// The back-end's configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Config {
    /// Where the sockets are.
    pub(crate) runtime_dir: PathBuf,
    /// It was made for this daemon, and goes with it.
    pub(crate) made_dir: bool,
    /// What is logged, in `tracing`'s words, unless VSHMEM_LOG says otherwise.
    pub(crate) log: String,
    /// The sockets.
    pub(crate) socket: SocketConfig,
    /// Most connections of one user other than root.
    pub(crate) connections_per_user: usize,
    /// The first group.
    pub(crate) group: Group,
    /// Further groups.
    pub(crate) more: Vec<MoreGroup>,
    /// Where pools lie, by their groups' numbers; those that are not there lie anywhere, in ordinary pages.
    pub(crate) places: BTreeMap<u16, PoolPlace>,
    /// Domains that are not just in the first group, by name.
    pub(crate) memberships: BTreeMap<String, Membership>,
    /// Domains that the file mentions, by name.
    pub(crate) domains: BTreeMap<String, Domain>,
    /// For machines that somebody else starts.
    pub(crate) machines: Machines,
    /// Identities of the groups' pools, by number: see [`Config::draw_identities`].
    pub(crate) pool_ids: Vec<u64>,
    pub(crate) grants: Grants,
    /// Sizes of the kernel's huge pages, as powers of two, the default first: read once for all daemons that a keeper starts.
    pub(crate) huge: Vec<u8>,
}

/// Where a pool lies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PoolPlace {
    /// In huge pages, as far as there are any.
    pub(crate) hugepages: bool,
    /// In memory of this NUMA node of the host.
    pub(crate) numa_node: Option<u32>,
}

/// What machines that somebody else starts are given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machines {
    /// The sockets that their hypervisors connect to.
    pub(crate) socket: SocketConfig,
    /// Interrupt vectors of each device.
    pub(crate) vectors: u16,
}

/// The listening sockets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SocketConfig {
    /// Permission bits: who may connect.
    pub(crate) mode: u32,
    /// Owner, if not the daemon's user.
    pub(crate) uid: Option<u32>,
    /// Group, if not the daemon's.
    pub(crate) gid: Option<u32>,
}

/// Where construct memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Memory {
    /// In one file, which guests see whole.
    Pool,
    /// In a file per construct: for processes of the host's kernel only.
    Memfd,
    /// In pages that are granted to guests one construct at a time.
    Grants,
}

/// Memory that is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Grants {
    /// Bytes populated and zeroed ahead of time.
    pub(crate) stock: u64,
    /// Pages of grant table.
    pub(crate) table_pages: u32,
}

impl Grants {
    /// In the port's words.
    pub(crate) fn ahead(self) -> vshmem_port_select::Ahead {
        vshmem_port_select::Ahead {
            stock: self.stock,
            table_pages: self.table_pages,
        }
    }
}

impl Default for Grants {
    fn default() -> Self {
        let ahead = vshmem_port_select::Ahead::default();
        Grants {
            stock: ahead.stock,
            table_pages: ahead.table_pages,
        }
    }
}

/// The group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) memory: Memory,
    pub(crate) pool: u64,
    pub(crate) uids: Uids,
    pub(crate) limits: Limits,
    pub(crate) quota: Quota,
    /// Only the domains of the file may join.
    pub(crate) closed: bool,
}

/// A domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Domain {
    /// It has a listening socket of its own.
    pub(crate) local: bool,
    /// Its port.
    pub(crate) port: String,
    pub(crate) quota: Option<Quota>,
    pub(crate) keys: Option<String>,
    /// The CID of its machine, which has a vsock device.
    pub(crate) cid: Option<u32>,
}

/// Whether a machine can have this CID.
pub(crate) fn check_cid(cid: u32) -> anyhow::Result<()> {
    anyhow::ensure!(
        (3..u32::MAX).contains(&cid),
        "no machine has CID {cid}: 3 to {}",
        u32::MAX - 1
    );
    Ok(())
}

impl Config {
    /// Without a file: one group, every domain started on this host.
    pub(crate) fn new(runtime_dir: PathBuf) -> Self {
        Config {
            runtime_dir,
            made_dir: false,
            log: "warn".into(),
            socket: SocketConfig {
                mode: 0o666,
                uid: None,
                gid: None,
            },
            connections_per_user: 4096,
            group: Group {
                name: "default".into(),
                memory: Memory::Pool,
                pool: POOL,
                uids: Uids::Shared,
                limits: Limits::default(),
                quota: Quota::default(),
                closed: false,
            },
            more: Vec::new(),
            places: BTreeMap::new(),
            memberships: BTreeMap::new(),
            domains: BTreeMap::new(),
            machines: Machines {
                socket: SocketConfig {
                    mode: 0o600,
                    uid: None,
                    gid: None,
                },
                vectors: 1,
            },
            grants: Grants::default(),
            pool_ids: Vec::new(),
            huge: Vec::new(),
        }
    }

    /// Draws the identities of the groups' pools, once for all daemons that a keeper starts. Random, and told to a group's members alone, so that nobody else
    /// can pass other memory off for the group's.
    pub(crate) fn draw_identities(&mut self) -> std::io::Result<()> {
        let draw = |_| {
            let mut bytes = [0; 8];
            rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
            Ok(u64::from_le_bytes(bytes))
        };
        self.pool_ids = (0..=self.more.len()).map(draw).collect::<std::io::Result<_>>()?;
        Ok(())
    }

    /// From a file, if one is given. `runtime_dir` wins over what the file says.
    pub(crate) fn read(path: Option<&Path>, runtime_dir: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else {
            return Ok(Self::new(crate::sockets::runtime_dir(runtime_dir)?));
        };
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let file: file::File =
            toml::from_str(&text).map_err(|e| anyhow!("{}: {}", path.display(), e.to_string().trim_end()))?;
        file.checked(&text, runtime_dir)
            .with_context(|| format!("{} cannot be used", path.display()))
    }

    /// Another size of the first group's pool than the file says.
    pub(crate) fn set_pool(&mut self, bytes: u64) -> anyhow::Result<()> {
        ensure!(
            self.group.memory != Memory::Memfd,
            "--pool says how large the pool is, but constructs lie in a file each: leave it out, or have them lie in a pool"
        );
        file::check_pool(bytes).map_err(|why| anyhow!("--pool {why}"))?;
        self.group.pool = bytes;
        Ok(())
    }

    /// Where the first group's pool is to lie.
    pub(crate) fn place_first(&mut self, place: PoolPlace) -> anyhow::Result<()> {
        if place == PoolPlace::default() {
            return Ok(());
        }
        anyhow::ensure!(
            self.group.memory == Memory::Pool,
            "huge pages and a NUMA node are for a pool, and the group's memory is of another kind: use memory = \"pool\" (--group-memory pool)"
        );
        self.places.insert(0, place);
        Ok(())
    }

    /// The registry's part.
    pub(crate) fn registry_group(&self) -> GroupConfig {
        let store = match self.group.memory {
            Memory::Pool | Memory::Grants => Store::Pool {
                bytes: self.group.pool,
            },
            Memory::Memfd => Store::PerConstruct,
        };
        let mut group = GroupConfig::new(self.group.name.clone(), store);
        group.uids = self.group.uids;
        group.limits = self.group.limits;
        group.quota = self.group.quota;
        group.quotas = self
            .domains
            .iter()
            .filter_map(|(name, d)| Some((name.clone(), d.quota?)))
            .collect();
        if self.group.closed {
            let host = std::iter::once(group.host.clone());
            let named = self.domains.keys().chain(self.memberships.keys());
            group.members = Some(host.chain(named.cloned()).collect());
        }
        group.huge = self.huge.clone();
        group.more = self.more.clone();
        group.memberships = self.memberships.clone();
        group
    }

    /// Domains of the host's kernel that have a socket of their own, the host's own apart.
    pub(crate) fn local_domains(&self) -> impl Iterator<Item = &str> {
        self.domains
            .iter()
            .filter(|(name, d)| d.local && *name != crate::backend::HOST)
            .map(|(name, _)| name.as_str())
    }

    /// Domains with a kernel of their own, and their ports.
    pub(crate) fn guests(&self) -> impl Iterator<Item = (&str, &str)> {
        let guests = self.domains.iter().filter(|(_, domain)| !domain.local);
        guests.map(|(name, domain)| (name.as_str(), domain.port.as_str()))
    }

    /// Which keys a domain's processes should find in Vshmem.
    pub(crate) fn keys_of(&self, domain: &str) -> Option<String> {
        self.domains.get(domain)?.keys.clone()
    }
}

#[cfg(test)]
mod tests;
