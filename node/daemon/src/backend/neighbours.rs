//! Guests that ring each other, and the host, with nobody in between: who is whose neighbour, and what they offer each other.
//!
//! Neighbours are of one port and share a group; the host is everybody's neighbour, and everybody is its own, so that one way of ringing does for all. This daemon
//! passes numbers on; with the rings themselves it has nothing to do.

use super::Backend;
use super::guests::Guest;
use crate::config::Memory;
use crate::doors::Doors;
use rustix::fd::OwnedFd;
use vshmem_port_select::{GRANTING, HOST_MACHINE};
use vshmem_wire::{Down, Failure, Verdict};

/// The host's futex space.
const HOST_SPACE: u16 = 0;

impl Backend {
    /// A guest's front-end was welcomed: it and its neighbours hear of each other.
    pub(super) fn introduce_neighbours(&mut self, number: u32) {
        let Some(guest) = self.guests.get(&number) else {
            return;
        };
        let (port, space, name) = (guest.port.clone(), guest.space, guest.name.clone());
        let machine = match vshmem_port_select::machine_named(&port, &name) {
            Ok(Some(machine)) => machine,
            Ok(None) => return,
            Err(e) => return tracing::warn!(domain = %name, "it is rung by its stream alone: {e:#}"),
        };
        if let Some(guest) = self.guests.get_mut(&number) {
            guest.machine = Some(machine);
        }
        if let Err(e) = self.open_direct(&port) {
            tracing::warn!("the host is rung by its daemon alone: {e:#}");
        }
        let mut tells = Vec::new();
        if let Some(direct) = &mut self.direct {
            tells.push((number, (HOST_SPACE, HOST_MACHINE)));
            if let Some(doors) = direct.offer(space, machine, &self.keeper) {
                let down = Down::Doors {
                    space: HOST_SPACE,
                    machine: HOST_MACHINE,
                    doors,
                };
                self.tell_or_lose(number, &down);
            }
        }
        for (other, (of, at)) in self.neighbours_of(number) {
            tells.push((number, (of, at)));
            if other != number {
                tells.push((other, (space, machine)));
            }
        }
        for (whom, (space, machine)) in tells {
            self.tell_or_lose(whom, &Down::Neighbour { space, machine });
        }
    }

    /// Guests that may ring this one, itself among them: their numbers, spaces and machines.
    fn neighbours_of(&self, number: u32) -> Vec<(u32, (u16, u32))> {
        let Some(guest) = self.guests.get(&number) else {
            return Vec::new();
        };
        let groups = self.registry.group();
        let own = groups.groups_of(&guest.name);
        let is_neighbour = |other: &Guest| {
            let shared = groups.groups_of(&other.name).iter().any(|g| own.contains(g));
            other.greeted && other.port == guest.port && shared
        };
        let others = self.guests.iter().filter(|(_, other)| is_neighbour(other));
        others
            .filter_map(|(&other, guest)| Some((other, (guest.space, guest.machine?))))
            .collect()
    }

    /// The host's own doors: at the first guest of such a port, after a restart, or when the first of the host's own threads has slept in granted memory.
    fn open_direct(&mut self, port: &str) -> anyhow::Result<()> {
        if self.direct.is_some() {
            return Ok(());
        }
        let (lines, state) = std::mem::take(&mut self.former_direct);
        let Some(bells) = vshmem_port_select::direct_bells(port, lines)? else {
            return Ok(());
        };
        let mut direct = Doors::new(bells, state, &self.keeper)?;
        direct.keep_those(|client| self.registry.client(client).is_some());
        if let Some(doors) = direct.offer(HOST_SPACE, HOST_MACHINE, &self.keeper) {
            direct.bind(HOST_SPACE, HOST_MACHINE, doors, &self.time, &self.keeper);
        }
        self.direct = Some(direct);
        Ok(())
    }

    /// A guest offers doors to a neighbour.
    pub(super) fn pass_doors_on(&mut self, number: u32, to: u16, doors: Vec<u32>) {
        let Some((space, machine)) = self.guests.get(&number).and_then(|g| Some((g.space, g.machine?)))
        else {
            return;
        };
        if to == HOST_SPACE {
            if let Some(direct) = &mut self.direct {
                direct.bind(space, machine, doors, &self.time, &self.keeper);
            }
            return;
        }
        let neighbours = self.neighbours_of(number);
        if let Some((other, _)) = neighbours.into_iter().find(|(_, (of, _))| *of == to) {
            let down = Down::Doors {
                space,
                machine,
                doors,
            };
            self.tell_or_lose(other, &down);
        }
    }

    /// A guest is gone; it is not among the guests any more.
    pub(super) fn neighbour_gone(&mut self, gone: &Guest) {
        if gone.machine.is_none() {
            return;
        }
        let space = gone.space;
        if let Some(direct) = &mut self.direct {
            direct.forget(space, &self.time, &self.keeper);
        }
        let others = self.guests.iter().filter(|(_, other)| other.machine.is_some());
        let others: Vec<u32> = others.map(|(&number, _)| number).collect();
        for other in others {
            self.tell_or_lose(other, &Down::NeighbourGone { space });
        }
    }

    /// A local client asks for the ring line, or for a bell.
    pub(super) fn give_bell(&mut self, client: u32, wait: bool) -> (Verdict, Vec<OwnedFd>) {
        if self.direct.is_none()
            && self.config.group.memory == Memory::Grants
            && let Err(e) = self.open_direct(GRANTING)
            && self.lines.allows()
        {
            tracing::warn!("sleepers of the host look by themselves: {e:#}");
        }
        match &mut self.direct {
            Some(direct) => direct.give(client, wait, &self.keeper),
            None => (Err(Failure::errno(libc::ENOSYS)), Vec::new()),
        }
    }

    /// Rings a bell, or with 0 a front-end, with nobody in between. `false`: it has to be rung otherwise.
    pub(super) fn ring_direct(&self, space: u16, bell: u16) -> bool {
        self.direct
            .as_ref()
            .is_some_and(|direct| direct.ring(space, bell))
    }

    /// Rings all bells of a space that can be rung so, for those who know only that somebody there is to look.
    pub(super) fn ring_all_direct(&self, space: u16) {
        for bell in 1..=vshmem_port::direct::BELLS {
            self.ring_direct(space, bell);
        }
    }
}
