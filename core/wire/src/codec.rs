//! Bytes: postcard bodies for datagrams, and checksummed, delimited frames of them for streams.
//!
//! Frame: a zero byte; then kind (one byte), content and CRC-32 of both (little-endian) with every zero stuffed away (COBS); then a zero byte.
//!
//! | kind | content |
//! |---|---|
//! | 1 | a whole message |
//! | 2, 3, 4 | first, middle and last piece of a message and the CRC-32 of all of it: pieces are of [`PIECE`] bytes |
//! | 5 | mark: a number, to be said back when it has been read (see [`crate::link`]) |
//! | 6 | said back: the number of a mark |
//!
//! A zero never lies inside a frame, and three things follow. Whoever lost its place (a daemon killed and restarted between two bytes, at
//! either end) finds the next frame at the next zero, with nothing swallowed and no waiting for the rest of a torn one. Bytes that a user put into a
//! message can never be taken for a frame, wherever reading begins. And rubbish costs the receiver time in proportion to its length only.

use alloc::vec::Vec;
use serde::Serialize;
use serde::de::DeserializeOwned;

const DELIMITER: u8 = 0;
const SUM: usize = 4;
/// Most bytes of a message in one frame.
pub const PIECE: usize = 1000;
/// The longest stuffed frame: kind, piece and checksum, one byte more for each 254 begun.
const LONGEST: usize = 1 + PIECE + SUM + (1 + PIECE + SUM) / 254 + 1;

const WHOLE: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;
const MARK: u8 = 5;
const SAID: u8 = 6;

/// What can be wrong with received bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Not a message of this version.
    #[error("{bytes} bytes are not a valid message: {why}")]
    Malformed {
        /// How many bytes.
        bytes: usize,
        /// What postcard says.
        why: postcard::Error,
    },
    /// There were bytes after the message.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
    /// The message would be larger than allowed.
    #[error("a message of {0} bytes is too large")]
    TooLarge(usize),
}

/// The bytes of a message.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    // Encoding to a growing vector fails only for types that postcard cannot encode; all of ours it can (each is round-tripped in a test).
    postcard::to_allocvec(message).unwrap_or_default()
}

/// The bytes of a message, without memory of the heap. `None` if they do not fit into `space`.
pub fn encode_into<'a, T: Serialize>(message: &T, space: &'a mut [u8]) -> Option<&'a [u8]> {
    postcard::to_slice(message, space).ok().map(|bytes| &*bytes)
}

/// The message in `bytes`, which must hold exactly one.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    if bytes.len() > crate::MAX_MESSAGE {
        return Err(WireError::TooLarge(bytes.len()));
    }
    let (message, rest) = postcard::take_from_bytes(bytes).map_err(|why| WireError::Malformed {
        bytes: bytes.len(),
        why,
    })?;
    if rest.is_empty() {
        Ok(message)
    } else {
        Err(WireError::Trailing(rest.len()))
    }
}

/// A message, framed for a stream: one frame, or several where it is long.
pub fn frame<T: Serialize>(message: &T) -> Vec<u8> {
    frames(message).concat()
}

/// The frames of a message, in order.
pub(crate) fn frames<T: Serialize>(message: &T) -> Vec<Vec<u8>> {
    let mut body = encode(message);
    if body.len() <= PIECE {
        return alloc::vec![stuff(WHOLE, &body)];
    }
    let sum = crc32fast::hash(&body);
    body.extend_from_slice(&sum.to_le_bytes());
    let last = body.len().div_ceil(PIECE) - 1;
    let kind = |i| match i {
        0 => FIRST,
        i if i == last => LAST,
        _ => MIDDLE,
    };
    let pieces = body.chunks(PIECE).enumerate();
    pieces.map(|(i, piece)| stuff(kind(i), piece)).collect()
}

/// A mark's frame.
pub(crate) fn mark(number: u32) -> Vec<u8> {
    stuff(MARK, &number.to_le_bytes())
}

/// The frame that says a mark back.
pub(crate) fn said(number: u32) -> Vec<u8> {
    stuff(SAID, &number.to_le_bytes())
}

