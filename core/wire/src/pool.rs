//! The header in the first page of a pool, by which a guest tells the group's memory from another program's.
//!
//! The page is never given to a construct. The back-end writes the header whenever it brings a guest in, so that whatever a guest may have scribbled
//! there is gone; nobody relies on it but a front-end that looks for its pool.
//!
//! | bytes | what |
//! |---|---|
//! | 0–7 | `VSHMPOOL` |
//! | 8–11 | layout, 1 |
//! | 12–15 | 0 |
//! | 16–23 | bytes of the pool |
//! | 24–31 | identity: no two pools of a host have the same |
//! | 32–35 | CRC-32 of bytes 0–31 |
//! | 36–63 | 0 |

/// Bytes of the header.
pub const HEADER_BYTES: usize = 64;
const MAGIC: &[u8; 8] = b"VSHMPOOL";
const LAYOUT: u32 = 1;

/// Which pool it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolHeader {
    /// Its size.
    pub bytes: u64,
    /// Its identity.
    pub id: u64,
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

impl PoolHeader {
    /// The header's bytes.
    pub fn write(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&LAYOUT.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.id.to_le_bytes());
        let check = crc32fast::hash(&bytes[..32]);
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
        if half(32) != crc32fast::hash(&bytes[..32]) {
            return Err(NoHeader::Foreign);
        }
        Ok(Self {
            bytes: word(16),
            id: word(24),
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
        };
        let bytes = header.write();
        assert_eq!(PoolHeader::read(&bytes), Ok(header));
        assert_eq!(PoolHeader::read(&[0; HEADER_BYTES]), Err(NoHeader::Empty));
        for at in 0..36 {
            let mut other = bytes;
            other[at] ^= 1;
            assert!(PoolHeader::read(&other).is_err(), "byte {at}");
        }
        let mut newer = bytes;
        newer[8] = 9;
        assert_eq!(PoolHeader::read(&newer), Err(NoHeader::Version(9)));
    }
}
