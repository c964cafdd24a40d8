//! One sparse file that holds every construct of a group, so that guests can be shown all of it at once.
//!
//! The file's size is fixed and sealed when it is made; memory is used only where constructs lie. It never shrinks, so nobody who maps it can
//! be hurt by SIGBUS. A domain that maps the pool for writing can write all of it, free pages included: [`Store::provide`] zeroes again whatever
//! lies where a construct is about to be.
//!
//! **Huge pages.** Where they are asked for ([`Store::use_huge_pages`]) each block of the file in which a construct gets its first page is gathered into a huge
//! page (`MADV_COLLAPSE`), so that all who map it, hypervisors too, can reach it by one entry of their page tables; everything else goes on in pages of 4 KiB. A
//! block that no construct has a page of is given back whole; until then pages that come back are zeroed by storing, as giving them back would split the huge page.
//! A block for which the kernel has no huge page lies in ordinary ones.

use crate::blocks::{BLOCK, Blocks, Part, parts};
use crate::{file, room};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::SealFlags;
use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};
use vshmem_port::store::{Domain, HugePages, Mapped, PAGE, Reach, Serial, Store};
use vshmem_wire::{Extent, Kind, Window};

/// The pool's name in /proc and towards the keeper.
pub const NAME: &str = "vshmem-pool";
/// The same towards the keeper, once it is to lie in huge pages.
const HUGE_NAME: &str = "vshmem-pool-huge";
/// How long gathering may keep others waiting; what is left goes on a second later. 2 MiB took 0.2 ms, and 7 ms where the host's own host had to find the memory first.
const SLICE: Duration = Duration::from_millis(100);
/// Bytes that are gathered by one call.
const MOST_AT_ONCE: u64 = 32 << 20;
/// The pool's first page is never a construct's.
const HEADER: Extent = Extent {
    offset: 0,
    bytes: PAGE,
};

/// Memory of a pool-backed group: see the module.
#[derive(Debug)]
pub struct PoolStore {
    file: OwnedFd,
    bytes: u64,
    /// Where it is to lie in huge pages.
    huge: Option<Blocks>,
    /// A former life had it lie in such, and what is in use was not told yet.
    was_huge: bool,
    /// Blocks that are to be gathered.
    pending: VecDeque<u64>,
}

impl PoolStore {
    /// Makes an empty pool of `bytes` bytes, rounded up to whole pages. Memory is used when constructs are.
    pub fn new(bytes: u64) -> io::Result<Self> {
        let bytes = bytes.max(1).checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
        let file = file::create(NAME)?;
        file::resize(file.as_fd(), bytes)?;
        let store = PoolStore {
            file,
            bytes,
            huge: None,
            was_huge: false,
            pending: VecDeque::new(),
        };
        store.seal()?;
        Ok(store)
    }

    /// Has its memory come from one NUMA node of the host, whoever touches it first, as long as the file lives.
    ///
    /// # Errors
    /// If there is no such node.
    pub fn bind(&self, node: u32) -> io::Result<()> {
        room::bind(self.file.as_fd(), self.bytes, node)
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The pool's file, for whoever starts a guest that is to see it.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn seal(&self) -> io::Result<()> {
        file::seal(
            self.file.as_fd(),
            SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
        )
    }

    /// Gathers blocks, in the order of their places, into huge pages, as far as there are any: now, or what takes longer than [`SLICE`] later.
    fn gather(&mut self, all: impl IntoIterator<Item = u64>) {
        // What ends within a block stays in ordinary pages.
        let whole = all.into_iter().filter(|at| at + BLOCK <= self.bytes);
        self.pending.extend(whole);
        self.gather_some();
    }

    /// Goes on with it for a while.
    fn gather_some(&mut self) {
        let until = Instant::now() + SLICE;
        while let Some(run) = self.next_run() {
            self.gather_run(run);
            if Instant::now() > until {
                return;
            }
        }
    }

    /// Some blocks side by side that are to be gathered, and are in use still.
    fn next_run(&mut self) -> Option<Extent> {
        let blocks = self.huge.as_ref()?;
        let mut run: Option<Extent> = None;
        while let Some(&offset) = self.pending.front() {
            if blocks.is_ordinary(offset) {
                match &mut run {
                    None => run = Some(Extent { offset, bytes: BLOCK }),
                    Some(run) if offset == run.offset + run.bytes && run.bytes < MOST_AT_ONCE => {
                        run.bytes += BLOCK;
                    }
                    Some(_) => break,
                }
            }
            self.pending.pop_front();
        }
        run
    }

    fn gather_run(&mut self, run: Extent) {
        let Some(blocks) = &mut self.huge else { return };
        let file = self.file.as_fd();
        let places = (run.offset..run.offset + run.bytes).step_by(BLOCK as usize);
        for offset in places.clone() {
            // Of nothing no huge page is made, and where this page lies the others will.
            let _ = file::fill(file, Extent { offset, bytes: PAGE });
        }
        let at_once = room::gather(file, run).is_ok();
        for offset in places {
            if at_once || room::gather(file, Extent { offset, bytes: BLOCK }).is_ok() {
                blocks.set_huge(offset);
            }
        }
    }

