//! A pool in huge pages: that it lies in them, that whoever maps it is served by them, and that memory is zeroed and given back all the same. On kernels that have none,
//! and where memory is in too small pieces, these tests say so and end.
#![allow(unsafe_code)] // Looks at mapped memory through its address, as clients do.

use rustix::fd::AsFd;
use rustix::mm::{MapFlags, ProtFlags};
use vshmem_port::store::{HugePages, PAGE, Serial, Store};
use vshmem_port_local::PoolStore;
use vshmem_wire::{Extent, Kind};

const HUGE: u64 = 2 << 20;
const POOL: u64 = 16 << 20;
const ONE: Serial = Serial(1);

fn extent(offset: u64, bytes: u64) -> Extent {
    Extent { offset, bytes }
}

/// A pool that lies in huge pages, or why there is none here.
fn pool(in_use: &[Extent]) -> Option<PoolStore> {
    let mut pool = PoolStore::new(POOL).unwrap();
    match pool.use_huge_pages(in_use) {
        Ok(()) => Some(pool),
        Err(why) => {
            println!("skipped: {why}");
            None
        }
    }
}

/// Bytes in huge pages and in ordinary ones, when nothing more is gathered.
fn pages(pool: &mut PoolStore) -> (u64, u64) {
    let (mut before, mut found) = (None, pool.huge_pages());
    // What took too long at first goes on with each second.
    while before != found && found.is_some_and(|found| found.ordinary > 0) {
        before = found;
        pool.second();
        found = pool.huge_pages();
    }
    let HugePages { huge, ordinary } = found.unwrap();
    (huge, ordinary)
}

/// All of a pool, mapped as its offsets lie in huge pages.
fn map(pool: &PoolStore) -> *mut u8 {
    // SAFETY: a new reservation, and a mapping within it.
    unsafe {
        let room = (POOL + HUGE) as usize;
        let none = ProtFlags::empty();
        let base = rustix::mm::mmap_anonymous(std::ptr::null_mut(), room, none, MapFlags::PRIVATE).unwrap();
        let at = base.wrapping_byte_add(base.align_offset(HUGE as usize));
        let both = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        rustix::mm::mmap(at, POOL as usize, both, flags, pool.file(), 0)
            .unwrap()
            .cast()
    }
}

fn fill(at: *mut u8, extent: Extent, value: u8) {
    // SAFETY: inside the mapping of the whole pool.
    (extent.offset..extent.offset + extent.bytes)
        .for_each(|i| unsafe { at.add(i as usize).write_volatile(value) });
}

fn holds(at: *mut u8, extent: Extent, value: u8) -> bool {
    // SAFETY: as above.
    (extent.offset..extent.offset + extent.bytes)
        .all(|i| unsafe { at.add(i as usize).read_volatile() } == value)
}

/// Kilobytes of the mapping at this address that are reached by huge entries of the page table.
fn huge_kilobytes(at: *mut u8) -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let from = format!("{:x}-", at as usize);
    let mut lines = text.lines().skip_while(|line| !line.starts_with(&from));
    let line = lines
        .find_map(|line| line.strip_prefix("ShmemPmdMapped:"))
        .unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn resident(pool: &PoolStore) -> u64 {
    rustix::fs::fstat(pool.file()).unwrap().st_blocks as u64 * 512
}

#[test]
fn constructs_lie_in_huge_pages_and_are_reached_by_them() {
    let Some(mut pool) = pool(&[]) else { return };
    pool.provide((Kind::Shm, ONE), extent(HUGE, 3 * HUGE)).unwrap();
    pool.provide((Kind::Sem, Serial(2)), extent(PAGE, 2 * PAGE))
        .unwrap();
    // The block of the first page is one of them.
    let (huge, ordinary) = pages(&mut pool);
    assert_eq!(huge + ordinary, 4 * HUGE);
    let at = map(&pool);
    fill(at, extent(PAGE, 2 * PAGE), 1);
    fill(at, extent(HUGE, 3 * HUGE), 2);
    assert!(holds(at, extent(PAGE, 2 * PAGE), 1) && holds(at, extent(HUGE, 3 * HUGE), 2));
    if ordinary > 0 {
        return println!("skipped: the kernel has no huge page for {} MiB", ordinary >> 20);
    }
    assert_eq!(huge_kilobytes(at), (4 * HUGE) >> 10);
}

