//! Timers: one that fires at each full second of the wall clock, and one that is run only while it is needed.

use rustix::fd::OwnedFd;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Becomes readable once a second, as the seconds of the wall clock change.
///
/// It runs on the monotonic clock and is set anew each time: one that ran on the wall clock would stand still when that is set back, and with it everything
/// that goes by it: the time that clients read, heartbeats, time-outs.
#[derive(Debug)]
pub(crate) struct Seconds {
    fd: OwnedFd,
}

impl Seconds {
    /// One that runs.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let fd = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let seconds = Seconds { fd };
        seconds.set()?;
        Ok(seconds)
    }

    /// Its descriptor.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// It was readable: it is not any more, until the next second.
    pub(crate) fn came(&self) {
        let mut times = [0u8; 8];
        let _ = rustix::io::read(&self.fd, &mut times);
        // Were this to fail, it would go on at the pace that it has.
        let _ = self.set();
    }

    fn set(&self) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let wait = to_next_second(now.map_or(0, |now| now.subsec_nanos()));
        let time = Itimerspec {
            it_interval: Timespec {
                tv_sec: 1,
                tv_nsec: 0,
            },
            it_value: Timespec {
                tv_sec: wait.as_secs() as _,
                tv_nsec: wait.subsec_nanos().into(),
            },
        };
        rustix::time::timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &time)?;
        Ok(())
    }
}

/// From so many nanoseconds within a second until shortly after the next one begins: the clocks' paces differ by less than that.
fn to_next_second(nanos: u32) -> Duration {
    Duration::from_millis(1001).saturating_sub(Duration::from_nanos(nanos.into()))
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
    fn seconds_go_on_when_the_wall_clock_is_set_back() {
        use rustix::fd::AsRawFd;
        let seconds = Seconds::new().unwrap();
        let info =
            std::fs::read_to_string(format!("/proc/self/fdinfo/{}", seconds.fd().as_raw_fd())).unwrap();
        let clock = info.lines().find_map(|line| line.strip_prefix("clockid:"));
        assert_eq!(clock.map(str::trim), Some("1"), "not CLOCK_MONOTONIC: {info}");
        for nanos in [0, 1, 500_000_000, 999_999_999] {
            let at = Duration::from_nanos(nanos.into()) + to_next_second(nanos);
            assert_eq!(at, Duration::from_millis(1001));
        }
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
