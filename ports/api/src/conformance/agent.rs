//! The agent: a program in a domain that does what a check tells it.

use super::bells::Opened;
use super::direct::Direct;
use super::line::{Line, Lost};
use super::region::Region;
use super::script::{Add, Ask, Told};
use crate::guest::GuestPort;
use anyhow::{Context, bail};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::SealFlags;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use vshmem_wire::{Link, Memory, Window};
use vshmem_words::{Ordering, Words};

/// An agent that hears nothing for so long ends: nothing is left running behind a check that died.
const IDLE: Duration = Duration::from_secs(600);
/// How long an answer may take to leave, and a gate to open.
const PATIENCE: Duration = Duration::from_secs(150);

/// Does what the check at the other end of the port's stream says, until it says End or is gone.
///
/// # Errors
/// If the port gives no stream, or the check goes silent.
pub fn serve(port: &dyn GuestPort) -> anyhow::Result<()> {
    port.detect().context("detecting the port")?;
    let stream = port.stream().context("opening the stream")?;
    let mut agent = Agent {
        port,
        stream,
        line: Line::new(Link::new()),
        regions: Vec::new(),
        rings: BTreeSet::new(),
        bells: Opened::default(),
        direct: Direct::default(),
    };
    agent.tell(0, Told::Ready)?;
    loop {
        match agent.line.wait(agent.stream.as_fd(), IDLE) {
            Ok((_, Ask::End)) | Err(Lost::Ended) => return Ok(()),
            Ok((number, ask)) => agent.perform(number, ask)?,
            Err(other) => bail!("waiting for the check: {other}"),
        }
    }
}

struct Agent<'a> {
    port: &'a dyn GuestPort,
    stream: OwnedFd,
    line: Line<(u64, Ask)>,
    regions: Vec<Option<Region>>,
    rings: BTreeSet<u32>,
    bells: Opened,
    direct: Direct,
}

impl Agent<'_> {
    fn tell(&mut self, number: u64, told: Told) -> anyhow::Result<()> {
        Ok(self.line.send(self.stream.as_fd(), &(number, told), PATIENCE)?)
    }

    fn perform(&mut self, number: u64, ask: Ask) -> anyhow::Result<()> {
        let answer = match ask {
            Ask::Ring(ring) => {
                self.rings.insert(ring);
                return Ok(());
            }
            Ask::RingBack { count } => {
                for ring in 0..count {
                    self.tell(number, Told::Ring(ring))?;
                }
                Ok(Told::Done)
            }
            Ask::ScribbleStream { bytes, seed } => {
                let mut random = Random(seed | 1);
                let rubbish: Vec<u8> = (0..bytes).map(|_| random.next() as u8).collect();
                self.line.send_rubbish(self.stream.as_fd(), &rubbish, PATIENCE)?;
                Ok(Told::Done)
            }
            Ask::Add {
                region,
                gate,
                at,
                times,
                how,
            } => {
                self.tell(number, Told::Done)?;
                add(self.region(region)?, gate, at, times, how)?;
                return Ok(());
            }
            Ask::Sleep(milliseconds) => {
                std::thread::sleep(Duration::from_millis(milliseconds));
                Ok(Told::Done)
            }
            Ask::Rings => Ok(Told::Value(self.rings.len() as u64)),
            Ask::Echo(bytes) => Ok(Told::Echo(bytes)),
            Ask::Bells => self.bells.open(self.port).map(Told::Value),
            Ask::Rung { bell, within } => self.bells.rung(bell, within).map(Told::Value),
            Ask::ReadBell { bell } => self.bells.read(bell).map(Told::Value),
            Ask::WriteRings { bytes, times } => self.bells.write(&bytes, times).map(Told::Value),
            ask @ (Ask::OpenDoors
            | Ask::OfferDoors { .. }
            | Ask::BindDoors { .. }
            | Ask::RingDoor { .. }
            | Ask::DoorRung { .. }) => self.direct.perform(self.port, ask),
            Ask::Window => self.port.window(0, false).map(|(_, window)| match window {
                Window::Direct => Told::Value(0),
                Window::Whole { bytes } => Told::Value(bytes),
                Window::InOrder => Told::Failed("there is no window".to_owned()),
            }),
            Ask::Map(memory) => self.map(memory),
            other => self.on_memory(other),
        };
        let answer = answer.unwrap_or_else(|why| Told::Failed(format!("{why:#}")));
        self.tell(number, answer)
    }

    fn region(&self, region: usize) -> anyhow::Result<&Region> {
        self.regions
            .get(region)
            .and_then(Option::as_ref)
            .context("no such region")
    }

    fn map(&mut self, mut memory: Memory) -> anyhow::Result<Told> {
        let from = self.port.open(&mut memory)?;
        let region = Region::map(from, memory.window, &memory.extents, memory.writable)
            .with_context(|| format!("mapping {memory:?}"))?;
        self.regions.push(Some(region));
        Ok(Told::Region(self.regions.len() - 1))
    }

    /// What needs nothing but memory.
    fn on_memory(&mut self, ask: Ask) -> anyhow::Result<Told> {
        let value = match ask {
            Ask::Unmap { region } => {
                self.region(region)?;
                self.regions[region] = None;
                return Ok(Told::Done);
            }
            Ask::Store { region, at, value } => {
                self.region(region)?.words().store64(at, value, Ordering::SeqCst);
                return Ok(Told::Done);
            }
            Ask::Load { region, at } => self.region(region)?.words().load64(at, Ordering::SeqCst),
            Ask::Fill { region, value } => {
                fill(self.region(region)?.words(), value);
                return Ok(Told::Done);
            }
            Ask::Differ { region, value } => differ(self.region(region)?.words(), value),
            Ask::Scribble { region, words, seed } => {
                scribble(self.region(region)?.words(), words, seed);
                return Ok(Told::Done);
            }
            Ask::Sabotage { region } => sabotage(&self.region(region)?.memory),
            Ask::MakeWritable { region } => errno(self.region(region)?.make_writable()),
            Ask::MapWritable { region } => errno(self.region(region)?.map_writable()),
            other => bail!("{other:?} is not about memory"),
        };
        Ok(Told::Value(value))
    }
}

