//! Bytes: postcard bodies for datagrams, and checksummed, delimited frames of them for streams.
//!
//! Frame: a zero byte, then body and CRC-32 of the body (little-endian) with every zero stuffed away (COBS), then a zero byte.
//!
//! So a zero never lies inside a frame, and three things follow. Whoever lost its place (a daemon killed and restarted between two bytes, at
//! either end) finds the next frame at the next zero, with nothing swallowed and no waiting for the rest of a torn one. Bytes that a user put into a
//! message can never be taken for a frame, wherever reading begins. And rubbish costs the receiver time in proportion to its length only.

use alloc::vec::Vec;
use serde::Serialize;
use serde::de::DeserializeOwned;

const DELIMITER: u8 = 0;
const SUM: usize = 4;
/// The longest stuffed frame: one byte is added for each 254 begun.
const LONGEST: usize = (crate::MAX_MESSAGE + SUM) + (crate::MAX_MESSAGE + SUM) / 254 + 1;

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

/// A message, framed for a stream.
pub fn frame<T: Serialize>(message: &T) -> Vec<u8> {
    let mut body = encode(message);
    let sum = crc32fast::hash(&body);
    body.extend_from_slice(&sum.to_le_bytes());
    let mut out = Vec::with_capacity(body.len() + body.len() / 254 + 3);
    out.push(DELIMITER);
    out.extend_from_slice(&cobs::encode_vec(&body));
    out.push(DELIMITER);
    out
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
    skipped: u64,
}

impl Deframer {
    /// Adds bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.seen -= self.start;
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes thrown away so far because they belonged to no valid frame.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The next whole message. Bytes that are no frame are skipped; a frame whose checksum is right but which does not decode is an error (another
    /// version), and the next call goes on behind it.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, WireError> {
        while let Some(length) = self.buffer[self.seen..].iter().position(|&b| b == DELIMITER) {
            let end = self.seen + length;
            let stuffed = &self.buffer[self.start..end];
            let body = if core::mem::take(&mut self.overlong) {
                None
            } else {
                unstuff(stuffed)
            };
            if body.is_none() {
                self.skipped += stuffed.len() as u64;
            }
            self.start = end + 1;
            self.seen = self.start;
            if let Some(body) = body {
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
}

/// The body of what stood between two delimiters, if that was a frame.
fn unstuff(stuffed: &[u8]) -> Option<Vec<u8>> {
    if stuffed.is_empty() || stuffed.len() > LONGEST {
        return None;
    }
    let mut body = cobs::decode_vec(stuffed).ok()?;
    let sum = body.split_off(body.len().checked_sub(SUM)?);
    (sum == crc32fast::hash(&body).to_le_bytes()).then_some(body)
}
