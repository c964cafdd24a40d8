//! Both stores, within one process: what is promised of files, extents, seals, growth and keeping.
#![allow(unsafe_code)] // Looks at mapped memory through its address, as the back-end does.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags, SealFlags};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use vshmem_port::store::{Mapped, PAGE, Reach, Serial, Store};
use vshmem_port_local::{MemfdStore, PoolStore};
use vshmem_wire::{Extent, Kind, Window};

const SET: Serial = Serial(7);

fn extent(offset: u64, bytes: u64) -> Extent {
    Extent { offset, bytes }
}

fn stores() -> Vec<Box<dyn Store>> {
    vec![
        Box::new(PoolStore::new(1 << 20).unwrap()),
        Box::new(MemfdStore::new()),
    ]
}

fn bytes(mapped: &Mapped) -> Vec<u8> {
    // SAFETY: the store mapped this many bytes for reading and writing, and nobody else touches them here.
    (0..mapped.bytes)
        .map(|i| unsafe { mapped.base.add(i).read_volatile() })
        .collect()
}

fn fill(mapped: &Mapped, value: u8) {
    // SAFETY: as in `bytes`.
    (0..mapped.bytes).for_each(|i| unsafe { mapped.base.add(i).write_volatile(value) });
}

/// Maps a page as a client would; gives its address or the errno.
fn client_map(fd: &OwnedFd, offset: u64, prot: ProtFlags) -> Result<*mut u8, rustix::io::Errno> {
    // SAFETY: a new mapping at an address of the kernel's choice.
    let base = unsafe {
        rustix::mm::mmap(
            std::ptr::null_mut(),
            PAGE as usize,
            prot,
            MapFlags::SHARED,
            fd,
            offset,
        )
    };
    base.map(|p| p.cast())
}

#[test]
fn extents_are_mapped_one_after_another_and_grow_in_place() {
    for mut store in stores() {
        let (a, b, c) = (
            extent(0, PAGE),
            extent(4 * PAGE, 2 * PAGE),
            extent(2 * PAGE, PAGE),
        );
        for e in [a, b, c] {
            store.provide((Kind::Sem, SET), e).unwrap();
        }
        let mut mapped = store.map(SET, &[a, b], 4 * PAGE).unwrap();
        assert_eq!(mapped.bytes as u64, 3 * PAGE);
        fill(&mapped, 1);
        let before = mapped.base;
        store.extend(SET, &mut mapped, c).unwrap();
        assert_eq!((mapped.base, mapped.bytes as u64), (before, 4 * PAGE));
        let seen = bytes(&mapped);
        assert!(seen[..3 * 4096].iter().all(|&b| b == 1));
        assert!(seen[3 * 4096..].iter().all(|&b| b == 0));
        let again = store.map(SET, &[b], 0).unwrap();
        assert!(
            bytes(&again).iter().all(|&b| b == 1),
            "the second extent is the same memory"
        );
        store.unmap(again).unwrap();
        store.unmap(mapped).unwrap();
    }
}

#[test]
fn growth_beyond_the_room_is_refused() {
    for mut store in stores() {
        let (a, b) = (extent(0, PAGE), extent(PAGE, 2 * PAGE));
        store.provide((Kind::Msg, SET), a).unwrap();
        store.provide((Kind::Msg, SET), b).unwrap();
        let mut mapped = store.map(SET, &[a], PAGE).unwrap();
        assert!(store.extend(SET, &mut mapped, b).is_err());
        assert_eq!(mapped.bytes as u64, PAGE);
        store.unmap(mapped).unwrap();
    }
}

#[test]
fn extents_that_do_not_fit_are_refused() {
    let mut pool = PoolStore::new(1 << 20).unwrap();
    for wrong in [
        extent(1, PAGE),
        extent(0, 100),
        extent(0, 0),
        extent(1 << 20, PAGE),
        extent(u64::MAX - 4095, PAGE),
        extent(PAGE, u64::MAX - 4095),
    ] {
        assert!(pool.provide((Kind::Shm, SET), wrong).is_err(), "{wrong:?}");
        assert!(pool.map(SET, &[wrong], 0).is_err(), "{wrong:?}");
        assert!(pool.release(SET, &[wrong]).is_err(), "{wrong:?}");
        let mut memfds = MemfdStore::new();
        memfds.provide((Kind::Shm, SET), extent(0, PAGE)).unwrap();
        assert!(memfds.map(SET, &[wrong], 0).is_err(), "{wrong:?}");
    }
    assert!(pool.map(SET, &[], u64::MAX).is_err());
}