fn stuff(kind: u8, content: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(1 + content.len() + SUM);
    plain.push(kind);
    plain.extend_from_slice(content);
    plain.extend_from_slice(&crc32fast::hash(&plain).to_le_bytes());
    let mut out = Vec::with_capacity(plain.len() + plain.len() / 254 + 3);
    out.push(DELIMITER);
    out.extend_from_slice(&cobs::encode_vec(&plain));
    out.push(DELIMITER);
    out
}

/// Kind and content of what stood between two delimiters, if that was a frame.
fn unstuff(stuffed: &[u8]) -> Option<(u8, Vec<u8>)> {
    if stuffed.len() > LONGEST {
        return None;
    }
    let mut plain = cobs::decode_vec(stuffed).ok()?;
    let sum = plain.split_off(plain.len().checked_sub(SUM)?);
    if sum != crc32fast::hash(&plain).to_le_bytes() || plain.is_empty() {
        return None;
    }
    Some((plain.remove(0), plain))
}

/// Takes a stream's bytes in any pieces and gives whole messages.
#[derive(Debug, Default)]
pub struct Deframer {
    buffer: Vec<u8>,
    /// Where the frame being received begins.
    start: usize,
    /// Up to where no delimiter was found.
    seen: usize,
    /// The bytes up to the next delimiter are the rest of something too long.
    overlong: bool,
    /// Pieces of a message so far.
    pieces: Option<Vec<u8>>,
    skipped: u64,
    owed: Option<u32>,
    confirmed: Option<u32>,
}

impl Deframer {
    /// Adds bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.seen -= self.start;
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes thrown away so far because they belonged to no valid frame, or to a message that lacks a piece.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The last mark that was read and not said back yet.
    pub(crate) fn owed(&mut self) -> Option<u32> {
        self.owed.take()
    }

    /// The last mark of ours that was said back since the last call.
    pub(crate) fn confirmed(&mut self) -> Option<u32> {
        self.confirmed.take()
    }

    /// The next whole message. Bytes that are no frame are skipped; a frame whose checksum is right but which does not decode is an error (another
    /// version), and the next call goes on behind it.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, WireError> {
        while let Some(length) = self.buffer[self.seen..].iter().position(|&b| b == DELIMITER) {
            let end = self.seen + length;
            let stuffed = &self.buffer[self.start..end];
            let overlong = core::mem::take(&mut self.overlong);
            let frame = if overlong { None } else { unstuff(stuffed) };
            if frame.is_none() {
                self.skipped += stuffed.len() as u64;
            }
            self.start = end + 1;
            self.seen = self.start;
            if let Some(body) = frame.and_then(|(kind, content)| self.accept(kind, content)) {
                return decode(&body).map(Some);
            }
        }
        self.seen = self.buffer.len();
        if self.seen - self.start > LONGEST || self.overlong {
            self.skipped += (self.seen - self.start) as u64;
            self.start = self.seen;
            self.overlong = true;
        }
        Ok(None)
    }

    /// Takes in a frame; gives a message's body when it is whole.
    fn accept(&mut self, kind: u8, content: Vec<u8>) -> Option<Vec<u8>> {
        match kind {
            MARK | SAID => {
                match content.try_into().map(u32::from_le_bytes) {
                    Ok(number) if kind == MARK => self.owed = Some(number),
                    Ok(number) => self.confirmed = Some(number),
                    Err(other) => self.skipped += other.len() as u64,
                }
                None
            }
            WHOLE => {
                self.forget_pieces();
                Some(content)
            }
            FIRST => {
                self.forget_pieces();
                self.pieces = Some(content);
                None
            }
            MIDDLE | LAST => {
                let Some(pieces) = &mut self.pieces else {
                    self.skipped += content.len() as u64;
                    return None;
                };
                pieces.extend_from_slice(&content);
                if pieces.len() > crate::MAX_MESSAGE + SUM {
                    self.forget_pieces();
                    return None;
                }
                if kind == MIDDLE {
                    return None;
                }
                let mut body = self.pieces.take()?;
                let sum = body.split_off(body.len().checked_sub(SUM)?);
                if sum == crc32fast::hash(&body).to_le_bytes() {
                    return Some(body);
                }
                self.skipped += body.len() as u64;
                None
            }
            _ => {
                self.skipped += content.len() as u64;
                None
            }
        }
    }

    /// A message whose rest will not come any more.
    fn forget_pieces(&mut self) {
        let lost = self.pieces.take().map_or(0, |p| p.len());
        self.skipped += lost as u64;
    }
}
