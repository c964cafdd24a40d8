//! The Xen port: construct memory in grants, page by page and domain by domain, from a domain that only holds it.
//!
//! | module | what it holds |
//! |---|---|
//! | [`boot`], [`inside`] | start a guest on the host's own root, and what that guest must know |
//! | [`here`] | what of Xen this machine has: whether it runs on Xen, as dom0 or as a guest, and with which devices |
//! | [`devices`] | the calls of Linux's Xen devices |
//! | [`xenstore`] | Xenstore, by the kernel's device |
//! | [`directory`] | constructs in Xenstore, where each guest finds those that it may see |
//! | [`holder`] | on the host: construct memory |
//! | `map` | a descriptor for one mapping of granted pages |
//! | [`line`] | the byte stream between a guest and dom0, over a granted page and an event channel |
//! | [`bells`] | event channels by which domains ring each other |
//! | `owner` | whether whoever made something is still there |
//! | [`guest`] | the stream and the memory, as a front-end inside a guest sees them |
//! | `xl` | Xen's toolstack |
//!
//! Nothing of Xen is needed to build it: what dom0 needs of Xen's libraries is loaded when it is used.

pub mod bells;
pub mod boot;
pub mod devices;
pub mod directory;
pub mod guest;
pub mod here;
pub mod holder;
pub mod inside;
pub mod line;
mod map;
mod owner;
pub mod xenstore;
mod xl;
