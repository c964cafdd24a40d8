//! Notices that somebody else has ended the holder: what is mapped stays, and nobody would be told why nothing new can be.

use anyhow::Context;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often it is looked whether the holder is there.
pub(super) const EVERY: Duration = Duration::from_secs(2);

/// A thread that looks, as long as somebody has this.
#[derive(Debug)]
pub(super) struct Watch {
    gone: Arc<AtomicBool>,
}

impl Watch {
    /// Looks so often by `is_there`, whose errors say nothing, and says `gone` once in the log.
    pub(super) fn start(
        every: Duration,
        gone: String,
        is_there: impl Fn() -> anyhow::Result<bool> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let watch = Watch { gone: Arc::default() };
        let told = Arc::downgrade(&watch.gone);
        let thread = std::thread::Builder::new().name("vshmem-holder".into());
        let looks = move || {
            loop {
                std::thread::sleep(every);
                let Some(told) = told.upgrade() else { return };
                let Ok(there) = is_there() else { continue };
                if told.swap(!there, Ordering::Relaxed) == there && !there {
                    tracing::error!("{gone}");
                }
            }
        };
        thread
            .spawn(looks)
            .context("a thread that looks after the holder")?;
        Ok(watch)
    }

    /// Whether the holder was not there when it was looked last.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;
    use std::time::Instant;

    fn until(what: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !what() {
            assert!(Instant::now() < end, "it never came to this");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn an_answer_that_does_not_come_says_nothing_and_one_that_changes_is_taken() {
        let (answer, asked) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let (says, counts) = (Arc::clone(&answer), Arc::clone(&asked));
        let watch = Watch::start(Duration::from_millis(1), "gone".to_owned(), move || {
            counts.fetch_add(1, Ordering::SeqCst);
            match says.load(Ordering::SeqCst) {
                0 => anyhow::bail!("no answer"),
                1 => Ok(false),
                _ => Ok(true),
            }
        })
        .unwrap();
        let some_more = || {
            let before = asked.load(Ordering::SeqCst);
            until(|| asked.load(Ordering::SeqCst) > before + 1);
        };
        some_more();
        assert!(!watch.is_gone());
        answer.store(1, Ordering::SeqCst);
        until(|| watch.is_gone());
        answer.store(0, Ordering::SeqCst);
        some_more();
        assert!(watch.is_gone());
        answer.store(2, Ordering::SeqCst);
        until(|| !watch.is_gone());
        drop(watch);
        // The thread holds what it asks by only as long as it looks.
        until(|| Arc::strong_count(&answer) == 1);
    }
}
