//! The parts of semctl(2) that touch construct memory.
//!
//! Reading takes no lock. SETVAL and SETALL take it: see `journal` for how they survive a death.

use super::layout::{
    CTIME_AT, LOCKED, OTIME_AT, SLEEPERS_AT, place_bits, side, side_at, stamp, who, word_at,
};
use super::plan::Doer;
use super::update::{Changed, Wakes};
use super::{SemError, SemSet};
use crate::sysv::SEMVMX;
use crate::{Control, World};
use vshmem_words::{Ordering, Words};

/// How often GETALL looks for a moment at which nothing changes.
const LOOKS: usize = 64;

impl<W: Words> SemSet<'_, W> {
    fn word(&self, i: u32) -> u64 {
        if i < self.nsems {
            self.words.load64(word_at(i), Ordering::Acquire)
        } else {
            0
        }
    }

    fn counter(&self, i: u32, what: usize) -> u32 {
        if i < self.nsems {
            self.get32(side_at(self.nsems, i) + what)
        } else {
            0
        }
    }

    /// GETVAL; 0 for a number beyond the set.
    pub fn value(&self, i: u32) -> u16 {
        self.word(i) as u16
    }

    /// GETPID: domain and pid of the last operation; (0, 0) if there was none.
    pub fn pid(&self, _world: &impl World, i: u32) -> (u16, u32) {
        who(self.word(i))
    }

    /// GETNCNT: how many sleep until semaphore `i` grows.
    pub fn ncnt(&self, i: u32) -> u32 {
        self.counter(i, side::NCNT)
    }

    /// GETZCNT: how many sleep until semaphore `i` is zero.
    pub fn zcnt(&self, i: u32) -> u32 {
        self.counter(i, side::ZCNT)
    }

    /// GETALL: as many values as `into` has room for, of one moment (unless the set changes all the time).
    pub fn values(&self, into: &mut [u16]) {
        for _ in 0..LOOKS {
            let mut still = true;
            for (i, value) in into.iter_mut().enumerate() {
                let word = self.word(i as u32);
                still &= word & LOCKED == 0;
                *value = word as u16;
            }
            let again = |(i, value): (usize, &u16)| self.word(i as u32) as u16 == *value;
            if still && into.iter().enumerate().all(again) {
                return;
            }
            core::hint::spin_loop();
        }
    }

    /// sem_otime and sem_ctime, in seconds since the epoch.
    pub fn times(&self) -> (u64, u64) {
        (self.get64(OTIME_AT), self.get64(CTIME_AT))
    }

    /// Sets sem_ctime (back-end only: creation and IPC_SET).
    pub fn set_ctime(&self, seconds: u64) {
        self.words.store64(CTIME_AT, seconds, Ordering::Relaxed);
    }

    /// Number of queued sleepers.
    pub fn sleepers(&self) -> u32 {
        self.get32(SLEEPERS_AT)
    }

    /// SETVAL: clears this semaphore's adjustment in all undo records and lets go on whoever can.
    ///
    /// # Errors
    /// [`SemError::Range`] for a value above SEMVMX, [`SemError::TooBig`] for a number beyond the set, and what an operation gives.
    pub fn set_value(
        &self,
        world: &impl World,
        control: Control,
        i: u32,
        value: u16,
    ) -> Result<(), SemError> {
        if i >= self.nsems {
            return Err(SemError::TooBig);
        }
        if value > SEMVMX {
            return Err(SemError::Range);
        }
        let mut wakes = Wakes::new(world);
        let _guard = self.enter(world, control)?;
        self.claim(i)?;
        self.commit_setval(i, value, self.setter(world), wakes.now)?;
        self.update_all(&mut wakes)
    }

    /// SETALL: `values` holds one value per semaphore; clears all adjustments and lets go on whoever can.
    ///
    /// # Errors
    /// [`SemError::Range`] for a value above SEMVMX, [`SemError::TooBig`] for another number of values, and what an operation gives.
    pub fn set_all(&self, world: &impl World, control: Control, values: &[u16]) -> Result<(), SemError> {
        if values.len() != self.nsems as usize {
            return Err(SemError::TooBig);
        }
        if values.iter().any(|&value| value > SEMVMX) {
            return Err(SemError::Range);
        }
        let mut wakes = Wakes::new(world);
        let _guard = self.enter(world, control)?;
        for (num, &value) in (0..self.nsems).zip(values) {
            self.claim(num)?;
            self.stage(num, value);
        }
        self.commit_setall(self.setter(world), wakes.now)?;
        self.update_all(&mut wakes)
    }

    /// As Linux does after both: looks at everybody, whatever changed.
    fn update_all<Wd: World>(&self, wakes: &mut Wakes<Wd>) -> Result<(), SemError> {
        if self.get32(SLEEPERS_AT) != 0 {
            self.update(wakes, Changed::ALL)?;
        }
        Ok(())
    }

    fn setter(&self, world: &impl World) -> Doer {
        let me = world.me();
        Doer {
            stamp: stamp(&me),
            place: place_bits(me.place),
        }
    }
}
