//! Moves bytes between a line's pages and a socket, in a thread of its own, until either end is gone.

use super::ring::{Corrupt, Ring};
use crate::devices;
use crate::xenstore::Xenstore;
use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vshmem_words::{Mapping, Words};

/// How long it waits at most for something to happen.
const LOOK: Duration = Duration::from_millis(500);
/// How long what was written before the socket's other end was closed may wait for room in the pages, and what is in the pages at the end for room in the socket.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How long Xenstore is waited for, and how long it is not asked again when it has not answered.
pub(super) const ANSWER: Duration = Duration::from_secs(3);
const UNANSWERED: Duration = Duration::from_secs(5);
/// So often are the pages emptied before anything else is looked at: the other domain may go on for ever.
const AT_ONCE: u32 = 16;

/// Where it shows that the other end is there: as long as this stands at this path.
pub(super) struct Watched {
    pub(super) xenstore: Xenstore,
    pub(super) path: String,
    pub(super) said: String,
    pub(super) every: Duration,
    /// And as long as nobody here has told it to end.
    pub(super) told: Arc<AtomicBool>,
    /// By which entry the other domain finds the line, and what stands there: taken back at the end, so that the other domain hears of it.
    pub(super) entry: Option<(String, String)>,
}

impl Watched {
    /// Whether what stood there does not any more.
    fn is_gone(&mut self) -> anyhow::Result<bool> {
        Ok(self.xenstore.read(&self.path)?.as_ref() != Some(&self.said))
    }
}

/// One end of a line at work.
pub(super) struct Pump {
    ends: Ends<Box<Mapping>>,
    evtchn: OwnedFd,
    port: u32,
    watched: Watched,
}

/// What bytes are moved between.
struct Ends<W> {
    ring: Ring<W>,
    socket: OwnedFd,
    /// Taken out of the pages and not yet written to the socket.
    held: Vec<u8>,
    /// Nobody reads from the socket any more; what was written to it is still moved.
    unheard: bool,
    /// Since when the socket's other end is closed and the pages have no room for what it wrote.
    stuck: Option<Instant>,
}

/// Why it ends.
#[derive(Debug, PartialEq)]
enum Over {
    /// The socket's other end is closed.
    Closed,
    /// The other domain is gone.
    Gone,
    /// The pages hold nonsense.
    Corrupt(Corrupt),
    /// The kernel refuses.
    Errno(Errno),
}

impl From<Errno> for Over {
    fn from(errno: Errno) -> Self {
        Over::Errno(errno)
    }
}

impl From<Corrupt> for Over {
    fn from(corrupt: Corrupt) -> Self {
        Over::Corrupt(corrupt)
    }
}

impl Pump {
    /// Begins to move bytes between the pages and this socket.
    pub(super) fn start(
        ring: Ring<Box<Mapping>>,
        socket: OwnedFd,
        evtchn: OwnedFd,
        port: u32,
        watched: Watched,
    ) -> anyhow::Result<JoinHandle<()>> {
        rustix::io::ioctl_fionbio(&socket, true).context("the line's socket")?;
        let pump = Pump {
            ends: Ends::new(ring, socket),
            evtchn,
            port,
            watched,
        };
        let thread = std::thread::Builder::new().name("vshmem-line".into());
        thread.spawn(move || pump.run()).context("a thread for the line")
    }

    fn run(mut self) {
        let (mut looked, mut pause) = (Instant::now(), self.watched.every);
        let over = loop {
            if self.watched.told.load(Ordering::Relaxed) {
                break Over::Closed;
            }
            if looked.elapsed() >= pause {
                match self.watched.is_gone() {
                    Ok(true) => break Over::Gone,
                    Ok(false) => pause = self.watched.every,
                    // Bytes do not go while Xenstore is waited for.
                    Err(_) => pause = UNANSWERED,
                }
                looked = Instant::now();
            }
            if let Err(over) = self.turn() {
                break over;
            }
        };
        if !matches!(over, Over::Corrupt(_)) {
            // Whoever has ended it: what the other domain has said is heard.
            let _ = self.ends.last_words(LAST_WORDS);
        }
        match over {
            Over::Closed | Over::Gone => {}
            Over::Corrupt(corrupt) => tracing::warn!(
                "a line to another domain holds nonsense ({} bytes under way, at most 4096 is right): given up",
                corrupt.found
            ),
            Over::Errno(errno) => tracing::warn!("a line to another domain is given up: {errno}"),
        }
        self.take_back();
    }

