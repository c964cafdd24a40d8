//! Teams in C: `vshmem_team_*`.
#![allow(unsafe_code)] // C functions by name; memory of the program.

use std::ffi::{c_int, c_void};
use vshmem::{CollectiveError, Element, Key, Reduction, Team};
use vshmem_abi::{edge, sem};
use vshmem_runtime::{Errno, Result};

const OPERATIONS: [Reduction; 7] = [
    Reduction::Sum,
    Reduction::Product,
    Reduction::Min,
    Reduction::Max,
    Reduction::And,
    Reduction::Or,
    Reduction::Xor,
];

fn errno(error: CollectiveError) -> Errno {
    match error {
        CollectiveError::Lost { .. } => Errno(libc::EOWNERDEAD),
        CollectiveError::Missing { .. } => Errno::ETIMEDOUT,
        CollectiveError::InUse => Errno(libc::EBUSY),
        CollectiveError::RankTaken(_) => Errno::EEXIST,
        CollectiveError::Vshmem(error) => error.errno(),
        _ => Errno::EINVAL,
    }
}

/// A count or a number that C gives as an int.
fn number(value: c_int) -> Result<usize> {
    usize::try_from(value).map_err(|_| Errno::EINVAL)
}

/// A call on a team.
///
/// # Safety
/// `team` is what [`vshmem_team_join`] gave, not left yet, and used by no other thread meanwhile.
unsafe fn with(team: *mut Team, work: impl FnOnce(&mut Team) -> Result<()>) -> c_int {
    edge::call_int(|| {
        edge::pointer(team)?;
        // SAFETY: promised by the caller.
        work(unsafe { &mut *team }).map(|()| 0)
    })
}

/// The program's numbers.
///
/// # Safety
/// At `numbers` there are `count` of them, used by nobody else meanwhile.
unsafe fn slice<'a, T>(numbers: *mut c_void, count: usize) -> Result<&'a mut [T]> {
    if count == 0 {
        return Ok(&mut []);
    }
    edge::pointer(numbers)?;
    let fits = count
        .checked_mul(size_of::<T>())
        .is_some_and(|bytes| bytes <= isize::MAX as usize);
    if !fits || !numbers.cast::<T>().is_aligned() {
        return Err(Errno::EINVAL);
    }
    // SAFETY: promised by the caller; aligned and of a possible size, checked above.
    Ok(unsafe { std::slice::from_raw_parts_mut(numbers.cast(), count) })
}

/// Joins the team of a key.
///
/// # Safety
/// `patience` is null or a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vshmem_team_join(
    key: i32,
    parties: c_int,
    rank: c_int,
    patience: *const libc::timespec,
) -> *mut Team {
    let mut joined = std::ptr::null_mut();
    edge::call_int(|| {
        let mut options = Team::options(Key::new(key)).parties(number(parties)?);
        if rank != -1 {
            options = options.rank(number(rank)?);
        }
        if let Some(patience) = sem::timeout(patience)? {
            options = options.patience(patience);
        }
        joined = Box::into_raw(Box::new(options.join().map_err(errno)?));
        Ok(0)
    });
    joined
}

/// This party's rank.
///
/// # Safety
/// `team` is a team that this process is in.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vshmem_team_rank(team: *const Team) -> c_int {
    // SAFETY: promised by the caller.
    edge::call_int(|| edge::pointer(team).map(|()| unsafe { &*team }.rank() as i32))
}

/// How many parties there are.
///
/// # Safety
/// `team` is a team that this process is in.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vshmem_team_parties(team: *const Team) -> c_int {
    // SAFETY: promised by the caller.
    edge::call_int(|| edge::pointer(team).map(|()| unsafe { &*team }.parties() as i32))
}

/// Waits until all have come here.
///
/// # Safety
/// `team` is a team that this process is in, used by no other thread meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vshmem_team_barrier(team: *mut Team) -> c_int {
    // SAFETY: promised by the caller.
    unsafe { with(team, |team| team.barrier().map_err(errno)) }
}

/// Gives everybody the bytes of the root.
///
/// # Safety
/// As for [`vshmem_team_barrier`]; at `bytes` there are `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vshmem_team_broadcast(
    team: *mut Team,
    root: c_int,
    bytes: *mut c_void,
    size: usize,
) -> c_int {
    // SAFETY: promised by the caller.
    unsafe {
        with(team, |team| {
            team.broadcast(number(root)?, slice(bytes, size)?).map_err(errno)
        })
    }
}

/// Combines everybody's numbers; the root's are replaced by the result.
///
/// # Safety
/// As for [`vshmem_team_barrier`]; at `numbers` there are `count` numbers of the type.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vshmem_team_reduce(
    team: *mut Team,
    root: c_int,
    kind: c_int,
    operation: c_int,
    numbers: *mut c_void,
    count: usize,
) -> c_int {
    // SAFETY: promised by the caller.
    unsafe {
        with(team, |team| {
            combine(team, Some(number(root)?), kind, operation, numbers, count)
        })
    }
}

/// Combines everybody's numbers; everybody's are replaced by the result.
///
/// # Safety
/// As for [`vshmem_team_reduce`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vshmem_team_allreduce(
    team: *mut Team,
    kind: c_int,
    operation: c_int,
    numbers: *mut c_void,
    count: usize,
) -> c_int {
    // SAFETY: promised by the caller.
    unsafe { with(team, |team| combine(team, None, kind, operation, numbers, count)) }
}

/// # Safety
/// At `numbers` there are `count` numbers of the type.
unsafe fn combine(
    team: &mut Team,
    root: Option<usize>,
    kind: c_int,
    operation: c_int,
    numbers: *mut c_void,
    count: usize,
) -> Result<()> {
    fn typed<T: Element>(
        team: &mut Team,
        root: Option<usize>,
        operation: Reduction,
        numbers: &mut [T],
    ) -> Result<()> {
        match root {
            Some(root) => team.reduce(root, operation, numbers),
            None => team.allreduce(operation, numbers),
        }
        .map_err(errno)
    }
    let operation = *OPERATIONS.get(number(operation)?).ok_or(Errno::EINVAL)?;
    // SAFETY: promised by the caller.
    unsafe {
        match kind {
            0 => typed::<i32>(team, root, operation, slice(numbers, count)?),
            1 => typed::<u32>(team, root, operation, slice(numbers, count)?),
            2 => typed::<i64>(team, root, operation, slice(numbers, count)?),
            3 => typed::<u64>(team, root, operation, slice(numbers, count)?),
            4 => typed::<f32>(team, root, operation, slice(numbers, count)?),
            5 => typed::<f64>(team, root, operation, slice(numbers, count)?),
            _ => Err(Errno::EINVAL),
        }
    }
}

/// Leaves.
///
/// # Safety
/// `team` is null or a team that this process is in; it is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vshmem_team_leave(team: *mut Team) {
    edge::call_int(|| {
        edge::pointer(team)?;
        // SAFETY: promised by the caller: made by `vshmem_team_join`, and never used again.
        drop(unsafe { Box::from_raw(team) });
        Ok(0)
    });
}

/// Leaves; rank 0 waits for all others and removes the key's constructs.
///
/// # Safety
/// `team` is a team that this process is in; it is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vshmem_team_disband(team: *mut Team) -> c_int {
    edge::call_int(|| {
        edge::pointer(team)?;
        // SAFETY: promised by the caller: made by `vshmem_team_join`, and never used again.
        let team = *unsafe { Box::from_raw(team) };
        team.disband().map(|()| 0).map_err(errno)
    })
}
