//! Who may do what: `ipcperms` and `ipcctl_obtain_check` of Linux, with the question whether a uid counts in another domain.
//!
//! Privilege is the caller's effective capabilities, never uid 0. In a group with separate uids a caller is "other" to constructs of other domains, and its
//! capabilities count only in its own; those of the host's own domain count everywhere.

use crate::registry::Registry;
use crate::state::{Client, Construct};
use crate::{Uids, errno::*};
use vshmem_wire::{Credentials, Failure, caps};

/// Read, for user, group and other.
pub(crate) const READ: u16 = 0o444;
/// Write (alter), for user, group and other.
pub(crate) const WRITE: u16 = 0o222;
/// Execute, for user, group and other.
pub(crate) const EXECUTE: u16 = 0o111;

fn in_group(who: &Credentials, gid: u32) -> bool {
    who.gid == gid || who.groups.contains(&gid)
}

impl Registry {
    /// Whether the client's domain is the host's own.
    pub(crate) fn on_host(&self, client: &Client) -> bool {
        self.domains
            .get(&client.domain)
            .is_some_and(|d| d.name == self.group.host)
    }

    /// Whether the client's ids mean nothing to the construct.
    fn foreign(&self, client: &Client, construct: &Construct) -> bool {
        self.group.uids_of(construct.group) == Uids::Separate && client.domain != construct.domain
    }

    /// Whether the client has a capability that counts for the construct.
    pub(crate) fn capable(&self, client: &Client, construct: &Construct, capability: u8) -> bool {
        client.who.caps & capability != 0 && (!self.foreign(client, construct) || self.on_host(client))
    }

    /// Whether the client's domain sees the construct at all.
    pub(crate) fn sees(&self, client: &Client, construct: &Construct) -> bool {
        let shared = || {
            let domain = self.domains.get(&client.domain);
            client.domain == construct.domain || domain.is_some_and(|d| construct.sight.allows(&d.name))
        };
        (self.within(client.domain, construct.group) && shared())
            || (self.on_host(client) && client.who.caps & caps::SYS_ADMIN != 0)
    }

    /// Whether the client has all the rights in `wanted`, which are permission bits as in a mode; rights count wherever they stand in it.
    pub(crate) fn may(&self, client: &Client, construct: &Construct, wanted: u16) -> bool {
        let requested = (wanted >> 6 | wanted >> 3 | wanted) & 7;
        let (who, perm) = (&client.who, &construct.perm);
        let granted = if self.foreign(client, construct) {
            perm.mode
        } else if who.uid == perm.cuid || who.uid == perm.uid {
            perm.mode >> 6
        } else if in_group(who, perm.cgid) || in_group(who, perm.gid) {
            perm.mode >> 3
        } else {
            perm.mode
        };
        requested & !granted == 0 || self.capable(client, construct, caps::IPC_OWNER)
    }

    /// [`Registry::may`], or EACCES.
    pub(crate) fn check(&self, client: &Client, construct: &Construct, wanted: u16) -> Result<(), Failure> {
        if self.may(client, construct, wanted) {
            Ok(())
        } else {
            Err(Failure::errno(EACCES))
        }
    }

    /// Owner, creator or CAP_SYS_ADMIN, or EPERM: IPC_SET and IPC_RMID.
    pub(crate) fn check_owner(&self, client: &Client, construct: &Construct) -> Result<(), Failure> {
        if self.owns(client, construct) || self.capable(client, construct, caps::SYS_ADMIN) {
            Ok(())
        } else {
            Err(Failure::errno(EPERM))
        }
    }

    /// Whether the client's uid is the owner's or the creator's.
    pub(crate) fn owns(&self, client: &Client, construct: &Construct) -> bool {
        !self.foreign(client, construct)
            && (client.who.uid == construct.perm.uid || client.who.uid == construct.perm.cuid)
    }

    /// CAP_IPC_LOCK, owner or creator, or EPERM: SHM_LOCK and SHM_UNLOCK.
    pub(crate) fn check_lock(&self, client: &Client, construct: &Construct) -> Result<(), Failure> {
        if self.owns(client, construct) || self.capable(client, construct, caps::IPC_LOCK) {
            Ok(())
        } else {
            Err(Failure::errno(EPERM))
        }
    }

    /// CAP_SYS_RESOURCE, or EPERM: a qbytes above the group's msgmnb.
    pub(crate) fn check_resource(&self, client: &Client, construct: &Construct) -> Result<(), Failure> {
        if self.capable(client, construct, caps::SYS_RESOURCE) {
            Ok(())
        } else {
            Err(Failure::because(
                EPERM,
                "a larger msg_qbytes than msgmnb needs CAP_SYS_RESOURCE",
            ))
        }
    }

    /// The owner in the domain the construct was made in, or the host's root, or EPERM: share and unshare.
    pub(crate) fn check_share(&self, client: &Client, construct: &Construct) -> Result<(), Failure> {
        let root_of_host = self.on_host(client) && client.who.caps & caps::SYS_ADMIN != 0;
        if root_of_host {
            return Ok(());
        }
        if client.domain != construct.domain {
            return Err(Failure::because(
                EPERM,
                "only the domain a construct was made in shares it",
            ));
        }
        self.check_owner(client, construct)
    }
}
