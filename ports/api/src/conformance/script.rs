//! What a check may tell an agent to do, and what it is told back. Each ask has a number, which comes back with the answer.

use serde::{Deserialize, Serialize};
use vshmem_wire::Memory;

/// How to add one to a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Add {
    /// A loop of 32-bit compare-exchanges.
    Exchange32,
    /// A loop of 64-bit compare-exchanges.
    Exchange64,
    /// One 64-bit fetch-and-add.
    Fetch64,
}

/// Check to agent. `region` is what [`Told::Region`] gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Ask {
    /// Map its extents one after another: Region.
    Map(Memory),
    /// End a mapping: Done.
    Unmap { region: usize },
    /// Say how long the window is: Value, 0 where it is a file.
    Window,
    /// Store a word: Done.
    Store { region: usize, at: usize, value: u64 },
    /// Load a word: Value.
    Load { region: usize, at: usize },
    /// Store into every word: Done.
    Fill { region: usize, value: u64 },
    /// Count words that are not `value`: Value.
    Differ { region: usize, value: u64 },
    /// Say Done, wait until the word at `gate` is not 0, then add one to the word at `at`, `times` times; say nothing when ready.
    Add {
        region: usize,
        gate: usize,
        at: usize,
        times: u64,
        how: Add,
    },
    /// Write random words to random places, `words` times: Done.
    Scribble { region: usize, words: u64, seed: u64 },
    /// Write random bytes on the stream: Done.
    ScribbleStream { bytes: usize, seed: u64 },
    /// Try to shrink, punch and seal the memory's descriptor: Value, the number of attempts that succeeded in shrinking or sealing.
    Sabotage { region: usize },
    /// Try to make a mapping writable: Value, the errno, 0 if it worked.
    MakeWritable { region: usize },
    /// Try to map a region's descriptor anew for writing: Value, the errno, 0 if it worked.
    MapWritable { region: usize },
    /// Remember a ring. Not answered.
    Ring(u32),
    /// How many different rings were remembered: Value.
    Rings,
    /// Ring `count` times, numbered from 0: Ring each, then Done.
    RingBack { count: u32 },
    /// Read nothing for so many milliseconds: Done.
    Sleep(u64),
    /// Open the port's bells: Value, how many there are.
    Bells,
    /// Wait for a ring of a bell, edge-triggered, at most so many milliseconds: Value, 1 if it was rung.
    Rung { bell: usize, within: u32 },
    /// Read a bell's line but for its last byte: Value, the bytes read.
    ReadBell { bell: usize },
    /// Write bytes to the ring line, as often as said, as far as it takes them: Value, the bytes written.
    WriteRings { bytes: Vec<u8>, times: u32 },
    /// Open the port's bells with nobody in between: Value, how many doors there are.
    OpenDoors,
    /// Offer doors to a machine's domain: Numbers.
    OfferDoors { machine: u32 },
    /// Bind to what a machine's domain offers: Numbers.
    BindDoors { machine: u32, doors: Vec<u32> },
    /// Ring, as often as said: Value, how often that worked.
    RingDoor { number: u32, times: u32 },
    /// Wait for a ring at a door, at most so many milliseconds, and take it: Value, 1 if there was one.
    DoorRung { door: u16, within: u32 },
    /// Send it back: Echo.
    Echo(Vec<u8>),
    /// End of the domain's own accord, without a word.
    End,
}

/// Agent to check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Told {
    /// First, unasked, with number 0.
    Ready,
    /// It is done.
    Done,
    /// A mapping.
    Region(usize),
    /// A value.
    Value(u64),
    /// Numbers.
    Numbers(Vec<u32>),
    /// A ring.
    Ring(u32),
    /// What was to be sent back.
    Echo(Vec<u8>),
    /// It failed.
    Failed(String),
}
