//! Timers: one that fires at each full second of the wall clock, and one that is run only while it is needed.

use rustix::fd::OwnedFd;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use std::io;
use std::time::Duration;

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

/// Becomes readable again and again while it runs.
#[derive(Debug)]
pub(crate) struct Ticker {
    fd: OwnedFd,
    period: Duration,
    runs: bool,
}

impl Ticker {
    /// One that does not run yet.
    pub(crate) fn new(period: Duration) -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let fd = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Ticker {
            fd,
            period,
            runs: false,
        })
    }

    /// Its descriptor.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Runs it or not. Costs a system call only when that changes.
    pub(crate) fn run(&mut self, run: bool) -> io::Result<()> {
        if run == self.runs {
            return Ok(());
        }
        let period = if run { self.period } else { Duration::ZERO };
        let time = Timespec {
            tv_sec: period.as_secs() as _,
            tv_nsec: period.subsec_nanos().into(),
        };
        let time = Itimerspec {
            it_interval: time,
            it_value: time,
        };
        rustix::time::timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &time)?;
        self.runs = run;
        Ok(())
    }

    /// It was readable: it is not any more, until the next time.
    pub(crate) fn came(&self) {
        let mut times = [0u8; 8];
        let _ = rustix::io::read(&self.fd, &mut times);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    fn readable(ticker: &Ticker, within: Duration) -> bool {
        let mut fds = [PollFd::new(ticker.fd(), PollFlags::IN)];
        let within = Timespec {
            tv_sec: within.as_secs() as _,
            tv_nsec: within.subsec_nanos().into(),
        };
        poll(&mut fds, Some(&within)).unwrap() == 1
    }

    #[test]
    fn it_comes_again_and_again_while_it_runs_and_not_afterwards() {
        let mut ticker = Ticker::new(Duration::from_millis(5)).unwrap();
        assert!(!readable(&ticker, Duration::from_millis(20)));
        ticker.run(true).unwrap();
        for _ in 0..3 {
            assert!(readable(&ticker, Duration::from_secs(20)));
            ticker.came();
        }
        ticker.run(false).unwrap();
        ticker.came();
        assert!(!readable(&ticker, Duration::from_millis(20)));
    }
}
