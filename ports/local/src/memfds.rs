//! A sealed file per construct: whoever gets one construct's descriptor reaches that construct and no other.
//!
//! Segments never grow once somebody has them, so their files are then sealed whole. Files of sets and queues are sealed against shrinking only, as growth lengthens them: a
//! hostile user of such a construct could seal it against growing, which gives that construct's users an error and harms nobody else.
//! Pages are never used again for another construct; what is left of a released file lives as long as somebody holds on to it.

use crate::{file, room};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::SealFlags;
use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};
use vshmem_port::store::{Domain, Mapped, Reach, Serial, Store};
use vshmem_wire::{Extent, Kind, Window};

#[derive(Debug)]
struct Construct {
    kind: Kind,
    file: OwnedFd,
}

/// Memory of a group whose constructs have a file each: see the module.
#[derive(Debug, Default)]
pub struct MemfdStore {
    /// The files are of huge pages of so many bytes, as a power of two; 0: of ordinary ones.
    huge: u8,
    /// When a file of huge pages was let go of last: its pages are free when its last holder has let go, which may be a moment later.
    let_go: Option<Instant>,
    constructs: BTreeMap<Serial, Construct>,
}

impl MemfdStore {
    /// A store with no constructs.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with files of huge pages, of two to the power of `huge` bytes each. Such pages are set aside when an extent is provided: afterwards
    /// touching them cannot fail.
    pub fn of_huge_pages(huge: u8) -> Self {
        MemfdStore {
            huge,
            ..Self::default()
        }
    }

    fn get(&self, serial: Serial) -> io::Result<&Construct> {
        self.constructs.get(&serial).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("no memory of construct {}", serial.0),
            )
        })
    }
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Shm => "shm",
        Kind::Sem => "sem",
        Kind::Msg => "msg",
    }
}

fn name(kind: Kind, serial: Serial) -> String {
    format!("vshmem-{}-{}", word(kind), serial.0)
}

fn parse(name: &str) -> Option<(Kind, Serial)> {
    let (kind, serial) = name.strip_prefix("vshmem-")?.split_once('-')?;
    let kind = [Kind::Shm, Kind::Sem, Kind::Msg]
        .into_iter()
        .find(|&k| word(k) == kind)?;
    Some((kind, Serial(serial.parse().ok()?)))
}

/// How long after huge pages were let go of it is worth asking for some again.
const LETTING_GO: Duration = Duration::from_millis(100);

/// Has huge pages set aside for a file; waits for those that are being let go of.
fn set_aside(file: BorrowedFd<'_>, bytes: u64, let_go: Option<Instant>) -> io::Result<()> {
    loop {
        match room::set_aside(file, bytes) {
            Err(_) if let_go.is_some_and(|at| at.elapsed() < LETTING_GO) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            outcome => return outcome,
        }
    }
}

/// The end of the longest file there can be.
const MOST: u64 = i64::MAX as u64 & !4095;

impl Store for MemfdStore {
    fn reach(&self) -> Reach {
        Reach::PerConstruct
    }

    fn provide(&mut self, (kind, serial): (Kind, Serial), extent: Extent) -> io::Result<()> {
        let end = file::check(extent, MOST)?;
        let new = !self.constructs.contains_key(&serial);
        if new {
            let file = file::create_of(&name(kind, serial), self.huge)?;
            self.constructs.insert(serial, Construct { kind, file });
        }
        let made = (|| {
            let construct = self.get(serial)?;
            let file = construct.file.as_fd();
            if end > file::length(file)? {
                file::resize(file, end)?;
            }
            if self.huge != 0 {
                set_aside(file, end, self.let_go)?;
            } else {
                file::punch(file, extent)?;
            }
            if construct.kind != Kind::Shm {
                // The back-end itself touches sets and queues: being out of memory must show here, not as a signal there.
                file::fill(file, extent)?;
            }
            file::seal(file, SealFlags::SHRINK)
        })();
        if made.is_err() && new {
            self.constructs.remove(&serial);
        }
        made
    }

    fn descriptor(&self, serial: Serial, writable: bool) -> io::Result<(OwnedFd, Window)> {
        let construct = self.get(serial)?;
        let file = construct.file.as_fd();
        if construct.kind == Kind::Shm {
            file::seal(file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        }
        Ok((file::hand_out(file, writable)?, Window::Direct))
    }

    fn admit(&mut self, _: Serial, _: Domain, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn revoke(&mut self, _: Serial, _: Domain) -> io::Result<bool> {
        // Nothing to wait for: these pages are never given to another construct.
        Ok(true)
    }

    fn release(&mut self, serial: Serial, extents: &[Extent]) -> io::Result<()> {
        // One whose memory could not be had is not there.
        let Some(construct) = self.constructs.get(&serial) else {
            return Ok(());
        };
        let file = construct.file.as_fd();
        let length = file::length(file)?;
        let mut released = 0;
        for &extent in extents {
            file::check(extent, length)?;
            file::punch(file, extent)?;
            released += extent.bytes;
        }
        if released >= length {
            self.constructs.remove(&serial);
            self.let_go = (self.huge != 0).then(Instant::now);
        }
        Ok(())
    }

    fn map(&mut self, serial: Serial, extents: &[Extent], free: u64) -> io::Result<Mapped> {
        let file = self.get(serial)?.file.as_fd();
        room::map(file, file::length(file)?, extents, free)
    }

    fn extend(&mut self, serial: Serial, mapped: &mut Mapped, extent: Extent) -> io::Result<()> {
        let file = self.get(serial)?.file.as_fd();
        room::extend(file, file::length(file)?, mapped, extent)
    }

    fn unmap(&mut self, mapped: Mapped) -> io::Result<()> {
        room::unmap(mapped)
    }

    fn keep(&self) -> Vec<(String, BorrowedFd<'_>)> {
        self.constructs
            .iter()
            .map(|(&serial, c)| (name(c.kind, serial), c.file.as_fd()))
            .collect()
    }

    fn keep_of(&self, serial: Serial) -> Option<(String, BorrowedFd<'_>)> {
        let construct = self.constructs.get(&serial)?;
        Some((name(construct.kind, serial), construct.file.as_fd()))
    }

    fn adopt(&mut self, name: &str, descriptor: OwnedFd) -> io::Result<()> {
        let (kind, serial) = parse(name).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{name} is no construct's memory"),
            )
        })?;
        let file = descriptor;
        self.constructs.insert(serial, Construct { kind, file });
        Ok(())
    }
}
