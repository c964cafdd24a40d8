//! `vshmem bench scale`: how operations and daemons fare as constructs, clients, domains and waiters become many.
//!
//! | part | what grows | what is measured beside it |
//! |---|---|---|
//! | `constructs` | segments, sets and queues, a third each, in the pool and with a file for each | every call, `/proc/sysvipc`, the daemon's memory |
//! | `clients` | processes with an attachment and an open set, over local domains | every call of one more process, the daemon's memory |
//! | `waiters` | threads of some processes that wait for one semaphore | calls on the same set, waking one |
//! | `guest` | processes in a guest | the front-end's memory |
//!
//! An operation is *flat* if it takes at most [`FLAT`] times as long with the most as with a hundred. Not for comparisons with the kernel: those are
//! [`crate::micro`]'s.

mod calls;
mod memory;
mod parts;
mod table;
pub(crate) mod worker;

pub use table::Point;

use anyhow::Result;
use std::path::PathBuf;

/// How many times as long an operation may take with the most as with a hundred.
pub const FLAT: f64 = 2.0;
/// As much as waking a sleeper may take of what it takes with a hundred. It is not flat in the kernel: futex(2) keeps all sleepers of the machine in 256 chains
/// for each CPU and walks one of them, each entry on another sleeper's stack and in no cache. Of ten thousand sleepers here that was 7.5 µs of a wake-up under
/// Vshmem, and 2.2 µs of one by a bare futex, against 1 µs of a thousand; all else of a wake-up stayed as it was.
pub const FLAT_WAKING: f64 = 8.0;

/// What to run.
#[derive(Debug, Clone)]
pub struct ScaleOptions {
    /// The `vshmem` command to run workers with.
    pub program: PathBuf,
    /// Fewer of everything: for tests.
    pub short: bool,
    /// Only this part.
    pub only: Option<String>,
    /// Guest port for the part with a guest; None: leave it out.
    pub guests: Option<&'static str>,
}

/// The parts by name.
pub const PARTS: [&str; 5] = ["constructs", "files", "clients", "waiters", "guest"];

/// Runs the parts. `tell` gets each point as it is measured, `show` each finished table. Gives what was not flat.
pub fn scale(
    options: &ScaleOptions,
    tell: &mut dyn FnMut(&Point),
    show: &mut dyn FnMut(&str),
) -> Result<Vec<String>> {
    let mut steep = Vec::new();
    for part in PARTS {
        if options.only.as_deref().is_some_and(|only| only != part) {
            continue;
        }
        let mut points = parts::Points::new(part, tell);
        let note = parts::run(part, options, &mut points)?;
        let points = points.all;
        show(&table::table(part, &points, note.as_deref()));
        steep.extend(table::steep(&points));
    }
    Ok(steep)
}
