//! How much of a segment's memory holds something: what the kernel calls its rss.
//!
//! The pages of a file of memory exist once somebody has touched them, and lseek(2) tells where there are any. Not for sets and queues, whose memory is ours.

use rustix::fd::AsFd;
use rustix::fs::{SeekFrom, seek};
use vshmem_wire::Extent;

/// Most steps from one touched stretch to the next; what lies beyond is taken to be like what lies before.
const STEPS: u32 = 2000;

/// Bytes in touched pages of these extents of the file.
pub(super) fn bytes(file: impl AsFd, extents: &[Extent]) -> u64 {
    let mut steps = 0;
    extents
        .iter()
        .map(|extent| touched(&file, extent, &mut steps))
        .sum()
}

/// Bytes in touched pages of a whole file: of huge pages lseek(2) tells nothing.
pub(super) fn bytes_of_file(file: impl AsFd) -> u64 {
    let blocks = rustix::fs::fstat(file).map_or(0, |found| found.st_blocks);
    u64::try_from(blocks).unwrap_or(0).saturating_mul(512)
}

fn touched(file: impl AsFd, extent: &Extent, steps: &mut u32) -> u64 {
    let (start, end) = (extent.offset, extent.offset.saturating_add(extent.bytes));
    let (mut at, mut sum) = (start, 0u64);
    while at < end {
        // ENXIO: nothing more.
        let Ok(data) = seek(&file, SeekFrom::Data(at)) else {
            break;
        };
        if data >= end {
            break;
        }
        let hole = seek(&file, SeekFrom::Hole(data)).unwrap_or(end).min(end);
        sum += hole.saturating_sub(data);
        at = hole.max(data + 1);
        *steps += 1;
        if *steps > STEPS {
            let seen = u128::from(at - start);
            return (u128::from(sum) * u128::from(end - start) / seen.max(1)) as u64;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    #[test]
    fn pages_count_once_they_are_touched() {
        let file = memfd_create(c"resident", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 100 * 4096).unwrap();
        let of = |offset: u64, pages: u64| Extent {
            offset: offset * 4096,
            bytes: pages * 4096,
        };
        assert_eq!(bytes(&file, &[of(0, 100)]), 0);
        for page in [3, 4, 50, 99] {
            rustix::io::pwrite(&file, &[1], page * 4096 + 7).unwrap();
        }
        assert_eq!(bytes(&file, &[of(0, 100)]), 4 * 4096);
        assert_eq!(bytes(&file, &[of(4, 46), of(50, 1), of(99, 1)]), 3 * 4096);
        assert_eq!(bytes(&file, &[of(200, 5)]), 0);
    }

    #[test]
    fn a_sieve_is_estimated() {
        let file = memfd_create(c"resident", MemfdFlags::CLOEXEC).unwrap();
        let pages = 6000u64;
        ftruncate(&file, pages * 4096).unwrap();
        for page in (0..pages).step_by(2) {
            rustix::io::pwrite(&file, &[1], page * 4096).unwrap();
        }
        let whole = Extent {
            offset: 0,
            bytes: pages * 4096,
        };
        let half = pages * 4096 / 2;
        assert!(bytes(&file, &[whole]).abs_diff(half) < half / 50);
    }
}
