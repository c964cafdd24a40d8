//! SOCK_SEQPACKET sockets: one datagram with its descriptors and credentials, and what the kernel says of the peer.
//!
//! Not for meaning: who the peer may claim to be is decided in `identity`.
#![allow(unsafe_code)] // recvmsg and getsockopt by libc: rustix's types hold no pid 0, which is what a peer of a foreign pid namespace has.

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::io;
use std::mem::{MaybeUninit, size_of};

/// Most descriptors that are taken from one datagram; the kernel drops the rest. The most there are: a guest's stream, ring line and bells.
const MOST_DESCRIPTORS: usize = 20;
const _: () = assert!(vshmem_wire::pool::MOST_POOLS <= MOST_DESCRIPTORS);

/// A received datagram; its bytes are at the start of the buffer given to [`receive`].
#[derive(Debug, Default)]
pub(crate) struct Datagram {
    /// How many bytes.
    pub(crate) bytes: usize,
    /// It was longer than the buffer.
    pub(crate) truncated: bool,
    /// Descriptors that came with it.
    pub(crate) descriptors: Vec<OwnedFd>,
    /// The sender as the kernel vouches for it, if the socket asks for that.
    pub(crate) sender: Option<Sender>,
}

/// Who sent a datagram, as it was then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sender {
    /// pid; 0 if it is not visible in this pid namespace.
    pub(crate) pid: u32,
    /// One of its uids, which it chose.
    pub(crate) uid: u32,
    /// One of its gids, which it chose.
    pub(crate) gid: u32,
}

/// Receives one datagram. `None` at end of file (an empty datagram counts as that).
pub(crate) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<Datagram>> {
    let mut iov = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let mut control = [0u64; 32];
    // SAFETY: all-zero is a valid msghdr.
    let mut head: libc::msghdr = unsafe { std::mem::zeroed() };
    head.msg_iov = &mut iov;
    head.msg_iovlen = 1;
    head.msg_control = control.as_mut_ptr().cast();
    head.msg_controllen = size_of::<[u64; 16]>() as _;
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: the message points at `buffer` and `control`, both alive and of the given lengths.
    let got = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &mut head, flags) };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut datagram = Datagram {
        bytes: got as usize,
        truncated: head.msg_flags & libc::MSG_TRUNC != 0,
        ..Datagram::default()
    };
    // SAFETY: the kernel has filled `control` and set its length.
    unsafe { ancillary(&head, &mut datagram) };
    Ok((got > 0).then_some(datagram))
}

/// Takes descriptors and credentials out of a received message.
///
/// # Safety
/// `head` was filled by a successful recvmsg, and its control buffer is alive.
unsafe fn ancillary(head: &libc::msghdr, datagram: &mut Datagram) {
    // SAFETY: `head` is as the kernel left it; the macros stay within the control buffer.
    let mut at = unsafe { libc::CMSG_FIRSTHDR(head) };
    while !at.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give null or a whole header inside the buffer.
        let (cmsg, data) = unsafe { (*at, libc::CMSG_DATA(at)) };
        // SAFETY: pure arithmetic.
        let bytes = cmsg
            .cmsg_len
            .saturating_sub(unsafe { libc::CMSG_LEN(0) } as usize);
        if cmsg.cmsg_level == libc::SOL_SOCKET && cmsg.cmsg_type == libc::SCM_RIGHTS {
            for i in 0..bytes / size_of::<RawFd>() {
                // SAFETY: inside the payload, whose length the header gives; the kernel has installed these descriptors for us alone.
                let fd = unsafe { OwnedFd::from_raw_fd(data.cast::<RawFd>().add(i).read_unaligned()) };
                if datagram.descriptors.len() < MOST_DESCRIPTORS {
                    datagram.descriptors.push(fd);
                }
            }
        } else if cmsg.cmsg_level == libc::SOL_SOCKET
            && cmsg.cmsg_type == libc::SCM_CREDENTIALS
            && bytes >= size_of::<libc::ucred>()
        {
            // SAFETY: the payload is long enough; plain integers.
            let who = unsafe { data.cast::<libc::ucred>().read_unaligned() };
            datagram.sender = Some(Sender {
                pid: who.pid.max(0) as u32,
                uid: who.uid,
                gid: who.gid,
            });
        }
        // SAFETY: as above.
        at = unsafe { libc::CMSG_NXTHDR(head, at) };
    }
}

