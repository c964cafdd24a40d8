//! What dom0 does with another domain's pages, through Xen's libraries with a stable interface: `libxenforeignmemory` and `libxencall`.
//!
//! They are loaded when they are used, so that one program runs with and without Xen. Not for anything that only an unstable library can do: that is `xl`'s.
#![allow(unsafe_code)] // Foreign functions, and memory that they map.

use anyhow::{Context, bail};
use libloading::Library;
use std::cell::Cell;
use std::ffi::{c_int, c_uint, c_ulong, c_void};
use std::io;
use std::ptr;
use vshmem_port::store::PAGE;

use super::table::Table;
use crate::devices::DomId;

/// `__HYPERVISOR_memory_op` and `XENMEM_populate_physmap`.
const MEMORY_OP: c_uint = 12;
const POPULATE: u64 = 6;
/// `XENMEM_resource_grant_table`.
const GRANT_TABLE: c_uint = 1;
/// Pages that one call populates.
pub(super) const BATCH: usize = 256;

type Open = unsafe extern "C" fn(*mut c_void, c_uint) -> *mut c_void;
type Map = unsafe extern "C" fn(
    *mut c_void,
    u32,
    *mut c_void,
    c_int,
    c_int,
    usize,
    *const c_ulong,
    *mut c_int,
) -> *mut c_void;
type Unmap = unsafe extern "C" fn(*mut c_void, *mut c_void, usize) -> c_int;
type MapResource = unsafe extern "C" fn(
    *mut c_void,
    u16,
    c_uint,
    c_uint,
    c_ulong,
    c_ulong,
    *mut *mut c_void,
    c_int,
    c_int,
) -> *mut c_void;
type Call2 = unsafe extern "C" fn(*mut c_void, c_uint, u64, u64) -> c_int;
type Allocate = unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void, *mut c_void);

/// `struct xen_memory_reservation`.
#[repr(C)]
struct Reservation {
    extents: *mut u64,
    count: u64,
    order: u32,
    flags: u32,
    domain: u16,
}
const _: () = assert!(size_of::<Reservation>() == 32);

/// The libraries, and a handle of each.
pub(crate) struct Libraries {
    memory: *mut c_void,
    map: Map,
    unmap: Unmap,
    map_resource: MapResource,
    calls: *mut c_void,
    call2: Call2,
    allocate: Allocate,
    free: Free,
    /// Calls that go to the hypervisor, so far.
    made: Cell<u64>,
    // Last, so that they are closed after everything else.
    _libraries: Vec<Library>,
}

// SAFETY: the handles may be used by any thread, one at a time, which `&self` of a value that is not Sync makes sure of.
unsafe impl Send for Libraries {}

impl std::fmt::Debug for Libraries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Libraries")
    }
}

fn load(name: &str) -> anyhow::Result<Library> {
    // SAFETY: Xen's libraries do nothing when they are loaded.
    let loaded = unsafe { Library::new(name) };
    loaded.with_context(|| {
        format!("Xen's library {name} is missing; on Debian and Ubuntu: apt-get install xen-utils")
    })
}

/// A function of a library.
///
/// # Safety
/// `F` is its type.
unsafe fn function<F: Copy>(library: &Library, name: &str) -> anyhow::Result<F> {
    // SAFETY: promised by the caller.
    let found = unsafe { library.get::<F>(name.as_bytes()) };
    let found = found.with_context(|| format!("Xen's libraries lack {name}: Xen 4.11 or later is needed"))?;
    Ok(*found)
}

fn refused(name: &str) -> anyhow::Error {
    anyhow::Error::new(io::Error::last_os_error()).context(format!(
        "{name}: this needs root in dom0, with the module xen-privcmd"
    ))
}

impl Libraries {
    /// Loads them.
    pub(crate) fn load() -> anyhow::Result<Self> {
        let (memory, calls) = (load("libxenforeignmemory.so.1")?, load("libxencall.so.1")?);
        // SAFETY: the types are those of xenforeignmemory.h and xencall.h, whose interfaces are stable.
        unsafe {
            let open_memory: Open = function(&memory, "xenforeignmemory_open")?;
            let open_calls: Open = function(&calls, "xencall_open")?;
            let opened = open_memory(ptr::null_mut(), 0);
            if opened.is_null() {
                return Err(refused("xenforeignmemory_open"));
            }
            let opened_calls = open_calls(ptr::null_mut(), 0);
            if opened_calls.is_null() {
                return Err(refused("xencall_open"));
            }
            Ok(Libraries {
                memory: opened,
                map: function(&memory, "xenforeignmemory_map2")?,
                unmap: function(&memory, "xenforeignmemory_unmap")?,
                map_resource: function(&memory, "xenforeignmemory_map_resource")?,
                calls: opened_calls,
                call2: function(&calls, "xencall2")?,
                allocate: function(&calls, "xencall_alloc_buffer")?,
                free: function(&calls, "xencall_free_buffer")?,
                made: Cell::new(0),
                _libraries: vec![memory, calls],
            })
        }
    }