    /// The entry goes, unless another line's stands there by now.
    fn take_back(&mut self) {
        let Watched { xenstore, entry, .. } = &mut self.watched;
        let Some((path, said)) = entry else {
            return;
        };
        let done = match xenstore.read(path) {
            Ok(found) if found.as_ref() == Some(said) => xenstore
                .remove(path)
                .and_then(|()| xenstore.remove(&format!("{path}{}", super::SERVED_BY))),
            found => found.map(drop),
        };
        if let Err(why) = done {
            tracing::info!("the entry of a line that is over stays: {why:#}");
        }
    }

    fn turn(&mut self) -> Result<(), Over> {
        if self.ends.step()? {
            match devices::send_event(&self.evtchn, self.port) {
                // The other end is not bound at the moment: it looks when it comes back.
                Ok(()) | Err(_) => {}
            }
        }
        let wanted = self.ends.wanted(LAST_WORDS)?;
        let mut waits = [
            PollFd::new(&self.evtchn, PollFlags::IN),
            PollFd::new(&self.ends.socket, wanted),
        ];
        // A closed socket would end every wait at once, though nothing can be done with it now.
        let waits = if wanted.is_empty() {
            &mut waits[..1]
        } else {
            &mut waits[..]
        };
        let most = Timespec {
            tv_sec: 0,
            tv_nsec: if self.ends.is_behind()? {
                0
            } else {
                LOOK.as_nanos() as i64
            },
        };
        match poll(waits, Some(&most)) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
        if waits[0].revents().is_empty() {
            return Ok(());
        }
        hear(&self.evtchn)
    }
}

