//! Groups beside the first, who is in them, and which keys a domain looks for where.
//!
//! Not for the first group's store and limits: see [`super::file`]. Mistakes are named by line and field.

use super::file::{MemoryWord, UidsWord};
use anyhow::{anyhow, bail, ensure};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use toml::Spanned;
use vshmem_registry::{Membership, MoreGroup, Route};

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

/// Names of all groups; a group's number is its place.
struct Names<'a>(Vec<&'a str>);

impl Names<'_> {
    fn number(&self, name: &str) -> Option<u16> {
        let place = self.0.iter().position(|known| *known == name)?;
        u16::try_from(place).ok()
    }

    fn unknown(&self, name: &str) -> String {
        format!(
            "there is no group {name:?}; these there are: {}",
            self.0.join(", ")
        )
    }
}

/// The further groups, and the domains that are not just in the first one.
pub(super) fn resolve(
    text: &str,
    first: &str,
    tables: Vec<GroupTable>,
    domains: &BTreeMap<String, DomainGroups>,
) -> anyhow::Result<(Vec<MoreGroup>, BTreeMap<String, Membership>)> {
    let text = Text(text);
    ensure!(tables.len() <= MOST, "groups: more than {MOST}");
    let mut names = Names(vec![first]);
    for table in &tables {
        let name = table.name.get_ref();
        if !crate::backend::is_domain_name(name) {
            let why = "groups.name: letters, digits, dots, dashes, underlines, 63 at most";
            return Err(text.wrong(&table.name, why));
        }
        if names.number(name).is_some() {
            return Err(text.wrong(&table.name, format!("groups.name: there are two groups {name:?}")));
        }
        if let Some(memory) = &table.memory
            && matches!(memory.get_ref(), MemoryWord::Pool)
        {
            let why = format!(
                "groups.memory of {name:?}: only the first group, [group], can have a pool; further ones have \"memfd\""
            );
            return Err(text.wrong(memory, why));
        }
        names.0.push(name);
    }
    let members = members(&text, &tables, domains)?;
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
    let more = tables.iter().map(|table| MoreGroup {
        name: table.name.get_ref().clone(),
        uids: table.uids.map_or_else(Default::default, Into::into),
    });
    let more = more.collect();
    Ok((more, memberships))
}

/// Which groups name a domain among their members, and where in the file.
type Members<'a> = BTreeMap<&'a str, BTreeMap<u16, &'a Spanned<String>>>;

fn members<'a>(
    text: &Text<'_>,
    tables: &'a [GroupTable],
    domains: &BTreeMap<String, DomainGroups>,
) -> anyhow::Result<Members<'a>> {
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
            if let Some(port) = domains.get(name).and_then(|d| d.guest.as_ref()) {
                return Err(text.wrong(member, out_of_reach(table.name.get_ref(), name, port)));
            }
            members.entry(name).or_default().insert(group, member);
        }
    }
    Ok(members)
}

fn out_of_reach(group: &str, domain: &str, port: &str) -> String {
    format!(
        "groups: {domain:?} is a guest (port {port:?}), which can be in the first group only: group {group:?} has a file per \
         construct, which guests cannot reach"
    )
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
        return Ok(by_members(members, name));
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
        if let (Some(port), true) = (&domain.guest, number > 0) {
            return Err(text.wrong(group, out_of_reach(group.get_ref(), name, port)));
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
