//! The port as a front-end inside a UML guest sees it: `/dev/ttyS0` is the stream, `/dev/mmapper` is the memory.
//!
//! Facts this rests on, measured on 6.1:
//! - The driver maps from offset 0 only, but any length up to the region's: a piece is mapped up to its end and cut.
//! - It does not say how long the region is, but reading at an offset beyond it gives nothing: [`length`] finds the end by halving.
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
use vshmem_port::guest::GuestPort;
use vshmem_wire::Window;

const MEMORY: &str = "/dev/mmapper";
const STREAM: &str = "/dev/ttyS0";
/// No pool of a UML guest is larger: pool and guest memory must lie within 2 GiB, so this leaves room for kernels to come.
const MOST: u64 = 1 << 46;

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
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let line = rustix::fs::open(STREAM, flags, Mode::empty())
            .with_context(|| format!("opening {STREAM}, the stream to the back-end"))?;
        let mut settings =
            rustix::termios::tcgetattr(&line).with_context(|| format!("{STREAM} is no serial line"))?;
        settings.make_raw();
        settings.control_modes |= ControlModes::CLOCAL | ControlModes::CREAD;
        settings.control_modes -= ControlModes::HUPCL;
        rustix::termios::tcsetattr(&line, OptionalActions::Now, &settings)
            .with_context(|| format!("making {STREAM} raw"))?;
        Ok(line)
    }

    fn window(&self, writable: bool) -> anyhow::Result<(OwnedFd, Window)> {
        let access = if writable { OFlags::RDWR } else { OFlags::RDONLY };
        let device = rustix::fs::open(MEMORY, access | OFlags::CLOEXEC, Mode::empty())
            .with_context(|| format!("opening {MEMORY}, the memory shared with the host"))?;
        let bytes = length(device.as_fd()).with_context(|| format!("asking {MEMORY} for its size"))?;
        ensure!(
            bytes > 0,
            "{MEMORY} is empty: start linux.uml with iomem=mmapper,POOL"
        );
        Ok((device, Window::Whole { bytes }))
    }
}

/// Bytes of the region: the least offset at which nothing can be read.
fn length(device: BorrowedFd<'_>) -> rustix::io::Result<u64> {
    let readable = |at: u64| rustix::io::pread(device, &mut [0u8; 1], at).map(|n| n == 1);
    if !readable(0)? {
        return Ok(0);
    }
    // The end lies above `below` and at or under `above`.
    let (mut below, mut above) = (0, 4096);
    while above < MOST && readable(above)? {
        (below, above) = (above, above * 2);
    }
    while above - below > 1 {
        let middle = below + (above - below) / 2;
        *(if readable(middle)? { &mut below } else { &mut above }) = middle;
    }
    Ok(above)
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
    fn the_length_is_found_by_reading() {
        for bytes in [1, 4096, 4097, 12_288, 1 << 20, (3 << 20) + 5] {
            let file = tempfile::tempfile().unwrap();
            file.set_len(bytes).unwrap();
            assert_eq!(length(file.as_fd()).unwrap(), bytes);
        }
        assert_eq!(length(tempfile::tempfile().unwrap().as_fd()).unwrap(), 0);
    }
}
