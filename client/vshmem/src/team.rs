//! A team: a fixed number of processes, in any domains, that work on one problem and meet in collectives.
//!
//! Not for the algorithms (`vshmem-collective`): here is who is in the team, and how a party sleeps, is woken, and is found to be gone.
//!
//! A team is a segment and a set of semaphores of one key. The semaphores of a team of n:
//!
//! | number | value | undone when its process ends |
//! |---|---|---|
//! | 0 | 1 while somebody joins | yes |
//! | 1 | how many parties are in | yes |
//! | 2 + r | 1 while there is a party of rank r | yes |
//! | 2 + n + r | wake-ups that the party of rank r has not taken yet | no |
//!
//! So a party that dies, however it does, is out of the team, by SEM_UNDO alone.

use crate::{Error, Key, Operation as Step, Segment, SemaphoreSet};
use std::time::{Duration, Instant};
use vshmem_collective as collective;
use vshmem_collective::{Crew, Element, FORMED_AT, Failure, MOST_PARTIES, Member, Operation, SHAPE_AT};
use vshmem_runtime::Runtime;
use vshmem_words::{Mapping, Ordering, Words};

/// Number of the semaphore that is taken while somebody joins.
const JOINING: u16 = 0;
/// Number of the semaphore that counts the parties.
const PRESENT: u16 = 1;
/// Number of the first party's semaphore.
const RANKS: u16 = 2;

/// Layout version of a team's memory.
const VERSION: u64 = 1;
/// Looks at a signal before sleeping: some tens of microseconds. The semaphore that a party then sleeps on spins by itself first.
const LOOKS: u32 = 2000;
/// Longest sleep before a party asks whether the others still live.
const NAP: Duration = Duration::from_millis(100);

/// Longest wait: no clock reaches further than any wait that a caller may think of.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Why something a team does together failed. After any of these but [`CollectiveError::Unfit`] the team is of no use any more: leave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CollectiveError {
    /// A party ended, by itself or by death, before it had done its part.
    #[error("the party of rank {rank} is gone; leave the team, and join again when all can")]
    Lost {
        /// Its rank.
        rank: usize,
    },
    /// Not all parties came in time.
    #[error("only {present} of {parties} parties came in time; start the others, or wait longer")]
    Missing {
        /// How many were there.
        present: usize,
        /// How many are needed.
        parties: usize,
    },
    /// The team of this key is complete and at work.
    #[error("the team of this key is complete and at work; take another key, or wait until it is done")]
    InUse,
    /// Another party of this rank is in the team.
    #[error("there is a party of rank {0} in the team already")]
    RankTaken(usize),
    /// The team of this key is one of another number of parties.
    #[error(
        "the key's constructs are those of a team of another size; take another key, or remove them with `vshmem ipcrm -M KEY -S KEY`"
    )]
    Mismatch,
    /// No such number of parties, rank or root, or bitwise operations on floating-point numbers. Nothing was done.
    #[error("no such rank or number of parties (1 to 256), or an operation that the numbers do not know")]
    Unfit,
    /// This process is a forked child of the one that joined. Nothing was done.
    #[error("the team is the parent process's; a forked child joins by itself")]
    Inherited,
    /// Vshmem itself.
    #[error(transparent)]
    Vshmem(#[from] Error),
}

/// How a [`Team`] is joined.
#[derive(Debug, Clone)]
pub struct TeamOptions {
    key: Key,
    parties: usize,
    rank: Option<usize>,
    mode: u16,
    patience: Duration,
}

