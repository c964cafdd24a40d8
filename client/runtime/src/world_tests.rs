//! Sleeping and waking by the wait page, as in a guest: two threads, and a front-end played by the test.
#![allow(unsafe_code)] // Maps memory files.

use crate::attach::Attachment;
use crate::connection::Identity;
use crate::map;
use crate::world::{Caller, Timeout};
use crate::{pages, process, thread};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::ProtFlags;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use vshmem_ipc::sem::{SemError, SemSet};
use vshmem_ipc::sysv::SemBuf;
use vshmem_ipc::{Control, State, World};
use vshmem_wire::{Extent, Kind, Window, pages as layout};
use vshmem_words::Mapping;

const SPACE: u16 = 5;
/// Where the set lies in the pool.
const OFFSET: u64 = 8192;

fn memory_file(bytes: u64) -> OwnedFd {
    let file = memfd_create(c"test", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, bytes).unwrap();
    file
}

fn guest() -> &'static Attachment {
    let pages = vec![
        memory_file(4096),
        memory_file(layout::ENTRY as u64 * u64::from(layout::TICKETS)),
    ];
    pages::take(pages, SPACE).unwrap();
    let bytes = SemSet::<Mapping>::bytes(2);
    let pool = memory_file(OFFSET + bytes as u64);
    let base = map::reserve(bytes).unwrap();
    let extent = Extent {
        offset: OFFSET,
        bytes: bytes as u64,
    };
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: reserved just now, and mapped for as long as the test runs.
    let words = unsafe {
        map::extents(base, &[extent], Window::Direct, pool.as_fd(), protection).unwrap();
        Mapping::new(base, bytes)
    };
    SemSet::format(&words, 2);
    Control::new(State::Live, 1, 1, 1).store(&words);
    let identity = Box::leak(Box::new(Identity {
        client: 77,
        domain: 3,
        pid: 4711,
        undo: 9.into(),
        space: SPACE,
        msgmax: 8192,
        socket: AtomicI32::new(-1),
        device: AtomicU64::new(0),
        inode: AtomicU64::new(0),
    }));
    Box::leak(Box::new(Attachment::of_test(words, 2, identity, OFFSET)))
}

/// One operation by a thread that has a ticket.
fn op(a: &Attachment, ticket: u32, one: SemBuf, most: Duration) -> Result<(), SemError> {
    let thread = thread::current();
    drop(process::lock());
    thread.ticket.set(ticket);
    let timeout = Timeout::new(Some(most));
    let words = &a.mapped.as_ref().unwrap().words;
    let caller = Caller::new(Kind::Sem, a, words, thread, &timeout);
    assert_eq!(caller.me().ticket, ticket);
    SemSet::at(words, 2).op(&caller, a.control, &[one])
}

fn change(op: i16) -> SemBuf {
    SemBuf { num: 0, op, flags: 0 }
}

#[test]
fn sleepers_of_another_space_are_woken_through_the_wait_page() {
    crate::world::set_spin(Some(0));
    let a = guest();
    let most = Duration::from_secs(20);

    // A neighbour of the same domain wakes, many times over, well before the time slice is over.
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| (0..200).for_each(|_| op(a, 1, change(-1), most).unwrap()));
        scope.spawn(|| {
            for _ in 0..200 {
                op(a, 2, change(1), most).unwrap();
                while SemSet::at(&a.mapped.as_ref().unwrap().words, 2).value(0) > 0 {
                    std::thread::yield_now();
                }
            }
        });
    });
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "wakes get lost: {:?}",
        began.elapsed()
    );

    // Somebody of another domain granted it; the front-end, rung, finds that the watched word has changed.
    let words = &a.mapped.as_ref().unwrap().words;
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| op(a, 3, change(-1), most));
        let entry = pages::entry(3).unwrap();
        let (expected, watched) = loop {
            if let Some(seen) = entry.seen() {
                break seen;
            }
            std::thread::yield_now();
        };
        let at = (watched - OFFSET) as usize;
        assert_eq!(vshmem_words::Words::load32(words, at, Ordering::SeqCst), expected);
        op(a, 2, change(1), most).unwrap();
        assert_ne!(vshmem_words::Words::load32(words, at, Ordering::SeqCst), expected);
        sleeper.join().unwrap().unwrap();
        assert_eq!(entry.seen(), None);
    });

    // Nobody wakes: the time-out does.
    let began = Instant::now();
    assert_eq!(
        op(a, 1, change(-1), Duration::from_millis(30)),
        Err(SemError::Again)
    );
    assert!(began.elapsed() >= Duration::from_millis(30));
}
