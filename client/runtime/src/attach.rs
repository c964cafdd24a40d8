//! Sets and queues mapped into this process: the table from id to attachment, and taking them out again.
//!
//! The table is static and indexed by slot, one load on the data path. An attachment is never changed: when the daemon tells something new
//! (another control word, another extent), a new one takes its place and the old one is *retired*.
//!
//! Reclaiming: a user publishes the attachment's address as its hazard, then looks at the table again. Whoever reclaims has taken the
//! address out of the table, calls membarrier, and frees what is nobody's hazard. Interleavings:
//! 1. The user's second look comes before the take-out: then its hazard was stored before that, and membarrier makes it visible to the scan.
//! 2. It comes after: then it finds another address and does not use this one.
//!
//! Without membarrier nothing is freed: retired attachments stay mapped until the process ends.
#![allow(unsafe_code)] // Pointers in a static table; mappings.

use crate::connection::Identity;
use crate::control::State;
use crate::errno::{Errno, Result};
use crate::map;
use crate::process;
use crate::thread::{self, Thread};
use rustix::fd::{AsFd, OwnedFd};
use rustix::mm::ProtFlags;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use vshmem_ipc::msgq::Queue;
use vshmem_ipc::sem::SemSet;
use vshmem_ipc::{Control, State as Life};
use vshmem_wire::{Extent, Kind, Memory, Reply, Request, SLOTS, Window, slot_of};
use vshmem_words::Mapping;

type Table = [AtomicPtr<Attachment>; SLOTS as usize];
static SETS: Table = [const { AtomicPtr::new(ptr::null_mut()) }; SLOTS as usize];
static QUEUES: Table = [const { AtomicPtr::new(ptr::null_mut()) }; SLOTS as usize];

/// At how many attachments one looks whether their construct is gone, each time another is made.
const LOOK_AT: usize = 16;

fn entry(kind: Kind, id: i32) -> Option<&'static AtomicPtr<Attachment>> {
    let slot = slot_of(id)? as usize;
    match kind {
        Kind::Sem => SETS.get(slot),
        Kind::Msg => QUEUES.get(slot),
        Kind::Shm => None,
    }
}

/// Address space that holds a construct, with room to grow. Unmapped when the last attachment that uses it is freed.
#[derive(Debug)]
struct Region {
    base: *mut u8,
    room: usize,
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: attachments own regions, and nobody uses an attachment that is freed.
        unsafe { map::release(self.base, self.room) };
    }
}

/// The part of an attachment that is there when the construct may be mapped.
#[derive(Debug)]
pub(crate) struct Mapped {
    pub(crate) words: Mapping,
    /// Whose pool the extents are in.
    group: u16,
    extents: Vec<Extent>,
    region: Arc<Region>,
    /// A forked child has it, too.
    inherited: bool,
}

impl Mapped {
    /// The place ([`vshmem_wire::pool`]) of an offset in the construct.
    pub(crate) fn place(&self, at: usize) -> u64 {
        let mut before = 0;
        for extent in &self.extents {
            if (at as u64) < before + extent.bytes {
                return vshmem_wire::pool::place(self.group, extent.offset + (at as u64 - before));
            }
            before += extent.bytes;
        }
        u64::MAX
    }
}

/// A set or queue that this process has opened.
#[derive(Debug)]
pub(crate) struct Attachment {
    epoch: u64,
    connections_lost: u32,
    pub(crate) id: i32,
    kind: Kind,
    pub(crate) nsems: u32,
    pub(crate) read: bool,
    pub(crate) write: bool,
    pub(crate) control: Control,
    pub(crate) identity: &'static Identity,
    pub(crate) mapped: Option<Mapped>,
    /// By how many bits spinning here is shortened: it grows while spinning does not help.
    pub(crate) shorter: AtomicU32,
    /// Whether somebody of another kernel has been rung: sleeping is dearer then, so spinning goes on for longer.
    pub(crate) rings: AtomicBool,
    /// Whether this process's threads are woken here by another kernel, as far as the last wake-up told: then they wait on bells.
    pub(crate) from_afar: AtomicBool,
}

/// Attachments as the control lock guards them.
#[derive(Debug)]
pub(crate) struct Attachments {
    live: Vec<(Kind, i32)>,
    next_look: usize,
    retired: Vec<*mut Attachment>,
    barrier: Option<bool>,
}

