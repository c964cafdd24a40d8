//! Bells by which one domain rings another with nobody in between: for ports whose hypervisor carries an interrupt from any domain to any other.
//!
//! A domain has one *ring line*, which all of its clients share, and some *doors*: door 0 is its front-end's, door 1, 2, … are its bells. Two domains exchange numbers
//! once, through the back-end: one [offers](DirectBells::offer) its doors to the other, the other [binds](DirectBells::bind) to them. From then on a client rings by one call
//! on the ring line, and the sleeper's kernel makes the door readable.
//!
//! Not for bells that the back-end stands between: [`crate::guest::Bells`]. Who exchanges with whom, and what a ring means, is the daemons' affair.

use rustix::fd::{BorrowedFd, OwnedFd};
use std::io;

/// The number of bells that a domain should have.
pub const BELLS: u16 = 16;

/// One domain's ring line and doors.
///
/// Clients are handed the ring line, and a bell to wait on. Both are non-blocking, and both may be spoilt by who has them: then rings get lost.
///
/// - *Ringing*: ioctl([`DirectBells::call`]) on the ring line with the address of a 32-bit number that [`DirectBells::bind`] gave.
/// - *Being rung*: the door is readable until 32-bit numbers were read from it. Whoever reads them must write them back, or their senders ring in vain.
pub trait DirectBells: Send {
    /// The ring line, then door 0, door 1, …: for a later life of the daemon, which makes this anew from them.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>>;

    /// The number of the ioctl that rings.
    fn call(&self) -> u32;

    /// Lets the domain of machine `peer` ring here: what it binds to, one number for each door.
    ///
    /// # Errors
    /// The kernel's.
    fn offer(&mut self, peer: u32) -> io::Result<Vec<u32>>;

    /// Takes back what was offered.
    fn withdraw(&mut self, doors: &[u32]);

    /// Binds to what the domain of machine `peer` offers; gives the numbers by which it is rung, in the same order.
    ///
    /// # Errors
    /// The kernel's: `peer` offers no such thing to this domain.
    fn bind(&mut self, peer: u32, doors: &[u32]) -> io::Result<Vec<u32>>;

    /// Ends what [`DirectBells::bind`] began.
    fn unbind(&mut self, numbers: &[u32]);

    /// Rings.
    ///
    /// # Errors
    /// The kernel's: nobody is bound by that number.
    fn ring(&self, number: u32) -> io::Result<()>;

    /// Takes the rings that have come to a door, and lets further ones come; whether there were any.
    fn take(&self, door: u16) -> bool;

    /// Makes a door fit for a new owner, whatever a former one did: takes its rings, and lets further ones come by the numbers that were offered for it.
    fn refresh(&self, door: u16, numbers: &[u32]);
}

/// A copy of one of [`DirectBells::descriptors`].
///
/// # Errors
/// The kernel's, and NotFound.
pub fn copy(bells: &dyn DirectBells, index: usize) -> io::Result<OwnedFd> {
    let all = bells.descriptors();
    let found = all.get(index).ok_or(io::ErrorKind::NotFound)?;
    Ok(rustix::io::fcntl_dupfd_cloexec(found, 0)?)
}
