//! Guests' bells: lines by which a guest's clients ring, and are rung, past their front-end.
//!
//! What comes by a ring line is anybody's word in that guest: each ring found in it wakes somebody at worst once too often. A bell's line is
//! written to by this daemon alone, one byte a ring, and never more than the guest's front-end can be sure to find room for, since a guest's line may go
//! deaf for ever when too much lies unread in it: after [`ASK`] bytes the front-end is asked to read, at [`MOST`] the bell is not rung, and who sleeps
//! there looks by itself a tenth of a second later.

use super::Backend;
use crate::process::reactor::Token;
use rustix::fd::OwnedFd;
use rustix::net::SendFlags;
use vshmem_wire::Down;
use vshmem_wire::bell::{Ring, Rings};

/// Unread bytes at which the front-end is asked to read.
const ASK: u32 = 256;
/// Most unread bytes in one bell's line. A guest's line holds 3,900; what was on its way when the front-end read may come on top.
const MOST: u32 = 1024;
/// Bytes taken from a ring line at a time: others' turns come between.
const PIECE: usize = 4096;

/// One bell.
#[derive(Debug)]
struct Bell {
    line: OwnedFd,
    /// Bytes that the front-end has not said it read.
    unread: u32,
    /// It has been asked to.
    asked: bool,
}

/// What came of ringing a bell.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rung {
    /// There is no such bell, or it cannot be rung yet.
    No,
    /// It was rung.
    Yes,
    /// It was rung, and its line is to be read.
    Read,
    /// Its line is full.
    Full,
}

/// The bells of one guest.
#[derive(Debug, Default)]
pub(super) struct Bells {
    ring_line: Option<OwnedFd>,
    rings: Rings,
    bells: Vec<Bell>,
    /// So many are open at the other end.
    open: u16,
}

impl Bells {
    /// From the ring line and the bells' lines, in order. One descriptor alone is none.
    pub(super) fn new(descriptors: Vec<OwnedFd>) -> std::io::Result<Self> {
        let mut bells = Bells::default();
        for (i, line) in descriptors.into_iter().enumerate() {
            rustix::io::ioctl_fionbio(&line, true)?;
            match i {
                0 => bells.ring_line = Some(line),
                _ => bells.bells.push(Bell {
                    line,
                    unread: 0,
                    asked: false,
                }),
            }
        }
        Ok(bells)
    }

