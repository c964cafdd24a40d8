//! The wait page: whoever sleeps in this guest sleeps here, since a futex does not work on the memory that is shared with other kernels.
//!
//! A sleeper writes which word it watches and for which value to go on sleeping (`vshmem_wire::pages`); whenever this domain is rung, and ten times a
//! second as long as anybody has an entry, the watched words are compared and those that changed are woken. That one look covers lost bells, wakers
//! that died, and scribbled words. Clients can write anything into the page: a wrong entry wakes nobody, or its owner too often. Who
//! waits on a bell has an entry as well, but is woken by that alone, and looks by itself ten times a second.
//!
//! Where the port shows no memory as a whole, there is nothing to compare: then a ring wakes everybody who sleeps, and so does every tenth of those looks.
//! Whoever is woken for nothing sees that by one load, and sleeps on.

use crate::process::pages::{WaitPage, map_for_ever, wake_futex};
use rustix::fd::{AsFd, BorrowedFd};
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;
use vshmem_wire::pages::{
    ACTIVE_AT, ENTRY, EXPECTED_AT, FROM_AFAR, HOW_AT, SEQUENCE_AT, TICKETS, WATCHED_AT,
};
use vshmem_wire::pool::split;
use vshmem_words::{Mapping, Ordering, Words};

/// Pause between two looks that nobody asked for.
pub(super) const LOOK: Duration = Duration::from_millis(100);
/// Most entries that one client may have.
const MOST_PER_CLIENT: usize = 4096;

/// Looks of which one wakes everybody, where nothing can be seen.
const SELDOM: u32 = 10;

/// The wait page and who has which entry.
#[derive(Debug)]
pub(super) struct Sleepers {
    page: WaitPage,
    /// The groups' pools.
    pools: BTreeMap<u16, Mapping>,
    /// There are none to be seen, and this is so many looks that nobody asked for.
    unseen: Option<u32>,
    owned: BTreeMap<u32, Vec<u32>>,
    free: Vec<u32>,
}

impl Sleepers {
    /// Nobody sleeps yet.
    pub(super) fn new(page: WaitPage) -> Self {
        Sleepers {
            page,
            pools: BTreeMap::new(),
            unseen: None,
            owned: BTreeMap::new(),
            free: (1..TICKETS).rev().collect(),
        }
    }

    /// The page's descriptor, for clients and the keeper.
    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.page.file()
    }

    /// Whether it is known how to look.
    pub(super) fn can_look(&self) -> bool {
        !self.pools.is_empty() || self.unseen.is_some()
    }

    /// There is no memory to be mapped whole.
    pub(super) fn go_without(&mut self) {
        self.unseen = Some(0);
    }

    /// Maps a group's memory, whose words may be watched.
    pub(super) fn map(&mut self, group: u16, window: impl AsFd, bytes: u64) -> io::Result<()> {
        self.pools.insert(group, map_for_ever(window, bytes as usize)?);
        Ok(())
    }

    /// Gives a client entries; fewer than asked for if there are no more.
    pub(super) fn lease(&mut self, client: u32, count: u32) -> Vec<u32> {
        let owned = self.owned.entry(client).or_default();
        let count = (count as usize).min(MOST_PER_CLIENT.saturating_sub(owned.len()));
        let given = self.free.split_off(self.free.len() - count.min(self.free.len()));
        for &ticket in &given {
            self.page
                .words
                .store32(at(ticket) + ACTIVE_AT, 0, Ordering::Relaxed);
        }
        owned.extend(&given);
        given
    }

    /// A former life gave a client these.
    pub(super) fn restore(&mut self, client: u32, tickets: &[u32]) {
        self.free.retain(|t| !tickets.contains(t));
        self.owned.entry(client).or_default().extend(tickets);
    }

    /// A client is gone: its entries are free again.
    pub(super) fn take_back(&mut self, client: u32) {
        for ticket in self.owned.remove(&client).unwrap_or_default() {
            self.page
                .words
                .store32(at(ticket) + ACTIVE_AT, 0, Ordering::Relaxed);
            self.free.push(ticket);
        }
    }

    /// Who has which entries.
    pub(super) fn owned(&self) -> impl Iterator<Item = (u32, &[u32])> {
        self.owned
            .iter()
            .map(|(client, tickets)| (*client, tickets.as_slice()))
    }

    /// Whether anybody may sleep, so that somebody must look now and then.
    pub(super) fn are_any(&self) -> bool {
        !self.owned.is_empty()
    }

    /// Wakes whoever watches a word that has changed, as far as can be seen.
    pub(super) fn look(&self) {
        let page = &self.page.words;
        for &ticket in self.owned.values().flatten() {
            if self.unseen.is_none() {
                look_at(page, &self.pools, ticket);
            } else if sleeps(page, ticket) {
                wake(page, ticket);
            }
        }
    }

    /// A look that nobody asked for.
    pub(super) fn look_around(&mut self) {
        if let Some(looks) = &mut self.unseen {
            *looks = looks.wrapping_add(1);
            if !looks.is_multiple_of(SELDOM) {
                return;
            }
        }
        self.look();
    }
}

fn at(ticket: u32) -> usize {
    ticket as usize * ENTRY
}

/// Whether the entry's owner says that it sleeps.
fn sleeps(page: &Mapping, ticket: u32) -> bool {
    // Acquire: pairs with the sleeper's release of the word that says it sleeps, so that what it watches is seen.
    page.load32(at(ticket) + ACTIVE_AT, Ordering::Acquire) == 1
}

