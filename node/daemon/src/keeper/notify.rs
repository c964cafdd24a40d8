//! Tells systemd that the service is ready (Type=notify): one datagram, see sd_notify(3).

use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

/// Says READY=1, if anybody wants to know.
pub(super) fn ready() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(e) = send(path.as_encoded_bytes()) {
        tracing::warn!("cannot tell the service manager: {e}");
    }
}

fn send(path: &[u8]) -> rustix::io::Result<()> {
    let to = match path.strip_prefix(b"@") {
        Some(name) => SocketAddrUnix::new_abstract_name(name)?,
        None => SocketAddrUnix::new(path)?,
    };
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::sendto(&socket, b"READY=1", SendFlags::NOSIGNAL, &to)?;
    Ok(())
}
