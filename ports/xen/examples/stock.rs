//! What memory that is asked for ahead of time saves: segments made and granted by a holder with a stock and by one without, alternately.
//!
//! ```text
//! cargo build --release -p vshmem-port-xen --example stock
//! cargo xtask xen-lab -- target/release/examples/stock
//! ```
//!
//! One JSON object a line: microseconds, medians of several rounds, and how often the hypervisor was called within the request.

use anyhow::Result;
use std::time::Instant;
use vshmem_port::store::{PAGE, Serial, Store};
use vshmem_port_xen::holder::{Ahead, GrantStore};
use vshmem_wire::{Extent, Kind};

const POOL: u64 = 48 << 20;
const PAGES: [u64; 7] = [1, 4, 16, 64, 256, 1024, 4096];
const ROUNDS: usize = 7;
/// The domain of Vshmem that this machine, dom0, is.
const HOST: u16 = 0;

#[derive(Debug, Default)]
struct Taken {
    create: Vec<f64>,
    grant: Vec<f64>,
    revoke: Vec<f64>,
    release: Vec<f64>,
    calls: u64,
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn microseconds(act: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    act()?;
    Ok(start.elapsed().as_secs_f64() * 1e6)
}

/// A segment's life in the back-end, short of mapping it: that is the guest's.
fn round(store: &mut GrantStore, serial: Serial, pages: u64, taken: &mut Taken) -> Result<()> {
    let extent = Extent {
        offset: 0,
        bytes: pages * PAGE,
    };
    let before = store.calls();
    taken
        .create
        .push(microseconds(|| Ok(store.provide((Kind::Shm, serial), extent)?))?);
    taken.grant.push(microseconds(|| {
        store.admit(serial, HOST, true)?;
        store.grants(serial, HOST, &[extent], true)?;
        Ok(())
    })?);
    taken.calls += store.calls() - before;
    taken.revoke.push(microseconds(|| {
        store.revoke(serial, HOST)?;
        Ok(())
    })?);
    taken
        .release
        .push(microseconds(|| Ok(store.release(serial, &[extent])?))?);
    Ok(store.fill()?)
}

fn main() -> Result<()> {
    let stock = Ahead {
        stock: 4096 * PAGE,
        ..Ahead::default()
    };
    let none = Ahead {
        stock: 0,
        ..Ahead::default()
    };
    let mut stores = [GrantStore::new(POOL, stock)?, GrantStore::new(POOL, none)?];
    for store in &mut stores {
        store.introduce(HOST, None)?;
        store.fill()?;
        // The first use of everything is another matter.
        round(store, Serial(1), 4096, &mut Taken::default())?;
    }
    let mut serial = 2;
    for pages in PAGES {
        let mut taken = [Taken::default(), Taken::default()];
        for _ in 0..ROUNDS {
            for (store, taken) in stores.iter_mut().zip(&mut taken) {
                round(store, Serial(serial), pages, taken)?;
                serial += 1;
            }
        }
        let [with, without] = &mut taken;
        for (name, with_us, without_us) in [
            ("create", median(&mut with.create), median(&mut without.create)),
            ("grant", median(&mut with.grant), median(&mut without.grant)),
            ("revoke", median(&mut with.revoke), median(&mut without.revoke)),
            ("release", median(&mut with.release), median(&mut without.release)),
        ] {
            println!(
                "{{\"name\":\"{name}\",\"pages\":{pages},\"stock_us\":{with_us:.0},\"without_us\":{without_us:.0},\"ratio\":{:.3}}}",
                with_us / without_us
            );
        }
        println!(
            "{{\"name\":\"calls\",\"pages\":{pages},\"stock\":{},\"without\":{},\"rounds\":{ROUNDS}}}",
            with.calls, without.calls
        );
    }
    stores.iter_mut().for_each(|store| store.retire());
    Ok(())
}
