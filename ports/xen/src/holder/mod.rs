//! Construct memory in dom0: pages of a domain that only holds them, granted page by page and domain by domain.
//!
//! | module | what it holds |
//! |---|---|
//! | `domain` | making and ending the holder, through `xl` |
//! | `image` | its kernel, which never runs |
//! | `ledger` | which page shows which frame, for the next life of a back-end that is killed |
//! | `libraries` | Xen's libraries, loaded when used |
//! | `numbers` | which of Xen's domains a domain is |
//! | `references` | who is granted which page |
//! | `room` | the back-end's own mappings |
//! | `runs` | sets of numbers that come one behind the other |
//! | `shown` | which page shows which frame |
//! | `stock` | pages populated and zeroed ahead of time |
//! | `store` | all of it together: [`GrantStore`] |
//! | `table` | the grant table as the hypervisor reads it |
//! | `watch` | notices that the holder is gone |

mod domain;
mod image;
mod ledger;
mod libraries;
mod numbers;
mod references;
mod room;
mod runs;
mod shown;
mod stock;
mod store;
mod table;
#[cfg(test)]
mod tests;
mod watch;

pub(crate) use domain::is_holder;
pub use store::{Ahead, GrantStore};

/// Whether memory can be granted here.
///
/// # Errors
/// What is missing, and what to do.
pub fn check() -> anyhow::Result<()> {
    let here = crate::here::Here::default();
    here.is_dom0()?;
    for device in ["privcmd", "gntdev", "gntalloc", "evtchn", "xenbus"] {
        here.device(device)?;
    }
    libraries::Libraries::load()?;
    domain::xl(&["info"]).map(drop)
}