#[test]
fn memory_comes_back_zeroed_and_is_given_back_when_a_block_is_empty() {
    let Some(mut pool) = pool(&[]) else { return };
    let (first, second) = (extent(HUGE, PAGE), extent(HUGE + 5 * PAGE, HUGE));
    let at = map(&pool);
    let empty = resident(&pool);
    for _ in 0..3 {
        pool.provide((Kind::Shm, ONE), first).unwrap();
        pool.provide((Kind::Msg, Serial(2)), second).unwrap();
        let whole = extent(HUGE, 2 * HUGE);
        assert!(holds(at, whole, 0));
        // Somebody hostile has it mapped: all of it, also what is nobody's.
        fill(at, whole, 9);
        pool.release(Serial(2), &[second]).unwrap();
        assert!(holds(at, second, 0) && holds(at, first, 9));
        assert_eq!(
            pages(&mut pool).0 + pages(&mut pool).1,
            2 * HUGE,
            "the block that is shared, and the header's"
        );
        pool.provide((Kind::Shm, Serial(3)), extent(HUGE + PAGE, PAGE))
            .unwrap();
        assert!(
            holds(at, extent(HUGE + PAGE, PAGE), 0),
            "what was nobody's is zeroed, too"
        );
        pool.release(Serial(3), &[extent(HUGE + PAGE, PAGE)]).unwrap();
        pool.release(ONE, &[first]).unwrap();
        assert!(holds(at, whole, 0));
        // Reading has made pages of its own.
        pool.release(ONE, &[whole]).unwrap();
        assert_eq!(resident(&pool), empty);
    }
}

#[test]
fn a_pool_in_use_is_gathered_and_a_successor_goes_on() {
    let used = extent(3 * HUGE + 7 * PAGE, HUGE);
    let Some(mut pool) = pool(&[used]) else { return };
    let at = map(&pool);
    fill(at, used, 5);
    pool.use_huge_pages(&[used]).unwrap();
    assert!(holds(at, used, 5));
    let before = pages(&mut pool);
    assert_eq!(before.0 + before.1, 3 * HUGE);
    // A killed daemon's successor has the name and the file.
    let kept: Vec<_> = pool
        .keep()
        .into_iter()
        .map(|(name, file)| (name, file.try_clone_to_owned().unwrap()))
        .collect();
    let mut next = PoolStore::new(PAGE).unwrap();
    for (name, file) in kept {
        next.adopt(&name, file).unwrap();
    }
    assert!(
        next.huge_pages().is_some(),
        "that it was asked for is not forgotten"
    );
    next.use_huge_pages(&[used]).unwrap();
    assert_eq!(pages(&mut next), before);
    assert!(holds(at, used, 5));
    next.release(ONE, &[used]).unwrap();
    assert!(holds(at, used, 0));
    assert_eq!(pages(&mut next).0 + pages(&mut next).1, HUGE);
}

#[test]
fn a_pool_that_ends_within_a_huge_page_works() {
    let mut pool = PoolStore::new(HUGE + 3 * PAGE).unwrap();
    if let Err(why) = pool.use_huge_pages(&[]) {
        return println!("skipped: {why}");
    }
    let over = extent(HUGE - PAGE, 4 * PAGE);
    pool.provide((Kind::Shm, ONE), over).unwrap();
    assert_eq!(pages(&mut pool).0 + pages(&mut pool).1, 2 * HUGE);
    assert!(pages(&mut pool).1 >= HUGE, "its end lies in ordinary pages");
    pool.release(ONE, &[over]).unwrap();
    assert_eq!(
        rustix::fs::fstat(pool.file().as_fd()).unwrap().st_size as u64,
        HUGE + 3 * PAGE
    );
}

#[test]
fn a_pool_is_bound_to_a_node_that_there_is() {
    let pool = PoolStore::new(POOL).unwrap();
    if !std::path::Path::new("/sys/devices/system/node/node0").exists() {
        return println!("skipped: this kernel knows no NUMA nodes");
    }
    for wrong in [1000, 5000, u32::MAX] {
        let why = pool.bind(wrong).unwrap_err().to_string();
        assert!(why.contains(&format!("no NUMA node {wrong}")), "{why}");
    }
    pool.bind(0).unwrap();
    let at = map(&pool);
    fill(at, extent(0, PAGE), 1);
    let maps = std::fs::read_to_string("/proc/self/numa_maps").unwrap();
    let line = maps
        .lines()
        .find(|line| line.starts_with(&format!("{:x} ", at as usize)));
    assert!(line.is_some_and(|line| line.contains("bind:0")), "{line:?}");
}
