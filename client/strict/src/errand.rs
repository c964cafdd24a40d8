//! What supervisor and stand-ins say to each other: one message a datagram, on two socket pairs for each stand-in.
//!
//! On the one the supervisor hands out calls, which any of the stand-in's threads takes; on the other a stand-in asks for what only the supervisor can do
//! (hold a thread) and waits for the answer.

use crate::notice::Notice;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use vshmem_abi::proc_text::Text;
use vshmem_wire::{Extent, Window};

/// Longest order.
pub(crate) const ORDER: usize = 512;
/// Longest errand: a segment may be of many pieces.
pub(crate) const ERRAND: usize = 64 * 1024;
/// Most descriptors beside a message.
const DESCRIPTORS: usize = 3;

/// To a stand-in.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Make this call, and answer it.
    Call {
        /// The call.
        notice: Notice,
        /// The process may have become another user since the last one.
        identity: bool,
        /// A process may have ended since the last one.
        settle: bool,
    },
    /// Answer this open(2) with a file that says this.
    Open {
        /// The call.
        notice: Notice,
        /// What it says.
        text: Text,
        /// How it is opened.
        flags: i32,
        /// Whether there are constructs of the kernel's, too.
        and_kernels: bool,
    },
    /// The process executes another program. To be said when it is done.
    Executed,
    /// The process has forked: so do you, and say so. Beside it: the child's pidfd, and what the child's stand-in hears and asks by.
    Fork {
        /// The child.
        process: i32,
        /// Whether it shares what is to undo.
        shares: bool,
    },
}

/// From a stand-in.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Errand {
    /// Have the thread map a segment. The answer is the address. Beside it: what to map.
    Attach {
        /// The call that is thereby answered.
        notice: Notice,
        /// Where.
        place: Place,
        /// PROT_READ and its like.
        protection: u64,
        /// Whole pages.
        bytes: u64,
        /// Bytes of a page: it is mapped at a multiple of them.
        page: u64,
        /// How the descriptor can be mapped.
        window: Window,
        /// What to map of it, one after another.
        extents: Vec<Extent>,
    },
    /// Have the thread unmap what lies there: address, bytes.
    Unmap {
        /// The call that is thereby answered.
        notice: Notice,
        /// Whole pages.
        ranges: Vec<(u64, u64)>,
    },
    /// Have the thread make the call that it asked for, of the kernel.
    Call {
        /// The call that is thereby answered.
        notice: Notice,
    },
    /// The daemon knows of what the thread was had to do: it may go on. There is no answer.
    Release {
        /// Where segments now lie: first address, and behind the last.
        attached: Vec<(u64, u64)>,
    },
    /// What was ordered is done. Beside it: the pidfd of the child's stand-in, if there is one.
    Done,
}

/// Where to attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Place {
    /// Anywhere.
    Any,
    /// Here, if nothing is mapped there.
    Free(u64),
    /// Here, whatever is mapped there.
    Over(u64),
}

/// The answer to an errand: what the call gives.
pub(crate) type Outcome = Result<u64, i32>;

/// Two ends of what messages go by.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Sends a message.
pub(crate) fn send<T: Serialize>(
    to: impl AsFd,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let bytes = vshmem_wire::encode(message);
    if bytes.len() > ERRAND {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    loop {
        match rustix::net::sendmsg(&to, &[IoSlice::new(&bytes)], &mut beside, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other.map(drop)?),
        }
    }
}

/// Receives a message. `None`: the other end is closed.
pub(crate) fn receive<T: DeserializeOwned, const MOST: usize>(
    from: impl AsFd,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = [0; MOST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    loop {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let got = match rustix::net::recvmsg(&from, &mut parts, &mut beside, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            other => other?,
        };
        if got.bytes == 0 {
            return Ok(None);
        }
        let mut descriptors = Vec::new();
        for part in beside.drain() {
            if let RecvAncillaryMessage::ScmRights(arrived) = part {
                descriptors.extend(arrived);
            }
        }
        let message =
            vshmem_wire::decode(&bytes[..got.bytes]).map_err(|e| io::Error::other(e.to_string()))?;
        return Ok(Some((message, descriptors)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_with_their_descriptors_until_the_end() {
        let (a, b) = pair().unwrap();
        let of = std::fs::File::open("/dev/null").unwrap();
        send(
            &a,
            &Order::Fork {
                process: 7,
                shares: true,
            },
            &[of.as_fd()],
        )
        .unwrap();
        let (order, descriptors) = receive::<Order, ORDER>(&b).unwrap().unwrap();
        assert!(matches!(
            order,
            Order::Fork {
                process: 7,
                shares: true
            }
        ));
        assert_eq!(descriptors.len(), 1);
        drop(a);
        assert!(receive::<Order, ORDER>(&b).unwrap().is_none());
    }
}
