//! Batches in rounds: every batch once a round, so that what disturbs the machine for a while disturbs all alike.

use super::field::Field;
use super::sample::Sample;
use anyhow::Result;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What runs in one go.
pub struct Batch {
    /// For people: `pi, laplace: two guests`.
    pub name: String,
    /// How long it is expected to take before it has ever run.
    pub guess: Duration,
    /// Whether the first round is enough.
    pub once: bool,
    /// Runs it, as the run of this number.
    pub run: Box<Work>,
}

/// A batch's work.
pub type Work = dyn Fn(&Field, usize) -> Result<Vec<Sample>>;

/// Something that was not measured.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Gap {
    /// What.
    pub name: String,
    /// Why.
    pub why: String,
    /// Whether it should have been possible: a program failed, as opposed to a package that is missing.
    pub failed: bool,
}

/// What came of a campaign.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Every measurement of the batches that never failed.
    pub samples: Vec<Sample>,
    /// What is missing and why.
    pub gaps: Vec<Gap>,
}

impl Outcome {
    /// Whether something failed that should have worked.
    pub fn failed(&self) -> bool {
        self.gaps.iter().any(|gap| gap.failed)
    }
}

/// Batches to run, and what cannot run here.
#[derive(Default)]
pub struct Campaign {
    /// In this order.
    pub batches: Vec<Batch>,
    /// Known beforehand.
    pub gaps: Vec<Gap>,
}

impl Campaign {
    /// Adds another's.
    pub fn extend(&mut self, other: Campaign) {
        self.batches.extend(other.batches);
        self.gaps.extend(other.gaps);
    }

    /// Adds a batch if `able` says that it can run here.
    pub(crate) fn add(&mut self, able: Result<(), String>, batch: Batch) {
        match able {
            Ok(()) => self.batches.push(batch),
            Err(why) => self.gaps.push(Gap {
                name: batch.name,
                why,
                failed: false,
            }),
        }
    }

    /// Runs everything `rounds` times; `tell` is given a line of progress before each batch. A batch that fails once is left out of the rest, and
    /// all that it gave before is dropped: half a measurement is none.
    pub fn run(self, field: &Field, rounds: usize, tell: &mut dyn FnMut(&str)) -> Outcome {
        let mut outcome = Outcome {
            samples: Vec::new(),
            gaps: self.gaps,
        };
        for gap in &outcome.gaps {
            tell(&format!("left out: {}: {}", gap.name, gap.why));
        }
        let mut took: BTreeMap<usize, Duration> = BTreeMap::new();
        let mut given: BTreeMap<usize, Vec<Sample>> = BTreeMap::new();
        let mut failed: BTreeMap<usize, String> = BTreeMap::new();
        for round in 0..rounds {
            for (i, batch) in self.batches.iter().enumerate() {
                let over = crate::interrupt::came().is_some();
                if over || failed.contains_key(&i) || batch.once && round > 0 {
                    continue;
                }
                let expected = |j: usize| took.get(&j).copied().unwrap_or(self.batches[j].guess);
                let going = |j: &usize| !failed.contains_key(j);
                let again = |j: &usize| going(j) && !self.batches[*j].once;
                let whole: Duration = (0..self.batches.len()).filter(again).map(expected).sum();
                let rest: Duration = (i..self.batches.len()).filter(going).map(expected).sum();
                let left = rest + whole * (rounds - round - 1) as u32;
                tell(&format!(
                    "run {} of {rounds}, {:>2} of {}: {:<40} about {} left",
                    round + 1,
                    i + 1,
                    self.batches.len(),
                    batch.name,
                    words(left)
                ));
                let start = Instant::now();
                match (batch.run)(field, round) {
                    Ok(samples) => given.entry(i).or_default().extend(samples),
                    Err(error) => {
                        tell(&format!("FAILED: {}: {error:#}", batch.name));
                        failed.insert(i, format!("{error:#}"));
                    }
                }
                took.insert(i, start.elapsed());
            }
        }
        for (i, batch) in self.batches.into_iter().enumerate() {
            match failed.remove(&i) {
                Some(why) => outcome.gaps.push(Gap {
                    name: batch.name,
                    why,
                    failed: true,
                }),
                None => outcome.samples.extend(given.remove(&i).unwrap_or_default()),
            }
        }
        outcome
    }
}

/// A duration as people say it.
fn words(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..=89 => format!("{seconds} s"),
        seconds => format!("{} min", seconds.div_ceil(60)),
    }
}
