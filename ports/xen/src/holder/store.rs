//! The store: pages of the holder, one for each page of the pool that a construct lies in.
//!
//! A page of the pool is a number; which frame it shows changes with each construct that lies there. So a frame that a domain still has mapped after its
//! construct is gone waits alone, in *quarantine*, until the hypervisor says that the mapping has ended, and its place in the pool is free meanwhile.

use super::ledger::{Ledger, Told};
use super::libraries::Libraries;
use super::numbers::Numbers;
use super::references::References;
use super::shown::Shown;
use super::stock::Stock;
use super::watch::{self, Watch};
use super::{domain, room};
use crate::devices::DomId;
use crate::directory::{self, Directory};
use crate::here::Here;
use crate::map;
use crate::xenstore::Xenstore;
use rustix::fd::{BorrowedFd, OwnedFd};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use vshmem_port::store::{Domain, Mapped, PAGE, Reach, Seen, Serial, Store};
use vshmem_wire::{Extent, Grants, Kind, Memory, Window};

/// The name of the ledger towards the keeper.
const LEDGER: &str = "holder";
/// Where in its own physical memory the holder's first page is.
const FIRST: u64 = 0x10_0000;
/// Pages that are populated at once, at least, when somebody waits for them.
const STEP: usize = 256;

/// The host's number.
const DOM0: DomId = 0;

/// What a holder has ahead of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ahead {
    /// Bytes of memory populated and zeroed ahead of time; with none, each construct waits for its own.
    pub stock: u64,
    /// Pages of grant table: 512 grants each, as far as Xen's option `gnttab_max_frames` allows.
    pub table_pages: u32,
}

impl Default for Ahead {
    fn default() -> Self {
        Ahead {
            stock: 4 << 20,
            table_pages: 64,
        }
    }
}

/// Memory of a group in grants: see the module.
#[derive(Debug)]
pub struct GrantStore {
    libraries: Libraries,
    ledger: Ledger,
    pub(super) references: References,
    /// All frames the holder has, those that no page shows, and those that were revoked in use.
    frames: u64,
    stock: Stock,
    quarantine: BTreeSet<u32>,
    /// What pages of the pool show.
    pub(super) shown: Shown,
    numbers: Numbers,
    /// Domains of dom0 that are let into a construct in this life: they share a number, and what one of them is let go of the others keep.
    together: BTreeMap<Serial, BTreeSet<Domain>>,
    /// Finds a machine by its name.
    pub(super) look: fn(&str) -> anyhow::Result<DomId>,
    /// Writes what guests may see.
    directory: Directory,
    /// None once it is ended here.
    pub(super) watch: Option<Watch>,
}

