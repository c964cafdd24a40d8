//! One message of the protocol: eight bytes, little-endian, and at most one descriptor beside them.

use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::io::IoSlice;
use std::mem::MaybeUninit;

/// The protocol's version.
pub(super) const VERSION: i64 = 0;
/// The number that goes with the memory.
pub(super) const MEMORY: i64 = -1;

/// Sends a message, or nothing of it.
pub(super) fn send(socket: impl AsFd, number: i64, descriptor: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let bytes = number.to_le_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(Errno::INVAL);
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    match rustix::net::sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, flags)? {
        8 => Ok(()),
        // A unix socket takes so small a message whole or not at all.
        _ => Err(Errno::IO),
    }
}
