//! The guest's end: opens the stream to the back-end.
//!
//! It connects from a privileged port, which a host with vhost-vsock sees. Any other host says `prove`, and then what it says by a connection to [`PORT`] of this
//! machine is said back to it: only a privileged program can listen there. That port is taken before the stream is opened, and given back afterwards.

use super::PORT;
use super::socket::{self, Address, DEVICE, HOST};
use anyhow::{anyhow, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};
use vshmem_port::arrivals::{LONGEST, Line};

/// How long a back-end may take to be there.
const CONNECT: Duration = Duration::from_secs(5);
/// How long one that is there may refuse: a stream of this machine's former life may not be known to have ended.
const REFUSED: Duration = Duration::from_secs(15);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);
/// How long the other end may take to say a line.
const ANSWER: Duration = Duration::from_secs(5);

#[cfg(test)]
pub(super) fn greet_for_tests(stream: &OwnedFd, door: &OwnedFd) -> Result<(), &'static str> {
    greet(stream, door, |_| true).map_err(|_| "not greeted")
}

/// Whether this machine has vsock: its CID.
///
/// # Errors
/// What is missing and what to do.
pub fn detect(dev: &Path) -> anyhow::Result<u32> {
    let device = dev.join(DEVICE.trim_start_matches("/dev/"));
    match socket::local_cid(&device) {
        Ok(Some(cid)) => Ok(cid),
        Ok(None) => bail!(
            "this machine has no vsock device: on the host, `vshmem vm flags qemu --stream vsock --domain NAME` prints what to add"
        ),
        Err(e) if e.kind() == io::ErrorKind::NotFound => bail!(
            "{} is missing: load the driver (modprobe vmw_vsock_virtio_transport), and give this virtual machine a vsock device: on the host, `vshmem vm flags qemu \
             --stream vsock --domain NAME` prints what to add",
            device.display()
        ),
        Err(e) => Err(anyhow!("{}: {e}", device.display())),
    }
}

/// Why a try came to nothing.
enum Try {
    /// It may go better later.
    Again(String),
    /// The back-end says no.
    Refused(String),
    Never(anyhow::Error),
}

/// Opens the stream, non-blocking.
///
/// # Errors
/// What is missing and what to do.
pub fn open() -> anyhow::Result<OwnedFd> {
    let begun = Instant::now();
    let door = door(begun)?;
    loop {
        let (why, limit) = match attempt(&door) {
            Ok(stream) => return Ok(stream),
            Err(Try::Again(why)) => (
                format!(
                    "{why}: see that the back-end (`vshmem serve`) runs on the host, and that it knows this machine (its configuration's cid = N, or `vshmem vm \
                     flags qemu --stream vsock --domain NAME`)"
                ),
                CONNECT,
            ),
            Err(Try::Refused(why)) => (format!("the back-end refuses the stream: {why}"), REFUSED),
            Err(Try::Never(why)) => return Err(why),
        };
        if begun.elapsed() > limit {
            bail!("{why}");
        }
        std::thread::sleep(PAUSE);
    }
}

/// The place that only a privileged program can have. Another front-end that is opening its stream has it for a moment.
fn door(begun: Instant) -> anyhow::Result<OwnedFd> {
    loop {
        match socket::listen(PORT) {
            Ok(door) => return Ok(door),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && begun.elapsed() < CONNECT => {
                std::thread::sleep(PAUSE);
            }
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => bail!(
                "port {PORT} of this machine's vsock is taken: by another front-end (`vshmem join`) that is joining, or by another program; end it first"
            ),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                bail!(
                    "a stream over vsock is opened from a privileged port: run this as root, or with CAP_NET_BIND_SERVICE"
                )
            }
            Err(e) => bail!("port {PORT} of this machine's vsock: {e}"),
        }
    }
}

fn attempt(door: &OwnedFd) -> Result<OwnedFd, Try> {
    let host = Address {
        cid: HOST,
        port: PORT,
    };
    let stream = socket::connect(host).map_err(|e| match e.kind() {
        io::ErrorKind::PermissionDenied => Try::Never(anyhow!(
            "a stream over vsock is opened from a privileged port: run this as root, or with CAP_NET_BIND_SERVICE"
        )),
        _ => Try::Again(format!("nobody answers at port {PORT} of this machine's host over vsock ({e})")),
    })?;
    greet(&stream, door, |from| from.cid == HOST)?;
    rustix::io::ioctl_fionbio(&stream, true).map_err(|e| Try::Never(e.into()))?;
    Ok(stream)
}

/// Until the stream is the front-end's. `is_host`: who may tell what is to be said back.
fn greet(stream: &OwnedFd, door: &OwnedFd, is_host: impl Fn(Address) -> bool) -> Result<(), Try> {
    loop {
        match hear(stream)? {
            Line::Open => return Ok(()),
            Line::Refused(why) => return Err(Try::Refused(why)),
            Line::Prove(id) => {
                let secret = secret(stream, door, &id, &is_host)?;
                say(stream, &format!("{secret}\n"))?;
            }
        }
    }
}

fn hear(stream: &OwnedFd) -> Result<Line, Try> {
    let again = |e: io::Error| Try::Again(format!("the host ends the stream ({e})"));
    let line = read_line(stream.as_fd(), Instant::now() + ANSWER).map_err(again)?;
    Line::parse(&line).ok_or_else(|| {
        Try::Never(anyhow!(
            "whoever answers at port {PORT} of this machine's host is no back-end of this version: it says {line:?}"
        ))
    })
}

fn say(stream: &OwnedFd, text: &str) -> Result<(), Try> {
    match rustix::io::write(stream, text.as_bytes()) {
        Ok(all) if all == text.len() => Ok(()),
        other => Err(Try::Again(format!(
            "the host does not take the answer ({other:?})"
        ))),
    }
}

/// What the host says to the privileged place of this machine, for the stream that bears this name.
fn secret(
    stream: &OwnedFd,
    door: &OwnedFd,
    id: &str,
    is_host: impl Fn(Address) -> bool,
) -> Result<String, Try> {
    let until = Instant::now() + ANSWER;
    loop {
        let mut found = [
            PollFd::new(door, PollFlags::IN),
            PollFd::new(stream, PollFlags::IN),
        ];
        let late = || Try::Again("the host asks for a proof, and does not come for it".to_owned());
        wait(&mut found, until).map_err(|_| late())?;
        if !found[0].revents().contains(PollFlags::IN) {
            // The host has something else to say.
            return match hear(stream)? {
                Line::Refused(why) => Err(Try::Refused(why)),
                _ => Err(late()),
            };
        }
        // Whoever is not the host, or speaks of another stream, is left alone.
        if let Ok((told, from)) = socket::accept(door)
            && is_host(from)
            && let Ok(line) = read_line(told.as_fd(), until)
            && let Some((of, secret)) = line.split_once(' ')
            && of == id
        {
            return Ok(secret.to_owned());
        }
    }
}

/// Waits for one of these, until then.
fn wait(found: &mut [PollFd<'_>], until: Instant) -> io::Result<()> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(found, Some(&left)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// One line, without its end; not a byte more is read.
fn read_line(from: BorrowedFd<'_>, until: Instant) -> io::Result<String> {
    let mut line = Vec::new();
    while line.len() < LONGEST {
        wait(&mut [PollFd::from_borrowed_fd(from, PollFlags::IN)], until)?;
        let mut byte = [0];
        match rustix::io::read(from, &mut byte) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) if byte[0] == b'\n' => {
                return String::from_utf8(line).map_err(|_| io::ErrorKind::InvalidData.into());
            }
            Ok(_) => line.push(byte[0]),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}
