//! What both daemons need of the operating system: sockets, identities, waiting, shared pages.
//!
//! | module | what it holds |
//! |---|---|
//! | [`socket`] | datagrams with descriptors and credentials |
//! | [`identity`] | who a process is, and what became of it |
//! | [`reactor`] | waiting for many descriptors |
//! | [`clock`] | the seconds
//! | [`heap`] | memory given back when much has gone |
//! | [`limit`] | a bound on log lines that others cause |
//! | [`pages`] | the time page and the wait page |
//! | [`signals`] | SIGTERM and SIGINT as a descriptor |
//! | [`stream`] | a framed byte stream with a bounded queue |

pub(crate) mod clock;
pub(crate) mod heap;
pub(crate) mod identity;
pub(crate) mod limit;
pub(crate) mod pages;
pub(crate) mod reactor;
pub(crate) mod signals;
pub(crate) mod socket;
pub(crate) mod stream;