    /// Calls that went to the hypervisor so far, each of them one or more hypercalls.
    pub(crate) fn calls(&self) -> u64 {
        self.made.get()
    }

    fn count(&self) {
        self.made.set(self.made.get() + 1);
    }

    /// Gives a domain that many more pages; fewer if it may not have more. `first` is the number in its own physical memory of the first of them.
    pub(crate) fn populate(&self, domain: DomId, first: u64, pages: usize) -> io::Result<Vec<u32>> {
        let mut got = Vec::with_capacity(pages);
        while got.len() < pages {
            let now = (pages - got.len()).min(BATCH);
            let frames = match self.populate_some(domain, first + got.len() as u64, now) {
                Ok(frames) => frames,
                // What came before is there.
                Err(_) if !got.is_empty() => break,
                Err(why) => return Err(why),
            };
            let few = frames.len() < now;
            got.extend(frames.iter().filter_map(|&frame| u32::try_from(frame).ok()));
            if few {
                break;
            }
        }
        Ok(got)
    }

    fn populate_some(&self, domain: DomId, first: u64, pages: usize) -> io::Result<Vec<u64>> {
        self.count();
        // SAFETY: a buffer of `pages` numbers with the request before it, both within what was allocated (a page and the batch); the hypervisor writes the
        // frames over the numbers. It is freed on the way out.
        unsafe {
            let bytes = size_of::<Reservation>() + pages * 8;
            let buffer = (self.allocate)(self.calls, bytes);
            if buffer.is_null() {
                return Err(io::Error::last_os_error());
            }
            let list = buffer.byte_add(size_of::<Reservation>()).cast::<u64>();
            for at in 0..pages {
                list.add(at).write(first + at as u64);
            }
            buffer.cast::<Reservation>().write(Reservation {
                extents: list,
                count: pages as u64,
                order: 0,
                flags: 0,
                domain,
            });
            let done = (self.call2)(self.calls, MEMORY_OP, POPULATE, buffer as u64);
            let error = io::Error::last_os_error();
            let got = usize::try_from(done)
                .map(|done| (0..done.min(pages)).map(|at| list.add(at).read()).collect());
            (self.free)(self.calls, buffer);
            got.map_err(|_| error)
        }
    }

    /// Maps frames of a domain one after another over the address space at `at`, for reading and writing. If that fails nothing may be mapped there any more, what
    /// was there before neither: the library maps over it first, and unmaps that again where the hypervisor refuses.
    ///
    /// # Safety
    /// That address space, a page for each frame, is the caller's to replace.
    pub(crate) unsafe fn map_at(&self, domain: DomId, frames: &[u64], at: *mut u8) -> io::Result<()> {
        self.count();
        let mut errors = vec![0; frames.len()];
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: promised by the caller; frames and errors are as long as is said.
        let mapped = unsafe {
            (self.map)(
                self.memory,
                domain.into(),
                at.cast(),
                protection,
                libc::MAP_FIXED,
                frames.len(),
                frames.as_ptr(),
                errors.as_mut_ptr(),
            )
        };
        if mapped.is_null() {
            return Err(io::Error::last_os_error());
        }
        match errors.into_iter().find(|error| *error != 0) {
            Some(error) => Err(io::Error::from_raw_os_error(error.abs())),
            None => Ok(()),
        }
    }

    /// Zeroes frames of a domain.
    pub(crate) fn zero(&self, domain: DomId, frames: &[u32]) -> io::Result<()> {
        for frames in frames.chunks(BATCH) {
            let frames: Vec<u64> = frames.iter().copied().map(u64::from).collect();
            self.count();
            let mut errors = vec![0; frames.len()];
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: a new mapping where the kernel likes, written only where every page of it was mapped, and ended at once.
            unsafe {
                let at = (self.map)(
                    self.memory,
                    domain.into(),
                    ptr::null_mut(),
                    protection,
                    0,
                    frames.len(),
                    frames.as_ptr(),
                    errors.as_mut_ptr(),
                );
                if at.is_null() {
                    return Err(io::Error::last_os_error());
                }
                let failed = errors.into_iter().find(|error| *error != 0);
                if failed.is_none() {
                    ptr::write_bytes(at.cast::<u8>(), 0, frames.len() * PAGE as usize);
                }
                (self.unmap)(self.memory, at, frames.len());
                if let Some(error) = failed {
                    return Err(io::Error::from_raw_os_error(error.abs()));
                }
            }
        }
        Ok(())
    }

