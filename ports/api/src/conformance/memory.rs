//! Checks of memory: it is one memory, it is atomic, it grows, it comes back zeroed, and read-only means it.

use super::agent::{differ, fill};
use super::script::{Add, Ask};
use super::session::{Construct, Session};
use crate::store::{PAGE, Reach, Serial};
use anyhow::{Context, ensure};
use rustix::io::Errno;
use std::time::{Duration, Instant};
use vshmem_wire::{Extent, Kind};
use vshmem_words::{Ordering, Words};

/// What one domain stores, the other and the host load; in every direction.
pub(super) fn seen(session: &mut Session<'_>) -> anyhow::Result<()> {
    let construct = session.construct(&[2])?;
    let (mapped, host) = session.map(&construct, 0)?;
    let (mut a, mut b) = (session.domain()?, session.domain()?);
    let in_a = session.attach(&mut a, &construct, true)?;
    let in_b = session.attach(&mut b, &construct, true)?;

    for (turn, at) in [0usize, 8, 4088, 4096, 8184].into_iter().enumerate() {
        let value = 0x1111_0000 + turn as u64;
        a.done(Ask::Store {
            region: in_a,
            at,
            value,
        })?;
        ensure!(
            b.value(Ask::Load { region: in_b, at })? == value,
            "b misses a's store at {at}"
        );
        ensure!(
            host.load64(at, Ordering::SeqCst) == value,
            "the host misses a's store at {at}"
        );
        b.done(Ask::Store {
            region: in_b,
            at,
            value: !value,
        })?;
        ensure!(
            a.value(Ask::Load { region: in_a, at })? == !value,
            "a misses b's store at {at}"
        );
        host.store64(at, value, Ordering::SeqCst);
        ensure!(
            a.value(Ask::Load { region: in_a, at })? == value,
            "a misses the host's store at {at}"
        );
        ensure!(
            b.value(Ask::Load { region: in_b, at })? == value,
            "b misses the host's store at {at}"
        );
    }
    Ok(session.store.unmap(mapped)?)
}

/// Two domains add to one word at the same time, and not one addition is lost.
pub(super) fn atomic(session: &mut Session<'_>) -> anyhow::Result<()> {
    const TIMES: u64 = 1_000_000;
    let construct = session.construct(&[1])?;
    let (mapped, host) = session.map(&construct, 0)?;
    let (mut a, mut b) = (session.domain()?, session.domain()?);
    let in_a = session.attach(&mut a, &construct, true)?;
    let in_b = session.attach(&mut b, &construct, true)?;

    for (turn, how) in [Add::Exchange32, Add::Exchange64, Add::Fetch64]
        .into_iter()
        .enumerate()
    {
        let (gate, at) = (turn * 128, turn * 128 + 64);
        let add = |region| Ask::Add {
            region,
            gate,
            at,
            times: TIMES,
            how,
        };
        a.done(add(in_a))?;
        b.done(add(in_b))?;
        host.store64(gate, 1, Ordering::Release);
        // The agents answer again when they have added.
        for (name, peer) in [("a", &mut a), ("b", &mut b)] {
            peer.value(Ask::Rings)
                .with_context(|| format!("{name} adds by {how:?}"))?;
        }
        let sum = host.load64(at, Ordering::SeqCst);
        ensure!(sum == 2 * TIMES, "{how:?}: {sum} instead of {}", 2 * TIMES);
    }
    Ok(session.store.unmap(mapped)?)
}

/// Extents lie one after another in the order of the list, wherever they are in the pool; an appended one is seen by all.
pub(super) fn extents(session: &mut Session<'_>) -> anyhow::Result<()> {
    let mut construct = session.construct(&[1, 3, 2])?;
    construct.extents.reverse();
    let (mut mapped, host) = session.map(&construct, 16 * 4096)?;
    let mut a = session.domain()?;
    let in_a = session.attach(&mut a, &construct, true)?;
    for page in 0..6 {
        a.done(Ask::Store {
            region: in_a,
            at: page * 4096 + 16,
            value: page as u64 + 1,
        })?;
    }
    for page in 0..6 {
        let found = host.load64(page * 4096 + 16, Ordering::SeqCst);
        ensure!(found == page as u64 + 1, "page {page} holds {found}");
    }

    let added = session.grow(&mut construct, 2)?;
    session.store.extend(construct.serial, &mut mapped, added)?;
    let host = super::region::host_words(&mapped);
    ensure!(host.len() == 8 * 4096, "the host's view is {} bytes", host.len());
    let grown = session.attach(&mut a, &construct, true)?;
    host.store64(7 * 4096, 77, Ordering::SeqCst);
    let load = |region, at| Ask::Load { region, at };
    ensure!(
        a.value(load(grown, 7 * 4096))? == 77,
        "the appended extent is another memory"
    );
    ensure!(
        a.value(load(grown, 5 * 4096 + 16))? == 6,
        "growth moved what was there"
    );
    a.done(Ask::Unmap { region: in_a })?;
    ensure!(
        a.value(load(grown, 16))? == 1,
        "unmapping one region hurt another"
    );
    Ok(session.store.unmap(mapped)?)
}

