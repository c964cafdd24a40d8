//! Groups beside the first, who is in them, and which keys a domain looks for where.
//!
//! Not for the first group's memory and limits: see [`super::file`]. Mistakes are named by line and field.

use super::PoolPlace;
use super::file::{MemoryWord, UidsWord, check_pool};
use super::size::Size;
use anyhow::{anyhow, bail, ensure};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use toml::Spanned;
use vshmem_registry::{Membership, MoreGroup, Route, Store};

/// Most further groups.
const MOST: usize = 1000;

/// One of `[[groups]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GroupTable {
    name: Spanned<String>,
    #[serde(default)]
    memory: Option<Spanned<MemoryWord>>,
    #[serde(default)]
    pool: Option<Spanned<Size>>,
    #[serde(default)]
    hugepages: Option<Spanned<bool>>,
    #[serde(default)]
    numa_node: Option<Spanned<u32>>,
    #[serde(default)]
    uids: Option<UidsWord>,
    #[serde(default)]
    members: Option<Vec<Spanned<String>>>,
}

/// What a `[[domain]]` says of groups.
#[derive(Debug)]
pub(super) struct DomainGroups {
    /// Its port, if it has a kernel of its own.
    pub(super) guest: Option<String>,
    pub(super) groups: Option<Vec<Spanned<String>>>,
    pub(super) routes: BTreeMap<Spanned<String>, Spanned<String>>,
}

/// The file's text, to say where something stands.
struct Text<'a>(&'a str);

impl Text<'_> {
    fn wrong<T>(&self, at: &Spanned<T>, why: impl std::fmt::Display) -> anyhow::Error {
        let before = self.0.as_bytes().iter().take(at.span().start);
        let line = 1 + before.filter(|&&b| b == b'\n').count();
        anyhow!("line {line}: {why}")
    }
}

/// The first group, as its own table says.
pub(super) struct First<'a> {
    pub(super) name: &'a str,
    pub(super) pooled: bool,
}

/// Names of all groups, and whether they have a pool; a group's number is its place.
struct Names<'a>(Vec<(&'a str, bool)>);

impl Names<'_> {
    fn number(&self, name: &str) -> Option<u16> {
        let place = self.0.iter().position(|(known, _)| *known == name)?;
        u16::try_from(place).ok()
    }

    fn unknown(&self, name: &str) -> String {
        let names: Vec<&str> = self.0.iter().map(|(name, _)| *name).collect();
        format!(
            "there is no group {name:?}; these there are: {}",
            names.join(", ")
        )
    }

    fn has_pool(&self, number: u16) -> bool {
        self.0.get(usize::from(number)).is_some_and(|(_, pooled)| *pooled)
    }
}

/// Where the memory of a further group's constructs is.
fn store(text: &Text<'_>, table: &GroupTable) -> anyhow::Result<Store> {
    let name = table.name.get_ref();
    let memory = table.memory.as_ref().map(Spanned::get_ref);
    if let (Some(MemoryWord::Grants), Some(memory)) = (memory, &table.memory) {
        let why = format!("groups.memory of {name:?}: only the first group, [group], can have grants");
        return Err(text.wrong(memory, why));
    }
    match (memory, &table.pool) {
        (Some(MemoryWord::Memfd), Some(pool)) => {
            let why = format!("groups.pool of {name:?}: groups.memory is \"memfd\": there is no pool");
            Err(text.wrong(pool, why))
        }
        (Some(MemoryWord::Memfd) | None, None) => Ok(Store::PerConstruct),
        (Some(MemoryWord::Pool | MemoryWord::Grants), None) => Ok(Store::Pool { bytes: super::POOL }),
        (_, Some(pool)) => {
            let bytes = pool.get_ref().0;
            check_pool(bytes).map_err(|why| text.wrong(pool, format!("groups.pool of {name:?} {why}")))?;
            Ok(Store::Pool { bytes })
        }
    }
}

