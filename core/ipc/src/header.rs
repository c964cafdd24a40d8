//! The first 64 bytes of every set and queue.
//!
//! ```text
//!  0  u32  magic: "VSEM" or "VMSG", little-endian      (back-end, once)
//!  4  u32  layout version                               (back-end, once)
//!  8  u64  control word: see [`Control`]                (back-end only)
//! 16  u64  lock word: see the `lock` module             (every user)
//! 24       the construct's own                           up to 64
//! ```
//! A hostile user of the construct may write all of it; that harms the construct's users alone, since the back-end
//! keeps the truth in its registry and only ever writes here.

use crate::Corrupt;
use vshmem_words::{Ordering, Words};

/// Version of everything that lies in construct memory. A peer of another version is refused at its hello.
pub const LAYOUT: u32 = 3;
/// Where the magic number is.
pub const MAGIC_AT: usize = 0;
/// Where the layout version is.
pub const LAYOUT_AT: usize = 4;
/// Where the control word is.
pub const CONTROL_AT: usize = 8;
/// Where the lock word is.
pub const LOCK_AT: usize = 16;
/// Where the construct's own fields begin.
pub const OWN_AT: usize = 24;
/// Bytes of the header, its construct-specific fields included.
pub const HEADER: usize = 64;

/// What a construct with a header is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A semaphore set.
    Sem,
    /// A message queue.
    Msg,
}

impl Kind {
    /// The magic number at the start of such a construct.
    pub const fn magic(self) -> u32 {
        match self {
            Kind::Sem => u32::from_le_bytes(*b"VSEM"),
            Kind::Msg => u32::from_le_bytes(*b"VMSG"),
        }
    }
}

/// Where a construct is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Not made yet, or its memory was given back.
    None = 0,
    /// In use.
    Live = 1,
    /// Removed: every operation gives EIDRM.
    Removed = 2,
    /// Found corrupt by the back-end: as removed, with a log line.
    Corrupt = 3,
}

/// The control word: written by the back-end alone, compared whole by every operation.
///
/// | bits | meaning |
/// |---|---|
/// | 0–7 | [`State`] |
/// | 8–23 | permission generation: IPC_SET and a changed group bump it |
/// | 24–39 | number of extents, so growth shows |
/// | 40–63 | limits generation: a changed qbytes bumps it |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Control(pub u64);

impl Control {
    /// Packs a control word.
    pub const fn new(state: State, permission: u16, extents: u16, limits: u32) -> Self {
        Control(
            state as u64
                | (permission as u64) << 8
                | (extents as u64) << 24
                | ((limits as u64) & 0xff_ffff) << 40,
        )
    }
    /// The construct's state; a value that is none gives [`State::Corrupt`].
    pub const fn state(self) -> State {
        match self.0 as u8 {
            0 => State::None,
            1 => State::Live,
            2 => State::Removed,
            _ => State::Corrupt,
        }
    }
    /// The same word in another state.
    pub const fn with_state(self, state: State) -> Self {
        Control(self.0 & !0xff | state as u64)
    }
    /// Number of extents.
    pub const fn extents(self) -> u16 {
        (self.0 >> 24) as u16
    }
    /// Reads it from construct memory.
    #[inline(always)]
    pub fn load(words: &impl Words) -> Self {
        // Acquire: [control] pairs with the release in `store`, so that an extent announced here is initialised.
        Control(words.load64(CONTROL_AT, Ordering::Acquire))
    }
    /// Writes it (back-end only).
    pub fn store(self, words: &impl Words) {
        // Release: [control].
        words.store64(CONTROL_AT, self.0, Ordering::Release);
    }
}

/// Writes magic and version into zeroed memory (back-end only); the control word is stored last, by the caller.
pub fn format(words: &impl Words, kind: Kind) {
    words.store32(MAGIC_AT, kind.magic(), Ordering::Relaxed);
    words.store32(LAYOUT_AT, LAYOUT, Ordering::Relaxed);
}

/// Checks magic and version, once, when a construct is opened.
pub fn check(words: &impl Words, kind: Kind) -> Result<(), Corrupt> {
    let magic = words.load32(MAGIC_AT, Ordering::Relaxed);
    if magic != kind.magic() {
        return Err(Corrupt {
            what: "magic",
            found: magic.into(),
            allowed: kind.magic().into(),
        });
    }
    let layout = words.load32(LAYOUT_AT, Ordering::Relaxed);
    if layout != LAYOUT {
        return Err(Corrupt {
            what: "layout version",
            found: layout.into(),
            allowed: LAYOUT.into(),
        });
    }
    Ok(())
}
