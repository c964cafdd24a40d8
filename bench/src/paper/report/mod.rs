//! `vshmem bench report`: a chosen set of measurements as raw values, plots laid out as the paper's figures, and a table of what was claimed beside
//! what was measured.
//!
//! | module | what it holds |
//! |---|---|
//! | [`figures`] | which figures there are and which samples are in them |
//! | [`plot`] | one plot: a mean line and a dot for each run, on logarithmic axes |
//! | [`claims`] | what is claimed, and what these samples say of it |
//! | [`machine`] | what it ran on |
//! | [`page`] | the HTML page |

pub mod claims;
pub mod figures;
pub mod machine;
pub mod page;
pub mod plot;

use super::campaign::{Campaign, Outcome};
use super::sample::Sample;
use super::{Extent, Field, dwarfs, exchange};
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// What to report.
#[derive(Debug, Clone)]
pub struct ReportOptions {
    /// How much to measure.
    pub extent: Extent,
    /// Rounds.
    pub rounds: usize,
    /// The folder to write to.
    pub out: PathBuf,
    /// The programs that are wanted; empty: all.
    pub only: Vec<String>,
}

/// The programs of a report.
pub const PROGRAMS: [&str; 8] = [
    "sync",
    "socket",
    "peers",
    "blas",
    "laplace",
    "pi",
    "nbody",
    "collective",
];

/// Measures, and writes `samples.csv`, `report.json`, `index.html` and the figures. Gives what is claimed and what came of it, and
/// whether everything that ran ran well.
///
/// # Errors
/// When the folder cannot be written.
pub fn report(
    field: &Field,
    options: &ReportOptions,
    tell: &mut dyn FnMut(&str),
) -> Result<(Vec<claims::Claim>, bool)> {
    // Before an hour of measuring, not after it.
    std::fs::create_dir_all(&options.out).with_context(|| options.out.display().to_string())?;
    let machine = machine::Machine::look(field.guests());
    let wanted = |name: &&str| options.only.is_empty() || options.only.iter().any(|o| o == name);
    let mut campaign = Campaign::default();
    let exchanges: Vec<&str> = exchange::PROGRAMS.into_iter().filter(wanted).collect();
    campaign.extend(exchange::campaign(field, &exchanges, options.extent, &[])?);
    let mut jobs = Vec::new();
    let programs: Vec<&str> = dwarfs::PROGRAMS.into_iter().filter(wanted).collect();
    for program in &programs {
        jobs.extend(dwarfs::jobs(program, options.extent, &[])?);
    }
    if !jobs.is_empty() {
        campaign.extend(dwarfs::campaign(field, &jobs, options.extent));
        if options.extent == Extent::Long {
            campaign.extend(dwarfs::further(field, &programs));
        }
    }
    let start = std::time::Instant::now();
    let outcome = campaign.run(field, options.rounds, tell);
    let machine = machine.after(start.elapsed());
    let claims = write(&options.out, &outcome, &machine, options)?;
    Ok((claims, !outcome.failed()))
}

/// Writes everything there is to write.
fn write(
    out: &Path,
    outcome: &Outcome,
    machine: &machine::Machine,
    options: &ReportOptions,
) -> Result<Vec<claims::Claim>> {
    let mut csv = String::from(Sample::CSV);
    for sample in &outcome.samples {
        let _ = write!(csv, "\n{}", sample.csv());
    }
    csv.push('\n');
    put(out, "samples.csv", &csv)?;
    let claims = claims::claims(&outcome.samples);
    let json = serde_json::json!({
        "machine": machine,
        "extent": if options.extent == Extent::Short { "short" } else { "long" },
        "rounds": options.rounds,
        "claims": claims,
        "met": claims.iter().filter(|c| c.met == Some(true)).count(),
        "missed": claims.iter().filter(|c| c.met == Some(false)).count(),
        "gaps": outcome.gaps,
        "samples": outcome.samples,
    });
    put(out, "report.json", &serde_json::to_string(&json)?)?;
    let mut shown = Vec::new();
    for figure in figures::figures(&outcome.samples) {
        let mut plots = Vec::new();
        for plot in &figure.plots {
            put(out, &plot.file(), &plot.svg()?)?;
            plots.push(plot.file());
        }
        shown.push((figure, plots));
    }
    put(
        out,
        "index.html",
        &page::page(outcome, machine, options, &claims, &shown),
    )?;
    Ok(claims)
}

fn put(out: &Path, name: &str, text: &str) -> Result<()> {
    let path = out.join(name);
    std::fs::write(&path, text).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests;
