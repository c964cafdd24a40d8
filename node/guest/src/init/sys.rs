//! The one thing that no safe wrapper has: bringing up a network interface.
#![allow(unsafe_code)] // interface requests: a C structure with a union, passed to ioctl

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// What `ip link set NAME up` does, and with an address also `ip address add ADDRESS/24 dev NAME`.
pub(super) fn interface_up(name: &str, address: Option<[u8; 4]>) -> io::Result<()> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    if let Some(address) = address {
        let mut request = request(name);
        request.ifr_ifru.ifru_addr = internet(address);
        ask(&socket, libc::SIOCSIFADDR, &request)?;
        request.ifr_ifru.ifru_netmask = internet([255, 255, 255, 0]);
        ask(&socket, libc::SIOCSIFNETMASK, &request)?;
    }
    let mut request = request(name);
    let flags = libc::IFF_UP | libc::IFF_RUNNING;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).unwrap_or_default();
    ask(&socket, libc::SIOCSIFFLAGS, &request)
}

fn request(name: &str) -> libc::ifreq {
    // SAFETY: ifreq is plain data; all zeros is a valid value of each of its members.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One less than there is room: the name ends with a zero.
    for (to, from) in request
        .ifr_name
        .iter_mut()
        .take(libc::IFNAMSIZ - 1)
        .zip(name.bytes())
    {
        *to = from.cast_signed();
    }
    request
}

/// An address as a `sockaddr_in` laid over a `sockaddr`: port, then address.
fn internet(address: [u8; 4]) -> libc::sockaddr {
    let mut data = [0; 14];
    for (to, from) in data[2..6].iter_mut().zip(address) {
        *to = from.cast_signed();
    }
    libc::sockaddr {
        sa_family: libc::AF_INET as libc::sa_family_t,
        sa_data: data,
    }
}

fn ask(socket: &OwnedFd, what: libc::Ioctl, request: &libc::ifreq) -> io::Result<()> {
    // SAFETY: these requests read one ifreq, which `request` is, and keep no reference to it.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), what, request) };
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
