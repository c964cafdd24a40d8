//! The Xen port: construct memory in grants, page by page and domain by domain, from a domain that only holds it.
//!
//! | module | what it holds |
//! |---|---|
//! | [`boot`], [`inside`] | start a guest on the host's own root, and what that guest must know |
//! | [`here`] | what of Xen this machine has: whether it runs on Xen, as dom0 or as a guest, and with which devices |
//!
//! Nothing of Xen is needed to build it: what dom0 needs of Xen's libraries is loaded when it is used.

pub mod boot;
pub mod here;
pub mod inside;