/// A pool is reached up to its very last word, and a domain that must map it whole knows how long it is.
pub(super) fn whole(session: &mut Session<'_>) -> anyhow::Result<()> {
    let Reach::Pool { bytes } = session.store.reach() else {
        return Ok(());
    };
    let last = Extent {
        offset: bytes - PAGE,
        bytes: PAGE,
    };
    let construct = Construct {
        serial: Serial(2000),
        extents: vec![last],
    };
    session.store.provide((Kind::Shm, construct.serial), last)?;
    let (mapped, host) = session.map(&construct, 0)?;
    let mut a = session.domain()?;
    let region = session.attach(&mut a, &construct, true)?;
    let at = PAGE as usize - 8;
    let value = 0x0123_4567_89ab_cdef;
    a.done(Ask::Store { region, at, value })?;
    ensure!(
        host.load64(at, Ordering::SeqCst) == value,
        "the pool's last word is another memory"
    );
    let (memory, window) = session.store.descriptor(construct.serial, false)?;
    a.domain.hand(memory, window)?;
    let said = a.value(Ask::Window)?;
    ensure!(
        said == 0 || said == bytes,
        "the window is said to be {said} bytes, not {bytes}"
    );
    Ok(session.store.unmap(mapped)?)
}

/// Released memory reads zero wherever it is mapped, and is zero when it is provided again.
pub(super) fn zeroed(session: &mut Session<'_>) -> anyhow::Result<()> {
    let construct = session.construct(&[4])?;
    let keeper = session.construct(&[1])?;
    let (mapped, host) = session.map(&construct, 0)?;
    let (kept, neighbour) = session.map(&keeper, 0)?;
    fill(&neighbour, 5);
    let (mut a, mut b) = (session.domain()?, session.domain()?);
    let in_a = session.attach(&mut a, &construct, true)?;
    let in_b = session.attach(&mut b, &construct, true)?;
    a.done(Ask::Fill {
        region: in_a,
        value: 0xa5a5_a5a5_a5a5_a5a5,
    })?;
    let differ_in = |region| Ask::Differ { region, value: 0 };
    ensure!(
        b.value(differ_in(in_b))? == 4 * 512,
        "b does not see what a wrote"
    );

    session.store.release(construct.serial, &construct.extents)?;
    ensure!(differ(&host, 0) == 0, "the host still reads the past");
    ensure!(
        a.value(differ_in(in_a))? == 0,
        "a, who had it mapped, still reads the past"
    );
    ensure!(
        b.value(differ_in(in_b))? == 0,
        "b, who had it mapped, still reads the past"
    );
    session.store.unmap(mapped)?;

    // A late writer to pages that are free, then the next owner.
    b.done(Ask::Fill {
        region: in_b,
        value: 0xbad,
    })?;
    let serial = Serial(1000);
    let next = Construct { serial, ..construct };
    for &extent in &next.extents {
        session.store.provide((Kind::Sem, serial), extent)?;
    }
    let (mapped, host) = session.map(&next, 0)?;
    let again_a = session.attach(&mut a, &next, true)?;
    ensure!(
        differ(&host, 0) == 0,
        "the next owner reads a late writer's bytes"
    );
    ensure!(
        a.value(differ_in(again_a))? == 0,
        "the next owner's domain reads a late writer's bytes"
    );
    fill(&host, 3);
    let threes = Ask::Differ {
        region: again_a,
        value: 3,
    };
    ensure!(a.value(threes)? == 0, "the pages provided again are not shared");
    ensure!(differ(&neighbour, 5) == 0, "a neighbour was zeroed too");
    session.store.unmap(mapped)?;
    Ok(session.store.unmap(kept)?)
}

/// A window for reading shows the memory, follows it, and cannot be made writable.
pub(super) fn read_only(session: &mut Session<'_>) -> anyhow::Result<()> {
    let construct = session.construct(&[2])?;
    let (mapped, host) = session.map(&construct, 0)?;
    fill(&host, 9);
    let mut a = session.domain()?;
    let region = session.attach(&mut a, &construct, false)?;
    ensure!(
        a.value(Ask::Differ { region, value: 9 })? == 0,
        "it does not show the memory"
    );
    let refusals = [
        ("mprotect", a.value(Ask::MakeWritable { region })?),
        ("mmap", a.value(Ask::MapWritable { region })?),
    ];
    for (what, errno) in refusals {
        ensure!(
            errno == Errno::ACCESS.raw_os_error() as u64,
            "{what} gave errno {errno}, not EACCES"
        );
    }
    host.store64(4096, 10, Ordering::SeqCst);
    let started = Instant::now();
    ensure!(
        a.value(Ask::Load { region, at: 4096 })? == 10,
        "it does not follow the memory"
    );
    ensure!(started.elapsed() < Duration::from_secs(10));
    Ok(session.store.unmap(mapped)?)
}
