//! A timer that fires at each full second of the wall clock.

use rustix::fd::OwnedFd;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use std::io;

/// Becomes readable once a second, as the seconds change.
pub(crate) fn seconds() -> io::Result<OwnedFd> {
    let fd = rustix::time::timerfd_create(
        TimerfdClockId::Realtime,
        TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
    )?;
    let time = Itimerspec {
        it_interval: Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        },
        it_value: Timespec {
            tv_sec: super::pages::now() as i64 + 1,
            tv_nsec: 0,
        },
    };
    rustix::time::timerfd_settime(&fd, TimerfdTimerFlags::ABSTIME, &time)?;
    Ok(fd)
}