/// Sends one datagram with descriptors, without waiting.
pub(crate) fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_flags(socket, bytes, descriptors, SendFlags::DONTWAIT)
}

/// Sends one datagram with descriptors, waiting for room.
pub(crate) fn send_waiting(
    socket: impl AsFd,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    send_flags(socket, bytes, descriptors, SendFlags::empty())
}

fn send_flags(
    socket: impl AsFd,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = flags | SendFlags::NOSIGNAL;
    rustix::net::sendmsg(socket, &[io::IoSlice::new(bytes)], &mut control, flags)?;
    Ok(())
}

/// What the kernel says of the process at the other end, as it was when it connected.
#[derive(Debug)]
pub(crate) struct Peer {
    /// pid; 0 if it is not visible in this pid namespace.
    pub(crate) pid: u32,
    /// Effective uid.
    pub(crate) uid: u32,
    /// Effective gid.
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
    /// The process itself, on kernels that give it.
    pub(crate) pidfd: Option<OwnedFd>,
}

/// SO_PEERCRED, SO_PEERGROUPS and SO_PEERPIDFD.
pub(crate) fn peer(socket: BorrowedFd<'_>) -> io::Result<Peer> {
    let mut who = [0u8; size_of::<libc::ucred>()];
    option(socket, libc::SO_PEERCRED, &mut who)?;
    let word = |i: usize| u32::from_ne_bytes([who[i], who[i + 1], who[i + 2], who[i + 3]]);
    let mut raw = vec![0u8; 4 * 64];
    let groups = loop {
        match option(socket, libc::SO_PEERGROUPS, &mut raw) {
            Ok(bytes) => break bytes,
            Err(e) if e.raw_os_error() == Some(libc::ERANGE) && raw.len() < 4 * 65_536 => {
                raw.resize(raw.len() * 4, 0);
            }
            Err(e) => return Err(e),
        }
    };
    let mut pidfd = [0u8; 4];
    let pidfd = match option(socket, SO_PEERPIDFD, &mut pidfd) {
        // SAFETY: the kernel has just installed this descriptor for us alone.
        Ok(4) => Some(unsafe { OwnedFd::from_raw_fd(RawFd::from_ne_bytes(pidfd)) }),
        _ => None,
    };
    Ok(Peer {
        pid: word(0),
        uid: word(4),
        gid: word(8),
        groups: raw[..groups]
            .chunks_exact(4)
            .map(|c| u32::from_ne_bytes([c[0], c[1], c[2], c[3]]))
            .collect(),
        pidfd,
    })
}

/// In Linux since 6.5; not in libc for every target.
const SO_PEERPIDFD: libc::c_int = 77;

fn option(socket: BorrowedFd<'_>, name: libc::c_int, into: &mut [u8]) -> io::Result<usize> {
    let mut len = into.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `into`.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            into.as_mut_ptr().cast(),
            &mut len,
        )
    };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(len as usize)
}

/// Whether the other end has closed the socket and nothing is left to read.
pub(crate) fn ended(socket: BorrowedFd<'_>) -> bool {
    peek(socket) == 0
}

/// Whether there is something left to read.
pub(crate) fn has_more(socket: BorrowedFd<'_>) -> bool {
    peek(socket) > 0
}

fn peek(socket: BorrowedFd<'_>) -> isize {
    let mut one = [0u8; 1];
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: one byte of room.
    unsafe { libc::recv(socket.as_raw_fd(), one.as_mut_ptr().cast(), 1, flags) }
}
