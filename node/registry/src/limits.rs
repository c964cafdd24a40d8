//! Limits that the administrator changes while the daemon runs: what a write below `/proc/sys/kernel` comes to.
//!
//! A root of any domain may, as a root of any container with its own IPC namespace may in Linux; where uids are separate only the host's.

use crate::command::{Done, Effect};
use crate::config::Uids;
use crate::errno::{EINVAL, EPERM, ERANGE};
use crate::registry::Registry;
use crate::state::{Body, Image, Life};
use vshmem_wire::{Failure, Kind, Limits, Reply, SLOTS, Setting};

fn invalid() -> Failure {
    Failure::errno(EINVAL)
}

fn int(value: u64) -> Result<u32, Failure> {
    u32::try_from(value)
        .ok()
        .filter(|&n| n <= i32::MAX as u32)
        .ok_or_else(invalid)
}

/// A number of constructs: there are no more ids than slots.
fn slots(value: u64) -> Result<u32, Failure> {
    int(value).ok().filter(|&n| n <= SLOTS).ok_or_else(invalid)
}

/// The limits after a write. Values beyond the first are ignored, as in Linux.
fn changed(mut limits: Limits, setting: Setting, values: &[u64]) -> Result<Limits, Failure> {
    let &first = values.first().ok_or_else(invalid)?;
    match setting {
        Setting::Shmmax => limits.shmmax = first,
        Setting::Shmall => limits.shmall = first,
        Setting::Shmmni => limits.shmmni = slots(first)?,
        Setting::Msgmax => limits.msgmax = int(first)?,
        Setting::Msgmnb => limits.msgmnb = int(first)?,
        Setting::Msgmni => limits.msgmni = slots(first)?,
        Setting::ShmRmidForced if first > 1 => return Err(invalid()),
        Setting::ShmRmidForced => limits.shm_rmid_forced = first == 1,
        Setting::NextId(kind) => limits.next_ids[kind as usize] = int(first)? as i32,
        Setting::Sem => {
            let fields = [&mut limits.semmsl, &mut limits.semmns, &mut limits.semopm];
            for (field, &value) in fields.into_iter().zip(values) {
                *field = int(value)?;
            }
            if let Some(&semmni) = values.get(3) {
                // Linux keeps the first three here, too.
                if int(semmni)? > SLOTS {
                    return Err(Failure::errno(ERANGE));
                }
                limits.semmni = semmni as u32;
            }
        }
    }
    Ok(limits)
}

impl Registry {
    pub(crate) fn set_limit(
        &mut self,
        client: u32,
        setting: Setting,
        values: &[u64],
        fx: &mut Vec<Effect>,
    ) -> Result<Done, Failure> {
        let record = self.alive(client)?;
        if record.who.uid != 0 || self.group.uids == Uids::Separate && !self.on_host(record) {
            return Err(Failure::because(EPERM, "limits are root's to change"));
        }
        match changed(self.group.limits, setting, values) {
            Ok(limits) => self.group.limits = limits,
            Err(failure) => {
                if setting == Setting::Sem && failure.errno == ERANGE {
                    self.group.limits = changed(self.group.limits, setting, &values[..3])?;
                }
                return Err(failure);
            }
        }
        if setting == Setting::ShmRmidForced {
            self.doom_orphans(fx);
        }
        Ok(Done::Reply(Reply::Done))
    }

    /// With `shm_rmid_forced`: segments that nobody has attached go when their creator is dead.
    pub(crate) fn doom_orphans(&mut self, fx: &mut Vec<Effect>) {
        if !self.group.limits.shm_rmid_forced {
            return;
        }
        let lives = |pid| {
            let mut clients = self.clients.values();
            clients.any(|c| c.image != Image::Dead && c.pid() == pid)
        };
        let orphans: Vec<u64> = self
            .constructs
            .iter()
            .filter(|(_, c)| c.life == Life::Live && c.nattch == 0)
            .filter(|(_, c)| matches!(c.body, Body::Shm { cpid, .. } if !lives(cpid)))
            .map(|(&serial, _)| serial)
            .collect();
        for serial in orphans {
            self.doom(serial, fx);
        }
    }

    /// The last attachment of a segment has ended.
    pub(crate) fn doom_if_forced(&mut self, serial: u64, fx: &mut Vec<Effect>) {
        let unused = self
            .constructs
            .get(&serial)
            .is_some_and(|c| c.life == Life::Live && c.nattch == 0 && matches!(c.body, Body::Shm { .. }));
        if unused && self.group.limits.shm_rmid_forced {
            self.doom(serial, fx);
        }
    }

    /// A slot and a sequence number: those asked for with `shm_next_id` and its like, which count once, or any.
    pub(crate) fn take_slot(&mut self, kind: Kind, serial: u64) -> Option<(u32, u16)> {
        let wanted = std::mem::replace(&mut self.group.limits.next_ids[kind as usize], -1);
        let table = self.table_mut(kind);
        if wanted < 0 {
            return table.take(serial);
        }
        let number = wanted as u32;
        table.take_from(number % SLOTS, (number / SLOTS) as u16, serial)
    }
}
