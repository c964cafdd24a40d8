//! The configuration file as it is written. Every field may be left out; one that is not known is refused.

use super::groups::{self, DomainGroups, First, GroupTable};
use super::size::Size;
use super::{Config, Domain, Memory, PoolPlace};
use anyhow::{Context, anyhow, bail, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::Spanned;
use vshmem_registry::{Quota, Uids};
use vshmem_wire::Limits;
use vshmem_wire::pool::MOST_BYTES;

/// The port of domains of the host's kernel.
const LOCAL: &str = "local";
/// Most interrupt vectors of a device.
const MOST_VECTORS: u16 = 64;
/// Most pages of a grant table: Xen's own bound of its option `gnttab_max_frames` is of this order.
const MOST_TABLE_PAGES: u32 = 1 << 16;
/// The smallest pool that is of any use.
const LEAST_POOL: u64 = 1 << 20;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    runtime_dir: Option<PathBuf>,
    log: Option<String>,
    connections_per_user: Option<u32>,
    socket: Option<Socket>,
    machines: Option<Machines>,
    grants: Option<Grants>,
    group: Option<Group>,
    groups: Vec<GroupTable>,
    limits: Option<LimitsTable>,
    #[serde(rename = "domain")]
    domains: Vec<DomainTable>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Socket {
    mode: Option<Mode>,
    owner: Option<User>,
    group: Option<User>,
}

impl Socket {
    fn over(&self, socket: &mut super::SocketConfig, table: &str) -> anyhow::Result<()> {
        socket.mode = self.mode.map_or(socket.mode, |m| m.0);
        let number = |user: &Option<User>, file, field: &str| {
            let number = user.as_ref().map(|u| u.number(file)).transpose();
            number.with_context(|| format!("{table}.{field}"))
        };
        socket.uid = number(&self.owner, "/etc/passwd", "owner")?;
        socket.gid = number(&self.group, "/etc/group", "group")?;
        Ok(())
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Machines {
    mode: Option<Mode>,
    owner: Option<User>,
    group: Option<User>,
    vectors: Option<u16>,
}

impl Machines {
    fn over(self, machines: &mut super::Machines) -> anyhow::Result<()> {
        let Machines {
            mode,
            owner,
            group,
            vectors,
        } = self;
        Socket { mode, owner, group }.over(&mut machines.socket, "machines")?;
        machines.vectors = vectors.unwrap_or(machines.vectors);
        ensure!(
            (1..=MOST_VECTORS).contains(&machines.vectors),
            "machines.vectors is {}: 1 to {MOST_VECTORS}",
            machines.vectors
        );
        Ok(())
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Grants {
    stock: Option<Size>,
    table_pages: Option<u32>,
}

impl Grants {
    fn over(&self, config: &mut Config) -> anyhow::Result<()> {
        let grants = &mut config.grants;
        grants.stock = self.stock.map_or(grants.stock, |size| size.0);
        grants.table_pages = self.table_pages.unwrap_or(grants.table_pages);
        ensure!(
            (1..=MOST_TABLE_PAGES).contains(&grants.table_pages),
            "grants.table_pages is {}: 1 to {MOST_TABLE_PAGES}",
            grants.table_pages
        );
        Ok(())
    }
}

/// Permission bits, written in octal digits: "0660".
#[derive(Debug, Clone, Copy)]
struct Mode(u32);

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        u32::from_str_radix(&text, 8)
            .ok()
            .filter(|mode| *mode <= 0o777)
            .map(Mode)
            .ok_or_else(|| {
                serde::de::Error::custom(format!("{text:?} is no mode: write octal digits, \"0660\""))
            })
    }
}

/// A user or a group, by name or number.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum User {
    Number(u32),
    Name(String),
}

impl User {
    fn number(&self, table: &str) -> anyhow::Result<u32> {
        let name = match self {
            User::Number(number) => return Ok(*number),
            User::Name(name) => name,
        };
        let text = std::fs::read_to_string(table).with_context(|| format!("reading {table}"))?;
        text.lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find(|words| words.first() == Some(&name.as_str()))
            .and_then(|words| words.get(2)?.parse().ok())
            .with_context(|| format!("there is no {name:?} in {table}"))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Group {
    name: Option<String>,
    memory: Option<MemoryWord>,
    pool: Option<Size>,
    #[serde(default)]
    hugepages: bool,
    numa_node: Option<u32>,
    uids: Option<UidsWord>,
    closed: Option<bool>,
    quota: Option<QuotaTable>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum MemoryWord {
    Pool,
    Memfd,
    Grants,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum UidsWord {
    Shared,
    Separate,
}

impl From<UidsWord> for Uids {
    fn from(word: UidsWord) -> Self {
        match word {
            UidsWord::Shared => Uids::Shared,
            UidsWord::Separate => Uids::Separate,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct QuotaTable {
    constructs: Option<u32>,
    bytes: Option<Size>,
}

impl From<QuotaTable> for Quota {
    fn from(table: QuotaTable) -> Self {
        Quota {
            constructs: table.constructs,
            bytes: table.bytes.map(|s| s.0),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LimitsTable {
    shmmax: Option<Size>,
    shmall: Option<u64>,
    shmmni: Option<u32>,
    semmsl: Option<u32>,
    semmns: Option<u32>,
    semopm: Option<u32>,
    semmni: Option<u32>,
    msgmax: Option<u32>,
    msgmnb: Option<u32>,
    msgmni: Option<u32>,
}

impl LimitsTable {
    fn over(&self, mut limits: Limits) -> Limits {
        fn set<T: Copy>(limit: &mut T, to: Option<T>) {
            *limit = to.unwrap_or(*limit);
        }
        set(&mut limits.shmmax, self.shmmax.map(|s| s.0));
        set(&mut limits.shmall, self.shmall);
        set(&mut limits.shmmni, self.shmmni);
        set(&mut limits.semmsl, self.semmsl);
        set(&mut limits.semmns, self.semmns);
        set(&mut limits.semopm, self.semopm);
        set(&mut limits.semmni, self.semmni);
        set(&mut limits.msgmax, self.msgmax);
        set(&mut limits.msgmnb, self.msgmnb);
        set(&mut limits.msgmni, self.msgmni);
        limits
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DomainTable {
    name: String,
    #[serde(default)]
    port: Option<String>,
    #[serde(default)]
    quota: Option<QuotaTable>,
    #[serde(default)]
    keys: Option<String>,
    #[serde(default)]
    cid: Option<u32>,
    #[serde(default)]
    groups: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    routes: BTreeMap<Spanned<String>, Spanned<String>>,
}

impl File {
    /// What the file says, over what holds without one.
    pub(super) fn checked(self, text: &str, runtime_dir: Option<&Path>) -> anyhow::Result<Config> {
        let runtime_dir = runtime_dir.or(self.runtime_dir.as_deref());
        let mut config = Config::new(crate::sockets::runtime_dir(runtime_dir)?);
        if let Some(log) = self.log {
            config.log = log;
        }
        if let Some(most) = self.connections_per_user {
            config.connections_per_user = most as usize;
        }
        if let Some(socket) = &self.socket {
            socket.over(&mut config.socket, "socket")?;
        }
        if let Some(machines) = self.machines {
            machines.over(&mut config.machines)?;
        }
        let mut place = PoolPlace::default();
        if let Some(group) = self.group {
            place.hugepages = group.hugepages;
            place.numa_node = group.numa_node;
            group.over(&mut config.group)?;
        }
        if let Some(grants) = &self.grants {
            grants.over(&mut config)?;
        }
        if let Some(limits) = &self.limits {
            config.group.limits = limits.over(config.group.limits);
        }
        let mut of_domains = BTreeMap::new();
        for mut domain in self.domains {
            let name = domain.name.clone();
            let of_domain = DomainGroups {
                guest: domain.port.clone().filter(|port| port != "local"),
                groups: domain.groups.take(),
                routes: std::mem::take(&mut domain.routes),
            };
            of_domains.insert(name.clone(), of_domain);
            let checked = domain.checked().with_context(|| format!("domain {name:?}"))?;
            let mut others = config.domains.iter();
            if let Some((other, _)) = others.find(|(_, of)| of.cid.is_some() && of.cid == checked.cid) {
                bail!("domains {other:?} and {name:?} have the same cid");
            }
            ensure!(
                config.domains.insert(name.clone(), checked).is_none(),
                "domain {name:?} is there twice"
            );
        }
        let first = First {
            name: &config.group.name,
            pooled: config.group.memory == Memory::Pool,
        };
        config.places = groups::places(text, &self.groups)?;
        (config.more, config.memberships) = groups::resolve(text, first, self.groups, &of_domains)?;
        config.place_first(place).context("group")?;
        Ok(config)
    }
}

/// Whether there can be a pool of so many bytes. The error goes on where the field was named.
pub(super) fn check_pool(bytes: u64) -> Result<(), String> {
    if (LEAST_POOL..=MOST_BYTES).contains(&bytes) && bytes.is_multiple_of(4096) {
        return Ok(());
    }
    Err(format!(
        "is {bytes} bytes: a multiple of 4096, 1M to 256T, is needed"
    ))
}

impl Group {
    fn over(self, group: &mut super::Group) -> anyhow::Result<()> {
        if let Some(name) = self.name {
            group.name = name;
        }
        match self.memory {
            Some(MemoryWord::Memfd) => group.memory = Memory::Memfd,
            Some(MemoryWord::Pool) => group.memory = Memory::Pool,
            Some(MemoryWord::Grants) => group.memory = Memory::Grants,
            None => {}
        }
        group.uids = self.uids.map_or(group.uids, Into::into);
        if let Some(Size(pool)) = self.pool {
            ensure!(
                group.memory != Memory::Memfd,
                "group.pool says how large the pool is, but group.memory is \"memfd\": there is none"
            );
            check_pool(pool).map_err(|why| anyhow!("group.pool {why}"))?;
            group.pool = pool;
        }
        group.closed = self.closed.unwrap_or(group.closed);
        group.quota = self.quota.map_or(group.quota, Into::into);
        Ok(())
    }
}

impl DomainTable {
    fn checked(self) -> anyhow::Result<Domain> {
        ensure!(
            crate::backend::is_domain_name(&self.name),
            "no name for a domain: letters, digits, dots, dashes, underlines, 63 at most"
        );
        if let Some(port) = &self.port {
            let known = vshmem_port_select::GUESTS;
            if port == "auto" || !known.contains(&port.as_str()) {
                bail!(
                    "there is no port {port:?}; these there are: {}",
                    known[1..].join(", ")
                );
            }
        }
        ensure!(
            self.name != crate::backend::HOST || self.port.as_deref().is_none_or(|port| port == LOCAL),
            "the host itself is no guest: take another name, or leave the port out"
        );
        if let Some(cid) = self.cid {
            super::check_cid(cid).context("cid")?;
            let port = self.port.as_deref().unwrap_or(LOCAL);
            ensure!(
                vshmem_port_select::SERVED.contains(&port),
                "cid is for machines that somebody else starts, of port {}",
                vshmem_port_select::SERVED.join(", ")
            );
        }
        Ok(Domain {
            cid: self.cid,
            local: self.port.as_deref().is_none_or(|port| port == LOCAL),
            port: self.port.unwrap_or_else(|| LOCAL.into()),
            quota: self.quota.map(Into::into),
            keys: self.keys,
        })
    }
}
