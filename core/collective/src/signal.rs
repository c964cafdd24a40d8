//! One party tells another how far it is: a word that is written by one, awaited by one, and marked by the latter before it sleeps.
//!
//! | word | who moves it | to |
//! |---|---|---|
//! | `s << 1` | the sender, in collective t > s | `t << 1` |
//! | `s << 1` | the receiver, about to sleep | `s << 1 \| SLEEPING` |
//! | `s << 1 \| SLEEPING` | the sender, in collective t > s | `t << 1`, and wakes the receiver |
//!
//! Both move it by compare-and-swap, so either the receiver's mark comes first and the sender sees it, or the sender's number comes first and the
//! receiver's swap fails. The sender knows what it wrote last and needs no load beforehand.

use vshmem_words::{Ordering, Words};

/// The receiver of a signal sleeps, or is about to.
pub(crate) const SLEEPING: u64 = 1;
/// Swaps tried before a word is taken to be somebody's rubbish and overwritten.
const TRIES: usize = 8;

/// The process a party runs in, and how it knows of the others.
pub trait Crew {
    /// What may go wrong with sleeping and asking.
    type Error;
    /// Pauses a little before the next look, the `turn`th from 0; false: enough of it, sleep.
    fn spin(&self, turn: u32) -> bool;
    /// Sleeps until somebody wakes this party. May return at any time and must within bounded time; a wake-up before the sleep ends it at once.
    ///
    /// # Errors
    /// When this party cannot sleep any more, so that the collective has to end.
    fn sleep(&self) -> Result<(), Self::Error>;
    /// Wakes a party.
    fn wake(&self, rank: usize);
    /// Whether a party has left or died.
    ///
    /// # Errors
    /// When that cannot be said any more.
    fn gone(&self, rank: usize) -> Result<bool, Self::Error>;
}

/// Moves the signal at `at` to `sequence` and wakes the receiver if it sleeps. `last` is what this party wrote there last.
pub(crate) fn send<W: Words, C: Crew>(
    memory: &W,
    crew: &C,
    at: usize,
    last: &mut u64,
    sequence: u64,
    to: usize,
) {
    let (new, mut found) = (sequence << 1, *last);
    *last = new;
    for _ in 0..TRIES {
        // Release: what this party did before is seen by who acquires the signal in `arrived`.
        match memory.compare_exchange64(at, found, new, Ordering::Release, Ordering::Relaxed) {
            Ok(_) if found & SLEEPING == 0 => return,
            Ok(_) => return crew.wake(to),
            Err(now) => found = now,
        }
    }
    memory.store64(at, new, Ordering::Release);
    crew.wake(to);
}

/// What a look at a signal gave.
pub(crate) enum Look {
    /// It is there.
    Arrived,
    /// It is not, and the word was this.
    Not(u64),
}

/// Looks at a signal.
#[inline]
pub(crate) fn look<W: Words>(memory: &W, at: usize, sequence: u64) -> Look {
    // Acquire: pairs with the release in `send`.
    match memory.load64(at, Ordering::Acquire) {
        word if word >> 1 >= sequence => Look::Arrived,
        word => Look::Not(word),
    }
}

/// Marks a signal, last seen as `word`, as slept for. False: it has changed, look again.
pub(crate) fn mark<W: Words>(memory: &W, at: usize, word: u64) -> bool {
    word & SLEEPING != 0
        || memory
            .compare_exchange64(at, word, word | SLEEPING, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
}
