//! The ports whose machines somebody else may start, and the servers of their devices.

use std::io;
use std::os::fd::OwnedFd;
use vshmem_port::arrivals::StreamServer;
use vshmem_port::device::DeviceServer;
use vshmem_port::flags::{Flags, Wish};
use vshmem_port_ivshmem::flags::READERS;
use vshmem_port_ivshmem::server::IvshmemServer;
use vshmem_port_ivshmem::vsock;
use vshmem_port_ivshmem::vsock::server::VsockServer;
use vshmem_wire::Doors;

/// Ports whose machines somebody else may start: the back-end makes sockets for their hypervisors.
pub const SERVED: &[&str] = &["ivshmem"];

/// The server of a port's devices, which shows them `pool`, of `bytes` bytes, and gives each `vectors` interrupt vectors.
///
/// # Errors
/// For a port that is not in [`SERVED`], and if no device can show such a pool: the text says what to do.
pub fn device_server(
    port: &str,
    pool: OwnedFd,
    bytes: u64,
    vectors: u16,
) -> io::Result<Box<dyn DeviceServer>> {
    match port {
        "ivshmem" => Ok(Box::new(IvshmemServer::new(pool, bytes, vectors)?)),
        _ => Err(io::Error::other(format!(
            "port {port:?} has no machines that somebody else starts; these have: {}",
            SERVED.join(", ")
        ))),
    }
}

/// The port number, of a host and of a guest, by which machines open streams themselves.
pub const STREAM_PORT: u32 = vsock::PORT;

/// The server of streams that a port's machines open themselves.
///
/// # Errors
/// For a port that is not in [`SERVED`], and the system's.
pub fn stream_server(port: &str) -> io::Result<Box<dyn StreamServer>> {
    match port {
        "ivshmem" => Ok(Box::new(VsockServer::new()?)),
        _ => Err(io::Error::other(format!(
            "machines of port {port:?} open no streams themselves"
        ))),
    }
}

/// For whom [`flags`] writes.
pub fn readers() -> impl Iterator<Item = &'static str> {
    READERS.into_iter().map(|(reader, _)| reader)
}

/// The port of the machines that a reader, one of [`readers`], has.
pub fn port_of(reader: &str) -> Option<&'static str> {
    readers().any(|known| known == reader).then_some("ivshmem")
}

/// What to add to a machine of somebody's own, for a reader.
///
/// # Errors
/// For a reader that is none of [`readers`], and what the port says.
pub fn flags(reader: &str, doors: &Doors, wish: Wish) -> Result<Flags, String> {
    let writer = READERS.iter().find(|(known, _)| *known == reader);
    let (_, write) = writer.ok_or_else(|| format!("nothing is known for {reader:?}"))?;
    write(doors, wish)
}