fn wake(page: &Mapping, ticket: u32) {
    let entry = at(ticket);
    page.store32(entry + HOW_AT, FROM_AFAR, Ordering::Relaxed);
    let sequence = page.load32(entry + SEQUENCE_AT, Ordering::Relaxed);
    page.store32(entry + SEQUENCE_AT, sequence.wrapping_add(1), Ordering::Release);
    wake_futex(page, entry + SEQUENCE_AT);
}

fn look_at(page: &Mapping, pools: &BTreeMap<u16, Mapping>, ticket: u32) {
    let entry = at(ticket);
    if !sleeps(page, ticket) {
        return;
    }
    let expected = page.load32(entry + EXPECTED_AT, Ordering::Relaxed);
    let (group, watched) = split(page.load64(entry + WATCHED_AT, Ordering::Relaxed));
    let (Some(pool), Ok(watched)) = (pools.get(&group), usize::try_from(watched)) else {
        return;
    };
    let fits = watched % 4 == 0 && watched.checked_add(4).is_some_and(|end| end <= pool.len());
    if !fits || pool.load32(watched, Ordering::Acquire) == expected {
        return;
    }
    wake(page, ticket);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::pages::sealed_memfd;
    use vshmem_wire::pool::place;

    fn sleepers() -> (Sleepers, Mapping) {
        let mut sleepers = Sleepers::new(WaitPage::new().unwrap());
        let pool = sealed_memfd("vshmem-test", 8192).unwrap();
        sleepers.map(0, &pool, 8192).unwrap();
        (sleepers, map_for_ever(&pool, 8192).unwrap())
    }

    fn sleep(sleepers: &Sleepers, ticket: u32, watched: u64, expected: u32) {
        let words = &sleepers.page.words;
        words.store64(at(ticket) + WATCHED_AT, watched, Ordering::Relaxed);
        words.store32(at(ticket) + EXPECTED_AT, expected, Ordering::Relaxed);
        words.store32(at(ticket) + ACTIVE_AT, 1, Ordering::Release);
    }

    fn sequence(sleepers: &Sleepers, ticket: u32) -> u32 {
        sleepers
            .page
            .words
            .load32(at(ticket) + SEQUENCE_AT, Ordering::Relaxed)
    }

    #[test]
    fn who_watches_a_changed_word_is_woken_and_nobody_else() {
        let (mut sleepers, pool) = sleepers();
        let tickets = sleepers.lease(20, 2);
        sleep(&sleepers, tickets[0], 64, 7);
        sleep(&sleepers, tickets[1], 128, 0);
        pool.store32(64, 7, Ordering::Relaxed);
        sleepers.look();
        assert_eq!(
            (sequence(&sleepers, tickets[0]), sequence(&sleepers, tickets[1])),
            (0, 0)
        );
        pool.store32(64, 8, Ordering::Relaxed);
        sleepers.look();
        assert_eq!(
            (sequence(&sleepers, tickets[0]), sequence(&sleepers, tickets[1])),
            (1, 0)
        );
    }

    #[test]
    fn words_are_watched_in_each_groups_pool() {
        let (mut sleepers, first) = sleepers();
        let file = sealed_memfd("vshmem-test", 4096).unwrap();
        sleepers.map(3, &file, 4096).unwrap();
        let second = map_for_ever(&file, 4096).unwrap();
        let tickets = sleepers.lease(20, 3);
        sleep(&sleepers, tickets[0], place(0, 64), 0);
        sleep(&sleepers, tickets[1], place(3, 64), 0);
        sleep(&sleepers, tickets[2], place(2, 64), 0);
        let woken = |sleepers: &Sleepers| tickets.iter().map(|t| sequence(sleepers, *t)).collect::<Vec<_>>();
        second.store32(64, 1, Ordering::Relaxed);
        sleepers.look();
        assert_eq!(woken(&sleepers), [0, 1, 0]);
        first.store32(64, 1, Ordering::Relaxed);
        sleepers.look();
        assert_eq!(woken(&sleepers), [1, 2, 0]);
    }

    #[test]
    fn where_nothing_can_be_compared_a_ring_wakes_all_who_sleep() {
        let (mut sleepers, _pool) = sleepers();
        sleepers.go_without();
        let tickets = sleepers.lease(20, 3);
        sleep(&sleepers, tickets[0], 64, 0);
        sleep(&sleepers, tickets[1], u64::MAX, 7);
        sleepers.look();
        let woken: Vec<u32> = tickets.iter().map(|t| sequence(&sleepers, *t)).collect();
        assert_eq!(woken, [1, 1, 0]);
        for _ in 0..2 * SELDOM {
            sleepers.look_around();
        }
        assert_eq!(sequence(&sleepers, tickets[0]), 3);
    }

    #[test]
    fn rubbish_in_the_page_harms_nobody() {
        let (mut sleepers, _pool) = sleepers();
        let tickets = sleepers.lease(20, 3);
        sleep(&sleepers, tickets[0], u64::MAX, 1);
        sleep(&sleepers, tickets[1], 8190, 1);
        sleep(&sleepers, tickets[2], 8192, 1);
        sleepers.look();
        assert!(tickets.iter().all(|t| sequence(&sleepers, *t) == 0));
    }

    #[test]
    fn entries_are_leased_once_and_come_back() {
        let (mut sleepers, _pool) = sleepers();
        let mut all = Vec::new();
        for client in 0..5 {
            all.extend(sleepers.lease(client, u32::MAX));
        }
        assert_eq!(all.len(), TICKETS as usize - 1);
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), TICKETS as usize - 1);
        assert!(!all.contains(&0));
        for client in 0..5 {
            sleepers.take_back(client);
        }
        assert!(!sleepers.are_any());
        assert_eq!(sleepers.lease(9, 1).len(), 1);
    }
}
