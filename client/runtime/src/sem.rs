//! V-sem: get, operate, values.

use crate::attach::Attachment;
use crate::errno::{Errno, Result};
use crate::operate::{Step, behalf, behalf_waiting, check, operate};
use crate::pages;
use crate::runtime::Runtime;
use crate::thread::Thread;
use crate::world::{Caller, Timeout};
use std::time::Duration;
use vshmem_ipc::sem::{SemError, SemSet};
use vshmem_ipc::sysv::{IPC_NOWAIT, SEMOPM, SEMVMX, SemBuf};
use vshmem_wire::request::{Behalf, Which};
use vshmem_wire::{Kind, Reply, Request, SLOTS, Stat, StatBody};
use vshmem_words::Mapping;

fn step<T>(error: SemError, waited: bool) -> Step<T> {
    match error {
        SemError::Again => Step::Done(Err(Errno::EAGAIN)),
        SemError::Interrupted => Step::Done(Err(Errno::EINTR)),
        SemError::Range => Step::Done(Err(Errno::ERANGE)),
        SemError::TooBig => Step::Done(Err(Errno::EFBIG)),
        SemError::Removed => Step::Removed { waited },
        SemError::Stale => Step::Stale,
        SemError::NeedExtent => Step::Grow(0),
        SemError::Corrupt(corrupt) => Step::Corrupt(corrupt),
        SemError::LockBusy => Step::Done(Err(Errno::EAGAIN)),
    }
}

/// What is asked of one semaphore.
#[derive(Debug, Clone, Copy)]
enum Question {
    Value,
    Pid,
    Ncnt,
    Zcnt,
}

impl Runtime {
    /// semget(2).
    pub fn semget(&self, key: i32, nsems: i32, flags: i32) -> Result<i32> {
        self.ask_id(&Request::SemGet { key, nsems, flags })
    }

    /// semop(2), or semtimedop(2) with a time-out.
    #[inline]
    pub fn semop(&self, id: i32, operations: &[SemBuf], timeout: Option<Duration>) -> Result<()> {
        if operations.is_empty() {
            return Err(Errno::EINVAL);
        }
        if operations.len() > SEMOPM || pages::semopm().is_some_and(|most| operations.len() > most) {
            return Err(Errno::E2BIG);
        }
        let timeout = Timeout::new(timeout);
        let alters = operations.iter().any(|operation| operation.op != 0);
        let outcome = operate(Kind::Sem, id, |a, thread| {
            let Some(mapped) = &a.mapped else {
                return Step::Done(on_behalf(a, thread, operations, &timeout));
            };
            let caller = Caller::new(Kind::Sem, a, &mapped.words, thread, &timeout);
            let outcome = match if alters { a.write } else { a.read } {
                true => SemSet::at(&mapped.words, a.nsems).op(&caller, a.control, operations),
                false => return Step::Done(Err(Errno::EACCES)),
            };
            match outcome {
                Ok(()) => {
                    caller.finish();
                    Step::Done(Ok(()))
                }
                Err(error) => step(error, caller.finish()),
            }
        });
        match outcome {
            Err(Errno::EACCES) => {
                let highest = operations.iter().map(|operation| operation.num).max();
                Err(self.denied(id, highest.map_or(0, i64::from), Errno::EFBIG))
            }
            outcome => outcome,
        }
    }

    /// The error of who may not: Linux looks first whether the set has such a semaphore.
    #[cold]
    fn denied(&self, id: i32, num: i64, beyond: Errno) -> Errno {
        let index = id & (SLOTS as i32 - 1);
        let has = |nsems: u32| (0..i64::from(nsems)).contains(&num);
        match self.stat(Kind::Sem, Which::AnyIndex(index)) {
            Ok(Stat {
                id: found,
                body: StatBody::Sem { nsems, .. },
                ..
            }) if found == id && !has(nsems) => beyond,
            _ => Errno::EACCES,
        }
    }

    /// GETVAL.
    pub fn sem_value(&self, id: i32, num: i32) -> Result<i32> {
        self.sem_ask(id, num, Question::Value)
    }

    /// GETPID: the process that last changed the semaphore, 0 if it is in another domain.
    pub fn sem_pid(&self, id: i32, num: i32) -> Result<i32> {
        self.sem_ask(id, num, Question::Pid)
    }

    /// GETNCNT.
    pub fn sem_ncnt(&self, id: i32, num: i32) -> Result<i32> {
        self.sem_ask(id, num, Question::Ncnt)
    }

    /// GETZCNT.
    pub fn sem_zcnt(&self, id: i32, num: i32) -> Result<i32> {
        self.sem_ask(id, num, Question::Zcnt)
    }

    fn sem_ask(&self, id: i32, num: i32, question: Question) -> Result<i32> {
        operate(Kind::Sem, id, |a, thread| {
            if !a.read {
                return Step::Done(Err(Errno::EACCES));
            }
            let Some(i) = u32::try_from(num).ok().filter(|&i| i < a.nsems) else {
                return Step::Done(Err(Errno::EINVAL));
            };
            let Some(mapped) = &a.mapped else {
                return Step::Done(ask_on_behalf(id, i, question));
            };
            if let Some(step) = check(a, &mapped.words) {
                return step;
            }
            let timeout = Timeout::new(None);
            let caller = Caller::new(Kind::Sem, a, &mapped.words, thread, &timeout);
            Step::Done(Ok(answer(a, &mapped.words, &caller, i, question)))
        })
    }

    /// Number of semaphores in the set.
    pub fn sem_count(&self, id: i32) -> Result<u32> {
        self.count(id, |_| true)
    }

