//! Event channels as bells, from one domain straight to another.
//!
//! Every door is an open file of `/dev/xen/evtchn` with one port for each domain that may ring it; the ring line is one more, with a port for each door of each other
//! domain. What it rests on, seen with Xen 4.17 and Linux 6.1:
//! - A port belongs to the open file that made it: who has another one can neither ring by it nor end it.
//! - After an event the kernel masks the port until its number is written back; a door with an event nobody has read makes no other one.
//! - Binding makes one event at the binder's side: in the ring line, which nobody reads.
//! - A domain may bind to itself, so that neighbours ring each other as they ring anybody.

use crate::devices::{self, DomId};
use crate::here::Here;
use anyhow::Context;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::io;
use vshmem_port::direct::{BELLS, DirectBells};

/// A domain's ring line and doors.
#[derive(Debug)]
pub struct XenBells {
    line: OwnedFd,
    doors: Vec<OwnedFd>,
}

impl XenBells {
    /// New ones, or with `former` those that a former life of the daemon had.
    ///
    /// # Errors
    /// What is missing and what to do.
    pub fn open(here: &Here, former: Vec<OwnedFd>) -> anyhow::Result<Self> {
        let mut all = former;
        if all.len() < 2 {
            let path = here.device("evtchn")?;
            let one = || {
                devices::open_waiting_for_nothing(&path)
                    .with_context(|| format!("opening {}", path.display()))
            };
            all = (0..BELLS + 2).map(|_| one()).collect::<anyhow::Result<_>>()?;
        }
        let line = all.remove(0);
        Ok(XenBells { line, doors: all })
    }
}

fn domain(peer: u32) -> io::Result<DomId> {
    DomId::try_from(peer).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

impl DirectBells for XenBells {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        std::iter::once(&self.line)
            .chain(&self.doors)
            .map(AsFd::as_fd)
            .collect()
    }

    fn call(&self) -> u32 {
        devices::NOTIFY as u32
    }

    fn offer(&mut self, peer: u32) -> io::Result<Vec<u32>> {
        let peer = domain(peer)?;
        let mut offered = Vec::new();
        for door in &self.doors {
            match devices::offer_events(door, peer) {
                Ok(port) => offered.push(port),
                Err(why) => {
                    self.withdraw(&offered);
                    return Err(why);
                }
            }
        }
        Ok(offered)
    }

    fn withdraw(&mut self, doors: &[u32]) {
        for (door, &port) in self.doors.iter().zip(doors) {
            let _ = devices::end_events(door, port);
        }
    }

    fn bind(&mut self, peer: u32, doors: &[u32]) -> io::Result<Vec<u32>> {
        let peer = domain(peer)?;
        let mut bound = Vec::new();
        for &port in doors.iter().take(self.doors.len()) {
            match devices::bind_events(&self.line, peer, port) {
                Ok(number) => bound.push(number),
                Err(why) => {
                    self.unbind(&bound);
                    return Err(why);
                }
            }
        }
        Ok(bound)
    }

    fn unbind(&mut self, numbers: &[u32]) {
        for &number in numbers {
            let _ = devices::end_events(&self.line, number);
        }
    }

    fn ring(&self, number: u32) -> io::Result<()> {
        devices::send_event(&self.line, number)
    }

    fn take(&self, door: u16) -> bool {
        let door = self.doors.get(usize::from(door));
        door.is_some_and(|door| devices::take_events(door).is_ok())
    }

    fn refresh(&self, door: u16, numbers: &[u32]) {
        if let Some(door) = self.doors.get(usize::from(door)) {
            while devices::take_events(door).is_ok() {}
            let _ = devices::let_come(door, numbers);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_device_it_is_said_what_to_do() {
        let root = tempfile::tempdir().unwrap();
        let why = XenBells::open(&Here::below(root.path()), Vec::new()).unwrap_err();
        assert!(why.to_string().contains("modprobe xen-evtchn"), "{why}");
    }

    #[test]
    fn what_is_no_event_channel_rings_nobody_and_harms_nothing() {
        let null = || devices::open_waiting_for_nothing(std::path::Path::new("/dev/null")).unwrap();
        let mut bells = XenBells::open(&Here::default(), vec![null(), null(), null()]).unwrap();
        assert_eq!(bells.descriptors().len(), 3);
        assert!(bells.offer(1).is_err() && bells.offer(70_000).is_err());
        assert!(bells.bind(1, &[4, 5]).is_err());
        assert!(bells.ring(4).is_err());
        bells.withdraw(&[4, 5]);
        bells.unbind(&[4, 5]);
        bells.refresh(1, &[4]);
        assert!(!bells.take(0) && !bells.take(9));
    }
}
