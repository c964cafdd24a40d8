//! What there would be to gain if memory of this kernel were made ready ahead of time: making a segment, and the first store into each of its pages, against the same
//! with pages that are there already.
//!
//! `cargo run --release -p vshmem-port-local --example ahead` prints one JSON object a line: microseconds, medians of several rounds.
#![allow(unsafe_code)] // Storing into memory that is mapped.

use std::io;
use std::time::Instant;
use vshmem_port::store::{Mapped, PAGE, Serial, Store};
use vshmem_port_local::{MemfdStore, PoolStore};
use vshmem_wire::{Extent, Kind};

const POOL: u64 = 64 << 20;
const PAGES: [u64; 7] = [1, 4, 16, 64, 256, 1024, 4096];
const ROUNDS: usize = 31;

fn microseconds<T>(act: impl FnOnce() -> io::Result<T>) -> io::Result<(f64, T)> {
    let start = Instant::now();
    let made = act()?;
    Ok((start.elapsed().as_secs_f64() * 1e6, made))
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Stores into each page once.
fn touch(mapped: &Mapped, pages: u64) -> io::Result<()> {
    for page in 0..pages {
        // SAFETY: `pages` pages are mapped for writing, and nobody else has them.
        unsafe { mapped.base.add((page * PAGE) as usize).write_volatile(1) };
    }
    Ok(())
}

fn measure(what: &str, store: &mut dyn Store) -> io::Result<()> {
    let mut serial = 1;
    for pages in PAGES {
        let extent = Extent {
            offset: 0,
            bytes: pages * PAGE,
        };
        let (mut create, mut first, mut again) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let own = Serial(serial);
            serial += 1;
            create.push(microseconds(|| store.provide((Kind::Shm, own), extent))?.0);
            let mapped = store.map(own, &[extent], 0)?;
            first.push(microseconds(|| touch(&mapped, pages))?.0);
            store.unmap(mapped)?;
            // The pages are there now, as they would be if they were zeroed ahead of time.
            let mapped = store.map(own, &[extent], 0)?;
            again.push(microseconds(|| touch(&mapped, pages))?.0);
            store.unmap(mapped)?;
            store.release(own, &[extent])?;
        }
        println!(
            "{{\"memory\":\"{what}\",\"pages\":{pages},\"create_us\":{:.2},\"first_touch_us\":{:.2},\"touch_ready_us\":{:.2}}}",
            median(&mut create),
            median(&mut first),
            median(&mut again)
        );
    }
    Ok(())
}

fn main() -> io::Result<()> {
    measure("memfd", &mut MemfdStore::new())?;
    measure("pool", &mut PoolStore::new(POOL)?)
}