// SAFETY: the raw pointers inside are to mappings, which are the same in all threads.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

/// An attachment in use: it stays while this lives.
pub(crate) struct Held {
    attachment: *const Attachment,
    thread: &'static Thread,
    before: *mut (),
}

impl std::ops::Deref for Held {
    type Target = Attachment;
    #[inline(always)]
    fn deref(&self) -> &Attachment {
        // SAFETY: it is this thread's hazard, and was in the table after it became that.
        unsafe { &*self.attachment }
    }
}

impl Drop for Held {
    #[inline(always)]
    fn drop(&mut self) {
        self.thread.protect(self.before);
    }
}

/// The attachment of `id`, if this process has it and nothing says that it must be asked for again.
#[inline(always)]
pub(crate) fn find(kind: Kind, id: i32, thread: &'static Thread) -> Option<Held> {
    let entry = entry(kind, id)?;
    if !thread.ready() {
        return None;
    }
    loop {
        let found = entry.load(Ordering::Acquire);
        if found.is_null() {
            return None;
        }
        let held = Held {
            attachment: found,
            thread,
            before: thread.protect(found.cast()),
        };
        if entry.load(Ordering::Acquire) == found {
            let fits = held.id == id && held.epoch == process::epoch();
            let woken_how = held.identity.space == 0 || thread.ticket.get() != 0;
            return (fits && woken_how).then_some(held);
        }
    }
}

/// Asks the daemon for a set or queue, for the first time or again. With `grow`: bytes that it must have room for, and the extents known.
#[cold]
pub(crate) fn open(kind: Kind, id: i32, grow: Option<(u64, u16)>) -> Result<()> {
    if slot_of(id).is_none() {
        return Err(Errno::EINVAL);
    }
    let mut state = process::lock();
    let thread = state.thread;
    let identity = state.identity()?;
    if identity.space != 0 && thread.ticket.get() == 0 {
        let ticket = state.ticket()?;
        thread.ticket.set(ticket);
    }
    let request = match grow {
        None => Request::Open { kind, id },
        Some((wanted, have)) => Request::Grow {
            kind,
            id,
            wanted,
            have,
        },
    };
    match state.request(&request, &[]) {
        Ok((reply, descriptors)) => state.install(kind, id, reply, descriptors),
        Err(failure) => {
            let errno = Errno(failure.errno);
            if matches!(errno, Errno::EINVAL | Errno::EIDRM) {
                state.forget(kind, id);
            }
            Err(errno)
        }
    }
}

/// The construct is gone: takes it out of the table and unmaps it when nobody uses it.
#[cold]
pub(crate) fn forget(kind: Kind, id: i32) {
    process::lock().forget(kind, id);
}

impl Attachments {
    pub(crate) const fn new() -> Self {
        Attachments {
            live: Vec::new(),
            next_look: 0,
            retired: Vec::new(),
            barrier: None,
        }
    }
}

