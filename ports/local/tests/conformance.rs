//! The port conformance suite, with processes of this kernel as domains: once over a pool, once over a file per construct.
//!
//! The program is both sides: called as `conformance domain KIND` it is the agent in a domain, its standard input the stream and its
//! standard output a socket over which memory is handed to it.

use anyhow::Context;
use libtest_mimic::{Arguments, Failed, Trial};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::process::{Child, Command, ExitCode, Stdio};
use vshmem_port::conformance::{CHECKS, Domain, Fixture, POOL_BYTES, serve};
use vshmem_port::guest::GuestPort;
use vshmem_port::store::{Serial, Store};
use vshmem_port_local::{LocalGuest, MemfdStore, PoolStore};
use vshmem_wire::Window;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    if words.get(1).is_some_and(|w| w == "domain") {
        return match domain(words.get(2).map_or("", |w| w)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("domain: {why:#}");
                ExitCode::FAILURE
            }
        };
    }
    let mut trials = Vec::new();
    for kind in [Kind::Pool, Kind::Memfd] {
        for check in CHECKS {
            let name = format!("local_{}::{}", kind.word(), check.name);
            trials.push(Trial::test(name, move || {
                check
                    .run(&Local(kind))
                    .map_err(|why| Failed::from(format!("{why:#}")))
            }));
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pool,
    Memfd,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Pool => "pool",
            Kind::Memfd => "memfd",
        }
    }
}

// The host's side.

struct Local(Kind);

impl Fixture for Local {
    fn new_store(&self) -> anyhow::Result<Box<dyn Store>> {
        Ok(match self.0 {
            Kind::Pool => Box::new(PoolStore::new(POOL_BYTES)?),
            Kind::Memfd => Box::new(MemfdStore::new()),
        })
    }

    fn start(&self, store: &dyn Store) -> anyhow::Result<Box<dyn Domain>> {
        let pair = |kind| rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None);
        let (stream, theirs) = pair(SocketType::STREAM)?;
        let (memory, their_memory) = pair(SocketType::SEQPACKET)?;
        let child = Command::new(std::env::current_exe()?)
            .args(["domain", self.0.word()])
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::from(their_memory))
            .spawn()?;
        let process = Process {
            kind: self.0,
            child,
            stream,
            memory,
        };
        if self.0 == Kind::Pool {
            let (pool, _) = store.descriptor(Serial(0), true)?;
            process.give(&pool)?;
        }
        Ok(Box::new(process))
    }
}

struct Process {
    kind: Kind,
    child: Child,
    stream: OwnedFd,
    memory: OwnedFd,
}

impl Process {
    fn give(&self, descriptor: &OwnedFd) -> anyhow::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = [descriptor.as_fd()];
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        rustix::net::sendmsg(
            &self.memory,
            &[IoSlice::new(b"m")],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )?;
        Ok(())
    }
}

impl Domain for Process {
    fn stream(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    fn hand(&mut self, memory: OwnedFd, window: Window) -> anyhow::Result<()> {
        anyhow::ensure!(window == Window::Direct);
        match self.kind {
            Kind::Pool => Ok(()),
            Kind::Memfd => self.give(&memory),
        }
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

// The domain's side.

fn domain(kind: &str) -> anyhow::Result<()> {
    let stream = std::io::stdin().as_fd().try_clone_to_owned()?;
    let memory = std::io::stdout().as_fd().try_clone_to_owned()?;
    if kind == "pool" {
        let pool = receive(&memory).context("waiting for the pool")?;
        serve(&LocalGuest::new(stream, vec![pool], Vec::new()))
    } else {
        serve(&Handed { stream, memory })
    }
}

fn receive(socket: &OwnedFd) -> anyhow::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let message = ancillary.drain().next();
    match message {
        Some(RecvAncillaryMessage::ScmRights(mut descriptors)) => descriptors.next(),
        _ => None,
    }
    .context("no descriptor came")
}

/// A domain that is handed each construct's memory: what a client of the back-end's socket is.
struct Handed {
    stream: OwnedFd,
    memory: OwnedFd,
}

impl GuestPort for Handed {
    fn name(&self) -> &'static str {
        "local"
    }

    fn detect(&self) -> anyhow::Result<()> {
        Ok(())
    }

    fn stream(&self) -> anyhow::Result<OwnedFd> {
        rustix::io::ioctl_fionbio(&self.stream, true)?;
        Ok(self.stream.try_clone()?)
    }

    fn window(&self, _: usize, _: bool) -> anyhow::Result<(OwnedFd, Window)> {
        Ok((receive(&self.memory)?, Window::Direct))
    }
}
