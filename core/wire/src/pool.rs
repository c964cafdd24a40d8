//! The header in the first page of a pool, by which a guest tells a group's memory from another group's and from another program's; and places in pools.
//!
//! The page is never given to a construct. The back-end writes the header whenever it brings a guest in, so that whatever a guest may have scribbled
//! there is gone; nobody relies on it but a front-end that looks for its pools. The identity is random, and told to members of the group alone: who is in another group
//! cannot pass its memory off for this one's.
//!
//! | bytes | what |
//! |---|---|
//! | 0–7 | `VSHMPOOL` |
//! | 8–11 | layout, 2 |
//! | 12–15 | bytes of the group's name |
//! | 16–23 | bytes of the pool |
//! | 24–31 | identity: no two pools of a host have the same |
//! | 32–35 | CRC-32 of bytes 0–31 and 64–127 |
//! | 36–63 | 0 |
//! | 64–127 | the group's name, padded with 0 |
//!
//! A domain may be shown several pools. A **place** names a word among all of them: the group's number in its upper 16 bits, the offset in that group's pool in the
//! lower 48.

use alloc::string::{String, ToString};
use serde::{Deserialize, Serialize};

/// Bytes of the header.
pub const HEADER_BYTES: usize = 128;
/// Most pools that a domain is shown.
pub const MOST_POOLS: usize = 8;
/// Most bytes of a pool: what a place can name.
pub const MOST_BYTES: u64 = 1 << OFFSET_BITS;
const OFFSET_BITS: u32 = 48;
const NAME_AT: usize = 64;
const MAGIC: &[u8; 8] = b"VSHMPOOL";
const LAYOUT: u32 = 2;

/// The place of an offset in a group's pool.
pub fn place(group: u16, offset: u64) -> u64 {
    u64::from(group) << OFFSET_BITS | offset & (MOST_BYTES - 1)
}

/// The group of a place, and the offset in its pool.
pub fn split(place: u64) -> (u16, u64) {
    ((place >> OFFSET_BITS) as u16, place & (MOST_BYTES - 1))
}

/// Which pool it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolHeader {
    /// Its size.
    pub bytes: u64,
    /// Its identity.
    pub id: u64,
    /// The group's name: as much of it as fits 63 bytes.
    pub group: String,
}

/// A group's pool, as a domain is told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupPool {
    /// The group's number.
    pub number: u16,
    /// What stands in its first page.
    pub header: PoolHeader,
}

/// Why bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoHeader {
    /// All zeros.
    Empty,
    /// Another program's data.
    Foreign,
    /// A pool of another layout.
    Version(u32),
}

/// The checksum of what is written.
fn check(bytes: &[u8; HEADER_BYTES]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&bytes[..32]);
    sum.update(&bytes[NAME_AT..]);
    sum.finalize()
}

impl PoolHeader {
    /// The header's bytes.
    pub fn write(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let name = &self.group.as_bytes()[..self.group.len().min(HEADER_BYTES - NAME_AT - 1)];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&LAYOUT.to_le_bytes());
        bytes[12..16].copy_from_slice(&(name.len() as u32).to_le_bytes());
        bytes[16..24].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.id.to_le_bytes());
        bytes[NAME_AT..NAME_AT + name.len()].copy_from_slice(name);
        let check = check(&bytes);
        bytes[32..36].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    /// Understands a header's bytes.
    ///
    /// # Errors
    /// [`NoHeader`].
    pub fn read(bytes: &[u8; HEADER_BYTES]) -> Result<Self, NoHeader> {
        if bytes.iter().all(|byte| *byte == 0) {
            return Err(NoHeader::Empty);
        }
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let half = |at: usize| (word(at) & 0xffff_ffff) as u32;
        if &bytes[..8] != MAGIC {
            return Err(NoHeader::Foreign);
        }
        if half(8) != LAYOUT {
            return Err(NoHeader::Version(half(8)));
        }
        let name = bytes[NAME_AT..].get(..half(12) as usize);
        let name = name.and_then(|name| core::str::from_utf8(name).ok());
        let Some(name) = name.filter(|_| half(32) == check(bytes)) else {
            return Err(NoHeader::Foreign);
        };
        Ok(Self {
            bytes: word(16),
            id: word(24),
            group: name.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_nothing_else_is() {
        let header = PoolHeader {
            bytes: 1 << 30,
            id: 0x1234_5678_9abc_def0,
            group: "jobs".into(),
        };
        let bytes = header.write();
        assert_eq!(PoolHeader::read(&bytes), Ok(header));
        assert_eq!(PoolHeader::read(&[0; HEADER_BYTES]), Err(NoHeader::Empty));
        for at in (0..36).chain(NAME_AT..HEADER_BYTES) {
            let mut other = bytes;
            other[at] ^= 1;
            assert!(PoolHeader::read(&other).is_err(), "byte {at}");
        }
        let mut newer = bytes;
        newer[8] = 9;
        assert_eq!(PoolHeader::read(&newer), Err(NoHeader::Version(9)));
    }

    #[test]
    fn places_keep_group_and_offset_apart() {
        for (group, offset) in [(0, 0), (1, 4096), (999, MOST_BYTES - 4)] {
            assert_eq!(split(place(group, offset)), (group, offset));
        }
        assert_eq!(place(0, 0x1234), 0x1234);
    }
}
