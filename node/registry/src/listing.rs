//! What each domain may see, for ports that show it to machines. Not for permission: who may use what he sees is asked when he uses it.

use crate::registry::Registry;
use vshmem_wire::Kind;

/// A construct, and who may see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// What it is.
    pub kind: Kind,
    /// Its id.
    pub id: i32,
    /// What there is to say of it, as words `name=value`.
    pub what: String,
    /// Domains that are there and may see it.
    pub by: Vec<u16>,
}

impl Registry {
    /// The domains of a group that are there.
    pub fn domains_of(&self, group: u16) -> Vec<u16> {
        let there = self.domains.iter().filter(|(_, domain)| domain.up);
        there
            .filter(|(_, domain)| self.group.is_in(&domain.name, group))
            .map(|(&number, _)| number)
            .collect()
    }

    /// The constructs of a group that have a name or an id still.
    pub fn listed(&self, group: u16) -> Vec<Listed> {
        let there = self.domains_of(group);
        let named = self
            .constructs
            .values()
            .filter(|construct| construct.group == group && construct.named());
        let listed = named.map(|construct| {
            let name = |domain: &u16| self.domains.get(domain).map_or("", |d| d.name.as_str());
            let sees = |domain: &u16| *domain == construct.domain || construct.sight.allows(name(domain));
            let perm = &construct.perm;
            Listed {
                kind: construct.kind,
                id: construct.id,
                what: format!(
                    "key={:#x} mode={:o} uid={} gid={} domain={} bytes={}",
                    perm.key,
                    perm.mode,
                    perm.uid,
                    perm.gid,
                    name(&construct.domain),
                    construct.bytes
                ),
                by: there.iter().copied().filter(sees).collect(),
            }
        });
        listed.collect()
    }
}
