//! Layout of the two pages a daemon shares with its clients.
//!
//! **Time page**, read-only for clients: u64 at 0, seconds since the epoch on the host, written once a second; u32 at 8, the number of times
//! the daemon was restarted; u32 at 12 and at 16, one more than the limits MSGMAX and SEMOPM, 0 before they are known; u32 at 20, whether there may be ids
//! without [`crate::ID_BIT`]. From 64 on, where domains ring each other with
//! nobody in between, a u64 for each [`door`] that this domain's clients can ring, up to the first 0: by which number whose bell is rung. The table may change while it is
//! read: a wrong number rings somebody for nothing, and a lost ring is made up for by the sleeper's own looks.
//!
//! **Wait page** (guests only, writable for all clients of the domain, so hostile): entries of [`ENTRY`] bytes, by ticket:
//!
//! | offset | width | meaning |
//! |---|---|---|
//! | 0 | u32 | sequence: the futex the sleeper waits on; whoever wakes adds one, then FUTEX_WAKE |
//! | 4 | u32 | 1 while the sleeper sleeps or is about to, else 0 |
//! | 8 | u32 | value of the watched word at which it goes on sleeping |
//! | 12 | u32 | who woke it, as far as known: [`FROM_AFAR`], [`FROM_HERE`], 0 |
//! | 16 | u64 | place of the watched 32-bit word: [`crate::pool`] |
//!
//! A sleeper that waits on a *bell* of its own ([`crate::Request::Bell`]) says so in the ticket that others find in the construct: [`with_bell`]. Who wakes it
//! rings the bell instead of the futex.
//!
//! The front-end compares the watched word with the expected value whenever its domain is rung, and ten times a second while anyone sleeps.

/// Bytes of one wait page entry.
pub const ENTRY: usize = 32;
/// Offset of the futex word in an entry.
pub const SEQUENCE_AT: usize = 0;
/// Offset of the active word in an entry.
pub const ACTIVE_AT: usize = 4;
/// Offset of the expected value in an entry.
pub const EXPECTED_AT: usize = 8;
/// Offset of what a waker says of itself.
pub const HOW_AT: usize = 12;
/// The waker is of another kernel.
pub const FROM_AFAR: u32 = 1;
/// The waker is of the sleeper's own kernel.
pub const FROM_HERE: u32 = 2;
/// Offset of the watched word's pool offset in an entry.
pub const WATCHED_AT: usize = 16;
/// Entries in a wait page; ticket 0 is not used.
pub const TICKETS: u32 = 16 * 1024;
/// Offset of the seconds in the time page.
pub const SECONDS_AT: usize = 0;
/// Offset of the restart count in the time page.
pub const RESTARTS_AT: usize = 8;
/// Offset of MSGMAX in the time page.
pub const MSGMAX_AT: usize = 12;
/// Offset of SEMOPM in the time page.
pub const SEMOPM_AT: usize = 16;

/// Offset of a word that is 1 once an id without [`crate::ID_BIT`] was asked for (`shm_next_id` and its like).
pub const LOW_IDS_AT: usize = 20;
/// Offset of the first door in the time page.
pub const DOORS_AT: usize = 64;
/// Most doors.
pub const DOORS: usize = (4096 - DOORS_AT) / 8;

/// A door as the time page shows it: the sleeper's space, its bell (0: its front-end), and the number by which it is rung.
pub const fn door(space: u16, bell: u16, number: u32) -> u64 {
    (space as u64) << 48 | (bell as u64 & 0x7f) << 40 | 1 << 32 | number as u64
}

/// The number by which a bell is rung, if `row` is its door's.
pub const fn number_of(row: u64, space: u16, bell: u16) -> Option<u32> {
    if row >> 32 == door(space, bell, 0) >> 32 {
        Some(row as u32)
    } else {
        None
    }
}

const BELL_SHIFT: u32 = 16;
const _: () = assert!(TICKETS <= 1 << BELL_SHIFT);

/// A ticket as a sleeper shows it that waits on a bell; with bell 0, the ticket alone.
#[inline(always)]
pub const fn with_bell(ticket: u32, bell: u16) -> u32 {
    ticket | (bell as u32) << BELL_SHIFT
}

/// The ticket and the bell of what a sleeper shows. Claims: construct memory says so.
pub const fn ticket_and_bell(shown: u32) -> (u32, u16) {
    (shown & ((1 << BELL_SHIFT) - 1), (shown >> BELL_SHIFT) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_is_found_by_space_and_bell_and_by_nothing_else() {
        let row = door(7, 3, u32::MAX);
        assert_eq!(number_of(row, 7, 3), Some(u32::MAX));
        assert_eq!((number_of(row, 7, 2), number_of(row, 6, 3)), (None, None));
        assert_eq!(number_of(0, 0, 0), None);
        assert_eq!(number_of(door(0, 0, 0), 0, 0), Some(0));
    }
}
