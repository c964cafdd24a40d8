//! The last lines of a guest's console, for messages about guests that failed.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Bytes kept.
const KEPT: usize = 64 << 10;
/// Lines shown.
const SHOWN: usize = 25;
/// Longer lines are cut when shown.
const WIDTH: usize = 200;

/// Collects what comes out of a console.
#[derive(Debug)]
pub(super) struct Console {
    pub(super) fd: Option<OwnedFd>,
    bytes: Vec<u8>,
}

impl Console {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self {
            fd: Some(fd),
            bytes: Vec::new(),
        }
    }

    /// Reads once; to be called when the descriptor is readable.
    pub(super) fn take(&mut self) {
        let Some(fd) = &self.fd else { return };
        let mut piece = [0_u8; 4096];
        match rustix::io::read(fd, &mut piece) {
            Ok(0) => self.fd = None,
            Ok(n) => self.push(&piece[..n]),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(_) => self.fd = None,
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > 2 * KEPT {
            self.bytes.drain(..self.bytes.len() - KEPT);
        }
    }

    /// Takes what is still on its way: the console is another line than the one that brought the bad news.
    fn settle(&mut self) {
        let until = Instant::now() + Duration::from_secs(1);
        while let Some(fd) = &self.fd
            && Instant::now() < until
        {
            let mut ready = [PollFd::new(fd, PollFlags::IN)];
            let quiet = Timespec {
                tv_sec: 0,
                tv_nsec: 150_000_000,
            };
            if !matches!(poll(&mut ready, Some(&quiet)), Ok(1..)) {
                return;
            }
            self.take();
        }
    }

    /// The end of what was said, as the end of a message: empty, or on lines of its own.
    pub(super) fn tail(&mut self) -> String {
        self.settle();
        let text = String::from_utf8_lossy(&self.bytes);
        let lines: Vec<_> = text
            .lines()
            .map(str::trim_end)
            .filter(|line| !line.is_empty())
            .collect();
        if lines.is_empty() {
            return String::new();
        }
        // After a panic come a long dump of registers and stack, and the kernel's whole log: the cause stands before.
        let end = lines
            .iter()
            .rposition(|line| line.contains("Kernel panic"))
            .map_or(lines.len(), |at| at + 1);
        let mut said = "\nthe last lines of its console:".to_owned();
        for line in &lines[end.saturating_sub(SHOWN)..end] {
            let clean: String = line.chars().filter(|c| !c.is_control()).take(WIDTH).collect();
            let _ = write!(said, "\n  | {clean}");
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_last_lines_without_control_characters() {
        let mut console = Console {
            fd: None,
            bytes: Vec::new(),
        };
        assert_eq!(console.tail(), "");
        for n in 0..20_000 {
            console.push(format!("line {n}\x1b[1m\r\n").as_bytes());
        }
        let tail = console.tail();
        assert_eq!(tail.lines().count(), SHOWN + 2);
        assert!(tail.ends_with("\n  | line 19999[1m"), "{tail}");
        assert!(console.bytes.len() <= 2 * KEPT);
    }
}
