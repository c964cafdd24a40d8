//! What must hold after every command. For tests: it looks at everything.

use crate::registry::Registry;
use crate::state::*;
use crate::{PAGE, Store};
use std::collections::BTreeMap;
use vshmem_wire::Kind;

impl Registry {
    /// Says what does not hold, if anything.
    pub fn check_invariants(&self) -> Result<(), String> {
        self.check_memory()?;
        self.check_counts()?;
        self.check_names()?;
        self.check_clients()
    }

    fn check_memory(&self) -> Result<(), String> {
        for (group, pool) in (0..).zip(&self.pools) {
            let ours = self
                .constructs
                .values()
                .filter(|c| c.group == group && c.huge == 0);
            pool.check(ours.flat_map(|c| &c.extents))
                .map_err(|why| format!("group {group}: {why}"))?;
        }
        let huge = self.constructs.values().filter(|c| c.huge != 0);
        self.huge.check(huge.flat_map(|c| &c.extents))?;
        let mut quarantine = 0;
        let mut charged: BTreeMap<u16, (u32, u64)> = BTreeMap::new();
        let (mut pages, mut semaphores) = (0, 0);
        for (serial, c) in &self.constructs {
            let bytes: u64 = c.extents.iter().map(|e| e.bytes).sum();
            if bytes != c.bytes || bytes < c.segsz() || bytes > c.cap() {
                return Err(format!(
                    "construct {serial} has {bytes} bytes in extents, {} counted",
                    c.bytes
                ));
            }
            if !self.within(c.domain, c.group) {
                return Err(format!("construct {serial} is of a group its domain is not in"));
            }
            if c.huge != 0 || self.group.store_of(c.group) == Store::PerConstruct {
                let mut at = 0;
                for extent in &c.extents {
                    if extent.offset != at || extent.bytes % PAGE != 0 {
                        return Err(format!(
                            "construct {serial}: extent at {:#x}, not {at:#x}",
                            extent.offset
                        ));
                    }
                    at += extent.bytes;
                }
            }
            if c.life != Life::Live {
                quarantine += bytes;
            }
            let charge = charged.entry(c.domain).or_default();
            charge.0 += 1;
            charge.1 += bytes;
            match c.body {
                Body::Shm { segsz, .. } => pages += segsz.div_ceil(PAGE),
                Body::Sem { nsems } if c.named() => semaphores += u64::from(nsems),
                _ => {}
            }
        }
        if quarantine != self.quarantine || pages != self.shm_pages || semaphores != self.semaphores {
            return Err("a total is wrong".into());
        }
        for (number, domain) in &self.domains {
            if charged.remove(number).unwrap_or_default() != (domain.constructs, domain.bytes) {
                return Err(format!("domain {number} is charged wrongly"));
            }
        }
        if charged.is_empty() {
            Ok(())
        } else {
            Err("constructs of a domain that is not known".into())
        }
    }

    fn check_counts(&self) -> Result<(), String> {
        let mut by_domain: BTreeMap<(u64, u16), u64> = BTreeMap::new();
        for client in self.clients.values() {
            for (&serial, &count) in &client.holds {
                *by_domain.entry((serial, client.domain)).or_default() += u64::from(count);
            }
        }
        for ((domain, _), fork) in &self.forks {
            for (&serial, &count) in &fork.holds {
                *by_domain.entry((serial, *domain)).or_default() += u64::from(count);
            }
        }
        for (&serial, c) in &self.constructs {
            let mut sum = 0;
            for (&domain, presence) in &c.present {
                sum += presence.count;
                if by_domain.remove(&(serial, domain)) != Some(presence.count) || presence.count == 0 {
                    return Err(format!(
                        "construct {serial} is counted wrongly in domain {domain}"
                    ));
                }
            }
            if sum != c.nattch || (c.life != Life::Live && sum == 0) {
                return Err(format!(
                    "construct {serial} has {sum} attachments, {} counted",
                    c.nattch
                ));
            }
            for (client, &count) in &c.holders {
                let held = self.clients.get(client).and_then(|k| k.holds.get(&serial));
                if held != Some(&count) || count == 0 {
                    return Err(format!("construct {serial} and client {client} disagree"));
                }
            }
        }
        match by_domain.keys().next() {
            None => Ok(()),
            Some((serial, domain)) => Err(format!("{serial} is held in domain {domain} and is not there")),
        }
    }

