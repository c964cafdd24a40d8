//! Messages between clients, front-ends and the back-end, and their codec.
//!
//! | module | what it holds |
//! |---|---|
//! | [`types`] | keys, ids, permissions, memory descriptions: the nouns |
//! | [`request`] | what a client asks and what it is told: client ↔ daemon, on a SOCK_SEQPACKET unix socket |
//! | [`stream`] | what a guest's front-end and the back-end say to each other, framed on the port's byte stream |
//! | [`bell`] | rings, as clients write them to a port's ring line |
//! | [`codec`] | bytes: postcard bodies, a checksummed frame for streams |
//! | [`link`] | one end of a stream: frames in both directions, and no more on its way than the reader can hold |
//! | [`pages`] | layout of the time page and of the wait page |
//! | [`pool`] | the header by which a guest knows a group's pool, and places in pools |
//!
//! Everything that arrives is untrusted: decoding gives an error, never a panic, and bounds what it allocates by the bytes received.
//! What it is not for: sockets. Nothing here does I/O.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod bell;
pub mod codec;
pub mod link;
pub mod pages;
pub mod pool;
pub mod request;
pub mod stream;
pub mod types;

pub use codec::{Deframer, WireError, decode, encode, frame};
pub use link::Link;
pub use request::{
    Answer, Doors, Envelope, Failure, PoolDoor, Reply, Request, ShownPool, Verdict, VsockDoor,
};
pub use stream::{Down, Up};
pub use types::*;

/// Version of the messages. Peers of different versions refuse each other with a clear message.
pub const VERSION: u32 = 10;
/// Largest message on a client's socket, in bytes.
pub const MAX_MESSAGE: usize = 160 * 1024;
