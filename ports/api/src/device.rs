//! What a port serves to hypervisors that somebody else starts: the memory, and what else its device is made of.
//!
//! | trait | who implements it | what it says |
//! |---|---|---|
//! | [`DeviceServer`] | a port whose device asks a server on the host | takes connections of hypervisors and serves them without ever waiting |
//! | [`Hold`] | the back-end | holds descriptors so that they outlive the back-end |
//!
//! The sockets that hypervisors connect to are the back-end's, one for each domain, so that who comes by which is known from the host's side. Not for
//! machines that Vshmem starts itself: those are given their memory by [`crate::boot::Boot`].

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Holds descriptors for a server, so that they outlive a daemon that is killed.
pub trait Hold {
    /// Holds `descriptor` under `name`, instead of what had the name.
    fn hold(&mut self, name: &str, descriptor: BorrowedFd<'_>);
    /// Lets go of what has the name.
    fn let_go(&mut self, name: &str);
}

/// Serves hypervisors. Whatever they do or leave undone, no call waits, and what one of them costs is bounded.
pub trait DeviceServer: Send {
    /// Readable when there is something to do: then call [`DeviceServer::serve`].
    fn ready(&self) -> BorrowedFd<'_>;

    /// Goes on where a killed daemon was: `held` is what was held then. Called once, before anything else.
    fn resume(&mut self, held: BTreeMap<String, OwnedFd>, hold: &mut dyn Hold);

    /// A hypervisor has connected to the socket of `domain`.
    ///
    /// # Errors
    /// If it cannot be served: its connection is closed.
    fn connected(&mut self, domain: &str, socket: OwnedFd, hold: &mut dyn Hold) -> io::Result<()>;

    /// Does what there is to do.
    fn serve(&mut self, hold: &mut dyn Hold);

    /// A second has passed.
    fn second(&mut self, hold: &mut dyn Hold);

    /// How many hypervisors of a domain are connected.
    fn connections(&self, domain: &str) -> usize;
}
