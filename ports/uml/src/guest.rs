//! The port as a front-end inside a UML guest sees it: `/dev/ttyS0` is the stream, `/dev/mmapper` is the memory, `/dev/ttyS2` is the ring line, and the lines
//! behind it are bells.
//!
//! Facts this rests on, measured on 6.1:
//! - The driver maps from offset 0 only, but any length up to the region's: a piece is mapped up to its end and cut.
//! - It does not say how long the region is: whoever boots the guest may, as `vshmem.pool=BYTES` on the kernel command line; else `length` finds it.
//! - Opened read-only it refuses writable mappings, and a later mprotect too. Its node is mode 0600, so that clients get descriptors from the
//!   front-end, which runs as root.
//! - A line's settings outlive its last close: once raw, it is raw for the next front-end too. Before the first time it echoes, so
//!   a back-end must not speak before it is spoken to.
//!
//! What it is not for: booting the guest (`boot`), and what the first process in it needs (`inside`).

use anyhow::{Context, bail, ensure};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::termios::{ControlModes, OptionalActions};
use std::path::Path;
use std::sync::OnceLock;
use vshmem_port::guest::{Bells, GuestPort};
use vshmem_port::store::PAGE;
use vshmem_wire::Window;

use crate::inside::RING_LINE;
use crate::length;

const MEMORY: &str = "/dev/mmapper";
/// On the kernel command line, followed by the pool's size.
pub(crate) const POOL_BYTES: &str = "vshmem.pool=";
/// On the kernel command line, followed by the number of bells.
pub(crate) const BELLS: &str = "vshmem.bells=";
const STREAM: &str = "/dev/ttyS0";
/// A UML kernel has no more serial lines.
const MOST_LINES: u64 = 64;

/// Opens a serial line and makes it raw.
fn open_line(path: &str, access: OFlags) -> anyhow::Result<OwnedFd> {
    let flags = access | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let line = rustix::fs::open(path, flags, Mode::empty()).with_context(|| format!("opening {path}"))?;
    let mut settings =
        rustix::termios::tcgetattr(&line).with_context(|| format!("{path} is no serial line"))?;
    settings.make_raw();
    settings.control_modes |= ControlModes::CLOCAL | ControlModes::CREAD;
    settings.control_modes -= ControlModes::HUPCL;
    rustix::termios::tcsetattr(&line, OptionalActions::Now, &settings)
        .with_context(|| format!("making {path} raw"))?;
    Ok(line)
}

/// The guest's side of the port.
#[derive(Debug, Clone, Copy, Default)]
pub struct UmlGuest;

impl GuestPort for UmlGuest {
    fn name(&self) -> &'static str {
        "uml"
    }

    fn detect(&self) -> anyhow::Result<()> {
        let processor = std::fs::read_to_string("/proc/cpuinfo")
            .context("/proc/cpuinfo cannot be read, so this cannot be told to be a UML guest; mount /proc")?;
        ensure!(
            processor.contains("User Mode Linux"),
            "this is no UML guest: /proc/cpuinfo does not say \"User Mode Linux\""
        );
        if !Path::new(MEMORY).exists() {
            bail!(
                "{MEMORY} is missing: mount devtmpfs on /dev, start linux.uml with iomem=mmapper,POOL, and use a kernel that has the driver (6.1 of \
                 Debian 12 and 6.12 of Debian 13 do, 7.x does not)"
            );
        }
        ensure!(
            Path::new(STREAM).exists(),
            "{STREAM} is missing: start linux.uml with ssl0=fd:N, where N is a socket to the back-end"
        );
        Ok(())
    }

    fn stream(&self) -> anyhow::Result<OwnedFd> {
        open_line(STREAM, OFlags::RDWR).context("the stream to the back-end")
    }

    fn bells(&self) -> anyhow::Result<Option<Bells>> {
        let command_line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
        let Some(count) = said(&command_line, BELLS).filter(|&count| count > 0) else {
            return Ok(None);
        };
        let ring = u64::from(RING_LINE);
        let lines = (1..=count.min(MOST_LINES - 1 - ring))
            .map(|bell| open_line(&format!("/dev/ttyS{}", ring + bell), OFlags::RDONLY));
        Ok(Some(Bells {
            ring: open_line(&format!("/dev/ttyS{ring}"), OFlags::WRONLY)?,
            lines: lines.collect::<anyhow::Result<_>>()?,
        }))
    }

    fn window(&self, _only: usize, writable: bool) -> anyhow::Result<(OwnedFd, Window)> {
        let access = if writable { OFlags::RDWR } else { OFlags::RDONLY };
        let device = rustix::fs::open(MEMORY, access | OFlags::CLOEXEC, Mode::empty())
            .with_context(|| format!("opening {MEMORY}, the memory shared with the host"))?;
        let bytes = pool_bytes(device.as_fd())?;
        ensure!(
            bytes > 0,
            "{MEMORY} is empty: start linux.uml with iomem=mmapper,POOL"
        );
        Ok((device, Window::Whole { bytes }))
    }
}

/// The number that the kernel command line gives behind `key`, if any.
fn said(command_line: &str, key: &str) -> Option<u64> {
    let words = command_line.split_ascii_whitespace();
    words
        .filter_map(|word| word.strip_prefix(key))
        .find_map(|bytes| bytes.parse().ok())
}

/// Bytes of the pool. Asked once: it does not change while this kernel runs, and system calls are dear in a guest.
fn pool_bytes(device: BorrowedFd<'_>) -> anyhow::Result<u64> {
    static FOUND: OnceLock<u64> = OnceLock::new();
    if let Some(&bytes) = FOUND.get() {
        return Ok(bytes);
    }
    let bytes = find_pool_bytes(device)?;
    Ok(*FOUND.get_or_init(|| bytes))
}

fn find_pool_bytes(device: BorrowedFd<'_>) -> anyhow::Result<u64> {
    let command_line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    if let Some(bytes) = said(&command_line, POOL_BYTES) {
        return Ok(bytes);
    }
    let mappable = length::mappable(device).with_context(|| format!("asking {MEMORY} for its size"))?;
    // The kernel takes a file of whole pages for one page longer than it is.
    Ok(mappable.saturating_sub(PAGE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_a_guest_it_says_so() {
        let why = UmlGuest.detect().unwrap_err().to_string();
        assert!(why.contains("no UML guest"), "{why}");
    }

    #[test]
    fn the_numbers_on_the_command_line_are_understood() {
        let line = "mem=64M vshmem.pool=1048576 vshmem.bells=4 quiet";
        assert_eq!(said(line, POOL_BYTES), Some(1 << 20));
        assert_eq!(said(line, BELLS), Some(4));
        assert_eq!(said("vshmem.pool=rubbish", POOL_BYTES), None);
        assert_eq!(said("xvshmem.pool=1", POOL_BYTES), None);
        assert_eq!(said("", BELLS), None);
    }
}