impl TeamOptions {
    /// How many parties there are in all: 1 to 256. Each says the same.
    pub fn parties(mut self, parties: usize) -> Self {
        self.parties = parties;
        self
    }
    /// This party's rank, below the number of parties; unless said, the lowest that is free.
    pub fn rank(mut self, rank: usize) -> Self {
        self.rank = Some(rank);
        self
    }
    /// Permission bits, as for a file; 0600 unless said. Parties need both read and write permission.
    pub fn mode(mut self, mode: u16) -> Self {
        self.mode = mode & 0o777;
        self
    }
    /// How long to wait for the others; 60 s unless said, and a hundred years at most.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Joins, and waits until all parties have.
    ///
    /// # Errors
    /// [`CollectiveError::Missing`], [`InUse`](CollectiveError::InUse), [`RankTaken`](CollectiveError::RankTaken),
    /// [`Mismatch`](CollectiveError::Mismatch), [`Unfit`](CollectiveError::Unfit), and what a [`Segment`] and a [`SemaphoreSet`] may say.
    pub fn join(&self) -> Result<Team, CollectiveError> {
        let n = self.parties;
        if n == 0 || n > MOST_PARTIES || self.rank.is_some_and(|rank| rank >= n) || self.key == Key::PRIVATE {
            return Err(CollectiveError::Unfit);
        }
        let until = Instant::now() + self.patience.min(FOR_EVER);
        let size = |error: Error| match error {
            // A construct of this key that is smaller than asked for.
            Error::Os(errno) if errno == Error::BadView.errno() => CollectiveError::Mismatch,
            other => other.into(),
        };
        let segment = Segment::options().key(self.key).create(true).mode(self.mode);
        let segment = segment.size(collective::bytes(n)).open().map_err(size)?;
        let set = SemaphoreSet::options().key(self.key).create(true).mode(self.mode);
        let set = set.semaphores(RANKS + 2 * n as u16).open().map_err(size)?;
        let memory = segment.words();
        let door = Door {
            set,
            memory: &memory,
            parties: n,
        };
        let rank = loop {
            if let Some(rank) = door.enter(self.rank, until)? {
                break rank;
            }
            if Instant::now() >= until {
                return Err(CollectiveError::InUse);
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let member = Member::new(n, rank).ok_or(CollectiveError::Unfit)?;
        let team = Team {
            member,
            segment,
            memory,
            set,
            process: std::process::id(),
            epoch: Runtime::global().epoch(),
            lookout: Lookout {
                set,
                rank,
                parties: n,
            },
        };
        team.wait_for_all(until)?;
        Ok(team)
    }
}

/// Where parties come in, one at a time.
struct Door<'a> {
    set: SemaphoreSet,
    memory: &'a Mapping,
    parties: usize,
}

impl Door<'_> {
    /// Takes a rank in a team that forms. None: one is at work.
    fn enter(&self, wanted: Option<usize>, until: Instant) -> Result<Option<usize>, CollectiveError> {
        let lock = [Step::new(JOINING, 0), Step::new(JOINING, 1).undo()];
        let locked = retry(|| self.set.operate_within(&lock, Some(left(until))));
        match locked {
            Err(Error::WouldBlock) => return Err(CollectiveError::InUse),
            other => other?,
        }
        let entered = self.take_place(wanted);
        self.set.operate(&[Step::new(JOINING, -1).undo()])?;
        entered
    }

    fn take_place(&self, wanted: Option<usize>) -> Result<Option<usize>, CollectiveError> {
        let shape = VERSION << 32 | self.parties as u64;
        if self.set.value(PRESENT)? == 0 {
            // Nobody is here: what lies here is a former team's.
            self.memory.zero(0, collective::control_bytes(self.parties));
            self.memory.store64(SHAPE_AT, shape, Ordering::Release);
        }
        if self.memory.load64(SHAPE_AT, Ordering::Acquire) != shape {
            return Err(CollectiveError::Mismatch);
        }
        if self.memory.load64(FORMED_AT, Ordering::Acquire) != 0 {
            return Ok(None);
        }
        let free = |rank: &usize| self.set.value(RANKS + *rank as u16).map(|value| value == 0);
        let mut rank = None;
        for candidate in wanted.map_or(0..self.parties, |rank| rank..rank + 1) {
            if free(&candidate)? {
                rank = Some(candidate);
                break;
            }
        }
        let rank = match (rank, wanted) {
            (Some(rank), _) => rank,
            (None, Some(taken)) => return Err(CollectiveError::RankTaken(taken)),
            (None, None) => return Ok(None),
        };
        let present = [
            Step::new(RANKS + rank as u16, 1).undo(),
            Step::new(PRESENT, 1).undo(),
        ];
        self.set.operate(&present)?;
        if self.set.value(PRESENT)? as usize >= self.parties {
            self.memory.store64(FORMED_AT, 1, Ordering::Release);
        }
        Ok(Some(rank))
    }
}

