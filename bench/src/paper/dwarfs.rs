//! The scientific programs (the paper's Figures 8 to 11), and the collectives that they meet by, in every programming model.

use super::Extent;
use super::campaign::{Batch, Campaign};
use super::field::Field;
use super::jobs::Job;
use super::models::{FURTHER, MODELS, Model};
use super::sample::Sample;
use anyhow::{Context, Result, bail, ensure};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

pub use super::jobs::jobs;

/// The programs' names.
pub const PROGRAMS: [&str; 5] = ["blas", "laplace", "pi", "nbody", "collective"];

/// How often a round runs everything in each model: a guest's boot takes longer than many a program.
const fn passes(extent: Extent) -> usize {
    match extent {
        Extent::Short => 1,
        Extent::Long => 2,
    }
}

/// Batches of these jobs: one for each model, and for each number of parties.
pub fn campaign(field: &Field, jobs: &[Job], extent: Extent) -> Campaign {
    let mut campaign = Campaign::default();
    let known = Rc::new(RefCell::new(Known::new()));
    for parties in jobs.iter().map(Job::parties).collect::<BTreeSet<_>>() {
        for model in MODELS {
            let mine: Vec<Job> = jobs
                .iter()
                .filter(|job| job.parties() == parties && model.takes(job))
                .cloned()
                .collect();
            if !mine.is_empty() {
                campaign.add(
                    model.able(field, parties),
                    batch(field, model, mine, extent, parties, &known),
                );
            }
        }
    }
    campaign
}

/// The small sizes of the programs that are wanted between two guests of a further port, once.
pub fn further(field: &Field, wanted: &[&str]) -> Campaign {
    let mut campaign = Campaign::default();
    let known = Rc::new(RefCell::new(Known::new()));
    let parties = super::PARTIES;
    let mine = super::jobs::small(wanted);
    let batch = batch(field, &FURTHER, mine, Extent::Short, parties, &known);
    campaign.add(
        FURTHER.able(field, parties),
        Batch {
            once: true,
            guess: Duration::from_secs(60),
            ..batch
        },
    );
    campaign
}

fn batch(
    field: &Field,
    model: &'static Model,
    jobs: Vec<Job>,
    extent: Extent,
    parties: usize,
    known: &Rc<RefCell<Known>>,
) -> Batch {
    let title = model.title(field);
    let name = match parties {
        super::PARTIES => format!("programs: {title}"),
        more => format!("programs: {title}, {more} parties"),
    };
    let known = known.clone();
    let limit = Duration::from_secs(match extent {
        _ if model == &FURTHER => 240,
        Extent::Short => 40,
        Extent::Long if parties > super::PARTIES => 120,
        Extent::Long => 600,
    });
    let run = move |field: &Field, round: usize| {
        let passes = passes(extent);
        let said = model.start(field, &jobs, passes, limit)?;
        let mut lines = said.lines();
        let mut samples = Vec::new();
        for pass in 0..passes {
            let one = read(&title, &jobs, &mut lines, round * passes + pass)?;
            agree(&jobs, &one, &mut known.borrow_mut())?;
            samples.extend(one);
        }
        Ok(samples)
    };
    Batch {
        name,
        guess: Duration::from_secs(if extent == Extent::Short { 2 } else { 12 }),
        once: false,
        run: Box::new(run),
    }
}

/// Reads a pass of rank 0's lines: one for each job, each near the known answer.
fn read(model: &str, jobs: &[Job], lines: &mut std::str::Lines<'_>, run: usize) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for job in jobs {
        let argument = job.argument();
        let line = lines.next().with_context(|| format!("no result of {argument}"))?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, nanoseconds, value, error, allowed] = words[..] else {
            bail!("not a result: {line}")
        };
        ensure!(name == argument, "a result of {name}, not of {argument}");
        let (error, allowed): (f64, f64) = (error.parse()?, allowed.parse()?);
        ensure!(
            error <= allowed,
            "{name} is wrong: off by {error}, at most {allowed} is right"
        );
        samples.push(Sample {
            program: job.program.into(),
            variant: job.variant.into(),
            model: model.into(),
            size: job.size,
            repetitions: job.repetitions,
            run,
            nanoseconds: nanoseconds.parse()?,
            value: Some(value.parse()?),
            spread: None,
        });
    }
    Ok(samples)
}

/// The first result that any model gave, by job.
type Known = BTreeMap<String, f64>;

/// That the results are those of the first model that gave any.
fn agree(jobs: &[Job], samples: &[Sample], known: &mut Known) -> Result<()> {
    for (job, sample) in jobs.iter().zip(samples) {
        let value = sample.value.unwrap_or(f64::NAN);
        let first = *known.entry(job.argument()).or_insert(value);
        let apart = (value - first).abs();
        ensure!(
            apart <= job.tolerance() * (1.0 + first.abs()),
            "{} gives {value}, the first model gave {first}",
            job.argument()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_missing_and_foreign_results_are_no_results() {
        let jobs = jobs("pi", Extent::Short, &[100]).unwrap();
        let read = |said: &str| read("serial", &jobs, &mut said.lines(), 0);
        assert!(read("pi:f64:100:200 5 3.14 1e-6 1e-5\n").is_ok());
        assert!(read("pi:f64:100:200 5 3.24 0.1 1e-5\n").is_err());
        assert!(read("pi:f64:100:200 5 3.14 nan 1e-5\n").is_err());
        assert!(read("pi:f64:101:200 5 3.14 1e-6 1e-5\n").is_err());
        assert!(read("").is_err());
        let (one, other) = (
            read("pi:f64:100:200 5 3.14 0 1\n").unwrap(),
            read("pi:f64:100:200 5 3.15 0 1\n").unwrap(),
        );
        let mut reference = Known::new();
        agree(&jobs, &one, &mut reference).unwrap();
        assert!(agree(&jobs, &one, &mut reference).is_ok() && agree(&jobs, &other, &mut reference).is_err());
    }
}
