//! How construct memory is made, reached and taken back: the back-end's side of a port.
//!
//! Two shapes fit: a *pool* that a domain sees whole (an ivshmem BAR, a UML iomem region), and *per construct* memory (a memfd, grants).
//! In both a construct is an ordered list of extents; the registry decides the extents, the store provides them.

#![allow(unsafe_code)] // Only to say that an address with two lengths may move between threads.

use rustix::fd::{BorrowedFd, OwnedFd};
use std::io;
use vshmem_wire::{Extent, Grants, Kind, Memory, Window};

/// Names a construct's memory for the store: unique as long as the memory exists, however often ids are reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Serial(pub u64);

/// A domain, as ports number them.
pub type Domain = u16;

/// Whether a domain that reaches one construct reaches them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// One file or device holds every construct of the group.
    Pool {
        /// Its size.
        bytes: u64,
    },
    /// Each construct is reached by itself.
    PerConstruct,
    /// Places are numbered throughout the group, as in a pool, but a domain reaches only the constructs that it is admitted to, by [`Store::grants`].
    Granted {
        /// Size of the group's memory.
        bytes: u64,
    },
}

/// How much of the memory that is in use lies in huge pages, by blocks as large as such a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HugePages {
    /// Bytes in huge pages.
    pub huge: u64,
    /// Bytes for which there was none.
    pub ordinary: u64,
}

/// Bytes of a page, everywhere.
pub const PAGE: u64 = 4096;

/// Memory mapped into the back-end. Made by a [`Store`] and ended by the same one.
#[derive(Debug)]
pub struct Mapped {
    /// Start of the mapping.
    pub base: *mut u8,
    /// Bytes mapped now.
    pub bytes: usize,
    /// Bytes of address space still kept free behind them.
    pub room: usize,
}

// SAFETY: a `Mapped` is an address and two lengths; nothing is reached through it but by the unsafe code of whoever uses the address.
unsafe impl Send for Mapped {}

/// A construct that domains may see.
#[derive(Debug)]
pub struct Seen<'a> {
    /// What it is.
    pub kind: Kind,
    /// Its id.
    pub id: i32,
    /// What there is to say of it, as words `name=value`.
    pub what: String,
    /// Who may see it.
    pub by: &'a [Domain],
}

/// Where construct memory lives.
pub trait Store: Send {
    /// Pool or per construct.
    fn reach(&self) -> Reach;
    /// Makes an extent of a construct exist, zeroed: after this it may be mapped.
    fn provide(&mut self, what: (Kind, Serial), extent: Extent) -> io::Result<()>;
    /// A descriptor for a client on the host through which the construct's extents can be mapped, open for writing or not, and how to map it.
    fn descriptor(&self, serial: Serial, writable: bool) -> io::Result<(OwnedFd, Window)>;
    /// Lets a domain map the construct (grants). Pools do nothing.
    fn admit(&mut self, serial: Serial, domain: Domain, writable: bool) -> io::Result<()>;
    /// No new mapping by the domain from now on. `true` when nothing of it is mapped there any more as far as the port can tell.
    fn revoke(&mut self, serial: Serial, domain: Domain) -> io::Result<bool>;
    /// Told before anything is done for a domain: where grants are for machines, finds the one of that name, or with none this machine itself.
    fn introduce(&mut self, _domain: Domain, _machine: Option<&str>) -> io::Result<()> {
        Ok(())
    }
    /// By which a domain that was admitted maps the extents; None where there is nothing to be granted.
    fn grants(
        &self,
        _serial: Serial,
        _domain: Domain,
        _extents: &[Extent],
        _writable: bool,
    ) -> io::Result<Option<Grants>> {
        Ok(None)
    }
    /// A descriptor for a client on the host, and in `memory` how to map it. `memory` has the construct's extents and, where there are any, the host's
    /// grants.
    fn open(&self, serial: Serial, memory: &mut Memory) -> io::Result<OwnedFd> {
        let (descriptor, window) = self.descriptor(serial, memory.writable)?;
        memory.window = window;
        Ok(descriptor)
    }
    /// From now on memory lies in huge pages, as far as there are any; what is in use already, `in_use`, too. Said again to whoever has taken over from a former
    /// life, before anything else is done.
    ///
    /// # Errors
    /// If it cannot: why, and what to do.
    fn use_huge_pages(&mut self, _in_use: &[Extent]) -> io::Result<()> {
        let why = "this group's memory is no pool: huge pages are for pools";
        Err(io::Error::new(io::ErrorKind::Unsupported, why))
    }
    /// How much lies in huge pages. None where they were not asked for.
    fn huge_pages(&self) -> Option<HugePages> {
        None
    }
    /// A second has passed: time for what can be done ahead of use, or was waited for. Must be short.
    fn second(&mut self) {}
    /// Whether machines are to find constructs by [`Store::list`].
    fn lists(&self) -> bool {
        false
    }
    /// Shows each of the domains that are there what it may see, all of it. Whether that is under way; if not, it is to be said again later. Must not wait.
    fn list(&mut self, _there: &[Domain], _seen: &[Seen<'_>]) -> bool {
        true
    }
    /// The back-end stops for good: leaves nothing behind that would outlive its processes.
    fn retire(&mut self) {}
    /// Gives the pages of an extent back, zeroed. Only after nobody maps them.
    fn release(&mut self, serial: Serial, extents: &[Extent]) -> io::Result<()>;
    /// Maps a construct's extents, one after another, into this process, and keeps `room` bytes of address space free behind them.
    fn map(&mut self, serial: Serial, extents: &[Extent], room: u64) -> io::Result<Mapped>;
    /// Maps one more extent right behind those mapped, into the room kept free: what is mapped stays where it is.
    fn extend(&mut self, serial: Serial, mapped: &mut Mapped, extent: Extent) -> io::Result<()>;
    /// Ends a mapping made by [`Store::map`]; the caller promises not to use it any more.
    fn unmap(&mut self, mapped: Mapped) -> io::Result<()>;
    /// Descriptors a keeper must hold so that the memory outlives the daemon, by name.
    fn keep(&self) -> Vec<(String, BorrowedFd<'_>)>;
    /// Those among them that are one construct's own, if it is there: so that making and releasing a construct need not look at all. None where
    /// constructs have none of their own.
    fn keep_of(&self, _serial: Serial) -> Option<(String, BorrowedFd<'_>)> {
        None
    }
    /// Takes back what [`Store::keep`] named, in a restarted daemon.
    fn adopt(&mut self, name: &str, descriptor: OwnedFd) -> io::Result<()>;
}
