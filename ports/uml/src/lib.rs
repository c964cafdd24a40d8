//! The UML port: pool through /dev/mmapper, serial line as stream.
//!
//! | module | what it holds |
//! |---|---|
//! | [`guest`] | the stream and the memory, as a front-end inside a guest sees them |

pub mod guest;
