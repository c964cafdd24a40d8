//! The conformance suite: what every port must do, written once.
//!
//! A port's test program implements [`Fixture`] (start a domain, end it) and runs every [`Check`] of [`CHECKS`]. In each domain a small agent
//! runs, [`serve`], which does what the check tells it over the port's own stream, on the port's own memory: so the suite goes through the very
//! [`Store`](crate::store::Store) and [`GuestPort`](crate::guest::GuestPort) that the daemons use.
//!
//! | module | what it holds |
//! |---|---|
//! | `script` | what a check may tell an agent to do |
//! | `line` | one end of a stream, with a bound on every wait |
//! | `region` | memory as an agent maps it: the only unsafe code |
//! | `agent` | the agent |
//! | `machine` | a machine that the port boots, as a domain: for ports that can boot some |
//! | `session` | a check's own view: the store, the domains and what it asks of them |
//! | `memory`, `granted`, `stream`, `bells`, `direct`, `hostile` | the checks |
//!
//! Not for what constructs mean: no check knows of a semaphore.

mod agent;
mod bells;
mod direct;
mod granted;
mod hostile;
mod line;
mod machine;
mod memory;
mod region;
mod script;
mod session;
mod stream;

pub use agent::serve;
pub use machine::{boot, in_guest};

use crate::direct::DirectBells;
use crate::store::Store;
use rustix::fd::{BorrowedFd, OwnedFd};
use session::Session;
use vshmem_wire::Window;

/// Bytes of the pool that fixtures make where the port has pools: small, since a guest's first touch of a page is dear.
pub const POOL_BYTES: u64 = 8 << 20;

/// A port under test.
pub trait Fixture {
    /// A new store of the kind that the port uses, empty. Pools are of [`POOL_BYTES`].
    fn new_store(&self) -> anyhow::Result<Box<dyn Store>>;
    /// Starts a domain that reaches `store`, with the agent in it.
    fn start(&self, store: &dyn Store) -> anyhow::Result<Box<dyn Domain>>;
    /// The host's bells with nobody in between, where the port has such.
    fn direct_bells(&self) -> anyhow::Result<Option<Box<dyn DirectBells>>> {
        Ok(None)
    }
    /// The port's number of the machine of a domain of this name, where the port has such bells.
    fn machine(&self, name: &str) -> anyhow::Result<u32> {
        anyhow::bail!("the machine of {name:?} has no number")
    }
}

/// A domain that was started. Dropping it ends it and leaves nothing running.
pub trait Domain {
    /// The host's end of its stream.
    fn stream(&self) -> BorrowedFd<'_>;
    /// The host's ends of its ring line and of its bells, where the port has bells.
    fn bells(&self) -> &[OwnedFd] {
        &[]
    }
    /// Gives it a descriptor that the store made for it, where the port does that from outside. A domain that reaches the pool by a device drops it.
    fn hand(&mut self, memory: OwnedFd, window: Window) -> anyhow::Result<()>;
    /// The name by which the store finds its machine, where it must: see [`Store::introduce`].
    fn name(&self) -> &str {
        ""
    }
    /// Ends it at once, without warning, as a crash would.
    fn kill(&mut self);
}

/// One thing that a port must do.
#[derive(Clone, Copy)]
pub struct Check {
    /// The rule, as a test's name.
    pub name: &'static str,
    body: fn(&mut Session<'_>) -> anyhow::Result<()>,
}

impl Check {
    /// Runs it. Every wait within is bounded.
    ///
    /// # Errors
    /// What the port did wrong.
    pub fn run(&self, fixture: &dyn Fixture) -> anyhow::Result<()> {
        (self.body)(&mut Session::new(fixture)?)
    }
}

/// Every check.
pub const CHECKS: &[Check] = &[
    check("two_domains_see_each_others_stores", memory::seen),
    check("atomics_are_atomic_across_domains", memory::atomic),
    check(
        "extents_are_mapped_in_any_order_and_growth_is_seen",
        memory::extents,
    ),
    check("the_whole_pool_is_reached_and_its_size_known", memory::whole),
    check("memory_comes_back_zeroed", memory::zeroed),
    check("read_only_windows_refuse_writing", memory::read_only),
    check("what_is_revoked_is_mapped_by_nobody_new", granted::revoked),
    check("grants_of_others_map_nothing", granted::forged),
    check("a_thousand_rings_arrive_each_once_or_more", stream::rings),
    check("bells_ring_once_or_more_and_never_go_deaf", bells::bells),
    check("domains_ring_each_other_with_nobody_in_between", direct::direct),
    check("messages_of_every_size_arrive_whole", stream::sizes),
    check("a_reader_that_sleeps_loses_nothing", stream::slow),
    check("a_killed_domain_is_noticed_and_the_others_go_on", stream::killed),
    check("a_domain_that_ends_is_noticed", stream::ended),
    check(
        "rubbish_in_memory_harms_only_what_its_writer_reaches",
        hostile::memory,
    ),
    check("rubbish_on_the_stream_harms_nobody", hostile::stream),
];

const fn check(name: &'static str, body: fn(&mut Session<'_>) -> anyhow::Result<()>) -> Check {
    Check { name, body }
}