impl State {
    /// Puts what the daemon answered into the table.
    fn install(&mut self, kind: Kind, id: i32, reply: Reply, descriptors: Vec<OwnedFd>) -> Result<()> {
        let Reply::Opened {
            control,
            nsems,
            memory,
            read,
            write,
            room,
        } = reply
        else {
            return Err(Errno::EPROTO);
        };
        let entry = entry(kind, id).ok_or(Errno::EINVAL)?;
        // SAFETY: what is in the table is freed only under the control lock, which is held.
        let old = unsafe { entry.load(Ordering::Acquire).as_ref() };
        let identity = self.identity()?;
        let mapped = match (memory, descriptors.into_iter().next()) {
            (Some(memory), Some(from)) => {
                // What another daemon gave is other memory, though it may have the same id and place.
                let ours = |o: &&Attachment| o.id == id && o.connections_lost == self.connections_lost;
                let before = old.filter(ours).and_then(|o| o.mapped.as_ref());
                Some(map_construct(&memory, &from, room, before)?)
            }
            _ => None,
        };
        if let Some(mapped) = &mapped {
            let checked = match kind {
                Kind::Sem => SemSet::open(&mapped.words, nsems).map(drop),
                _ => Queue::open(&mapped.words).map(drop),
            };
            if let Err(corrupt) = checked {
                self.report(kind, id, &corrupt);
                return Err(Errno::EIDRM);
            }
        }
        let old = old.filter(|o| o.id == id);
        let shorter = AtomicU32::new(old.map_or(0, |o| o.shorter.load(Ordering::Relaxed)));
        let rings = AtomicBool::new(old.is_some_and(|o| o.rings.load(Ordering::Relaxed)));
        let from_afar = AtomicBool::new(old.is_some_and(|o| o.from_afar.load(Ordering::Relaxed)));
        let new = Box::into_raw(Box::new(Attachment {
            epoch: process::epoch(),
            connections_lost: self.connections_lost,
            id,
            kind,
            nsems,
            read,
            write,
            control: Control(control),
            identity,
            mapped,
            shorter,
            rings,
            from_afar,
        }));
        let replaced = entry.swap(new, Ordering::AcqRel);
        self.attachments
            .live
            .retain(|&(k, i)| k != kind || slot_of(i) != slot_of(id));
        self.attachments.live.push((kind, id));
        self.retire(replaced);
        self.look_for_removed();
        self.reclaim();
        Ok(())
    }

    /// Tells the daemon that memory holds rubbish, and people too, once a second at most.
    pub(crate) fn report(&mut self, kind: Kind, id: i32, corrupt: &vshmem_ipc::Corrupt) {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let what = format!(
            "{}: {} (allowed: {})",
            corrupt.what, corrupt.found, corrupt.allowed
        );
        let now = crate::clock::nanos();
        if now.saturating_sub(LAST.load(Ordering::Relaxed)) > 1_000_000_000 {
            LAST.store(now, Ordering::Relaxed);
            crate::error!("{kind:?} {id} holds rubbish: {what}");
        }
        let _ = self.ask(&Request::Corrupt { kind, id, what });
    }

    pub(crate) fn forget(&mut self, kind: Kind, id: i32) {
        let Some(entry) = entry(kind, id) else { return };
        let found = entry.load(Ordering::Acquire);
        // SAFETY: freed only under the control lock, which is held.
        if unsafe { found.as_ref() }.is_some_and(|a| a.id == id) {
            entry.store(ptr::null_mut(), Ordering::Release);
            self.attachments.live.retain(|&(k, i)| (k, i) != (kind, id));
            self.retire(found);
            self.reclaim();
        }
    }

    /// In a forked child: what it did not inherit is asked for anew, and nothing that lies in its place by now is unmapped.
    pub(crate) fn leave_to_parent(&mut self) {
        let is_here = |found: *mut Attachment| {
            // SAFETY: attachments are freed only under the control lock, which is held.
            let mapped = unsafe { found.as_ref() }.and_then(|a| a.mapped.as_ref());
            mapped.is_none_or(|mapped| mapped.inherited)
        };
        self.attachments.live.retain(|&(kind, id)| {
            let Some(entry) = entry(kind, id) else {
                return false;
            };
            let here = is_here(entry.load(Ordering::Acquire));
            if !here {
                // Never freed: its region is not this process's to unmap.
                entry.store(ptr::null_mut(), Ordering::Release);
            }
            here
        });
        self.attachments.retired.retain(|&retired| is_here(retired));
    }

    /// Takes note of an attachment that was taken out of the table, to be freed when nobody uses it.
    fn retire(&mut self, attachment: *mut Attachment) {
        if !attachment.is_null() {
            self.attachments.retired.push(attachment);
        }
    }

    /// Looks at some attachments in turn whether their construct was removed, so that a process that never touches it again lets it go.
    fn look_for_removed(&mut self) {
        for _ in 0..LOOK_AT.min(self.attachments.live.len()) {
            let at = self.attachments.next_look % self.attachments.live.len();
            self.attachments.next_look = at + 1;
            let (kind, id) = self.attachments.live[at];
            let Some(entry) = entry(kind, id) else { continue };
            let found = entry.load(Ordering::Acquire);
            // SAFETY: freed only under the control lock, which is held.
            let mapped = unsafe { found.as_ref() }.and_then(|a| a.mapped.as_ref());
            if mapped
                .is_some_and(|m| matches!(Control::load(&m.words).state(), Life::Removed | Life::Corrupt))
            {
                entry.store(ptr::null_mut(), Ordering::Release);
                self.attachments.live.remove(at);
                self.retire(found);
            }
            if self.attachments.live.is_empty() {
                break;
            }
        }
    }

