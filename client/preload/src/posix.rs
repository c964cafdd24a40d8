//! POSIX semaphores (`sem_t`) and condition variables that a program keeps in a segment, where the kernel cannot wait on the segment's memory.
//!
//! libc's `sem_wait` and `pthread_cond_wait` sleep in a futex. In a guest, segments are device memory, on which futex fails, and libc then aborts the
//! program. So here such a semaphore is tried again and again, with growing pauses, and a wait for such a condition is a pause that ends
//! without a reason, as POSIX allows: its callers look at what they wait for. Everywhere else these functions are libc's own. Those that
//! wake need no help: a wake-up that fails is harmless.
//!
//! What it does not give: a sleeper on the host is not woken by a guest. Nor does it help contended mutexes, read-write locks and barriers in segments
//! of a guest, on which libc may abort the program.
#![allow(unsafe_code)] // C functions by name, called through pointers that dlsym gave.

use crate::next::Next;
use libc::{c_int, clockid_t, pthread_cond_t, pthread_mutex_t, sem_t, timespec};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use vshmem_abi::edge;
use vshmem_runtime::{Runtime, raw};

const SHORTEST_PAUSE: Duration = Duration::from_micros(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(2);
/// How often the semaphore is tried with no more than a yield in between.
const YIELDS: u32 = 4;

fn fails(errno: c_int) -> c_int {
    edge::set_errno(errno);
    -1
}

fn errno() -> c_int {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// What is left until `deadline`; `None` if it has passed. A deadline that is none gives EINVAL.
fn left(clock: clockid_t, deadline: timespec) -> Result<Option<Duration>, c_int> {
    if !(0..1_000_000_000).contains(&deadline.tv_nsec) {
        return Err(libc::EINVAL);
    }
    let mut now = timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes the structure.
    if unsafe { libc::clock_gettime(clock, &raw mut now) } < 0 {
        return Err(libc::EINVAL);
    }
    let nanos = |t: timespec| i128::from(t.tv_sec) * 1_000_000_000 + i128::from(t.tv_nsec);
    let left = nanos(deadline) - nanos(now);
    Ok((left > 0).then(|| Duration::from_nanos(u64::try_from(left).unwrap_or(u64::MAX))))
}

/// Sleeps for less than a second; says whether a handler cut it short. Not by libc, whose nanosleep is a point of cancellation.
fn pause(wanted: Duration) -> bool {
    let request = timespec {
        tv_sec: 0,
        tv_nsec: wanted.subsec_nanos().into(),
    };
    // SAFETY: reads the structure; what is left is not asked for.
    let slept = unsafe { raw::call4(libc::SYS_nanosleep, &raw const request as usize, 0, 0, 0) };
    slept == -(libc::EINTR as isize)
}

/// `sem_wait` by trying. As with semop, a handler that runs during a pause ends it with EINTR, whatever SA_RESTART says.
///
/// # Safety
/// `semaphore` is one.
unsafe fn try_until(semaphore: *mut sem_t, limit: Option<(clockid_t, timespec)>) -> c_int {
    let (mut next_pause, mut tries) = (SHORTEST_PAUSE, 0u32);
    loop {
        // SAFETY: promised by the caller.
        if unsafe { libc::sem_trywait(semaphore) } == 0 {
            return 0;
        }
        if errno() != libc::EAGAIN {
            return -1;
        }
        let mut wanted = next_pause;
        if let Some((clock, deadline)) = limit {
            match left(clock, deadline) {
                Ok(Some(left)) => wanted = wanted.min(left),
                Ok(None) => return fails(libc::ETIMEDOUT),
                Err(errno) => return fails(errno),
            }
        }
        tries += 1;
        if tries <= YIELDS {
            std::thread::yield_now();
            continue;
        }
        if pause(wanted) {
            return fails(libc::EINTR);
        }
        next_pause = (next_pause * 2).min(LONGEST_PAUSE);
    }
}

/// `pthread_cond_wait` by a pause: gives what the deadline or the mutex gives.
///
/// # Safety
/// The caller holds the mutex.
unsafe fn pause_without(mutex: *mut pthread_mutex_t, limit: Option<(clockid_t, timespec)>) -> c_int {
    let wanted = match limit.map(|(clock, deadline)| left(clock, deadline)) {
        None => LONGEST_PAUSE,
        Some(Ok(Some(left))) => left.min(LONGEST_PAUSE),
        Some(Ok(None)) => Duration::ZERO,
        Some(Err(errno)) => return errno,
    };
    // SAFETY: promised by the caller.
    unsafe {
        let unlocked = libc::pthread_mutex_unlock(mutex);
        if unlocked != 0 {
            return unlocked;
        }
        pause(wanted);
        // Not pthread_mutex_lock: libc may sleep in it, which here it cannot.
        loop {
            match libc::pthread_mutex_trylock(mutex) {
                libc::EBUSY => pause(SHORTEST_PAUSE),
                0 if wanted.is_zero() => return libc::ETIMEDOUT,
                locked => return locked,
            };
        }
    }
}

/// The clock of a condition's deadlines, which is where libc keeps it: bit 1 of the word that counts references.
unsafe fn clock_of(condition: *mut pthread_cond_t) -> clockid_t {
    const REFERENCES: usize = 9;
    // SAFETY: within the 48 bytes of a condition; libc changes the word atomically.
    let word = unsafe { &*condition.cast::<AtomicU32>().add(REFERENCES) };
    if word.load(Ordering::Relaxed) & 2 != 0 {
        libc::CLOCK_MONOTONIC
    } else {
        libc::CLOCK_REALTIME
    }
}

/// Whether libc may sleep on what is at the address.
fn libc_can<T>(at: *mut T) -> bool {
    Runtime::global().kernel_can_wait(at.cast())
}

macro_rules! waits {
    ($($name:ident $next:ident $text:literal ($at:ident: $what:ty $(, $argument:ident: $of:ty)*) $ours:expr, $none:expr;)*) => {$(
        static $next: Next = Next::new($text);

        // Libc's are points of cancellation, which unwinds.
        #[unsafe(no_mangle)]
        unsafe extern "C-unwind" fn $name($at: *mut $what $(, $argument: $of)*) -> c_int {
            type Function = unsafe extern "C-unwind" fn(*mut $what $(, $of)*) -> c_int;
            // SAFETY: the program's own arguments; dlsym found the function by its name.
            unsafe {
                if !libc_can($at) {
                    return $ours;
                }
                match std::mem::transmute::<*mut libc::c_void, Option<Function>>($next.address()) {
                    Some(next) => next($at $(, $argument)*),
                    None => $none,
                }
            }
        }
    )*};
}
waits! {
    sem_wait SEM_WAIT c"sem_wait" (semaphore: sem_t) try_until(semaphore, None), fails(libc::ENOSYS);
    sem_timedwait SEM_TIMED c"sem_timedwait" (semaphore: sem_t, deadline: *const timespec)
        try_until(semaphore, Some((libc::CLOCK_REALTIME, *deadline))), fails(libc::ENOSYS);
    sem_clockwait SEM_CLOCK c"sem_clockwait" (semaphore: sem_t, clock: clockid_t, deadline: *const timespec)
        try_until(semaphore, Some((clock, *deadline))), fails(libc::ENOSYS);
    pthread_cond_wait COND_WAIT c"pthread_cond_wait" (condition: pthread_cond_t, mutex: *mut pthread_mutex_t)
        pause_without(mutex, None), libc::ENOSYS;
    pthread_cond_timedwait COND_TIMED c"pthread_cond_timedwait"
        (condition: pthread_cond_t, mutex: *mut pthread_mutex_t, deadline: *const timespec)
        pause_without(mutex, Some((clock_of(condition), *deadline))), libc::ENOSYS;
    pthread_cond_clockwait COND_CLOCK c"pthread_cond_clockwait"
        (condition: pthread_cond_t, mutex: *mut pthread_mutex_t, clock: clockid_t, deadline: *const timespec)
        pause_without(mutex, Some((clock, *deadline))), libc::ENOSYS;
}
