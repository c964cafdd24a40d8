//! Counting who has what, and giving back what nobody has any more.
//!
//! A construct counts its attachments and openings three ways, which must agree: by client, by domain (children about to be included),
//! and in all. Everything that changes one of them stands here.

use crate::errno::*;
use crate::registry::{Effects, Registry};
use crate::state::*;
use crate::{Done, Effect};
use vshmem_wire::{Failure, Kind};

impl Registry {
    /// Counts `count` more for a domain.
    pub(crate) fn arrive(&mut self, serial: u64, domain: u16, writable: bool, count: u32, fx: &mut Effects) {
        let Some(construct) = self.constructs.get_mut(&serial) else {
            return;
        };
        let presence = construct.present.entry(domain).or_default();
        let admit = presence.count == 0 || (writable && !presence.writable);
        presence.count += u64::from(count);
        presence.writable |= writable;
        construct.nattch += u64::from(count);
        if admit {
            fx.push(Effect::Admit {
                group: construct.group,
                huge: construct.huge,
                serial,
                domain,
                writable: presence.writable,
            });
        }
    }

    /// A domain from which the construct was unshared may have it again: it is admitted as far as it was.
    pub(crate) fn readmit(&mut self, serial: u64, domain: u16, fx: &mut Effects) {
        let Some(construct) = self.constructs.get_mut(&serial) else {
            return;
        };
        let (group, huge) = (construct.group, construct.huge);
        if let Some(presence) = construct.present.get_mut(&domain).filter(|p| p.revoked) {
            presence.revoked = false;
            fx.push(Effect::Admit {
                group,
                huge,
                serial,
                domain,
                writable: presence.writable,
            });
        }
    }

    /// Counts `count` fewer for a domain, and gives the construct back if it was only waiting for that.
    pub(crate) fn leave(&mut self, serial: u64, domain: u16, count: u32, fx: &mut Effects) {
        let Some(construct) = self.constructs.get_mut(&serial) else {
            return;
        };
        if let Some(presence) = construct.present.get_mut(&domain) {
            let count = u64::from(count).min(presence.count);
            presence.count -= count;
            construct.nattch -= count;
            if presence.count == 0 {
                construct.present.remove(&domain);
                let (group, huge) = (construct.group, construct.huge);
                fx.push(Effect::Revoke {
                    group,
                    huge,
                    serial,
                    domain,
                });
            }
        }
        self.doom_if_forced(serial, fx);
        self.settle(serial, fx);
    }

    /// A client has it once more.
    pub(crate) fn hold(&mut self, client: u32, serial: u64, writable: bool, fx: &mut Effects) {
        let (Some(record), Some(construct)) =
            (self.clients.get_mut(&client), self.constructs.get_mut(&serial))
        else {
            return;
        };
        *record.holds.entry(serial).or_default() += 1;
        if writable && construct.kind == Kind::Shm {
            record.writes.insert(serial);
        }
        record.ids.insert((construct.kind, construct.id), serial);
        *construct.holders.entry(client).or_default() += 1;
        let domain = record.domain;
        self.arrive(serial, domain, writable, 1, fx);
    }

    /// A client has it `count` times fewer.
    pub(crate) fn unhold(&mut self, client: u32, serial: u64, count: u32, fx: &mut Effects) {
        let (Some(record), Some(construct)) =
            (self.clients.get_mut(&client), self.constructs.get_mut(&serial))
        else {
            return;
        };
        let Some(held) = record.holds.get_mut(&serial) else {
            return;
        };
        let count = count.min(*held);
        *held -= count;
        if *held == 0 {
            record.holds.remove(&serial);
            record.writes.remove(&serial);
            record.ids.retain_one((construct.kind, construct.id), serial);
            construct.holders.remove(&client);
        } else if let Some(holder) = construct.holders.get_mut(&client) {
            *holder -= count;
        }
        let domain = record.domain;
        self.leave(serial, domain, count, fx);
    }

    /// Gives a removed construct back if nobody has it any more.
    pub(crate) fn settle(&mut self, serial: u64, fx: &mut Effects) {
        let done = self
            .constructs
            .get(&serial)
            .is_some_and(|c| c.life != Life::Live && c.nattch == 0);
        if done {
            self.release(serial, fx);
        }
    }