    /// Zeroes pages of a construct that is to come, or has gone, while others have the rest of the block.
    fn zero(&self, part: Part) -> io::Result<()> {
        let huge = self
            .huge
            .as_ref()
            .is_some_and(|blocks| blocks.is_huge(part.block));
        let clear = if huge { file::zero } else { file::punch };
        clear(self.file.as_fd(), part.extent)
    }

    /// Gives a block back that no construct has a page of.
    fn give_back(&self, offset: u64) -> io::Result<()> {
        let bytes = BLOCK.min(self.bytes - offset);
        file::punch(self.file.as_fd(), Extent { offset, bytes })
    }

    /// Makes an extent exist, zeroed, in huge pages as far as there are any.
    fn provide_huge(&mut self, extent: Extent) -> io::Result<()> {
        let mut fresh = Vec::new();
        for part in parts(extent) {
            if self.huge.as_mut().is_some_and(|blocks| blocks.take(part)) {
                self.give_back(part.block)?;
                fresh.push(part.block);
            } else {
                self.zero(part)?;
            }
        }
        self.gather(fresh);
        Ok(())
    }

    fn release_huge(&mut self, extent: Extent) -> io::Result<()> {
        for part in parts(extent) {
            if self.huge.as_mut().is_some_and(|blocks| blocks.give_back(part)) {
                self.give_back(part.block)?;
            } else {
                self.zero(part)?;
            }
        }
        Ok(())
    }
}

impl Store for PoolStore {
    fn reach(&self) -> Reach {
        Reach::Pool { bytes: self.bytes }
    }

    fn provide(&mut self, what: (Kind, Serial), extent: Extent) -> io::Result<()> {
        file::check(extent, self.bytes)?;
        match self.huge {
            Some(_) => self.provide_huge(extent)?,
            None => file::punch(self.file.as_fd(), extent)?,
        }
        if what.0 != Kind::Shm {
            // The back-end itself touches sets and queues: being out of memory must show here, not as a signal there.
            file::fill(self.file.as_fd(), extent)?;
        }
        Ok(())
    }

    fn descriptor(&self, _: Serial, writable: bool) -> io::Result<(OwnedFd, Window)> {
        Ok((file::hand_out(self.file.as_fd(), writable)?, Window::Direct))
    }

    fn admit(&mut self, _: Serial, _: Domain, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn revoke(&mut self, _: Serial, _: Domain) -> io::Result<bool> {
        // Who maps what of a pool is not to be seen from here.
        Ok(false)
    }

    fn release(&mut self, _: Serial, extents: &[Extent]) -> io::Result<()> {
        for &extent in extents {
            file::check(extent, self.bytes)?;
            match self.huge {
                Some(_) => self.release_huge(extent)?,
                None => file::punch(self.file.as_fd(), extent)?,
            }
        }
        Ok(())
    }

    fn use_huge_pages(&mut self, in_use: &[Extent]) -> io::Result<()> {
        room::can_gather()?;
        let mut blocks = Blocks::default();
        for extent in in_use.iter().copied().chain([HEADER]) {
            file::check(extent, self.bytes)?;
            parts(extent).for_each(|part| {
                blocks.take(part);
            });
        }
        let all: Vec<u64> = blocks.all().collect();
        self.huge = Some(blocks);
        self.pending.clear();
        self.gather(all);
        Ok(())
    }

    fn second(&mut self) {
        self.gather_some();
    }

    fn huge_pages(&self) -> Option<HugePages> {
        let (huge, ordinary) = match &self.huge {
            Some(blocks) => blocks.count(),
            None if self.was_huge => (0, 0),
            None => return None,
        };
        Some(HugePages {
            huge: huge * BLOCK,
            ordinary: ordinary * BLOCK,
        })
    }

    fn map(&mut self, _: Serial, extents: &[Extent], free: u64) -> io::Result<Mapped> {
        room::map(self.file.as_fd(), self.bytes, extents, free)
    }

    fn extend(&mut self, _: Serial, mapped: &mut Mapped, extent: Extent) -> io::Result<()> {
        room::extend(self.file.as_fd(), self.bytes, mapped, extent)
    }

    fn unmap(&mut self, mapped: Mapped) -> io::Result<()> {
        room::unmap(mapped)
    }

    fn keep(&self) -> Vec<(String, BorrowedFd<'_>)> {
        let name = if self.huge_pages().is_some() {
            HUGE_NAME
        } else {
            NAME
        };
        vec![(name.to_owned(), self.file.as_fd())]
    }

    fn adopt(&mut self, name: &str, descriptor: OwnedFd) -> io::Result<()> {
        if ![NAME, HUGE_NAME].contains(&name) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{name} is no pool"),
            ));
        }
        self.bytes = file::length(descriptor.as_fd())?;
        self.file = descriptor;
        self.huge = None;
        self.was_huge = name == HUGE_NAME;
        self.seal()
    }
}