    fn check_names(&self) -> Result<(), String> {
        let mut named = 0;
        for (&serial, c) in self.constructs.iter().filter(|(_, c)| c.named()) {
            named += 1;
            let table = self.table(c.kind);
            if table.slots.get(&c.slot) != Some(&serial) {
                return Err(format!("construct {serial} is not in its slot"));
            }
            if c.perm.key != 0 && table.keys.get(&(c.group, c.perm.key)) != Some(&serial) {
                return Err(format!("construct {serial} is not under its key"));
            }
        }
        let kinds = [Kind::Shm, Kind::Sem, Kind::Msg];
        let slots: usize = kinds.iter().map(|&kind| self.table(kind).slots.len()).sum();
        let keys = kinds.iter().flat_map(|&kind| &self.table(kind).keys);
        if slots != named {
            return Err(format!("{slots} slots in use by {named} constructs"));
        }
        for ((group, key), serial) in keys {
            if self
                .constructs
                .get(serial)
                .is_none_or(|c| c.perm.key != *key || c.group != *group || !c.named())
            {
                return Err(format!(
                    "key {key:#x} names construct {serial}, which does not bear it"
                ));
            }
        }
        Ok(())
    }

    fn check_clients(&self) -> Result<(), String> {
        let mut living: BTreeMap<u16, u32> = BTreeMap::new();
        for (number, client) in &self.clients {
            let sweeps = self.sweeps.iter().filter(|s| s.client == *number).count();
            if sweeps != client.sweeps as usize {
                return Err(format!(
                    "client {number} has {sweeps} sweeps, {} counted",
                    client.sweeps
                ));
            }
            for (serial, held) in &client.holds {
                if self.constructs.get(serial).and_then(|c| c.holders.get(number)) != Some(held) {
                    return Err(format!("client {number} and construct {serial} disagree"));
                }
            }
            if client
                .writes
                .iter()
                .any(|serial| !client.holds.contains_key(serial))
            {
                return Err(format!("client {number} may write what it does not have"));
            }
            let process = self.processes.get(&client.process());
            if client.image == Image::Alive {
                *living.entry(client.domain).or_default() += 1;
                if process.is_none_or(|p| p.client != *number || p.undo != client.undo) {
                    return Err(format!("client {number} is not its process's"));
                }
                continue;
            }
            let waits = client.sweeps > 0 || process.is_some_and(|p| p.client == *number);
            let swept = client.holds.keys().all(|&serial| {
                self.constructs
                    .get(&serial)
                    .is_some_and(|c| self.sweeps_of(c.kind, serial, *number).next().is_some())
            });
            if !waits || !swept {
                return Err(format!("client {number} is gone and kept for nothing"));
            }
        }
        for (number, domain) in &self.domains {
            let forks = self.forks.range((*number, 0)..=(*number, u64::MAX)).count();
            let count = living.remove(number).unwrap_or(0);
            if count != domain.clients
                || forks != domain.forks as usize
                || (!domain.up && count + domain.forks > 0)
            {
                return Err(format!("domain {number} counts its clients wrongly"));
            }
        }
        self.check_lists()?;
        for sweep in &self.sweeps {
            let live = self
                .constructs
                .get(&sweep.serial)
                .is_some_and(|c| c.life == Life::Live);
            if !live || sweep.undo.is_none() && !self.clients.contains_key(&sweep.client) {
                return Err(format!("{sweep:?} is for nothing"));
            }
        }
        Ok(())
    }

    fn check_lists(&self) -> Result<(), String> {
        for (list, sharers) in &self.shared {
            let forks = self.forks.values().filter(|f| f.undo == Some(*list)).count();
            let processes = self.processes.values().filter(|p| p.undo == *list).count();
            if forks + processes != sharers.count as usize || sharers.count == 0 {
                return Err(format!(
                    "list {list} is shared by {forks} + {processes}, {} counted",
                    sharers.count
                ));
            }
        }
        Ok(())
    }
}