    /// Frees what is retired and unused, and tells the daemon of constructs that are not mapped any more.
    fn reclaim(&mut self) {
        if self.attachments.retired.is_empty() || !self.barrier() {
            return;
        }
        let mut closed = Vec::new();
        let retired = std::mem::take(&mut self.attachments.retired);
        for attachment in retired {
            if thread::in_use(attachment.cast()) {
                self.attachments.retired.push(attachment);
                continue;
            }
            // SAFETY: made by Box::into_raw, taken out of the table, retired once, and nobody's hazard.
            let attachment = unsafe { Box::from_raw(attachment) };
            let last = attachment
                .mapped
                .as_ref()
                .is_none_or(|m| Arc::strong_count(&m.region) == 1);
            let known = self.attachments.live.contains(&(attachment.kind, attachment.id));
            let same_process = attachment.epoch == process::epoch();
            if last && !known && same_process {
                closed.push((attachment.kind, attachment.id));
            }
            drop(attachment);
        }
        for (kind, id) in closed {
            let _ = self.ask(&Request::Close { kind, id });
        }
    }

    /// Makes every thread's hazards visible here. `false`: that cannot be done.
    fn barrier(&mut self) -> bool {
        use rustix::thread::{MembarrierCommand, membarrier};
        let ready = *self
            .attachments
            .barrier
            .get_or_insert_with(|| membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok());
        // A forked child is registered anew.
        ready
            && (membarrier(MembarrierCommand::PrivateExpedited).is_ok()
                || membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok()
                    && membarrier(MembarrierCommand::PrivateExpedited).is_ok())
    }
}

/// Maps a construct, into the region it already has if the new extents only follow the old ones and fit.
fn map_construct(memory: &Memory, from: &OwnedFd, room: u64, before: Option<&Mapped>) -> Result<Mapped> {
    let bytes = map::check(memory)?;
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    let same = before.filter(|b| memory.extents.starts_with(&b.extents) && bytes <= b.region.room);
    let (region, done) = match same {
        Some(before) => (before.region.clone(), before.extents.len()),
        None => {
            let room = usize::try_from(room)
                .unwrap_or(0)
                .max(bytes)
                .next_multiple_of(4096);
            let base = map::reserve(room)?;
            (Arc::new(Region { base, room }), 0)
        }
    };
    let at: u64 = memory.extents[..done].iter().map(|e| e.bytes).sum();
    // SAFETY: inside the region, behind what is mapped already.
    unsafe {
        map::extents(
            region.base.wrapping_add(at as usize),
            &map::placed(memory)[done..],
            memory.window,
            from.as_fd(),
            protection,
        )?;
    }
    // SAFETY: mapped just now or before, page aligned, and unmapped only with the region.
    let words = unsafe { Mapping::new(region.base, bytes) };
    Ok(Mapped {
        words,
        group: memory.group,
        extents: memory.extents.clone(),
        region,
        inherited: memory.window != Window::InOrder,
    })
}

#[cfg(test)]
impl Attachment {
    /// An attachment of memory that a test has mapped, as if a daemon had given it.
    pub(crate) fn of_test(
        words: Mapping,
        nsems: u32,
        identity: &'static Identity,
        offset: u64,
    ) -> Attachment {
        let bytes = vshmem_words::Words::len(&words) as u64;
        let base = words.base();
        Attachment {
            epoch: 1,
            connections_lost: 0,
            id: vshmem_wire::ID_BIT,
            kind: Kind::Sem,
            nsems,
            read: true,
            write: true,
            control: Control::load(&words),
            identity,
            mapped: Some(Mapped {
                words,
                group: 0,
                extents: vec![Extent { offset, bytes }],
                region: Arc::new(Region {
                    base,
                    room: bytes as usize,
                }),
                inherited: true,
            }),
            shorter: AtomicU32::new(0),
            rings: AtomicBool::new(false),
            from_afar: AtomicBool::new(false),
        }
    }
}
