//! A bound on log lines that others can cause.

use std::time::{Duration, Instant};

/// So many lines within [`WINDOW`]; what is more is counted and told of later.
const MOST: u32 = 20;
const WINDOW: Duration = Duration::from_secs(10);

/// Lets some lines through.
#[derive(Debug)]
pub(crate) struct Limit {
    since: Instant,
    lines: u32,
}

impl Limit {
    /// Nothing said yet.
    pub(crate) fn new() -> Self {
        Limit {
            since: Instant::now(),
            lines: 0,
        }
    }

    /// Whether one more line may be written.
    pub(crate) fn allows(&mut self) -> bool {
        if self.since.elapsed() > WINDOW {
            if self.lines > MOST {
                tracing::warn!("{} more lines like those before were left out", self.lines - MOST);
            }
            *self = Limit::new();
        }
        self.lines = self.lines.saturating_add(1);
        self.lines <= MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut() {
        let mut limit = Limit::new();
        assert_eq!((0..1000).filter(|_| limit.allows()).count(), MOST as usize);
        limit.since -= WINDOW + Duration::from_secs(1);
        assert!(limit.allows());
    }
}
