//! What huge pages give: loads at random places of a pool by two processes at once, with the pool in huge pages and in ordinary ones; and what making a segment costs.
//!
//! `cargo run --release -p vshmem-port-local --example huge` prints one JSON object: nanoseconds a load, medians over rounds in which both pools take turns, and the median of
//! the rounds' ratios.
#![allow(unsafe_code)] // Loads from memory that is mapped.

use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::io::FdFlags;
use rustix::mm::{MapFlags, ProtFlags};
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Instant;
use vshmem_port::store::{Serial, Store};
use vshmem_port_local::PoolStore;
use vshmem_wire::{Extent, Kind};

const HUGE: u64 = 2 << 20;
const POOL: u64 = 512 << 20;
const ROUNDS: usize = 11;
const LOADS: u64 = 2_000_000;

fn pool(huge: bool) -> io::Result<(PoolStore, f64)> {
    let mut pool = PoolStore::new(POOL)?;
    if huge {
        pool.use_huge_pages(&[])?;
    }
    let extent = Extent {
        offset: HUGE,
        bytes: POOL - HUGE,
    };
    let start = Instant::now();
    pool.provide((Kind::Shm, Serial(1)), extent)?;
    Ok((pool, start.elapsed().as_secs_f64() * 1e3))
}

/// Maps a whole pool as clients do: so that offsets and addresses lie alike in huge pages.
fn map(file: BorrowedFd<'_>) -> io::Result<*mut u64> {
    // SAFETY: a new reservation, and a mapping within it.
    unsafe {
        let room = (POOL + HUGE) as usize;
        let base =
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), room, ProtFlags::empty(), MapFlags::PRIVATE)?;
        let at = base.wrapping_byte_add(base.align_offset(HUGE as usize));
        let both = ProtFlags::READ | ProtFlags::WRITE;
        Ok(rustix::mm::mmap(
            at,
            POOL as usize,
            both,
            MapFlags::SHARED | MapFlags::FIXED,
            file,
            0,
        )?
        .cast())
    }
}

/// Loads one after another, each from a place that hangs on what the last one found; nanoseconds each.
fn chase(at: *mut u64) -> f64 {
    let words = POOL / 8;
    let mut place = 1_u64;
    let start = Instant::now();
    for _ in 0..LOADS {
        // SAFETY: within the pool, and aligned.
        let found = unsafe { at.add((place % words) as usize).read_volatile() };
        place = (place ^ found)
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407)
            >> 3;
    }
    start.elapsed().as_nanos() as f64 / LOADS as f64
}

/// The child: maps what it is given, and chases when it is told to.
fn child(fds: &[i32]) -> io::Result<()> {
    let mut pools = Vec::new();
    for &fd in fds {
        // SAFETY: inherited from the parent for this.
        let at = map(unsafe { BorrowedFd::borrow_raw(fd) })?;
        for page in 0..POOL / 4096 {
            // SAFETY: within the pool.
            unsafe { at.add((page * 512) as usize).read_volatile() };
        }
        pools.push(at);
    }
    println!("ready");
    for line in io::stdin().lines() {
        let which: usize = line?.parse().map_err(io::Error::other)?;
        println!("{}", chase(pools[which]));
    }
    Ok(())
}

struct Party(Child, BufReader<std::process::ChildStdout>);

impl Party {
    fn hear(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.1.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn main() -> io::Result<()> {
    let fds: Vec<i32> = std::env::args()
        .skip(1)
        .filter_map(|word| word.parse().ok())
        .collect();
    if !fds.is_empty() {
        return child(&fds);
    }
    let (ordinary, made) = pool(false)?;
    let (huge, made_huge) = pool(true)?;
    let words: Vec<String> = [&ordinary, &huge]
        .iter()
        .map(|pool| pool.file().as_raw_fd().to_string())
        .collect();
    for pool in [&ordinary, &huge] {
        let at = map(pool.file())?;
        for page in 0..POOL / 4096 {
            // SAFETY: within the pool.
            unsafe { at.add((page * 512) as usize).write_volatile(page) };
        }
        rustix::io::fcntl_setfd(pool.file(), FdFlags::empty())?;
    }
    let mut parties = Vec::new();
    for _ in 0..2 {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command
            .args(&words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        parties.push(Party(child, BufReader::new(out)));
    }
    for party in &mut parties {
        party.hear()?;
    }
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (which, times) in times.iter_mut().enumerate() {
            for party in &mut parties {
                writeln!(
                    party.0.stdin.as_mut().ok_or(io::ErrorKind::BrokenPipe)?,
                    "{which}"
                )?;
            }
            let mut sum = 0.0;
            for party in &mut parties {
                sum += party.hear()?.parse::<f64>().map_err(io::Error::other)?;
            }
            times.push(sum / 2.0);
        }
    }
    let ratios = times[1]
        .iter()
        .zip(&times[0])
        .map(|(huge, ordinary)| huge / ordinary)
        .collect();
    let in_huge = huge.huge_pages().map_or(0, |pages| pages.huge >> 20);
    let [ordinary, huge] = times.map(median);
    println!(
        "{{\"pool_mib\":{},\"in_huge_pages_mib\":{in_huge},\"ordinary_ns\":{ordinary:.1},\"huge_ns\":{huge:.1},\"ratio\":{:.3},\"make_ms\":{made:.1},\"make_huge_ms\":{made_huge:.1}}}",
        POOL >> 20,
        median(ratios)
    );
    for mut party in parties {
        drop(party.0.stdin.take());
        party.0.wait()?;
    }
    Ok(())
}
