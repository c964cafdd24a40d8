//! The ivshmem port: pool in BAR2 of QEMU's ivshmem device, mapped without a driver; a virtio-serial port or vsock as stream.
//!
//! | module | what it holds |
//! |---|---|
//! | [`boot`] | starts QEMU on the host's own root, and ends it |
//! | [`inside`] | what a guest's first process calls things inside such a guest |
//! | [`guest`] | the stream and the memory, as a front-end inside a guest sees them |
//! | [`device`] | the ivshmem devices of this machine |
//! | [`channel`] | the virtio-serial port that leads to the back-end |
//! | [`flags`] | on the host: what to add to a virtual machine of somebody's own |
//! | [`server`] | on the host: the server of `ivshmem-doorbell` devices |
//! | [`vsock`] | the stream over vsock: both ends |
//! | `peek` | the pool's header, read through a device |

pub mod boot;
pub mod channel;
pub mod device;
pub mod flags;
pub mod guest;
pub mod inside;
mod peek;
pub mod server;
pub mod vsock;
