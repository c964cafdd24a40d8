//! What a front-end inside a domain needs of its port.

use rustix::fd::OwnedFd;
use vshmem_wire::Window;
use vshmem_wire::pool::PoolHeader;

/// A port, seen from inside a domain.
pub trait GuestPort: Send {
    /// The port's name.
    fn name(&self) -> &'static str;
    /// Whether this machine is a domain of this port; the error says what is missing and what to do about it.
    fn detect(&self) -> anyhow::Result<()>;
    /// The byte stream to the back-end, raw and non-blocking.
    fn stream(&self) -> anyhow::Result<OwnedFd>;
    /// Told once the back-end has said which pool the group's is: finds it among the memories that this machine was given. A port that can have only one
    /// keeps this default.
    ///
    /// # Errors
    /// If none of them is the pool: the text says what they are and what to do.
    fn choose(&mut self, pool: &PoolHeader) -> anyhow::Result<()> {
        let _ = pool;
        Ok(())
    }
    /// The memory of the group as this domain reaches it, for a client, open for writing or not, and how to map it.
    fn window(&self, writable: bool) -> anyhow::Result<(OwnedFd, Window)>;
}
