//! What is written to a port's ring line, by which clients of a guest ring other domains past their own front-end.
//!
//! Every process of a guest that uses Vshmem may write to the line, so anything may come out of it. A ring is a hint: rubbish that looks like one rings
//! somebody once too often, and nothing that comes before a whole ring makes the reader miss it, unless it is written into the middle of it.
//!
//! A ring is [`BYTES`] bytes. Only the first has its high bit set, so that a reader finds the next one by itself:
//!
//! | byte | meaning |
//! |---|---|
//! | 0 | `0x80` and the bell's number |
//! | 1–3 | the space, seven bits in each, lowest first |
//! | 4–13 | the place that is watched ([`crate::pool`]), likewise |

use alloc::vec::Vec;

/// Bytes of a ring.
pub const BYTES: usize = 14;
/// The highest number of a bell.
pub const MOST: u16 = 0x7f;
const START: u8 = 0x80;

/// Whom to wake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ring {
    /// The sleeper's futex space.
    pub space: u16,
    /// The bell that the sleeper waits on; 0: none, its front-end is to look.
    pub bell: u16,
    /// Place of the watched word.
    pub at: u64,
}

impl Ring {
    /// The ring's bytes.
    pub fn write(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[0] = START | (self.bell & MOST) as u8;
        let rest = u128::from(self.space) | u128::from(self.at) << 21;
        for (i, byte) in bytes.iter_mut().skip(1).enumerate() {
            *byte = (rest >> (7 * i)) as u8 & 0x7f;
        }
        bytes
    }

    fn read(bytes: &[u8; BYTES]) -> Ring {
        let rest = bytes
            .iter()
            .skip(1)
            .rev()
            .fold(0u128, |rest, byte| rest << 7 | u128::from(byte & 0x7f));
        Ring {
            space: (rest & 0xffff) as u16,
            bell: u16::from(bytes[0]) & MOST,
            at: (rest >> 21) as u64,
        }
    }
}

/// Finds rings among whatever a line brings.
#[derive(Debug, Default)]
pub struct Rings {
    piece: [u8; BYTES],
    have: usize,
}

impl Rings {
    /// Takes bytes in; puts each ring that has become whole into `found`, unless it is there.
    pub fn push(&mut self, bytes: &[u8], found: &mut Vec<Ring>) {
        for &byte in bytes {
            if byte & START != 0 {
                self.have = 0;
            } else if self.have == 0 {
                continue;
            }
            self.piece[self.have] = byte;
            self.have += 1;
            if self.have == BYTES {
                self.have = 0;
                let ring = Ring::read(&self.piece);
                if !found.contains(&ring) {
                    found.push(ring);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    const RINGS: [Ring; 3] = [
        Ring {
            space: 0,
            bell: 0,
            at: u64::MAX,
        },
        Ring {
            space: u16::MAX,
            bell: MOST,
            at: 0,
        },
        Ring {
            space: 0x1234,
            bell: 5,
            at: 0x00ab_cdef_0123_4564,
        },
    ];

    #[test]
    fn what_is_written_is_read_in_whatever_pieces_it_comes() {
        let bytes: Vec<u8> = RINGS.iter().flat_map(Ring::write).collect();
        for size in 1..=bytes.len() {
            let (mut rings, mut found) = (Rings::default(), Vec::new());
            bytes.chunks(size).for_each(|piece| rings.push(piece, &mut found));
            assert_eq!(found, RINGS);
        }
    }

    #[test]
    fn behind_any_rubbish_the_next_ring_is_found() {
        let mut seed = 1u32;
        for length in 0..200 {
            let (mut rings, mut found) = (Rings::default(), Vec::new());
            let rubbish: Vec<u8> = (0..length)
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (seed >> 24) as u8
                })
                .collect();
            rings.push(&rubbish, &mut found);
            found.clear();
            rings.push(&RINGS[2].write(), &mut found);
            assert!(found.contains(&RINGS[2]), "{rubbish:?}");
        }
    }

    #[test]
    fn the_same_ring_many_times_is_one() {
        let bytes = [RINGS[0].write(), RINGS[2].write(), RINGS[0].write()].concat();
        let (mut rings, mut found) = (Rings::default(), Vec::new());
        rings.push(&bytes, &mut found);
        assert_eq!(found, vec![RINGS[0], RINGS[2]]);
    }
}