/// Where the pools of further groups lie, by the groups' numbers.
pub(super) fn places(text: &str, tables: &[GroupTable]) -> anyhow::Result<BTreeMap<u16, PoolPlace>> {
    let text = Text(text);
    let mut places = BTreeMap::new();
    for (number, table) in (1..).zip(tables) {
        let place = PoolPlace {
            hugepages: table.hugepages.as_ref().is_some_and(|word| *word.get_ref()),
            numa_node: table.numa_node.as_ref().map(|word| *word.get_ref()),
        };
        if place == PoolPlace::default() {
            continue;
        }
        if store(&text, table)? == Store::PerConstruct {
            let why = format!(
                "{:?} has no pool that could lie anywhere: give it one, pool = \"256M\"",
                table.name.get_ref()
            );
            return Err(match (&table.hugepages, &table.numa_node) {
                (Some(word), _) if place.hugepages => text.wrong(word, format!("groups.hugepages: {why}")),
                (_, Some(word)) => text.wrong(word, format!("groups.numa_node: {why}")),
                _ => anyhow!(why),
            });
        }
        places.insert(number, place);
    }
    Ok(places)
}

/// The further groups, and the domains that are not just in the first one.
pub(super) fn resolve(
    text: &str,
    first: First<'_>,
    tables: Vec<GroupTable>,
    domains: &BTreeMap<String, DomainGroups>,
) -> anyhow::Result<(Vec<MoreGroup>, BTreeMap<String, Membership>)> {
    let text = Text(text);
    ensure!(tables.len() <= MOST, "groups: more than {MOST}");
    let mut names = Names(vec![(first.name, first.pooled)]);
    let mut more = Vec::new();
    for table in &tables {
        let name = table.name.get_ref();
        if !crate::backend::is_domain_name(name) {
            let why = "groups.name: letters, digits, dots, dashes, underlines, 63 at most";
            return Err(text.wrong(&table.name, why));
        }
        if names.number(name).is_some() {
            return Err(text.wrong(&table.name, format!("groups.name: there are two groups {name:?}")));
        }
        let store = store(&text, table)?;
        names.0.push((name, store != Store::PerConstruct));
        more.push(MoreGroup {
            name: name.clone(),
            store,
            uids: table.uids.map_or_else(Default::default, Into::into),
        });
    }
    let members = members(&text, &tables)?;
    let mut memberships = BTreeMap::new();
    for (name, domain) in domains {
        let groups = groups_of(&text, &names, &tables, &members, name, domain)?;
        let routes = routes_of(&text, &names, &groups, name, domain)?;
        memberships.insert(name.clone(), Membership { groups, routes });
    }
    for name in members.keys().filter(|name| !domains.contains_key(**name)) {
        let groups = by_members(&members, name);
        let routes = Vec::new();
        memberships.insert((*name).to_owned(), Membership { groups, routes });
    }
    memberships.retain(|_, m| m.groups != [0] || !m.routes.is_empty());
    Ok((more, memberships))
}

/// Which groups name a domain among their members, and where in the file.
type Members<'a> = BTreeMap<&'a str, BTreeMap<u16, &'a Spanned<String>>>;

fn members<'a>(text: &Text<'_>, tables: &'a [GroupTable]) -> anyhow::Result<Members<'a>> {
    let mut members = Members::new();
    for (group, table) in (1..).zip(tables) {
        for member in table.members.iter().flatten() {
            let name = member.get_ref().as_str();
            if !crate::backend::is_domain_name(name) {
                return Err(text.wrong(
                    member,
                    format!("groups.members: {name:?} is no name for a domain"),
                ));
            }
            members.entry(name).or_default().insert(group, member);
        }
    }
    Ok(members)
}

/// Whether a guest reaches the memory of all its groups.
fn check_guest(names: &Names<'_>, groups: &[u16], domain: &str, port: &str) -> Result<(), String> {
    let guest = format!("groups: {domain:?} is a guest (port {port:?})");
    let of = |number: u16| names.0.get(usize::from(number)).map_or("", |(name, _)| *name);
    // Of the first group that is said when the guest comes: a configuration may name guests that are not to come.
    if let Some(group) = groups
        .iter()
        .find(|group| **group != 0 && !names.has_pool(**group))
    {
        return Err(format!(
            "{guest}, and group {:?} has a file per construct, which guests cannot reach: give that group a pool, pool = \"256M\"",
            of(*group)
        ));
    }
    let most = vshmem_port_select::most_pools(port);
    if groups.len() > most {
        let all: Vec<&str> = groups.iter().map(|group| of(*group)).collect();
        return Err(format!(
            "{guest}, which can be shown {most} {}, and is in groups {}, with a pool each",
            if most == 1 { "pool" } else { "pools" },
            all.join(", ")
        ));
    }
    Ok(())
}

