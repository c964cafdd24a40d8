//! Bytes: postcard bodies for datagrams, and a checksummed frame around them for streams.
//!
//! Frame: `"VSHM"`, u32 length of the body, u32 CRC-32 of the body (all little-endian), body. After a bad frame the
//! [`Deframer`] looks for the next mark, so a stream whose one end lost its place finds it again.

use alloc::vec::Vec;
use serde::Serialize;
use serde::de::DeserializeOwned;

const MARK: [u8; 4] = *b"VSHM";
const HEAD: usize = 12;

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
    let body = encode(message);
    let mut out = Vec::with_capacity(HEAD + body.len());
    out.extend_from_slice(&MARK);
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    out.extend_from_slice(&body);
    out
}

/// Takes a stream's bytes in any pieces and gives whole messages.
#[derive(Debug, Default)]
pub struct Deframer {
    buffer: Vec<u8>,
    skipped: u64,
}

impl Deframer {
    /// Adds bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes thrown away so far because they belonged to no valid frame.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The next whole message. Frames that fail their checksum are skipped; one that passes it but does not decode is an error (another version).
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, WireError> {
        loop {
            let start = self
                .buffer
                .windows(4)
                .position(|w| w == MARK)
                .unwrap_or(self.buffer.len().saturating_sub(3));
            self.skip(start);
            let Some(head) = self.buffer.get(..HEAD) else {
                return Ok(None);
            };
            let bytes = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
            let sum = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
            if bytes > crate::MAX_MESSAGE {
                self.skip(4);
                continue;
            }
            let Some(body) = self.buffer.get(HEAD..HEAD + bytes) else {
                return Ok(None);
            };
            if crc32fast::hash(body) != sum {
                self.skip(4);
                continue;
            }
            let message = decode(body);
            self.buffer.drain(..HEAD + bytes);
            return message.map(Some);
        }
    }

    fn skip(&mut self, bytes: usize) {
        self.skipped += bytes as u64;
        self.buffer.drain(..bytes);
    }
}
