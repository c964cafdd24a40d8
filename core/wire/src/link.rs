//! One end of a stream between a front-end and the back-end, without I/O: bytes in, messages out, messages in, bytes out.
//!
//! **Pacing.** Some streams have a small buffer at the reader's end that must not fill: a UML guest's serial line goes deaf for ever once about
//! 3,900 bytes lie unread in it. So an end made by [`Link::paced`] lets no more than [`Link::UNREAD`] bytes be on their way: behind every [`STEP`] bytes or
//! more it sends a mark, which the reader's `Link` says back when it has read that far, and with [`MARKS`] marks not said back it sends no more.
//!
//! What may go wrong, and what becomes of it:
//! 1. *The writer dies and a new one takes over the stream.* It does not know what is unread. So a paced end begins with a mark and sends nothing else
//!    before that is said back. It waits with that mark until it has heard something, since before a guest's first word its line is not set up. Marks begin at a number that the caller draws, so that what an earlier writer's marks still cause is not mistaken.
//! 2. *The reader dies between reading a mark and saying it back.* The writer would wait for ever. So it sends its last mark again when [`PATIENCE`]
//!    messages have come since without its being said back, then after twice as many, and so on: a reader that sends is a reader that reads, soon or late,
//!    and one that does not gets next to nothing more to choke on.
//! 3. *A mark is torn or lost.* As 2.
//! 4. *A hostile reader says back what it has not read.* It makes itself deaf.

use crate::codec::{self, Deframer, WireError};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes after which a mark is due.
const STEP: usize = 512;
/// Marks that may wait to be said back.
const MARKS: u32 = 2;
/// Messages that may come in before a mark is sent again.
const PATIENCE: u32 = 3;

/// One end of a stream.
#[derive(Debug, Default)]
pub struct Link {
    deframer: Deframer,
    /// Frames to be written.
    queue: VecDeque<Vec<u8>>,
    /// Bytes in the queue.
    queued: usize,
    /// The frame being written, and how much of it was.
    current: (Vec<u8>, usize),
    /// A mark to be said back.
    owed: Option<u32>,
    pace: Option<Pace>,
}

#[derive(Debug)]
struct Pace {
    /// Number of the next mark.
    next: u32,
    /// Marks not said back.
    waiting: u32,
    /// Nothing was said back yet: only the first mark may be sent.
    fresh: bool,
    /// Bytes since the last mark.
    since: usize,
    /// Messages that came since the last mark was sent.
    heard: u32,
    /// At how many of them it is sent again.
    patience: u32,
}

impl Pace {
    /// Whether a mark is to be sent now.
    fn due(&self) -> bool {
        let first = self.fresh && self.waiting == 0 && self.heard > 0;
        let behind = !self.fresh && self.since >= STEP && self.waiting < MARKS;
        first || behind || (self.waiting > 0 && self.heard >= self.patience)
    }

    fn mark(&mut self) -> Vec<u8> {
        let again = self.waiting > 0 && self.heard >= self.patience;
        if again {
            self.patience = self.patience.saturating_mul(2);
        } else {
            self.next = self.next.wrapping_add(1);
            self.waiting += 1;
            self.since = 0;
        }
        self.heard = 0;
        codec::mark(self.next.wrapping_sub(1))
    }

    fn open(&self) -> bool {
        !self.fresh && self.waiting < MARKS
    }

    fn confirm(&mut self, number: u32) {
        let later = self.next.wrapping_sub(1).wrapping_sub(number);
        if later < self.waiting {
            self.waiting = later;
            self.fresh = false;
            self.heard = 0;
            self.patience = PATIENCE;
        }
    }
}

impl Link {
    /// Most bytes on their way that the other end of a paced link has not read: those between marks, and marks sent again.
    pub const UNREAD: usize = MARKS as usize * (STEP + codec::PIECE + 32) + 32 * 16;

    /// An end that writes whatever the stream takes.
    pub fn new() -> Self {
        Self::default()
    }

    /// An end that never has more than [`Link::UNREAD`] bytes unread at the other: see the module. `first` is a random number.
    pub fn paced(first: u32) -> Self {
        Link {
            pace: Some(Pace {
                next: first,
                waiting: 0,
                fresh: true,
                since: 0,
                heard: 0,
                patience: PATIENCE,
            }),
            ..Self::default()
        }
    }

    /// As [`Link::paced`], over a stream whose other end has spoken before, to an earlier writer: this one need not wait for a first word.
    pub fn paced_again(first: u32) -> Self {
        let mut link = Self::paced(first);
        if let Some(pace) = &mut link.pace {
            pace.heard = 1;
        }
        link
    }

    /// Adds bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.deframer.push(bytes);
    }

    /// The next whole message, as [`Deframer::take`]. Call it until it gives None, then write what [`Link::out`] gives.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, WireError> {
        let taken = self.deframer.take();
        if let Some(number) = self.deframer.owed() {
            self.owed = Some(number);
        }
        let confirmed = self.deframer.confirmed();
        if let Some(pace) = &mut self.pace {
            if let Some(number) = confirmed {
                pace.confirm(number);
            }
            if !matches!(taken, Ok(None)) {
                pace.heard = pace.heard.saturating_add(1);
            }
        }
        taken
    }

    /// Bytes thrown away so far, as [`Deframer::skipped`].
    pub fn skipped(&self) -> u64 {
        self.deframer.skipped()
    }

    /// Queues a message.
    pub fn send<T: Serialize>(&mut self, message: &T) {
        for frame in codec::frames(message) {
            self.queued += frame.len();
            self.queue.push_back(frame);
        }
    }

    /// Bytes of messages that are queued and not begun.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Whether anything is left to be written, now or when the other end has read more.
    pub fn is_behind(&self) -> bool {
        !self.queue.is_empty() || self.wants_to_write()
    }

    /// Whether there is something that may be written now.
    pub fn wants_to_write(&self) -> bool {
        let (frame, written) = &self.current;
        let paced = |pace: &Pace| pace.due() || (pace.open() && !self.queue.is_empty());
        *written < frame.len()
            || self.owed.is_some()
            || self.pace.as_ref().map_or(!self.queue.is_empty(), paced)
    }

    /// The bytes to be written next: empty where nothing may be written now. Say [`Link::wrote`] how many were, and call it again.
    pub fn out(&mut self) -> &[u8] {
        if self.current.1 == self.current.0.len() {
            self.current = (self.next_frame().unwrap_or_default(), 0);
        }
        &self.current.0[self.current.1..]
    }

    /// That many of the bytes that [`Link::out`] gave were written.
    pub fn wrote(&mut self, bytes: usize) {
        let (frame, written) = &mut self.current;
        *written = frame.len().min(*written + bytes);
        if let Some(pace) = &mut self.pace {
            pace.since += bytes;
        }
    }

    fn next_frame(&mut self) -> Option<Vec<u8>> {
        if let Some(number) = self.owed.take() {
            return Some(codec::said(number));
        }
        if let Some(pace) = &mut self.pace {
            if pace.due() {
                return Some(pace.mark());
            }
            if !pace.open() {
                return None;
            }
        }
        let frame = self.queue.pop_front()?;
        self.queued -= frame.len();
        Some(frame)
    }
}