    /// As [`Runtime::sem_count`], for a caller that may read all values (or, to `alter` them, write).
    pub fn sem_count_for(&self, id: i32, alter: bool) -> Result<u32> {
        self.count(id, |a| if alter { a.write } else { a.read })
    }

    fn count(&self, id: i32, may: impl Fn(&Attachment) -> bool) -> Result<u32> {
        operate(Kind::Sem, id, |a, _| {
            if let Some(step) = a.mapped.as_ref().and_then(|mapped| check(a, &mapped.words)) {
                return step;
            }
            Step::Done(if may(a) { Ok(a.nsems) } else { Err(Errno::EACCES) })
        })
    }

    /// GETALL into `into`, which must be as long as the set.
    pub fn sem_values(&self, id: i32, into: &mut [u16]) -> Result<()> {
        operate(Kind::Sem, id, |a, _| {
            if !a.read {
                return Step::Done(Err(Errno::EACCES));
            }
            if into.len() != a.nsems as usize {
                return Step::Done(Err(Errno::EINVAL));
            }
            let Some(mapped) = &a.mapped else {
                return Step::Done(match behalf(id, &Behalf::GetAll) {
                    Ok(Reply::Values(values)) if values.len() == into.len() => {
                        into.copy_from_slice(&values);
                        Ok(())
                    }
                    Ok(_) => Err(Errno::EPROTO),
                    Err(errno) => Err(errno),
                });
            };
            if let Some(step) = check(a, &mapped.words) {
                return step;
            }
            SemSet::at(&mapped.words, a.nsems).values(into);
            Step::Done(Ok(()))
        })
    }

    /// SETVAL.
    pub fn sem_set_value(&self, id: i32, num: i32, value: i32) -> Result<()> {
        let Some(value) = u16::try_from(value).ok().filter(|&value| value <= SEMVMX) else {
            return Err(Errno::ERANGE);
        };
        operate(Kind::Sem, id, |a, thread| {
            let Some(i) = u32::try_from(num).ok().filter(|&i| i < a.nsems) else {
                return Step::Done(Err(Errno::EINVAL));
            };
            if !a.write {
                return Step::Done(Err(Errno::EACCES));
            }
            let Some(mapped) = &a.mapped else {
                return Step::Done(behalf(id, &Behalf::SetValue(i, value.into())).map(drop));
            };
            let timeout = Timeout::new(None);
            let caller = Caller::new(Kind::Sem, a, &mapped.words, thread, &timeout);
            match SemSet::at(&mapped.words, a.nsems).set_value(&caller, a.control, i, value) {
                Ok(()) => Step::Done(Ok(())),
                Err(error) => step(error, false),
            }
        })
        .map_err(|errno| match errno {
            Errno::EACCES => self.denied(id, num.into(), Errno::EINVAL),
            other => other,
        })
    }

    /// SETALL: as many values as the set has semaphores.
    pub fn sem_set_values(&self, id: i32, values: &[u16]) -> Result<()> {
        operate(Kind::Sem, id, |a, thread| {
            if !a.write {
                return Step::Done(Err(Errno::EACCES));
            }
            if values.iter().any(|&value| value > SEMVMX) {
                return Step::Done(Err(Errno::ERANGE));
            }
            if values.len() != a.nsems as usize {
                return Step::Done(Err(Errno::EINVAL));
            }
            let Some(mapped) = &a.mapped else {
                return Step::Done(behalf(id, &Behalf::SetAll(values.to_vec())).map(drop));
            };
            let timeout = Timeout::new(None);
            let caller = Caller::new(Kind::Sem, a, &mapped.words, thread, &timeout);
            match SemSet::at(&mapped.words, a.nsems).set_all(&caller, a.control, values) {
                Ok(()) => Step::Done(Ok(())),
                Err(error) => step(error, false),
            }
        })
    }
}

fn answer(a: &Attachment, words: &Mapping, caller: &Caller<'_>, i: u32, question: Question) -> i32 {
    let set = SemSet::at(words, a.nsems);
    let number = match question {
        Question::Value => u32::from(set.value(i)),
        Question::Ncnt => set.ncnt(i),
        Question::Zcnt => set.zcnt(i),
        Question::Pid => match set.pid(caller, i) {
            (domain, pid) if domain == a.identity.domain => pid,
            _ => 0,
        },
    };
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn ask_on_behalf(id: i32, i: u32, question: Question) -> Result<i32> {
    let operation = match question {
        Question::Value => Behalf::GetValue(i),
        Question::Pid => Behalf::GetPid(i),
        Question::Ncnt => Behalf::GetNcnt(i),
        Question::Zcnt => Behalf::GetZcnt(i),
    };
    match behalf(id, &operation)? {
        Reply::Value(value) => Ok(i32::try_from(value).unwrap_or(i32::MAX)),
        _ => Err(Errno::EPROTO),
    }
}

/// semop for a caller with read or write permission only: the daemon tries, as often as it takes.
#[cold]
fn on_behalf(a: &Attachment, thread: &Thread, operations: &[SemBuf], timeout: &Timeout) -> Result<()> {
    let waits = operations
        .iter()
        .all(|operation| operation.flags & IPC_NOWAIT == 0);
    let list = operations
        .iter()
        .map(|operation| (operation.num, operation.op, operation.flags | IPC_NOWAIT))
        .collect();
    let waiting = waits.then_some(timeout);
    behalf_waiting(thread, a.id, &Behalf::SemOp(list), Errno::EAGAIN, waiting).map(drop)
}
