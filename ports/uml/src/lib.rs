//! The UML port: pool through /dev/mmapper, serial line as stream.
//!
//! | module | what it holds |
//! |---|---|
//! | [`boot`] | starts `linux.uml` on the host's own root, and ends it with all its helpers |
//! | [`inside`] | what a guest's first process calls things inside such a guest |
//! | [`guest`] | the stream and the memory, as a front-end inside a guest sees them |
//! | `length` | how long the memory is, found without touching it |
//! | `memory` | whether the place where UML keeps a guest's memory serves |

pub mod boot;
pub mod guest;
pub mod inside;
mod length;
mod memory;