#[test]
fn memory_comes_back_zeroed() {
    for mut store in stores() {
        let e = extent(0, 4 * PAGE);
        store.provide((Kind::Shm, SET), e).unwrap();
        let mapped = store.map(SET, &[e], 0).unwrap();
        fill(&mapped, 0xa5);
        store.release(SET, &[e]).unwrap();
        assert!(
            bytes(&mapped).iter().all(|&b| b == 0),
            "a mapping that stayed reads zeros"
        );
        store.unmap(mapped).unwrap();
        store.provide((Kind::Shm, Serial(8)), e).unwrap();
        let mapped = store.map(Serial(8), &[e], 0).unwrap();
        assert!(bytes(&mapped).iter().all(|&b| b == 0));
        store.unmap(mapped).unwrap();
    }
}

#[test]
fn pages_scribbled_on_while_free_are_zeroed_when_provided() {
    let mut store = PoolStore::new(1 << 20).unwrap();
    let e = extent(PAGE, PAGE);
    let hostile = store.map(Serial(1), &[e], 0).unwrap();
    fill(&hostile, 0xff);
    store.provide((Kind::Sem, SET), e).unwrap();
    assert!(bytes(&hostile).iter().all(|&b| b == 0));
    store.unmap(hostile).unwrap();
}

#[test]
fn read_only_descriptors_refuse_writing() {
    for mut store in stores() {
        store.provide((Kind::Shm, SET), extent(0, PAGE)).unwrap();
        let (fd, window) = store.descriptor(SET, false).unwrap();
        assert_eq!(window, Window::Direct);
        assert!(client_map(&fd, 0, ProtFlags::READ | ProtFlags::WRITE).is_err());
        let base = client_map(&fd, 0, ProtFlags::READ).unwrap();
        // SAFETY: the page mapped just now; no reference to it exists.
        let changed = unsafe { rustix::mm::mprotect(base.cast(), PAGE as usize, MprotectFlags::WRITE) };
        assert_eq!(changed, Err(rustix::io::Errno::ACCESS));
        let (fd, _) = store.descriptor(SET, true).unwrap();
        assert!(client_map(&fd, 0, ProtFlags::READ | ProtFlags::WRITE).is_ok());
    }
}

#[test]
fn files_are_private_and_cannot_shrink() {
    for mut store in stores() {
        store.provide((Kind::Shm, SET), extent(0, PAGE)).unwrap();
        let (fd, _) = store.descriptor(SET, true).unwrap();
        let mode = rustix::fs::fstat(&fd).unwrap().st_mode;
        assert_eq!(mode & 0o7777, 0o600);
        let seals = rustix::fs::fcntl_get_seals(&fd).unwrap();
        assert!(seals.contains(SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL));
        assert!(rustix::fs::ftruncate(&fd, 0).is_err());
    }
}

#[test]
fn sets_may_grow_but_not_shrink() {
    let mut store = MemfdStore::new();
    store.provide((Kind::Sem, SET), extent(0, PAGE)).unwrap();
    let (fd, _) = store.descriptor(SET, true).unwrap();
    assert!(rustix::fs::ftruncate(&fd, 0).is_err());
    store.provide((Kind::Sem, SET), extent(PAGE, PAGE)).unwrap();
    let mapped = store.map(SET, &[extent(0, PAGE), extent(PAGE, PAGE)], 0).unwrap();
    fill(&mapped, 3);
    store.unmap(mapped).unwrap();
}

#[test]
fn what_a_keeper_holds_outlives_the_store() {
    for (mut store, mut next) in stores().into_iter().zip(stores()) {
        store.provide((Kind::Msg, SET), extent(0, PAGE)).unwrap();
        let mapped = store.map(SET, &[extent(0, PAGE)], 0).unwrap();
        fill(&mapped, 9);
        store.unmap(mapped).unwrap();
        let kept: Vec<(String, OwnedFd)> = store
            .keep()
            .into_iter()
            .map(|(n, fd)| (n, fd.try_clone_to_owned().unwrap()))
            .collect();
        assert_eq!(kept.len(), 1);
        drop(store);
        for (name, fd) in kept {
            next.adopt(&name, fd).unwrap();
        }
        let mapped = next.map(SET, &[extent(0, PAGE)], 0).unwrap();
        assert!(bytes(&mapped).iter().all(|&b| b == 9));
        next.unmap(mapped).unwrap();
        assert!(
            next.adopt(
                "rubbish",
                rustix::fs::open("/", OFlags::RDONLY, Mode::empty()).unwrap()
            )
            .is_err()
        );
    }
}

#[test]
fn the_pool_is_sparse_and_says_its_size() {
    let store = PoolStore::new(1 << 40).unwrap();
    assert_eq!(store.reach(), Reach::Pool { bytes: 1 << 40 });
    assert_eq!(rustix::fs::fstat(store.file().as_fd()).unwrap().st_blocks, 0);
}

#[test]
fn a_released_construct_is_gone_from_the_memfd_store() {
    let mut store = MemfdStore::new();
    store.provide((Kind::Shm, SET), extent(0, 2 * PAGE)).unwrap();
    store.release(SET, &[extent(0, 2 * PAGE)]).unwrap();
    assert!(store.keep().is_empty());
    assert!(store.descriptor(SET, true).is_err());
}
