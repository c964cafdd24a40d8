//! The ports whose machines somebody else may start, and the servers of their devices.

use std::io;
use std::os::fd::OwnedFd;
use vshmem_port::device::DeviceServer;
use vshmem_port_ivshmem::server::IvshmemServer;

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
