//! The port contract: what a hypervisor must offer, and the conformance suite that holds it.
//!
//! | module | what it holds |
//! |---|---|
//! | [`store`] | how construct memory is made, reached and taken back, on the back-end's side |
//! | [`arrivals`] | streams that guests open themselves, and how the privileged program among a guest's is told from others |
//! | [`boot`] | how a port starts a machine of its own, and what that machine's first process must know |
//! | [`first_root`] | what a guest's kernel begins with, until the host's tree is there |
//! | [`kernel`] | a distribution's kernel on the disk, with the modules that a guest needs |
//! | [`device`] | what a port serves to hypervisors that somebody else starts |
//! | [`direct`] | bells by which one domain rings another with nobody in between |
//! | [`flags`] | what a port tells people to add to a virtual machine of their own |
//! | [`guest`] | what a front-end inside a domain needs: its stream, its view of the memory |
//! | `conformance` | what every port must do, as checks (feature `conformance`) |
//!
//! Ports hold mechanism; meaning (keys, ids, permissions, semaphores) is the upper half's.

pub mod arrivals;
pub mod boot;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod device;
pub mod direct;
pub mod first_root;
pub mod flags;
pub mod guest;
pub mod kernel;
pub mod store;