fn other(why: anyhow::Error) -> io::Error {
    io::Error::other(format!("{why:#}"))
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

impl GrantStore {
    /// A store of `bytes` bytes, in a holder of its own.
    ///
    /// # Errors
    /// If this is not dom0 of a Xen machine, and what else is missing: the text says what to do.
    pub fn new(bytes: u64, ahead: Ahead) -> anyhow::Result<Self> {
        super::check()?;
        let libraries = Libraries::load()?;
        let pages = bytes.div_ceil(PAGE).max(1);
        // Twice the pool, for what is given back and still mapped somewhere.
        let holder = domain::create(pages.saturating_mul(2 * PAGE), ahead.table_pages)?;
        let made = Ledger::new(holder, pages)
            .map_err(anyhow::Error::from)
            .and_then(|ledger| Self::over(libraries, ledger, Told::default(), ahead));
        if made.is_err() {
            domain::destroy(holder);
        }
        made
    }

    /// The store of a former life, from the record that the keeper held.
    ///
    /// # Errors
    /// If the record cannot be read, or Xen's libraries are missing.
    pub fn again(record: OwnedFd, ahead: Ahead) -> anyhow::Result<Self> {
        let (ledger, told) = Ledger::adopt(record)?;
        domain::adopt(ledger.holder)?;
        Self::over(Libraries::load()?, ledger, told, ahead)
    }

    pub(super) fn over(
        libraries: Libraries,
        ledger: Ledger,
        told: Told,
        ahead: Ahead,
    ) -> anyhow::Result<Self> {
        let references = References::read(libraries.grant_table(ledger.holder, ahead.table_pages)?);
        // Not more than a part of what there can be.
        let stock = (ahead.stock / PAGE).min(ledger.most_frames() / 4) as usize;
        let holder = ledger.holder;
        let is_there = move || domain::is_there(&mut Xenstore::open(&Here::default())?, holder);
        let mut store = GrantStore {
            watch: Some(Watch::start(watch::EVERY, domain::gone(holder), is_there)?),
            libraries,
            references,
            frames: told.frames.len() as u64,
            stock: Stock::new(stock, ledger.holder)?,
            quarantine: BTreeSet::new(),
            shown: Shown::default(),
            numbers: Numbers::told(told.domains),
            together: BTreeMap::new(),
            look: |name| Xenstore::open(&Here::default())?.domain_named(name),
            directory: Directory::start()?,
            ledger,
        };
        store.stock.put(&told.frames);
        for run in told
            .pages
            .chunk_by(|a, b| a.page + 1 == b.page && a.serial == b.serial)
        {
            let frames: Vec<u32> = run.iter().map(|page| page.frame).collect();
            frames.iter().for_each(|&frame| {
                store.stock.forget(frame);
            });
            store.shown.enter(Serial(run[0].serial), run[0].page, frames);
        }
        // A former life may have been killed between striking a page out and revoking it.
        let granted = store.references.granted().into_iter();
        let left: Vec<u32> = granted.filter(|frame| store.stock.has(*frame)).collect();
        store.references.revoke(&left, None);
        store.settle();
        store.order();
        Ok(store)
    }

    /// Moves frames between those free and those in quarantine, as the hypervisor says.
    fn settle(&mut self) {
        self.references.settle();
        let lingering = self.references.lingering();
        let back: Vec<u32> = self.quarantine.difference(&lingering).copied().collect();
        for frame in &back {
            self.quarantine.remove(frame);
        }
        self.stock.put(&back);
        for frame in lingering {
            if self.stock.forget(frame) {
                self.quarantine.insert(frame);
            }
        }
    }

    /// How many frames there may be beyond those there are and those that are asked for.
    fn room(&self) -> usize {
        let all = self.frames + self.stock.coming() as u64;
        self.ledger.most_frames().saturating_sub(all) as usize
    }

    /// Has the helper refill the stock.
    fn order(&mut self) {
        let next = FIRST + self.frames + self.stock.coming() as u64;
        self.stock.order(next, self.room());
    }

    /// Takes what the helper has brought.
    fn collect(&mut self, patiently: bool) -> io::Result<()> {
        let fresh = self.stock.collect(patiently);
        self.enter_frames(&fresh)
    }

    fn enter_frames(&mut self, frames: &[u32]) -> io::Result<()> {
        if frames.is_empty() {
            return Ok(());
        }
        self.ledger.add_frames(frames)?;
        self.frames += frames.len() as u64;
        Ok(())
    }

    /// Has that many frames to give, or says why not.
    fn have(&mut self, pages: usize) -> io::Result<()> {
        self.collect(false)?;
        if self.stock.len() < pages {
            self.settle();
        }
        // What the helper has in hand is here soon.
        while self.stock.len() < pages && self.stock.under_way() > 0 {
            self.collect(true)?;
        }
        if self.stock.len() >= pages {
            return Ok(());
        }
        let wanted = (pages - self.stock.len()).max(STEP).min(self.room());
        if wanted > 0 {
            let next = FIRST + self.frames;
            let frames = self.libraries.populate(self.ledger.holder, next, wanted)?;
            self.enter_frames(&frames)?;
            self.stock.put(&frames);
        }
        if self.stock.len() >= pages {
            return Ok(());
        }
        let why = format!(
            "the domain that holds construct memory can have no more: it has {} MiB, {} of them in quarantine, since guests still map them; \
             free some of the machine's memory (`xl info` shows it) or end those guests",
            (self.frames * PAGE) >> 20,
            (self.quarantine.len() as u64 * PAGE) >> 20
        );
        Err(io::Error::new(io::ErrorKind::OutOfMemory, why))
    }

    /// That many frames, zeroed.
    fn take(&mut self, pages: usize) -> io::Result<Vec<u32>> {
        self.have(pages)?;
        let (mut frames, dirty) = self.stock.take(pages);
        let zeroed = self.libraries.zero(self.ledger.holder, &dirty);
        frames.extend(dirty);
        if let Err(why) = zeroed {
            self.stock.put(&frames);
            return Err(why);
        }
        Ok(frames)
    }

    /// Calls to the hypervisor that requests have waited for, so far.
    pub fn calls(&self) -> u64 {
        self.libraries.calls()
    }

    /// Waits until the stock is as full as it gets.
    ///
    /// # Errors
    /// If the record of frames cannot be written.
    pub fn fill(&mut self) -> io::Result<()> {
        self.collect(false)?;
        self.order();
        while self.stock.under_way() > 0 {
            self.collect(true)?;
            self.order();
        }
        Ok(())
    }

    /// Pages of an extent, or EINVAL.
    fn pages(&self, extent: Extent) -> io::Result<Range<u64>> {
        let end = extent.offset.checked_add(extent.bytes).filter(|&end| {
            extent.bytes > 0
                && (extent.offset | extent.bytes).is_multiple_of(PAGE)
                && end / PAGE <= self.ledger.pages
        });
        match end {
            Some(end) => Ok(extent.offset / PAGE..end / PAGE),
            None => Err(invalid(format!(
                "extent {}+{} does not fit {} pages",
                extent.offset, extent.bytes, self.ledger.pages
            ))),
        }
    }

    /// Frames that extents of a construct show, in order.
    fn frames_of(&self, serial: Serial, extents: &[Extent]) -> io::Result<Vec<u32>> {
        let mut frames = Vec::new();
        for &extent in extents {
            let shown = self.shown.frames(serial, &self.pages(extent)?, &mut frames);
            shown.map_err(|page| invalid(format!("page {page} is not construct {}'s", serial.0)))?;
        }
        Ok(frames)
    }

    fn give(&mut self, frames: &[u32], to: DomId, writable: bool) -> io::Result<()> {
        self.references.give(frames, to, writable).map_err(|_| {
            let (all, free) = self.references.room();
            let why = format!(
                "grants are exhausted: the holder's table has {all} references, {free} of them free, and {} more are needed; \
                 detach something, or start Xen with a larger gnttab_max_frames",
                frames.len()
            );
            io::Error::new(io::ErrorKind::QuotaExceeded, why)
        })
    }

    /// Strikes those of the pages that are the construct's out and gives their frames back, to those free or to the quarantine.
    fn give_back(&mut self, serial: Serial, pages: &Range<u64>) -> io::Result<()> {
        let runs = self.shown.pages_of(serial, pages);
        for run in &runs {
            self.ledger.strike(run.start, (run.end - run.start) as usize)?;
        }
        let frames: Vec<u32> = runs.iter().flat_map(|run| self.shown.take_out(run)).collect();
        let mapped = self.references.revoke(&frames, None);
        self.stock.put(&frames);
        for &frame in &mapped {
            self.stock.forget(frame);
            self.quarantine.insert(frame);
        }
        // Whoever has them still reads the past no more; before anybody else gets them they are zeroed once more.
        if let Err(why) = self.libraries.zero(self.ledger.holder, &mapped) {
            tracing::warn!(
                "pages that are given back, and still mapped somewhere, keep their contents until then: {why}"
            );
        }
        // Somebody who was let in before, and is not any more, may still map what nobody is let into now.
        self.settle();
        Ok(())
    }

    /// Without its holder nothing can be mapped, though the tables that are mapped here take everything.
    fn check_holder(&self) -> io::Result<()> {
        match &self.watch {
            Some(watch) if watch.is_gone() => Err(io::Error::other(domain::gone(self.ledger.holder))),
            _ => Ok(()),
        }
    }

    fn domain(&self, domain: Domain) -> io::Result<DomId> {
        let known = self.numbers.of(domain);
        known.ok_or_else(|| invalid(format!("domain {domain} is no Xen domain that was introduced")))
    }

    /// A domain is this one of Xen's: what a machine it had before was granted ends first, so that a back-end killed in between does it again.
    fn known(&mut self, number: Domain, as_in_xen: DomId) -> io::Result<()> {
        if let Some(left) = self.numbers.left_by(number, as_in_xen) {
            self.references.withdraw(left);
        }
        self.ledger.name(number, as_in_xen)?;
        self.numbers.found(number, as_in_xen);
        Ok(())
    }

    /// The same, looked for by its name where it was not there yet.
    fn find(&mut self, number: Domain) -> io::Result<DomId> {
        if let Some(name) = self.numbers.awaited(number) {
            let found = (self.look)(name).map_err(other)?;
            self.known(number, found)?;
        }
        self.domain(number)
    }

    /// Pages from `page` on show these frames, for a construct and all that are let into it.
    fn show(&mut self, serial: Serial, page: u64, frames: &[u32]) -> io::Result<()> {
        // Whoever has the rest of the construct has this too.
        let admitted: Vec<(DomId, bool)> = self
            .shown
            .first_of(serial)
            .map(|frame| self.references.of_frame(frame).collect())
            .unwrap_or_default();
        self.shown.enter(serial, page, frames.to_vec());
        self.ledger.enter(page, frames, serial.0)?;
        admitted
            .into_iter()
            .try_for_each(|(domain, writable)| self.give(frames, domain, writable))
    }

    fn map_behind(&self, serial: Serial, mapped: &mut Mapped, extents: &[Extent]) -> io::Result<()> {
        let frames = wide(&self.frames_of(serial, extents)?);
        room::take(mapped, &self.libraries, self.ledger.holder, &frames)
    }
}

fn wide(frames: &[u32]) -> Vec<u64> {
    frames.iter().copied().map(u64::from).collect()
}

impl Store for GrantStore {
    fn reach(&self) -> Reach {
        Reach::Granted {
            bytes: self.ledger.pages * PAGE,
        }
    }

    fn provide(&mut self, (_, serial): (Kind, Serial), extent: Extent) -> io::Result<()> {
        self.check_holder()?;
        let pages = self.pages(extent)?;
        // What a former life provided and did not live to tell of.
        for (owner, stale) in self.shown.owners(&pages) {
            self.give_back(owner, &stale)?;
        }
        let frames = self.take((pages.end - pages.start) as usize)?;
        // The helper has time until the next second, unless there may be too little by then.
        if self.stock.is_low() {
            self.order();
        }
        let shown = self.show(serial, pages.start, &frames);
        if shown.is_err() {
            // Nobody will ask for them back: to the registry they were never there.
            self.give_back(serial, &pages)?;
        }
        shown
    }

    fn descriptor(&self, _: Serial, _: bool) -> io::Result<(OwnedFd, Window)> {
        let why = "this memory has no descriptor that shows all of a construct to everybody";
        Err(io::Error::new(io::ErrorKind::Unsupported, why))
    }

    fn introduce(&mut self, number: Domain, machine: Option<&str>) -> io::Result<()> {
        self.numbers.introduce(number, machine);
        if machine.is_none() {
            return self.known(number, 0);
        }
        // It may be started only later.
        if let Err(why) = self.find(number) {
            tracing::debug!(domain = number, "its machine is not there yet: {why}");
        }
        Ok(())
    }

    fn admit(&mut self, serial: Serial, domain: Domain, writable: bool) -> io::Result<()> {
        self.check_holder()?;
        let to = self.find(domain)?;
        if to == DOM0 {
            self.together.entry(serial).or_default().insert(domain);
        }
        let frames = self.shown.all_of(serial);
        self.give(&frames, to, writable)
    }

    fn grants(
        &self,
        serial: Serial,
        domain: Domain,
        extents: &[Extent],
        writable: bool,
    ) -> io::Result<Option<Grants>> {
        self.check_holder()?;
        let to = self.domain(domain)?;
        let why = "this memory is not granted to that domain";
        let refused = || io::Error::new(io::ErrorKind::PermissionDenied, why);
        let among = |domains: &BTreeSet<Domain>| domains.contains(&domain);
        if to == DOM0 && !self.together.get(&serial).is_some_and(among) {
            return Err(refused());
        }
        let mut grants = Grants {
            from: self.ledger.holder.into(),
            runs: Vec::new(),
        };
        for frame in self.frames_of(serial, extents)? {
            let reference = self.references.of((frame, to, writable));
            // Who may write may read.
            let reference = reference.or_else(|| self.references.of((frame, to, true)).filter(|_| !writable));
            grants.push(reference.ok_or_else(refused)?);
        }
        Ok(Some(grants))
    }

    fn open(&self, _: Serial, memory: &mut Memory) -> io::Result<OwnedFd> {
        map::open(&Here::default(), memory).map_err(other)
    }

    fn revoke(&mut self, serial: Serial, domain: Domain) -> io::Result<bool> {
        if let Some(domains) = self.together.get_mut(&serial)
            && domains.remove(&domain)
            && !domains.is_empty()
        {
            // To the hypervisor it is one machine that goes on: whose mappings there are, it cannot tell.
            return Ok(false);
        }
        let mut unmapped = true;
        // To whom there is no number nothing was ever granted.
        let frames = self.shown.all_of(serial);
        for from in self.numbers.granted(domain) {
            unmapped &= self.references.revoke(&frames, Some(from)).is_empty();
        }
        Ok(unmapped)
    }

    fn release(&mut self, serial: Serial, extents: &[Extent]) -> io::Result<()> {
        for &extent in extents {
            self.pages(extent)?;
        }
        self.together.remove(&serial);
        // All that it has, not only what the caller knows of: nobody asks for the rest.
        self.give_back(serial, &(0..self.ledger.pages))
    }

    fn map(&mut self, serial: Serial, extents: &[Extent], behind: u64) -> io::Result<Mapped> {
        let bytes = extents
            .iter()
            .fold(behind, |sum, extent| sum.saturating_add(extent.bytes));
        let mut mapped = room::reserve(bytes)?;
        match self.map_behind(serial, &mut mapped, extents) {
            Ok(()) => Ok(mapped),
            Err(why) => {
                let _ = room::end(mapped);
                Err(why)
            }
        }
    }

    fn extend(&mut self, serial: Serial, mapped: &mut Mapped, extent: Extent) -> io::Result<()> {
        self.map_behind(serial, mapped, &[extent])
    }

    fn unmap(&mut self, mapped: Mapped) -> io::Result<()> {
        room::end(mapped)
    }

    fn lists(&self) -> bool {
        true
    }

    fn list(&mut self, there: &[Domain], seen: &[Seen<'_>]) -> bool {
        let known = there.iter().filter_map(|domain| self.numbers.of(*domain));
        // Dom0 has no use for it.
        let guests = known.filter(|of_xen| *of_xen != 0);
        let mut all: directory::Seen = guests.map(|of_xen| (of_xen, directory::Entries::new())).collect();
        for construct in seen {
            let place = directory::place(construct.kind, construct.id);
            for domain in construct.by {
                let entries = self.numbers.of(*domain).and_then(|of_xen| all.get_mut(&of_xen));
                if let Some(entries) = entries {
                    entries.insert(place.clone(), construct.what.clone());
                }
            }
        }
        self.directory.write(all)
    }

    fn second(&mut self) {
        self.settle();
        if let Err(why) = self.collect(false) {
            tracing::error!("memory that came ahead of time cannot be recorded: {why}");
        }
        self.order();
    }

    fn keep(&self) -> Vec<(String, BorrowedFd<'_>)> {
        vec![(LEDGER.to_owned(), self.ledger.file())]
    }

    fn adopt(&mut self, name: &str, _: OwnedFd) -> io::Result<()> {
        // A former life's record is what a store is made from.
        Err(invalid(format!("{name} comes too late")))
    }

    fn retire(&mut self) {
        self.watch = None;
        self.directory.end();
        domain::destroy(self.ledger.holder);
    }
}
