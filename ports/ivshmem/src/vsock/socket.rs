//! AF_VSOCK, as far as it is needed here: sockets between a virtual machine and its host.
//!
//! Facts this rests on, of Linux' `vsock(7)` and `net/vmw_vsock`: ports up to 1023 can be bound by CAP_NET_BIND_SERVICE alone, and a connection's address says the
//! port that it comes from; a port that the kernel chooses is above them; the CID in an address is the hypervisor's word, not the guest's.
#![allow(unsafe_code)] // addresses of a family that rustix has no type for

use rustix::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::io;
use std::path::Path;

/// The host, seen from a machine.
pub(crate) const HOST: u32 = libc::VMADDR_CID_HOST;
/// The smallest CID that a machine can have.
pub(crate) const FIRST: u32 = 3;
/// The last port that only a privileged program can bind.
pub(crate) const LAST_PRIVILEGED: u32 = 1023;
/// The first port that is tried for the near end of a privileged connection.
const FIRST_OUTGOING: u32 = 512;
/// The device that tells this machine's CID.
pub(crate) const DEVICE: &str = "/dev/vsock";
/// `IOCTL_VM_SOCKETS_GET_LOCAL_CID`.
const GET_LOCAL_CID: libc::Ioctl = 0x7b9;

/// One end's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) cid: u32,
    pub(crate) port: u32,
}

fn raw(address: Address) -> libc::sockaddr_vm {
    // SAFETY: a structure of integers, for which zeroes are values.
    let mut raw: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    raw.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    raw.svm_cid = address.cid;
    raw.svm_port = address.port;
    raw
}

const BYTES: libc::socklen_t = size_of::<libc::sockaddr_vm>() as libc::socklen_t;

fn check(answer: libc::c_int) -> io::Result<libc::c_int> {
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(answer)
    }
}

fn socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    let flags = flags | SocketFlags::CLOEXEC;
    Ok(socket_with(
        AddressFamily::VSOCK,
        SocketType::STREAM,
        flags,
        None,
    )?)
}

fn bind(socket: &OwnedFd, port: u32) -> io::Result<()> {
    let address = raw(Address {
        cid: libc::VMADDR_CID_ANY,
        port,
    });
    // SAFETY: reads a structure of that size.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), BYTES) }).map(drop)
}

/// Listens on a port of this machine, whatever transport a connection comes by. Non-blocking.
pub(crate) fn listen(port: u32) -> io::Result<OwnedFd> {
    let listener = socket(SocketFlags::NONBLOCK)?;
    bind(&listener, port)?;
    rustix::net::listen(&listener, 64)?;
    Ok(listener)
}

/// The next connection, non-blocking, and where it comes from.
pub(crate) fn accept(listener: &OwnedFd) -> io::Result<(OwnedFd, Address)> {
    let mut from = raw(Address { cid: 0, port: 0 });
    let mut bytes = BYTES;
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: writes no more than a structure of that size.
    let accepted = unsafe {
        libc::accept4(
            listener.as_raw_fd(),
            (&raw mut from).cast(),
            &raw mut bytes,
            flags,
        )
    };
    let accepted = check(accepted)?;
    // SAFETY: a new descriptor, owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(accepted) };
    let address = Address {
        cid: from.svm_cid,
        port: from.svm_port,
    };
    Ok((socket, address))
}

/// A connection from a port that only a privileged program can have. Waits for the other end, for as long as the kernel does (two seconds).
pub(crate) fn connect(to: Address) -> io::Result<OwnedFd> {
    let mut refused = io::Error::from(Errno::ADDRINUSE);
    for port in (FIRST_OUTGOING..=LAST_PRIVILEGED).rev() {
        let near = socket(SocketFlags::empty())?;
        match bind(&near, port) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                refused = e;
                continue;
            }
            other => other?,
        }
        reach(&near, to)?;
        return Ok(near);
    }
    Err(refused)
}

/// A connection from whatever port the kernel chooses, as any program can have it.
pub(crate) fn call(to: Address) -> io::Result<OwnedFd> {
    let near = socket(SocketFlags::empty())?;
    reach(&near, to)?;
    Ok(near)
}

fn reach(near: &OwnedFd, to: Address) -> io::Result<()> {
    let address = raw(to);
    // SAFETY: reads a structure of that size.
    check(unsafe { libc::connect(near.as_raw_fd(), (&raw const address).cast(), BYTES) }).map(drop)
}

/// The CID that this machine has from its hypervisor; None without a device for it, and on a host.
pub(crate) fn local_cid(device: &Path) -> io::Result<Option<u32>> {
    let device = std::fs::File::open(device)?;
    let mut cid: u32 = 0;
    // SAFETY: writes one unsigned integer.
    check(unsafe { libc::ioctl(device.as_fd().as_raw_fd(), GET_LOCAL_CID, &raw mut cid) })?;
    Ok(Some(cid).filter(|cid| (FIRST..libc::VMADDR_CID_ANY).contains(cid)))
}