/// Processes, in any domains, that meet in collectives: all call the same ones in the same order, with the same root, operation and length.
///
/// ```no_run
/// use vshmem::{Key, Reduction, Team};
/// # fn main() -> Result<(), vshmem::CollectiveError> {
/// let mut team = Team::options(Key::new(0x7ea0)).parties(2).join()?;
/// let mut sum = [team.rank() as f64];
/// team.allreduce(Reduction::Sum, &mut sum)?;
/// assert_eq!(sum, [1.0]);
/// team.disband()
/// # }
/// ```
///
/// A party that dies gives the others [`CollectiveError::Lost`] within a quarter of a second; one that lives but does not come is waited for
/// without end, as in MPI. Dropping a team leaves it; its constructs stay until [`Team::disband`] or `vshmem ipcrm` takes them away, and serve the next
/// team of the key. Not inherited by fork: the child is not in the team ([`CollectiveError::Inherited`]).
///
/// What it costs: a barrier of two is a handover of a cache line each way, about 0.1 µs between two cores, in one kernel or two; nobody makes a system
/// call unless somebody is late. The methods say how many handovers each takes.
#[derive(Debug)]
pub struct Team {
    member: Member,
    lookout: Lookout,
    memory: Mapping,
    set: SemaphoreSet,
    process: u32,
    /// What the runtime called this process when that was last looked at.
    epoch: u64,
    // Last: the memory above lies in it.
    segment: Segment,
}

impl Team {
    /// How to join the team of a key, which is not [`Key::PRIVATE`].
    pub fn options(key: Key) -> TeamOptions {
        TeamOptions {
            key,
            parties: 0,
            rank: None,
            mode: 0o600,
            patience: Duration::from_secs(60),
        }
    }

    /// This party's rank, from 0.
    pub fn rank(&self) -> usize {
        self.member.rank()
    }

    /// How many parties there are.
    pub fn parties(&self) -> usize {
        self.member.parties()
    }

    /// Waits until all parties have come here: ⌈log₂ n⌉ handovers of a cache line.
    ///
    /// # Errors
    /// [`CollectiveError::Lost`], [`CollectiveError::Vshmem`].
    #[inline]
    pub fn barrier(&mut self) -> Result<(), CollectiveError> {
        self.check_process()?;
        self.member.barrier(&self.memory, &self.lookout).map_err(told)
    }

    /// Gives everybody the bytes of `root`: a copy in, a barrier, a copy out, for each 8 KiB.
    ///
    /// # Errors
    /// As for [`Team::barrier`]; [`CollectiveError::Unfit`] if there is no such root.
    pub fn broadcast(&mut self, root: usize, bytes: &mut [u8]) -> Result<(), CollectiveError> {
        self.check_process()?;
        self.member
            .broadcast(&self.memory, &self.lookout, root, bytes)
            .map_err(told)
    }

    /// Combines everybody's numbers, one by one; the root's are replaced by the result. For each 8 KiB a barrier (up to 8 parties) or a way up
    /// and down a binomial tree.
    ///
    /// # Errors
    /// As for [`Team::broadcast`]; [`CollectiveError::Unfit`] for bitwise operations on floating-point numbers.
    pub fn reduce<T: Element>(
        &mut self,
        root: usize,
        operation: Operation,
        numbers: &mut [T],
    ) -> Result<(), CollectiveError> {
        self.check_process()?;
        self.member
            .reduce(&self.memory, &self.lookout, root, operation, numbers)
            .map_err(told)
    }

