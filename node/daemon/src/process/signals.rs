//! SIGTERM, SIGINT and SIGHUP as a descriptor that becomes readable.

use rustix::fd::OwnedFd;
use std::io;

/// A descriptor that becomes readable when one of the signals arrives. The process is not ended by them any more.
pub(crate) fn stop_signals() -> io::Result<OwnedFd> {
    let (reader, writer) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK)?;
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        signal_hook::low_level::pipe::register_raw(signal, rustix::io::dup(&writer)?)?;
    }
    Ok(reader)
}

/// Reads all that is in the pipe: whether a signal came.
pub(crate) fn came(reader: &OwnedFd) -> bool {
    let mut bytes = [0u8; 64];
    matches!(rustix::io::read(reader, &mut bytes), Ok(n) if n > 0)
}
