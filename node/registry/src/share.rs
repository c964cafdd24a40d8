//! Which domains see a construct.
//!
//! Not for permission bits: a domain that does not see a construct is refused before those are looked at.

use crate::errno::*;
use crate::registry::{Effects, Registry};
use crate::state::Sight;
use crate::{Done, Effect};
use std::collections::BTreeSet;
use vshmem_wire::{Failure, Kind, Reply};

/// Most names on a construct's list.
const NAMES: usize = 64;

impl Registry {
    /// Share (`more`) or Unshare.
    pub(crate) fn share(
        &mut self,
        client: u32,
        (kind, id): (Kind, i32),
        domains: Vec<String>,
        more: bool,
        fx: &mut Effects,
    ) -> Result<Done, Failure> {
        let (serial, record, construct) = self.seen(client, kind, id)?;
        self.check_share(record, construct)?;
        for name in &domains {
            let known = self.names.contains_key(name) || self.member(name);
            if !known || !self.group.is_in(name, construct.group) {
                return Err(Failure::because(
                    EINVAL,
                    format!(
                        "domain {name:?} is no member of group {}",
                        self.group.name_of(construct.group)
                    ),
                ));
            }
        }
        let sight = if more {
            shared(construct.sight.clone(), domains)
        } else {
            unshared(construct.sight.clone(), domains)
        };
        let (Sight::AllBut(names) | Sight::Only(names)) = &sight;
        if names.len() > NAMES {
            return Err(Failure::because(
                EINVAL,
                format!("more than {NAMES} domains on the list"),
            ));
        }
        let Some(construct) = self.constructs.get_mut(&serial) else {
            return Err(Failure::errno(EINVAL));
        };
        construct.sight = sight;
        construct.permission = construct.permission.wrapping_add(1);
        let (group, huge) = (construct.group, construct.huge);
        for (&domain, presence) in construct.present.iter_mut() {
            let name = self.domains.get(&domain).map_or("", |d| d.name.as_str());
            if domain != construct.domain && !construct.sight.allows(name) {
                presence.revoked = true;
                fx.push(Effect::Revoke {
                    group,
                    huge,
                    serial,
                    domain,
                });
            }
        }
        if kind != Kind::Shm {
            fx.push(Effect::Control {
                kind,
                serial,
                control: construct.control(),
            });
        }
        Ok(Done::Reply(Reply::Done))
    }

    /// Whether a domain of that name may join the group.
    pub(crate) fn member(&self, name: &str) -> bool {
        let named = !name.is_empty()
            && name.len() <= 64
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        named
            && self
                .group
                .members
                .as_ref()
                .is_none_or(|members| members.contains(name))
    }
}

/// All, if no domains are named. Those besides who saw it, if only some did or some did not. Only those, if all did.
fn shared(old: Sight, domains: Vec<String>) -> Sight {
    let mut domains: BTreeSet<String> = domains.into_iter().collect();
    match old {
        _ if domains.is_empty() => Sight::AllBut(BTreeSet::new()),
        Sight::AllBut(names) if names.is_empty() => Sight::Only(domains),
        Sight::AllBut(mut names) => {
            names.retain(|name| !domains.contains(name));
            Sight::AllBut(names)
        }
        Sight::Only(mut names) => {
            names.append(&mut domains);
            Sight::Only(names)
        }
    }
}

/// Nobody, if no domains are named; else those who saw it without these.
fn unshared(old: Sight, domains: Vec<String>) -> Sight {
    let mut domains: BTreeSet<String> = domains.into_iter().collect();
    match old {
        _ if domains.is_empty() => Sight::Only(BTreeSet::new()),
        Sight::AllBut(mut names) => {
            names.append(&mut domains);
            Sight::AllBut(names)
        }
        Sight::Only(mut names) => {
            names.retain(|name| !domains.contains(name));
            Sight::Only(names)
        }
    }
}