fn errno(outcome: Result<(), rustix::io::Errno>) -> u64 {
    outcome.err().map_or(0, |e| e.raw_os_error() as u64)
}

/// Stores `value` into every word.
pub(super) fn fill(words: &impl Words, value: u64) {
    (0..words.len())
        .step_by(8)
        .for_each(|at| words.store64(at, value, Ordering::Relaxed));
}

/// How many words are not `value`.
pub(super) fn differ(words: &impl Words, value: u64) -> u64 {
    (0..words.len())
        .step_by(8)
        .filter(|&at| words.load64(at, Ordering::Relaxed) != value)
        .count() as u64
}

/// Opens the gate's other side: adds once the word at `gate` is not 0.
fn add(region: &Region, gate: usize, at: usize, times: u64, how: Add) -> anyhow::Result<()> {
    let words = region.words();
    let deadline = Instant::now() + PATIENCE;
    let mut turns = 0u32;
    while words.load64(gate, Ordering::Acquire) == 0 {
        turns = turns.wrapping_add(1);
        if turns.is_multiple_of(1 << 16) && Instant::now() > deadline {
            bail!("the gate did not open");
        }
        std::hint::spin_loop();
    }
    for _ in 0..times {
        match how {
            Add::Fetch64 => region.fetch_add(at),
            Add::Exchange64 => {
                let mut seen = words.load64(at, Ordering::Relaxed);
                while let Err(found) =
                    words.compare_exchange64(at, seen, seen + 1, Ordering::AcqRel, Ordering::Relaxed)
                {
                    seen = found;
                }
            }
            Add::Exchange32 => {
                let mut seen = words.load32(at, Ordering::Relaxed);
                while let Err(found) =
                    words.compare_exchange32(at, seen, seen + 1, Ordering::AcqRel, Ordering::Relaxed)
                {
                    seen = found;
                }
            }
        }
    }
    Ok(())
}

/// Random words at random places, some of them twice in a row, as a program gone wild would.
fn scribble(words: &impl Words, count: u64, seed: u64) {
    let mut random = Random(seed | 1);
    let places = (words.len() / 8) as u64;
    for _ in 0..count {
        let at = (random.next() % places) as usize * 8;
        words.store64(at, random.next(), Ordering::Relaxed);
    }
    // And the first words of every page, where whatever has a header has it.
    for at in (0..words.len()).step_by(4096) {
        (0..64)
            .step_by(8)
            .for_each(|word| words.store64(at + word, random.next() | 1, Ordering::Relaxed));
    }
}

/// Tries what would hurt others through a descriptor; counts what would succeed in that.
fn sabotage(memory: &OwnedFd) -> u64 {
    // Device files in sysfs take the call and stay as they are.
    let shrunk = rustix::fs::ftruncate(memory, 0).is_ok()
        && rustix::fs::fstat(memory).map_or(true, |found| found.st_size == 0);
    let sealed = rustix::fs::fcntl_add_seals(memory, SealFlags::WRITE).is_ok();
    u64::from(shrunk) + u64::from(sealed)
}

/// A small generator (xorshift*): rubbish need not be good.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}
