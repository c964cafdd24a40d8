//! The domain's bells: lines by which clients ring other domains and are rung themselves, past this daemon.
//!
//! A bell belongs to one thread of one client at a time. What the client gets is not the line but an epoll instance that holds it, edge-triggered: it can
//! wait for a ring, and neither take another's nor write or read the line, not even when the bell is another client's later. So the bytes stay in the
//! line until this daemon reads them, which the back-end asks for long before a line overflows. One byte is always left: an epoll instance forgets
//! a ring when it finds the line empty.

use rustix::event::epoll;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::collections::BTreeMap;
use std::io;
use vshmem_port::guest::Bells as Lines;

/// A client may have one bell in so many.
const SHARE: usize = 2;

/// The bells and who has which.
#[derive(Debug)]
pub(super) struct Bells {
    lines: Lines,
    owned: BTreeMap<u32, Vec<u16>>,
    free: Vec<u16>,
}

impl Bells {
    /// Nobody has any yet.
    pub(super) fn new(mut lines: Lines) -> Self {
        lines.lines.truncate(usize::from(vshmem_wire::bell::MOST));
        let count = lines.lines.len() as u16;
        Bells {
            lines,
            owned: BTreeMap::new(),
            free: (1..=count).rev().collect(),
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> u16 {
        self.lines.lines.len() as u16
    }

    /// All descriptors, the ring line's first.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(&self.lines.ring)
            .chain(&self.lines.lines)
            .map(AsFd::as_fd)
    }

    /// The ring line, for a client.
    pub(super) fn ring_line(&self) -> io::Result<OwnedFd> {
        Ok(rustix::io::fcntl_dupfd_cloexec(&self.lines.ring, 0)?)
    }

    /// Gives a client a bell, if one is left for it.
    pub(super) fn lease(&mut self, client: u32) -> io::Result<Option<(u16, OwnedFd)>> {
        let most = (self.lines.lines.len() / SHARE).max(1);
        if self.owned.get(&client).is_some_and(|owned| owned.len() >= most) {
            return Ok(None);
        }
        let Some(bell) = self.free.pop() else {
            return Ok(None);
        };
        let waits = self.watch(bell);
        match &waits {
            Ok(_) => self.owned.entry(client).or_default().push(bell),
            Err(_) => self.free.push(bell),
        }
        waits.map(|waits| Some((bell, waits)))
    }

    /// A new epoll instance for each owner: a former one's gets rings as well, and takes none away.
    fn watch(&self, bell: u16) -> io::Result<OwnedFd> {
        let line = self.line(bell).ok_or(io::ErrorKind::NotFound)?;
        let waits = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&waits, line, epoll::EventData::new_u64(bell.into()), flags)?;
        Ok(waits)
    }

    fn line(&self, bell: u16) -> Option<&OwnedFd> {
        self.lines.lines.get(usize::from(bell).checked_sub(1)?)
    }

    /// A former life gave a client this one.
    pub(super) fn restore(&mut self, client: u32, bells: &[u16]) {
        self.free.retain(|b| !bells.contains(b));
        self.owned.entry(client).or_default().extend(bells);
    }

    /// A client is gone: its bells are free again.
    pub(super) fn take_back(&mut self, client: u32) {
        self.free.extend(self.owned.remove(&client).unwrap_or_default());
    }

    /// Who has which.
    pub(super) fn owned(&self) -> impl Iterator<Item = (u32, u16)> {
        self.owned
            .iter()
            .flat_map(|(client, bells)| bells.iter().map(|bell| (*client, *bell)))
    }

    /// Reads a bell's line up to its last byte; gives how many bytes that were.
    pub(super) fn read(&self, bell: u16) -> u32 {
        let Some(line) = self.line(bell) else { return 0 };
        let mut buffer = [0; 512];
        let mut read = 0;
        // Bounded, should somebody write as fast as this reads.
        for _ in 0..16 {
            let there = rustix::io::ioctl_fionread(line).unwrap_or(0).saturating_sub(1);
            let most = buffer.len().min(usize::try_from(there).unwrap_or(0));
            match rustix::io::read(line, &mut buffer[..most]) {
                Ok(0) | Err(_) => break,
                Ok(bytes) => read += bytes as u32,
            }
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::Timespec;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    fn bells(count: usize) -> (Bells, Vec<UnixStream>) {
        let pair = || {
            let (host, guest) = UnixStream::pair().unwrap();
            guest.set_nonblocking(true).unwrap();
            (host, OwnedFd::from(guest))
        };
        let (mut hosts, mut lines) = (Vec::new(), Vec::new());
        let (ring_host, ring) = pair();
        hosts.push(ring_host);
        for _ in 0..count {
            let (host, line) = pair();
            hosts.push(host);
            lines.push(line);
        }
        (Bells::new(Lines { ring, lines }), hosts)
    }

    fn rung(waits: &OwnedFd) -> Option<u64> {
        let mut events = Vec::with_capacity(4);
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        epoll::wait(waits, rustix::buffer::spare_capacity(&mut events), Some(&now)).unwrap();
        events.first().map(|event: &epoll::Event| event.data.u64())
    }

    #[test]
    fn a_ring_is_seen_once_by_its_owner_and_reading_the_line_loses_none() {
        let (mut bells, hosts) = bells(4);
        let (first, waits) = bells.lease(20).unwrap().unwrap();
        let mut host = &hosts[usize::from(first)];
        assert_eq!(rung(&waits), None);
        host.write_all(&[1]).unwrap();
        assert_eq!(rung(&waits), Some(first.into()));
        assert_eq!(rung(&waits), None, "once");
        for _ in 0..300 {
            host.write_all(&[1]).unwrap();
            // Between the ring and the wait somebody reads what there is.
            bells.read(first);
            assert_eq!(rung(&waits), Some(first.into()));
        }
    }

    #[test]
    fn a_line_that_was_rung_often_is_read_up_to_one_byte() {
        let (bells, hosts) = bells(2);
        (&hosts[2]).write_all(&[1; 3000]).unwrap();
        assert_eq!(bells.read(2), 2999);
        assert_eq!(bells.read(2), 0);
        assert_eq!((bells.read(1), bells.read(0), bells.read(99)), (0, 0, 0));
    }

    #[test]
    fn a_former_owner_takes_nothing_from_the_next() {
        let (mut bells, hosts) = bells(1);
        let (bell, former) = bells.lease(20).unwrap().unwrap();
        assert!(bells.lease(21).unwrap().is_none(), "there is one");
        bells.take_back(20);
        let (again, waits) = bells.lease(21).unwrap().unwrap();
        assert_eq!(bell, again);
        (&hosts[1]).write_all(&[1]).unwrap();
        assert_eq!(rung(&former), Some(bell.into()));
        assert_eq!(rung(&waits), Some(bell.into()));
    }

    #[test]
    fn no_client_gets_them_all_and_what_a_former_life_gave_stays_given() {
        let (mut bells, _hosts) = bells(4);
        bells.restore(30, &[4, 2]);
        assert!(bells.lease(30).unwrap().is_none());
        let (one, _) = bells.lease(31).unwrap().unwrap();
        let (other, _) = bells.lease(31).unwrap().unwrap();
        assert_eq!((one, other), (1, 3));
        assert!(bells.lease(31).unwrap().is_none());
        assert!(bells.lease(32).unwrap().is_none());
        assert_eq!(
            bells.owned().collect::<Vec<_>>(),
            [(30, 4), (30, 2), (31, 1), (31, 3)]
        );
    }
}
