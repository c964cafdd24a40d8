//! Clocks: on an operation that need not wait, none but the seconds that the kernel shows every process.
#![allow(unsafe_code)] // time(2), the cheapest of all ways to the seconds.

use crate::{pages, place};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

static START_TICKS: AtomicU64 = AtomicU64::new(0);
static START_NANOS: AtomicU64 = AtomicU64::new(0);
static PER_MICRO: AtomicU64 = AtomicU64::new(0);
/// Until it is measured.
const GUESS: u64 = 2500;

/// Nanoseconds of CLOCK_MONOTONIC.
pub(crate) fn nanos() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::try_from(now).map_or(0, |d| d.as_nanos() as u64)
}

/// Begins to measure how fast [`place::ticks`] runs.
pub(crate) fn prepare() {
    START_TICKS.store(place::ticks(), Ordering::Relaxed);
    START_NANOS.store(nanos(), Ordering::Relaxed);
}

/// Ticks in a microsecond. Reads the clock until it has been measured well enough: for callers who wait anyway.
pub(crate) fn ticks_per_micro() -> u64 {
    let known = PER_MICRO.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    let ticks = place::ticks().saturating_sub(START_TICKS.load(Ordering::Relaxed));
    let nanos = nanos().saturating_sub(START_NANOS.load(Ordering::Relaxed));
    if nanos < 200_000 {
        return GUESS;
    }
    let measured = (u128::from(ticks) * 1000 / u128::from(nanos)).clamp(1, 100_000) as u64;
    PER_MICRO.store(measured, Ordering::Relaxed);
    measured
}

/// Seconds since the epoch by the host's clock. On the host they are those of time(2), to the tick, as in the kernel's own System V IPC: a program may look at
/// both. In a guest, where reading a clock costs as much as hundreds of operations and shows another one, they are those that the front-end writes.
#[inline(always)]
pub(crate) fn seconds() -> u64 {
    if pages::in_a_guest() {
        return pages::seconds();
    }
    // SAFETY: of a null pointer time(2) makes no use.
    unsafe { libc::time(std::ptr::null_mut()) }.max(0) as u64
}