    /// The construct's memory goes back.
    fn release(&mut self, serial: u64, fx: &mut Effects) {
        let Some(construct) = self.constructs.remove(&serial) else {
            return;
        };
        self.unname(&construct);
        if !matches!(construct.life, Life::Live) {
            self.quarantine = self.quarantine.saturating_sub(construct.bytes);
        }
        self.pages_of(construct.group, construct.huge)
            .give_back(&construct.extents);
        self.charge(construct.domain, -1, -(construct.bytes as i64));
        fx.push(Effect::Release {
            group: construct.group,
            huge: construct.huge,
            kind: construct.kind,
            serial,
            extents: construct.extents,
        });
    }

    /// Frees the construct's key and slot, if it has them (any more).
    fn unname(&mut self, construct: &Construct) {
        if !construct.named() {
            return;
        }
        let table = self.table_mut(construct.kind);
        if construct.perm.key != 0 {
            table.keys.remove(&(construct.group, construct.perm.key));
        }
        table.free(construct.slot);
        match construct.body {
            Body::Shm { segsz, .. } => {
                self.shm_pages = self.shm_pages.saturating_sub(segsz.div_ceil(crate::PAGE));
            }
            Body::Sem { nsems } => self.semaphores = self.semaphores.saturating_sub(u64::from(nsems)),
            Body::Msg { .. } => {}
        }
    }

    /// Changes what counts against a domain's quota.
    pub(crate) fn charge(&mut self, domain: u16, constructs: i32, bytes: i64) {
        if let Some(domain) = self.domains.get_mut(&domain) {
            domain.constructs = domain.constructs.saturating_add_signed(constructs);
            domain.bytes = domain.bytes.saturating_add_signed(bytes);
        }
    }

    /// IPC_RMID of a segment.
    pub(crate) fn doom(&mut self, serial: u64, fx: &mut Effects) {
        let Some(construct) = self.constructs.get_mut(&serial) else {
            return;
        };
        if construct.life == Life::Doomed {
            return;
        }
        let (group, key) = (construct.group, std::mem::take(&mut construct.perm.key));
        construct.perm.mode |= SHM_DEST;
        construct.life = Life::Doomed;
        self.quarantine += construct.bytes;
        if key != 0 {
            self.shm.keys.remove(&(group, key));
        }
        self.settle(serial, fx);
    }

    /// IPC_RMID of a set or queue, or the end of a corrupt one: its name goes now, its memory when nobody maps it any more.
    pub(crate) fn retire(&mut self, serial: u64, life: Life, fx: &mut Effects) {
        let Some(construct) = self
            .constructs
            .get(&serial)
            .filter(|c| c.life == Life::Live)
            .cloned()
        else {
            return;
        };
        self.unname(&construct);
        self.quarantine += construct.bytes;
        let kind = construct.kind;
        if let Some(construct) = self.constructs.get_mut(&serial) {
            construct.life = life;
            fx.push(Effect::Control {
                kind,
                serial,
                control: construct.control(),
            });
            fx.push(Effect::Retire { kind, serial });
        }
        self.void_sweeps(kind, serial);
        // The dead map nothing: what was to be swept here is not worth it any more.
        for client in construct.holders.keys() {
            if self.clients.get(client).is_some_and(|c| c.image != Image::Alive) {
                self.unhold(*client, serial, u32::MAX, fx);
                self.forget(*client);
            }
        }
        self.settle(serial, fx);
    }

    /// The daemon found rubbish in a set or queue.
    pub(crate) fn declare_corrupt(&mut self, serial: u64, fx: &mut Effects) -> Result<Done, Failure> {
        let found = self.constructs.get(&serial).filter(|c| c.kind != Kind::Shm);
        if found.is_none() {
            return Err(Failure::errno(EINVAL));
        }
        self.retire(serial, Life::Corrupt, fx);
        Ok(Done::Nothing)
    }
}

/// Removes an entry only if it is the one meant.
trait RetainOne<K, V> {
    fn retain_one(&mut self, key: K, value: V);
}

impl<K: Ord, V: PartialEq> RetainOne<K, V> for std::collections::BTreeMap<K, V> {
    fn retain_one(&mut self, key: K, value: V) {
        if self.get(&key) == Some(&value) {
            self.remove(&key);
        }
    }
}

/// Bit of a segment's mode: removed, but still attached.
pub(crate) const SHM_DEST: u16 = 0o1000;
/// Bit of a segment's mode: SHM_LOCK.
pub(crate) const SHM_LOCKED: u16 = 0o2000;
