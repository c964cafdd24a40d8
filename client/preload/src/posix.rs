//! POSIX semaphores (`sem_t`) that a program keeps in a segment, where the kernel cannot wait on the segment's memory.
//!
//! libc's `sem_wait` sleeps in a futex. In a guest, segments are device memory, on which futex fails, and libc then aborts the program. So here such a
//! semaphore is tried again and again, with growing pauses. Everywhere else these functions are libc's own. `sem_post` and `sem_trywait`
//! need no help: a wake-up that fails is harmless, and nobody sleeps there.
//!
//! What it does not give: a sleeper on the host is not woken by a `sem_post` in a guest. Nor does it help condition variables, barriers and
//! read-write locks in segments of a guest; mutexes need no help.
#![allow(unsafe_code)] // C functions by name, called through pointers that dlsym gave.

use crate::next::Next;
use libc::{c_int, clockid_t, sem_t, timespec};
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

/// `sem_wait` by trying. As with semop, a handler that runs during a pause ends it with EINTR, whatever SA_RESTART says.
///
/// # Safety
/// `semaphore` is one.
unsafe fn try_until(semaphore: *mut sem_t, limit: Option<(clockid_t, timespec)>) -> c_int {
    let (mut pause, mut tries) = (SHORTEST_PAUSE, 0u32);
    loop {
        // SAFETY: promised by the caller.
        if unsafe { libc::sem_trywait(semaphore) } == 0 {
            return 0;
        }
        if errno() != libc::EAGAIN {
            return -1;
        }
        let mut wanted = pause;
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
        let request = timespec {
            tv_sec: 0,
            tv_nsec: wanted.subsec_nanos().into(),
        };
        // Not by libc, whose nanosleep is a point of cancellation, and nothing may unwind through here.
        // SAFETY: reads the structure; what is left is not asked for.
        let slept = unsafe { raw::call4(libc::SYS_nanosleep, &raw const request as usize, 0, 0, 0) };
        if slept == -(libc::EINTR as isize) {
            return fails(libc::EINTR);
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// libc may sleep on the semaphore.
fn libc_can(semaphore: *mut sem_t) -> bool {
    Runtime::global().kernel_can_wait(semaphore.cast())
}

macro_rules! waits {
    ($($name:ident $next:ident $text:literal ($($argument:ident: $of:ty),*) $limit:expr;)*) => {$(
        static $next: Next = Next::new($text);

        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(semaphore: *mut sem_t, $($argument: $of),*) -> c_int {
            type Function = unsafe extern "C" fn(*mut sem_t, $($of),*) -> c_int;
            // SAFETY: the program's own arguments; dlsym found the function by its name.
            unsafe {
                if !libc_can(semaphore) {
                    return try_until(semaphore, $limit);
                }
                match std::mem::transmute::<*mut libc::c_void, Option<Function>>($next.address()) {
                    Some(next) => next(semaphore, $($argument),*),
                    None => fails(libc::ENOSYS),
                }
            }
        }
    )*};
}
waits! {
    sem_wait WAIT c"sem_wait" () None;
    sem_timedwait TIMED_WAIT c"sem_timedwait" (deadline: *const timespec) Some((libc::CLOCK_REALTIME, *deadline));
    sem_clockwait CLOCK_WAIT c"sem_clockwait" (clock: clockid_t, deadline: *const timespec) Some((clock, *deadline));
}
