//! Huge pages for tests that need some: set aside for a while, and given back afterwards.
//!
//! Not for places that have none by their nature, such as User-mode Linux.

use crate::alone::alone;
use std::fs::File;
use std::path::Path;

/// Huge pages of the default size that a test may count on.
const PAGES: u64 = 8;
const COUNT: &str = "/proc/sys/vm/nr_hugepages";

/// Pages that are set aside as long as this lives.
pub struct HugePages {
    before: u64,
    /// Others who set pages aside wait meanwhile.
    _lock: File,
}

fn count() -> Option<u64> {
    std::fs::read_to_string(COUNT).ok()?.trim().parse().ok()
}

/// Huge pages that nobody uses, by /proc/meminfo; None where the default is not of 2 MiB.
fn free() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':')
            .split_whitespace()
            .next()?
            .parse::<u64>()
            .ok()
    };
    (value("Hugepagesize")? == 2048).then(|| value("HugePages_Free"))?
}

impl HugePages {
    /// Sets some aside.
    ///
    /// # Errors
    /// Why that cannot be done here.
    pub fn set_aside() -> Result<HugePages, String> {
        HugePages::of_number(PAGES)
    }

    /// Sets so many aside.
    ///
    /// # Errors
    /// Why that cannot be done here.
    pub fn of_number(wanted: u64) -> Result<HugePages, String> {
        let why = |what: &str| format!("huge pages cannot be set aside here: {what}");
        if !Path::new(COUNT).exists() {
            return Err(why("the kernel has none"));
        }
        let lock = alone("huge-pages").map_err(|e| why(&format!("their lock: {e}")))?;
        let before = count().ok_or_else(|| why("their number cannot be read"))?;
        let pages = HugePages { before, _lock: lock };
        let used = before.saturating_sub(free().ok_or_else(|| why("the default is not of 2 MiB"))?);
        // As many free ones as are wanted and no more: a test may say what happens when they are used up.
        std::fs::write(COUNT, (used + wanted).to_string()).map_err(|e| why(&e.to_string()))?;
        match free() {
            Some(free) if free == wanted => Ok(pages),
            found => Err(why(&format!("the kernel gives {found:?} of {wanted}"))),
        }
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        if let Err(e) = std::fs::write(COUNT, self.before.to_string()) {
            eprintln!("{COUNT} cannot be set back to {}: {e}", self.before);
        }
    }
}
