//! The bare stream: how long a few bytes take to a guest and back over the port's byte stream, with no daemon at either end. It is what a
//! wake-up between guests is compared with.
//!
//! Where its two ends run makes nearly all of the difference: on one CPU they hand over without waking another one, on two CPUs each way begins
//! with an idle CPU that must be woken, as it does between two guests. So both are measured.

use crate::party::READY;
use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::{ioctl_fionbio, read, write};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vshmem_guest::{GuestSpec, Streams};
use vshmem_port::store::Serial;

/// Bytes each way: about what a bell takes.
const BYTES: usize = 16;
/// Bytes of memory that the guest is shown.
const POOL: u64 = 1 << 20;
/// The first byte of a message that is to come back, and of the last one.
const AGAIN: u8 = 1;
const END: u8 = 0;

/// A guest that sends back what the stream brings.
pub(crate) struct Echo {
    stream: OwnedFd,
    guest: Option<JoinHandle<()>>,
}

impl Echo {
    /// Boots it, on one CPU. `program` is the `vshmem` command.
    pub(crate) fn start(program: &Path, port: &str, cpu: usize) -> Result<Echo> {
        let (stream, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let words = ["bench", "echo", port].map(OsString::from);
        let argv = std::iter::once(program.into()).chain(words).collect();
        // A port may want to see some memory before it calls a machine its guest.
        let pool = vshmem_port_select::pool_store(POOL, None)?;
        let pools = match vshmem_port_select::boot(port)?.needs_grants() {
            true => Vec::new(),
            false => vec![pool.descriptor(Serial(0), true)?.0],
        };
        let spec = GuestSpec {
            cpus: vec![cpu],
            boot_timeout: READY,
            control: Some(theirs),
            pools,
            init: program.into(),
            forward_signals: false,
            streams: Streams {
                stdin: None,
                stdout: File::options().write(true).open("/dev/null")?.into(),
                stderr: std::io::stderr().as_fd().try_clone_to_owned()?,
            },
            ..GuestSpec::new(port, "bench-echo", argv)?
        };
        let guest = std::thread::spawn(move || {
            if let Err(error) = vshmem_guest::run(spec) {
                eprintln!("vshmem: the guest that echoes: {error:#}");
            }
        });
        let echo = Echo {
            stream,
            guest: Some(guest),
        };
        // The guest speaks first: before that its line is not set up.
        echo.wait(READY)?;
        ensure!(
            read(&echo.stream, &mut [0; BYTES])? > 0,
            "the guest that echoes ended before it was up"
        );
        Ok(echo)
    }

    /// Nanoseconds of a round trip, as the mean of `n`, with this end of the stream on `cpu`.
    pub(crate) fn round_trip(&self, cpu: usize, n: u64) -> Result<f64> {
        let before = sched_getaffinity(None)?;
        let mut only = CpuSet::new();
        only.set(cpu);
        sched_setaffinity(None, &only).with_context(|| format!("moving to CPU {cpu}"))?;
        let taken = self.round_trips(n);
        sched_setaffinity(None, &before)?;
        taken
    }

    fn round_trips(&self, n: u64) -> Result<f64> {
        let start = Instant::now();
        for _ in 0..n {
            write(&self.stream, &[AGAIN; BYTES])?;
            let mut back = [0; BYTES];
            let mut got = 0;
            while got < BYTES {
                got += match read(&self.stream, &mut back[got..])? {
                    0 => anyhow::bail!("the guest that echoes has ended"),
                    bytes => bytes,
                };
            }
            ensure!(back == [AGAIN; BYTES], "the stream brought back something else");
        }
        Ok(start.elapsed().as_nanos() as f64 / n as f64)
    }

    fn wait(&self, patience: Duration) -> Result<()> {
        let patience = Timespec {
            tv_sec: patience.as_secs() as _,
            tv_nsec: 0,
        };
        let ready = poll(&mut [PollFd::new(&self.stream, PollFlags::IN)], Some(&patience))?;
        ensure!(
            ready == 1,
            "the guest that echoes said nothing within {} s",
            patience.tv_sec
        );
        Ok(())
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = write(&self.stream, &[END; BYTES]);
        if let Some(guest) = self.guest.take() {
            let _ = guest.join();
        }
    }
}

/// The guest's side: sends back what the stream brings, until it is told to end.
pub fn echo(port: &str) -> Result<()> {
    let stream = vshmem_port_select::guest(vshmem_port_select::joins_by(port), "auto")?.stream()?;
    // Nobody else is to be waited for, so the plainest way is the fastest.
    ioctl_fionbio(&stream, false)?;
    write(&stream, &[AGAIN]).context("speaking first")?;
    loop {
        let mut bytes = [0; BYTES];
        let got = read(&stream, &mut bytes)?;
        if got == 0 || bytes[0] == END {
            return Ok(());
        }
        let mut sent = 0;
        while sent < got {
            sent += write(&stream, &bytes[sent..got])?;
        }
    }
}
