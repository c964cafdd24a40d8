//! The socket to the daemon: one datagram out, one in, descriptors beside them.
//!
//! Not for what the datagrams mean.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::fstat;
use rustix::io::{Errno, Result};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, UCred, recvmsg, sendmsg,
    sockopt,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::path::Path;
use std::time::Duration;

/// Descriptors are moved to this number or above, where programs do not trip over them.
const HIGH: i32 = 900;
/// Most descriptors beside one message.
const DESCRIPTORS: usize = 8;

/// A connected socket, and what it was when it was made.
#[derive(Debug)]
pub(crate) struct Socket {
    descriptor: Option<OwnedFd>,
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

impl Socket {
    /// Connects to the daemon.
    pub(crate) fn connect(path: &Path, patience: Duration) -> Result<Socket> {
        let made = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let made = high(made);
        rustix::net::connect(&made, &SocketAddrUnix::new(path)?)?;
        sockopt::set_socket_timeout(&made, sockopt::Timeout::Recv, Some(patience))?;
        Socket::from(made)
    }

    /// Takes a socket over.
    pub(crate) fn from(descriptor: OwnedFd) -> Result<Socket> {
        let stat = fstat(&descriptor)?;
        Ok(Socket {
            descriptor: Some(descriptor),
            device: stat.st_dev,
            inode: stat.st_ino,
        })
    }

    /// The descriptor, if it is still this socket: programs close descriptors that they do not know.
    pub(crate) fn get(&self) -> Option<BorrowedFd<'_>> {
        let descriptor = self.descriptor.as_ref()?.as_fd();
        is_still(descriptor, self.device, self.inode).then_some(descriptor)
    }

    /// The descriptor, for those who have just used it.
    pub(crate) fn unchecked(&self) -> Option<BorrowedFd<'_>> {
        self.descriptor.as_ref().map(AsFd::as_fd)
    }

    /// The descriptor's number, for use with [`is_still`].
    pub(crate) fn number(&self) -> i32 {
        use rustix::fd::AsRawFd;
        self.descriptor.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.get().is_none() {
            // It is somebody else's by now, or closed: not ours to close.
            std::mem::forget(self.descriptor.take());
        }
    }
}

/// Whether the descriptor is the socket it was.
pub(crate) fn is_still(descriptor: BorrowedFd<'_>, device: u64, inode: u64) -> bool {
    fstat(descriptor).is_ok_and(|stat| stat.st_dev == device && stat.st_ino == inode)
}

/// The same descriptor with a high number: as high as the process's limit allows.
pub(crate) fn high(descriptor: OwnedFd) -> OwnedFd {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit
        .and_then(|limit| i32::try_from(limit).ok())
        .unwrap_or(i32::MAX);
    let high = HIGH.min(limit.saturating_sub(limit / 8 + 1));
    rustix::io::fcntl_dupfd_cloexec(&descriptor, high).unwrap_or(descriptor)
}

/// Sends one datagram, blocking.
pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::TOOMANYREFS);
    }
    loop {
        match sendmsg(socket, &[IoSlice::new(bytes)], &mut beside, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            other => return other.map(drop),
        }
    }
}

/// Sends one datagram with the sender's credentials, without waiting and without memory of the heap: for a forked child.
pub(crate) fn send_with_credentials(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1), ScmRights(DESCRIPTORS))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::TOOMANYREFS);
    }
    beside.push(SendAncillaryMessage::ScmCredentials(UCred {
        pid: rustix::process::getpid(),
        uid: rustix::process::geteuid(),
        gid: rustix::process::getegid(),
    }));
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    sendmsg(socket, &[IoSlice::new(bytes)], &mut beside, flags).map(drop)
}

/// Sends one datagram that may get lost.
pub(crate) fn hint(socket: BorrowedFd<'_>, bytes: &[u8]) {
    let _ = rustix::net::send(socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
}

/// Receives one datagram. No bytes: the other end is closed. `AGAIN`: the socket's patience is at its end.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    into: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    loop {
        let mut parts = [IoSliceMut::new(into)];
        match recvmsg(socket, &mut parts, &mut beside, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
            Ok(received) => {
                for message in beside.drain() {
                    if let RecvAncillaryMessage::ScmRights(arrived) = message {
                        descriptors.extend(arrived);
                    }
                }
                return Ok(received.bytes);
            }
        }
    }
}