    /// The grant table of a domain, as many pages of it as it can have, at most `most`; mapped for ever.
    pub(crate) fn grant_table(&self, domain: DomId, most: u32) -> anyhow::Result<Table> {
        let mut pages = most.max(1);
        loop {
            let mut at = ptr::null_mut();
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: a new mapping where the kernel likes; its handle is forgotten, so it stays.
            let handle = unsafe {
                (self.map_resource)(
                    self.memory,
                    domain,
                    GRANT_TABLE,
                    0,
                    0,
                    pages.into(),
                    &raw mut at,
                    protection,
                    0,
                )
            };
            if !handle.is_null() {
                // SAFETY: mapped just now, for reading and writing, and never unmapped.
                return Ok(unsafe { Table::at(at.cast(), pages as usize) });
            }
            if pages == 1 {
                bail!(
                    "the grant table of domain {domain} cannot be mapped: {}",
                    io::Error::last_os_error()
                );
            }
            pages /= 2;
        }
    }
}

/// A hypervisor that has all the memory there is: frames are numbered from 1000 on, and whatever is mapped is fresh memory of this process.
#[cfg(test)]
pub(crate) mod imitation {
    use super::*;
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    std::thread_local! {
        static REFUSES: Cell<bool> = const { Cell::new(false) };
        /// Grant tables of this thread's domains: a restarted back-end finds the one that there was.
        static TABLES: RefCell<BTreeMap<u16, &'static mut [u64]>> = const { RefCell::new(BTreeMap::new()) };
    }

    /// Whether this thread's next mappings are refused, after the library has mapped over what was there.
    pub(crate) fn refuse(refuses: bool) {
        REFUSES.set(refuses);
    }

    unsafe extern "C" fn map(
        _: *mut c_void,
        _: u32,
        at: *mut c_void,
        protection: c_int,
        flags: c_int,
        pages: usize,
        _: *const c_ulong,
        _: *mut c_int,
    ) -> *mut c_void {
        let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let bytes = pages * PAGE as usize;
        // SAFETY: where the kernel likes, or where the caller says that it may be.
        unsafe {
            let at = libc::mmap(at, bytes, protection, flags, -1, 0);
            if !REFUSES.get() {
                return at;
            }
            libc::munmap(at, bytes);
        }
        ptr::null_mut()
    }

    unsafe extern "C" fn unmap(_: *mut c_void, at: *mut c_void, pages: usize) -> c_int {
        // SAFETY: what `map` gave.
        unsafe { libc::munmap(at, pages * PAGE as usize) }
    }

    unsafe extern "C" fn map_resource(
        _: *mut c_void,
        domain: u16,
        _: c_uint,
        _: c_uint,
        _: c_ulong,
        pages: c_ulong,
        at: *mut *mut c_void,
        _: c_int,
        _: c_int,
    ) -> *mut c_void {
        let fresh = || vec![0u64; pages as usize * 512].leak();
        let table = TABLES.with_borrow_mut(|tables| tables.entry(domain).or_insert_with(fresh).as_mut_ptr());
        // SAFETY: the caller's variable.
        unsafe { at.write(table.cast()) };
        table.cast()
    }

    unsafe extern "C" fn call2(_: *mut c_void, _: c_uint, _: u64, buffer: u64) -> c_int {
        let reservation = buffer as *const Reservation;
        // SAFETY: a request with its list, as `populate_some` makes it.
        unsafe {
            let (list, count) = ((*reservation).extents, (*reservation).count);
            for at in 0..count as usize {
                list.add(at).write(list.add(at).read() - 0x10_0000 + 1000);
            }
            count as c_int
        }
    }

    unsafe extern "C" fn allocate(_: *mut c_void, bytes: usize) -> *mut c_void {
        // SAFETY: asks for memory.
        unsafe { libc::calloc(1, bytes) }
    }

    unsafe extern "C" fn free(_: *mut c_void, buffer: *mut c_void) {
        // SAFETY: what `allocate` gave.
        unsafe { libc::free(buffer) }
    }

    impl Libraries {
        /// Libraries that need no Xen.
        pub(crate) fn of_test() -> Self {
            Libraries {
                memory: ptr::null_mut(),
                map,
                unmap,
                map_resource,
                calls: ptr::null_mut(),
                call2,
                allocate,
                free,
                made: Cell::new(0),
                _libraries: Vec::new(),
            }
        }
    }
}