/// The first group, and all that name the domain.
fn by_members(members: &Members<'_>, domain: &str) -> Vec<u16> {
    let named = members.get(domain).into_iter().flat_map(|groups| groups.keys());
    std::iter::once(0).chain(named.copied()).collect()
}

fn groups_of(
    text: &Text<'_>,
    names: &Names<'_>,
    tables: &[GroupTable],
    members: &Members<'_>,
    name: &str,
    domain: &DomainGroups,
) -> anyhow::Result<Vec<u16>> {
    let Some(wanted) = &domain.groups else {
        let groups = by_members(members, name);
        if let Some(port) = &domain.guest
            && let Err(why) = check_guest(names, &groups, name, port)
        {
            let at = members.get(name).and_then(|of| of.values().next());
            return Err(at.map_or_else(|| anyhow!(why.clone()), |at| text.wrong(at, &why)));
        }
        return Ok(groups);
    };
    let mut groups = Vec::new();
    for group in wanted {
        let number = names.number(group.get_ref());
        let number = number.ok_or_else(|| {
            let why = names.unknown(group.get_ref());
            text.wrong(group, format!("domain {name:?}: groups: {why}"))
        })?;
        if groups.contains(&number) {
            let why = format!("domain {name:?}: groups: {:?} is there twice", group.get_ref());
            return Err(text.wrong(group, why));
        }
        let table = usize::from(number).checked_sub(1).and_then(|i| tables.get(i));
        let listed = members.get(name).is_some_and(|of| of.contains_key(&number));
        if table.is_some_and(|t| t.members.is_some()) && !listed {
            let why = format!(
                "domain {name:?}: groups: the members of {:?} do not name it",
                group.get_ref()
            );
            return Err(text.wrong(group, why));
        }
        groups.push(number);
    }
    ensure!(
        !groups.is_empty(),
        "domain {name:?}: groups: a domain is in one group at least"
    );
    for (number, at) in members.get(name).into_iter().flatten() {
        if !groups.contains(number) {
            let why =
                format!("groups.members: domain {name:?} has a list of groups, which does not name this one");
            return Err(text.wrong(at, why));
        }
    }
    if let Some(port) = &domain.guest
        && let Err(why) = check_guest(names, &groups, name, port)
    {
        let at = wanted.last();
        return Err(at.map_or_else(|| anyhow!(why.clone()), |at| text.wrong(at, &why)));
    }
    Ok(groups)
}

fn routes_of(
    text: &Text<'_>,
    names: &Names<'_>,
    groups: &[u16],
    name: &str,
    domain: &DomainGroups,
) -> anyhow::Result<Vec<Route>> {
    let mut routes = Vec::new();
    let mut seen: BTreeSet<(u32, u32)> = BTreeSet::new();
    for (keys, to) in &domain.routes {
        let field = format!("domain {name:?}: routes: {:?}", keys.get_ref());
        let (first, last) =
            range(keys.get_ref()).map_err(|why| text.wrong(keys, format!("{field}: {why}")))?;
        if let Some((from, until)) = seen.iter().find(|&&(a, b)| a <= last && first <= b) {
            let why = format!("{field}: overlaps with {from:#x}-{until:#x}");
            return Err(text.wrong(keys, why));
        }
        seen.insert((first, last));
        let number = names.number(to.get_ref());
        let group = number.ok_or_else(|| {
            let why = names.unknown(to.get_ref());
            text.wrong(to, format!("{field}: {why}"))
        })?;
        if !groups.contains(&group) {
            let why = format!("{field}: the domain is not in group {:?}", to.get_ref());
            return Err(text.wrong(to, why));
        }
        routes.push(Route { first, last, group });
    }
    Ok(routes)
}

/// A key, a range of keys, or "private": first and last.
fn range(text: &str) -> anyhow::Result<(u32, u32)> {
    if text.trim() == "private" {
        return Ok((0, 0));
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (Some(first), Some(last)) = (key(first), key(last)) else {
        bail!("neither a key, nor a range of keys such as 0x1000-0x1fff, nor \"private\"");
    };
    ensure!(first <= last, "the range ends before it begins");
    ensure!(first > 0, "key 0 is IPC_PRIVATE: write \"private\"");
    Ok((first, last))
}

fn key(text: &str) -> Option<u32> {
    let text = text.trim();
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}