    /// Combines everybody's numbers, one by one, and gives everybody the result, the same bits to all. Costs as [`Team::reduce`].
    ///
    /// # Errors
    /// As for [`Team::reduce`].
    pub fn allreduce<T: Element>(
        &mut self,
        operation: Operation,
        numbers: &mut [T],
    ) -> Result<(), CollectiveError> {
        self.check_process()?;
        self.member
            .allreduce(&self.memory, &self.lookout, operation, numbers)
            .map_err(told)
    }

    /// Leaves; rank 0 waits until all others do so and takes the team's constructs away.
    ///
    /// # Errors
    /// As for [`Team::barrier`]; then the constructs stay.
    pub fn disband(mut self) -> Result<(), CollectiveError> {
        self.check_process()?;
        self.member.farewell(&self.memory, &self.lookout).map_err(told)?;
        if self.rank() == 0 {
            self.segment.remove()?;
            self.set.remove()?;
        }
        Ok(())
    }

    /// That this is the process that joined: a child of it would take its parent's signals. One load, unless the process has become another client.
    #[inline]
    fn check_process(&mut self) -> Result<(), CollectiveError> {
        let epoch = Runtime::global().epoch();
        if epoch == self.epoch {
            return Ok(());
        }
        if self.process != std::process::id() {
            return Err(CollectiveError::Inherited);
        }
        self.epoch = epoch;
        Ok(())
    }

    /// Waits until the count of parties has once been full. The operation is performed by the one who makes it so, so that no matter how soon
    /// somebody leaves again nobody misses it.
    fn wait_for_all(&self, until: Instant) -> Result<(), CollectiveError> {
        let n = self.parties() as i16;
        let full = [Step::new(PRESENT, -n), Step::new(PRESENT, n)];
        match retry(|| self.set.operate_within(&full, Some(left(until)))) {
            Err(Error::WouldBlock) => Err(CollectiveError::Missing {
                present: self.set.value(PRESENT)? as usize,
                parties: self.parties(),
            }),
            other => Ok(other?),
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        // A forked child has a copy of this value and is not in the team.
        if self.process != std::process::id() {
            return;
        }
        let rank = RANKS + self.rank() as u16;
        // The set may be gone already: then there is nothing to leave.
        let _ = self
            .set
            .operate(&[Step::new(rank, -1).undo(), Step::new(PRESENT, -1).undo()]);
    }
}

/// How this process pauses, sleeps, wakes others and looks after them.
#[derive(Debug)]
struct Lookout {
    set: SemaphoreSet,
    rank: usize,
    parties: usize,
}

impl Lookout {
    fn bed(&self, rank: usize) -> u16 {
        RANKS + (self.parties + rank) as u16
    }
}

impl Crew for Lookout {
    type Error = Error;

    #[inline]
    fn spin(&self, turn: u32) -> bool {
        std::hint::spin_loop();
        turn < LOOKS
    }

    fn sleep(&self) -> Result<(), Error> {
        let take = [Step::new(self.bed(self.rank), -1)];
        match self.set.operate_within(&take, Some(NAP)) {
            Err(Error::WouldBlock | Error::Interrupted) => Ok(()),
            other => other,
        }
    }

    fn wake(&self, rank: usize) {
        // A set that is gone wakes its sleepers itself; a semaphore that is full has wake-ups enough.
        let _ = self.set.post(self.bed(rank));
    }

    fn gone(&self, rank: usize) -> Result<bool, Error> {
        Ok(self.set.value(RANKS + rank as u16)? == 0)
    }
}

fn told(failure: Failure<Error>) -> CollectiveError {
    match failure {
        Failure::Lost(rank) => CollectiveError::Lost { rank },
        Failure::Unfit => CollectiveError::Unfit,
        Failure::Crew(error) => error.into(),
        Failure::Broken => Error::Removed.into(),
    }
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

/// Tries again when a signal handler ran.
fn retry<T>(mut work: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    loop {
        match work() {
            Err(Error::Interrupted) => {}
            other => return other,
        }
    }
}
