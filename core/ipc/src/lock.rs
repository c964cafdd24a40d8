//! The robust lock of a set or a queue: one 64-bit word at [`LOCK_AT`].
//!
//! Lock word: bits 0–31 client number, 32–47 thread, 48–63 flags (bit 48: RECOVERING).
//!
//! | word | meaning | who moves it | to |
//! |---|---|---|---|
//! | 0 | free | anybody | client's own number |
//! | client, thread | held | the holder | 0 |
//! | a dead client's number | held by the dead | the back-end alone | back-end, RECOVERING |
//! | back-end, RECOVERING | being repaired | the back-end (also a restarted one) | 0 |
//!
//! There is no queue of waiters and no futex: a waiter spins, sleeps for a bounded time and looks again, so neither a lost wake-up nor a dead
//! waiter can hurt. Whether a holder lives is the daemon's to know; a waiter asks it through [`World::lock_wait`].
//!
//! Only one lock of a construct exists, and no operation takes two constructs' locks: there is no lock order to keep.

use crate::header::LOCK_AT;
use crate::{Corrupt, LockWait, World};
use vshmem_words::{Ordering, Words};

/// Client number of the back-end itself.
pub const BACKEND: u32 = 1;
/// Flag in the lock word: the back-end is repairing the construct.
pub const RECOVERING: u64 = 1 << 48;

/// Who holds a lock: the word, read once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner(pub u64);

impl Owner {
    /// The owner's client number; 0 when free.
    pub const fn client(self) -> u32 {
        self.0 as u32
    }
    /// The owner's thread.
    pub const fn thread(self) -> u16 {
        (self.0 >> 32) as u16
    }
    /// Reads the lock word.
    pub fn load(words: &impl Words) -> Self {
        Owner(words.load64(LOCK_AT, Ordering::Relaxed))
    }
}

/// Why a lock was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockError {
    /// Held, and the caller does not wait.
    Busy,
    /// The word is rubbish.
    Corrupt(Corrupt),
}

/// The lock is held while this lives. It is released on drop.
#[derive(Debug)]
pub struct Guard<'a, W: Words> {
    words: &'a W,
    word: u64,
}

/// Takes the lock, waiting as the world says.
#[inline]
pub fn acquire<'a, W: Words>(words: &'a W, world: &impl World) -> Result<Guard<'a, W>, LockError> {
    let (client, thread) = world.holder();
    let word = u64::from(client) | u64::from(thread) << 32;
    let mut turn = 0;
    loop {
        // Acquire: [lock] pairs with the release in `drop`, so that the last holder's stores are seen.
        match words.compare_exchange64(LOCK_AT, 0, word, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => return Ok(Guard { words, word }),
            Err(found) => match world.lock_wait(Owner(found), turn) {
                LockWait::Again => turn = turn.saturating_add(1),
                LockWait::Busy => return Err(LockError::Busy),
                LockWait::Corrupt(corrupt) => return Err(LockError::Corrupt(corrupt)),
            },
        }
    }
}

/// Takes the lock over from a dead client, to repair the construct (back-end only). `None` if `dead` does not hold it (any more).
/// The back-end's own number is also taken over: its former life may have died while repairing.
pub fn take_over<W: Words>(words: &W, dead: u32) -> Option<Guard<'_, W>> {
    let found = words.load64(LOCK_AT, Ordering::Relaxed);
    let word = u64::from(BACKEND) | RECOVERING;
    if dead == 0 || found as u32 != dead {
        return None;
    }
    // Acquire: [lock]. The dead one's stores, as far as they went, are seen: it is gone, so nothing more comes.
    words
        .compare_exchange64(LOCK_AT, found, word, Ordering::Acquire, Ordering::Relaxed)
        .ok()?;
    Some(Guard { words, word })
}

/// Takes a free lock to repair or tidy the construct (back-end only); `None` if somebody holds it.
pub fn try_repair<W: Words>(words: &W) -> Option<Guard<'_, W>> {
    let word = u64::from(BACKEND) | RECOVERING;
    // Acquire: [lock].
    words
        .compare_exchange64(LOCK_AT, 0, word, Ordering::Acquire, Ordering::Relaxed)
        .ok()?;
    Some(Guard { words, word })
}

impl<W: Words> Drop for Guard<'_, W> {
    fn drop(&mut self) {
        // Release: [lock]. A failed exchange means that somebody overwrote the lock while we held it: the next one to
        // look will find whatever it is; it is not ours to mend. A plain store would do for an honest peer and is cheaper,
        // but then a rubbish word could never be noticed.
        if self.words.load64(LOCK_AT, Ordering::Relaxed) == self.word {
            self.words.store64(LOCK_AT, 0, Ordering::Release);
        }
    }
}