/// Takes events. A device that has none to read, and says that it has, would be asked for ever: its error is the line's.
fn hear(evtchn: &OwnedFd) -> Result<(), Over> {
    match devices::take_events(evtchn).map_err(|why| Errno::from_io_error(&why).unwrap_or(Errno::IO)) {
        Ok(()) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

impl<W> Ends<W>
where
    W: Deref,
    W::Target: Words + Sized,
{
    fn new(ring: Ring<W>, socket: OwnedFd) -> Self {
        Ends {
            ring,
            socket,
            held: Vec::new(),
            unheard: false,
            stuck: None,
        }
    }

    /// Moves what can be moved, both ways; whether the other domain is to hear of it.
    fn step(&mut self) -> Result<bool, Over> {
        let told = self.inwards()?;
        let room = self.ring.room()?;
        Ok(self.outwards(room)? | told)
    }

    /// What the socket is to be waited for. Its end is where nothing more is read from it, however it hangs up; if there is no room to read into, after that long.
    fn wanted(&mut self, patience: Duration) -> Result<PollFlags, Over> {
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::IN, self.ring.room()? > 0);
        wanted.set(PollFlags::OUT, !self.held.is_empty());
        if wanted.contains(PollFlags::IN) || !self.is_hung_up()? {
            self.stuck = None;
        } else if self.stuck.get_or_insert_with(Instant::now).elapsed() >= patience {
            return Err(Over::Closed);
        }
        Ok(wanted)
    }

    fn is_hung_up(&self) -> Result<bool, Over> {
        let mut look = [PollFd::new(&self.socket, PollFlags::empty())];
        match poll(&mut look, Some(&Timespec::default())) {
            Ok(_) => Ok(look[0].revents().contains(PollFlags::HUP)),
            Err(Errno::INTR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether there is more in the pages that the socket may have room for.
    fn is_behind(&self) -> Result<bool, Over> {
        Ok(!self.unheard && self.held.is_empty() && self.ring.there()? > 0)
    }

    /// What was held goes to the socket, as far as that has room.
    fn hand_on(&mut self) -> Result<(), Over> {
        match rustix::net::send(&self.socket, &self.held, rustix::net::SendFlags::NOSIGNAL) {
            Ok(written) => {
                self.held.drain(..written);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::PIPE | Errno::CONNRESET) => {
                self.unheard = true;
                self.held.clear();
            }
            Err(errno) => return Err(errno.into()),
        }
        Ok(())
    }

    /// From the pages to the socket; whether the other end is to hear of it.
    fn inwards(&mut self) -> Result<bool, Over> {
        let mut told = false;
        for _ in 0..AT_ONCE {
            if !self.held.is_empty() {
                self.hand_on()?;
            }
            if self.unheard || !self.held.is_empty() {
                break;
            }
            let mut buffer = [0; 4096];
            let (taken, waits) = self.ring.take(&mut buffer)?;
            told |= waits;
            if taken == 0 {
                break;
            }
            self.held.extend(&buffer[..taken]);
        }
        Ok(told)
    }

    /// What is in the pages now goes to the socket, as long as somebody reads there; no more than that, since the other domain may go on.
    fn last_words(&mut self, patience: Duration) -> Result<(), Over> {
        let until = Instant::now() + patience;
        let mut left = self.ring.there()?;
        while !self.unheard && (left > 0 || !self.held.is_empty()) {
            if self.held.is_empty() {
                let mut buffer = [0; 4096];
                let taken = self.ring.take(&mut buffer[..left])?.0;
                // Nobody takes back what was said, but who says nonsense.
                left = if taken == 0 { 0 } else { left - taken };
                self.held.extend(&buffer[..taken]);
                continue;
            }
            self.hand_on()?;
            if !self.held.is_empty() && !self.unheard {
                let patience = until.saturating_duration_since(Instant::now());
                if patience.is_zero() {
                    break;
                }
                let most = Timespec::try_from(patience).map_err(|_| Errno::INVAL)?;
                let mut room = [PollFd::new(&self.socket, PollFlags::OUT)];
                match poll(&mut room, Some(&most)) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
        Ok(())
    }

    /// From the socket to the pages; whether anything came.
    fn outwards(&mut self, room: usize) -> Result<bool, Over> {
        let mut buffer = [0; 4096];
        let room = room.min(buffer.len());
        if room == 0 {
            return Ok(false);
        }
        match rustix::io::read(&self.socket, &mut buffer[..room]) {
            Ok(0) => Err(Over::Closed),
            Ok(read) => {
                self.ring.put(&buffer[..read]);
                Ok(true)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(Errno::CONNRESET) => Err(Over::Closed),
            Err(errno) => Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ring::End;
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    use vshmem_words::Heap;

    fn pair() -> (OwnedFd, OwnedFd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap()
    }

    /// A line whose pages are full, with more in the socket, whose other end is closed.
    fn full(memory: &Heap) -> (Ends<&Heap>, Ring<&Heap>) {
        let (daemon, socket) = pair();
        let mut ends = Ends::new(Ring::new(memory, End::Host), socket);
        assert_eq!(rustix::io::write(&daemon, &[1; 4096]), Ok(4096));
        assert_eq!(ends.step(), Ok(true));
        assert_eq!(rustix::io::write(&daemon, b"goodbye"), Ok(7));
        drop(daemon);
        (ends, Ring::new(memory, End::Guest))
    }

    #[test]
    fn a_goodbye_that_waits_for_room_arrives_after_its_sender_is_gone() {
        let memory = Heap::new(3 * 4096);
        let (mut ends, mut guest) = full(&memory);
        for _ in 0..3 {
            assert_eq!(ends.step(), Ok(false));
            assert_eq!(ends.wanted(Duration::MAX), Ok(PollFlags::empty()));
        }
        // What comes the other way is heard by nobody, and hinders nothing.
        guest.put(b"who is there?");
        assert_eq!(ends.step(), Ok(false));
        assert!(ends.unheard);
        let mut buffer = [0; 4096];
        assert_eq!(guest.take(&mut buffer), Ok((4096, true)));
        assert_eq!(ends.wanted(Duration::MAX), Ok(PollFlags::IN));
        assert_eq!(ends.step(), Ok(true));
        assert_eq!(guest.take(&mut buffer).unwrap().0, 7);
        assert_eq!(&buffer[..7], b"goodbye");
        assert_eq!(ends.step(), Err(Over::Closed));
    }

    #[test]
    fn a_goodbye_that_nobody_makes_room_for_is_given_up() {
        let memory = Heap::new(3 * 4096);
        let (mut ends, _guest) = full(&memory);
        assert_eq!(ends.wanted(Duration::MAX), Ok(PollFlags::empty()));
        assert_eq!(ends.wanted(Duration::ZERO), Err(Over::Closed));
    }

    #[test]
    fn what_a_domain_said_before_it_was_gone_is_heard_to_the_last_byte() {
        let memory = Heap::new(3 * 4096);
        let (daemon, socket) = pair();
        let mut ends = Ends::new(Ring::new(&memory, End::Host), socket);
        let mut guest = Ring::new(&memory, End::Guest);
        // The socket is full when the domain ends.
        let mut sent = 0;
        while ends.held.is_empty() {
            guest.put(&[1; 4096]);
            sent += 4096;
            ends.step().unwrap();
        }
        guest.put(&vec![2; guest.room().unwrap()]);
        let more = ends.ring.there().unwrap();
        let reader = std::thread::spawn(move || {
            let (mut got, mut buffer) = (Vec::<u8>::new(), [0; 65536]);
            loop {
                match rustix::io::read(&daemon, &mut buffer) {
                    Ok(0) => return got,
                    Ok(read) => got.extend(&buffer[..read]),
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        });
        ends.last_words(Duration::from_secs(60)).unwrap();
        drop(ends);
        let got = reader.join().unwrap();
        assert_eq!(got.len(), sent + more);
        assert!(got[..sent].iter().all(|byte| *byte == 1) && got[sent..].iter().all(|byte| *byte == 2));
    }

    #[test]
    fn last_words_that_nobody_reads_are_given_up() {
        let memory = Heap::new(3 * 4096);
        let (daemon, socket) = pair();
        let mut ends = Ends::new(Ring::new(&memory, End::Host), socket);
        let mut guest = Ring::new(&memory, End::Guest);
        while ends.held.is_empty() {
            guest.put(&[1; 4096]);
            ends.step().unwrap();
        }
        ends.last_words(Duration::from_millis(1)).unwrap();
        drop(daemon);
        ends.last_words(Duration::from_secs(60)).unwrap();
        assert!(ends.unheard);
    }

    #[test]
    fn a_domain_that_never_stops_talking_does_not_keep_its_line_from_anything_else() {
        let memory = Heap::new(3 * 4096);
        let (daemon, socket) = pair();
        let mut ends = Ends::new(Ring::new(&memory, End::Host), socket);
        let mut guest = Ring::new(&memory, End::Guest);
        let talking = std::sync::atomic::AtomicBool::new(true);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while talking.load(std::sync::atomic::Ordering::Relaxed) {
                    let room = guest.room().unwrap();
                    guest.put(&vec![1; room]);
                }
            });
            scope.spawn(|| {
                let mut buffer = [0; 65536];
                while talking.load(std::sync::atomic::Ordering::Relaxed) {
                    let _ = rustix::io::read(&daemon, &mut buffer);
                }
            });
            for _ in 0..200 {
                ends.step().unwrap();
            }
            ends.last_words(Duration::from_secs(1)).unwrap();
            talking.store(false, std::sync::atomic::Ordering::Relaxed);
        });
    }

    #[test]
    fn a_device_of_events_that_fails_ends_its_line() {
        let (device, far) = pair();
        assert_eq!(rustix::io::write(&far, &5u32.to_ne_bytes()), Ok(4));
        assert_eq!(hear(&device), Ok(()));
        // None has come: another one may.
        assert_eq!(hear(&device), Ok(()));
        let null = devices::open(std::path::Path::new("/dev/null"), true).unwrap();
        assert_eq!(hear(&null), Err(Over::Errno(Errno::IO)));
    }

    #[test]
    fn a_line_is_over_when_what_stood_for_its_other_end_is_gone_and_not_when_that_cannot_be_known() {
        use crate::xenstore::imitation;
        let known = imitation::tree(&[("/local/domain/5/domid", "5")]);
        let watched = |xenstore| Watched {
            xenstore,
            path: "/local/domain/5/domid".to_owned(),
            said: "5".to_owned(),
            every: LOOK,
            told: Arc::default(),
            entry: None,
        };
        let mut there = watched(imitation::knowing(&known));
        assert!(!there.is_gone().unwrap());
        // Another machine's by now, then nobody's.
        for name in [Some("6"), None] {
            let path = there.path.clone();
            let mut tree = known.lock().unwrap();
            match name {
                Some(name) => tree.insert(path, name.to_owned()),
                None => tree.remove(&path),
            };
            drop(tree);
            assert!(there.is_gone().unwrap());
        }
        let (silent, _device) = imitation::pair();
        assert!(
            watched(silent.within(Duration::from_millis(1)))
                .is_gone()
                .is_err()
        );
    }
}
