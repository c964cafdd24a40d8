//! What a front-end inside a domain needs of its port.

use rustix::fd::OwnedFd;
use vshmem_wire::Window;

/// A port, seen from inside a domain.
pub trait GuestPort: Send {
    /// The port's name.
    fn name(&self) -> &'static str;
    /// Whether this machine is a domain of this port; the error says what is missing and what to do about it.
    fn detect(&self) -> anyhow::Result<()>;
    /// The byte stream to the back-end, raw and non-blocking.
    fn stream(&self) -> anyhow::Result<OwnedFd>;
    /// The memory of the group as this domain reaches it, for a client, open for writing or not, and how to map it.
    fn window(&self, writable: bool) -> anyhow::Result<(OwnedFd, Window)>;
}