    /// All descriptors, the ring line's first.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = &OwnedFd> {
        self.ring_line
            .iter()
            .chain(self.bells.iter().map(|bell| &bell.line))
    }

    /// The front-end has opened so many, and read what was in them.
    pub(super) fn opened(&mut self, count: u16) {
        self.open = count.min(self.bells.len() as u16);
        for bell in &mut self.bells {
            (bell.unread, bell.asked) = (0, false);
        }
    }

    /// The front-end has read a line.
    pub(super) fn was_read(&mut self, bell: u16, bytes: u32) {
        if let Some(bell) = self.get(bell) {
            bell.unread = bell.unread.saturating_sub(bytes);
            bell.asked = false;
        }
    }

    fn get(&mut self, bell: u16) -> Option<&mut Bell> {
        if bell > self.open {
            return None;
        }
        self.bells.get_mut(usize::from(bell).checked_sub(1)?)
    }

    /// Rings one.
    pub(super) fn ring(&mut self, bell: u16) -> Rung {
        let Some(bell) = self.get(bell) else {
            return Rung::No;
        };
        if bell.unread >= MOST {
            return Rung::Full;
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match rustix::net::send(&bell.line, &[1], flags) {
            Ok(_) => bell.unread += 1,
            Err(rustix::io::Errno::AGAIN) => return Rung::Full,
            Err(_) => return Rung::No,
        }
        if bell.unread >= ASK && !bell.asked {
            bell.asked = true;
            return Rung::Read;
        }
        Rung::Yes
    }

    /// What the ring line brings; None at its end.
    fn heard(&mut self) -> Option<Vec<Ring>> {
        let mut found = Vec::new();
        let mut piece = [0; PIECE];
        match rustix::io::read(self.ring_line.as_ref()?, &mut piece) {
            Ok(0) => return None,
            Ok(bytes) => self.rings.push(&piece[..bytes], &mut found),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
        Some(found)
    }
}

impl Backend {
    /// Something came by a guest's ring line.
    pub(super) fn bells_ready(&mut self, number: u32) {
        let Some(guest) = self.guests.get_mut(&number) else {
            return;
        };
        let Some(rings) = guest.bells.heard() else {
            // The guest itself ends with its stream.
            if let Some(line) = &guest.bells.ring_line {
                self.reactor.forget(line);
            }
            return;
        };
        if guest.greeted {
            for Ring { space, bell, at } in rings {
                self.ring(space, at, bell);
            }
        }
    }

    /// Watches a guest's ring line, and has the keeper hold the lines.
    pub(super) fn add_bells(&mut self, number: u32) -> std::io::Result<()> {
        let Some(guest) = self.guests.get(&number) else {
            return Ok(());
        };
        if let Some(line) = &guest.bells.ring_line {
            self.reactor.watch(line, Token::Bells(number))?;
        }
        for (i, line) in guest.bells.descriptors().enumerate() {
            self.keeper.keep(super::start::bell_name(guest.domain, i), line);
        }
        Ok(())
    }

    /// Rings a guest's bell. `false`: it has to be rung by its stream.
    pub(super) fn ring_bell(&mut self, number: u32, bell: u16) -> bool {
        let Some(guest) = self.guests.get_mut(&number) else {
            return false;
        };
        match guest.bells.ring(bell) {
            Rung::No => false,
            Rung::Yes | Rung::Full => true,
            Rung::Read => {
                self.tell_or_lose(number, &Down::ReadBell { bell });
                true
            }
        }
    }

    /// Rings all bells of a guest, for those who know only that somebody there is to look.
    pub(super) fn ring_bells(&mut self, number: u32) {
        let open = self.guests.get(&number).map_or(0, |guest| guest.bells.open);
        for bell in 1..=open {
            self.ring_bell(number, bell);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn bells(count: usize) -> (Bells, Vec<UnixStream>) {
        let (ours, theirs): (Vec<UnixStream>, Vec<UnixStream>) =
            (0..=count).map(|_| UnixStream::pair().unwrap()).unzip();
        let bells = Bells::new(ours.into_iter().map(OwnedFd::from).collect()).unwrap();
        (bells, theirs)
    }

    #[test]
    fn a_bell_is_not_rung_before_it_is_open_at_the_other_end() {
        let (mut bells, _theirs) = bells(3);
        assert_eq!(bells.ring(1), Rung::No);
        bells.opened(2);
        assert_eq!([bells.ring(1), bells.ring(2)], [Rung::Yes, Rung::Yes]);
        assert_eq!(
            [bells.ring(0), bells.ring(3), bells.ring(9)],
            [Rung::No, Rung::No, Rung::No]
        );
        bells.opened(u16::MAX);
        assert_eq!([bells.ring(3), bells.ring(4)], [Rung::Yes, Rung::No]);
    }

    #[test]
    fn a_line_that_nobody_reads_is_left_alone_in_time() {
        use std::io::Read;
        let (mut bells, mut theirs) = bells(1);
        bells.opened(1);
        // The guest's kernel takes the bytes in, and nobody reads them there.
        let (mut asked, mut there) = (0, 0);
        for _ in 0..10_000 {
            match bells.ring(1) {
                Rung::Full => continue,
                Rung::Read => asked += 1,
                _ => {}
            }
            there += theirs[1].read(&mut [0; 64]).unwrap();
        }
        assert_eq!((asked, there), (1, MOST as usize));
        assert_eq!(bells.ring(1), Rung::Full);
        bells.was_read(1, there as u32);
        assert_eq!(bells.ring(1), Rung::Yes);
        // A wrong word of the front-end's is its own guest's harm.
        bells.was_read(1, u32::MAX);
        bells.was_read(77, 1);
        assert_eq!(bells.ring(1), Rung::Yes);
    }
}
