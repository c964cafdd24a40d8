//! Which programs of which sizes run.

use super::{Extent, PARTIES};
use anyhow::{Result, ensure};

/// What is measured of meeting alone: its size is the number of parties.
pub(super) const COLLECTIVE: &str = "collective";
/// Most of them: so many guests are booted at once.
const MOST_PARTIES: u64 = 4;

/// One program of one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    pub(super) program: &'static str,
    pub(super) variant: &'static str,
    pub(super) size: u64,
    pub(super) repetitions: u64,
}

impl Job {
    pub(super) fn argument(&self) -> String {
        format!(
            "{}:{}:{}:{}",
            self.program, self.variant, self.size, self.repetitions
        )
    }

    /// Bytes that the parties share.
    pub(super) fn bytes(&self) -> u64 {
        let (n, width) = (u128::from(self.size), if self.variant == "f32" { 4 } else { 8 });
        let numbers = match self.program {
            "blas1" => 2 * n,
            "blas2" => n * n + 2 * n,
            "blas3" => 3 * n * n,
            "laplace" => 2 * n * n,
            "nbody" => 12 * n,
            _ => 0,
        };
        u64::try_from(numbers * width + 4096).unwrap_or(u64::MAX)
    }

    /// How far apart two models' results may be, as a part of them.
    pub(super) fn tolerance(&self) -> f64 {
        if self.variant == "f32" { 4e-3 } else { 1e-9 }
    }

    /// How many parties it is for.
    pub(super) fn parties(&self) -> usize {
        match self.collective() {
            true => self.size as usize,
            false => PARTIES,
        }
    }

    /// Whether it is about meeting alone.
    pub(super) fn collective(&self) -> bool {
        self.program == COLLECTIVE
    }
}

/// A row of the table of jobs: program, variants, sizes with their repetitions, short and long.
type Sizes = &'static [(u64, u64)];
const TABLE: &[(&str, &[&str], Sizes, Sizes)] = &[
    (
        "blas1",
        &["f32", "f64"],
        &[(1 << 10, 200), (1 << 14, 200), (1 << 18, 100)],
        &[
            (1 << 10, 1000),
            (1 << 12, 1000),
            (1 << 14, 1000),
            (1 << 16, 1000),
            (1 << 18, 1000),
            (1 << 20, 1000),
        ],
    ),
    (
        "blas2",
        &["f32", "f64"],
        &[(64, 200), (256, 200), (512, 100)],
        &[(64, 1000), (128, 1000), (256, 1000), (512, 1000), (1024, 1000)],
    ),
    (
        "blas3",
        &["f32", "f64"],
        &[(16, 200), (64, 100), (192, 20)],
        &[(16, 1000), (32, 1000), (64, 1000), (128, 1000), (256, 1000)],
    ),
    (
        "laplace",
        &["f64"],
        &[(32, 3000), (128, 200), (512, 100)],
        &[
            (32, 3000),
            (64, 1000),
            (128, 1000),
            (256, 1000),
            (512, 1000),
            (1024, 500),
        ],
    ),
    (
        "pi",
        &["f64"],
        &[(100, 200), (10_000, 200), (1_000_000, 20)],
        &[
            (100, 1000),
            (1000, 1000),
            (10_000, 1000),
            (100_000, 1000),
            (1_000_000, 200),
            (10_000_000, 20),
            (100_000_000, 2),
        ],
    ),
    (
        "nbody",
        &["2d", "3d"],
        &[(10, 10), (50, 100), (512, 20)],
        &[
            (1, 10),
            (2, 10),
            (5, 10),
            (10, 10),
            (20, 10),
            (50, 10),
            (1, 100),
            (2, 100),
            (5, 100),
            (10, 100),
            (20, 100),
            (50, 100),
            (256, 100),
            (1024, 100),
            (4096, 10),
        ],
    ),
    (
        COLLECTIVE,
        &["barrier", "spread", "reduce", "all"],
        &[(2, 2000), (4, 10)],
        // More parties than cores: each meeting waits for the scheduler, for milliseconds.
        &[(2, 20_000), (4, 10)],
    ),
];

/// What guests of a further port run, once: emulated ones are slower by orders of magnitude.
pub(super) fn small(wanted: &[&str]) -> Vec<Job> {
    let chosen = |row: &(&'static str, &[&'static str], Sizes, Sizes)| {
        let (program, variant) = (row.0, row.1[row.1.len() - 1]);
        let (size, repetitions) = row.2[0];
        Job {
            program,
            variant,
            size,
            repetitions: repetitions.min(200),
        }
    };
    let is_wanted = |name: &str| wanted.iter().any(|wanted| name.starts_with(wanted));
    TABLE.iter().filter(|row| is_wanted(row.0)).map(chosen).collect()
}

/// The jobs of a program (`blas` means all its levels); of these sizes only, if there are any.
///
/// # Errors
/// When there is no such program, or a size does not fit it or the machine.
pub fn jobs(program: &str, extent: Extent, sizes: &[u64]) -> Result<Vec<Job>> {
    let mut jobs = Vec::new();
    for (name, variants, short, long) in TABLE.iter().filter(|row| row.0.starts_with(program)) {
        let usual = if extent == Extent::Short { *short } else { *long };
        let asked: Vec<(u64, u64)> = sizes
            .iter()
            .map(|size| {
                (
                    *size,
                    usual
                        .iter()
                        .find(|u| u.0 >= *size)
                        .unwrap_or(&usual[usual.len() - 1])
                        .1,
                )
            })
            .collect();
        let wanted = if sizes.is_empty() { usual } else { &asked };
        for variant in *variants {
            jobs.extend(wanted.iter().map(|(size, repetitions)| Job {
                program: name,
                variant,
                size: *size,
                repetitions: *repetitions,
            }));
        }
    }
    ensure!(!jobs.is_empty(), "there is no program {program}");
    let room = room();
    for job in &jobs {
        ensure!(
            !job.collective() || (2..=MOST_PARTIES).contains(&job.size),
            "{} parties: a collective is measured with 2 to {MOST_PARTIES}",
            job.size
        );
        ensure!(
            job.size > 0,
            "{}: a size of 0 leaves nothing to compute; sizes begin at 1",
            job.program
        );
        ensure!(
            job.bytes() <= room,
            "{} of size {} needs {} MiB; there is room for {} MiB here",
            job.program,
            job.size,
            job.bytes() >> 20,
            room >> 20
        );
    }
    Ok(jobs)
}

/// Bytes that a program may share: of what the machine has free, what the daemon's pool holds, less what else is in there.
fn room() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let free = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kilobytes = free.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    (kilobytes.unwrap_or(1 << 20) << 10).min(1 << 30) / 4 * 3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paper::dwarfs::PROGRAMS;

    #[test]
    fn sizes_of_nothing_and_beyond_memory_are_refused() {
        let refused = |program, size| format!("{:#}", jobs(program, Extent::Short, &[size]).unwrap_err());
        assert!(refused("laplace", 0).contains("size of 0"));
        assert!(refused("laplace", 1 << 40).contains("there is room for"));
        assert!(refused("collective", 1).contains("with 2 to 4"));
        assert!(refused("collective", 5).contains("with 2 to 4"));
        assert!(refused("sorting", 1).contains("no program sorting"));
        assert_eq!(jobs("pi", Extent::Short, &[7]).unwrap().len(), 1);
    }

    #[test]
    fn every_program_has_jobs_that_fit() {
        for program in PROGRAMS {
            for extent in [Extent::Short, Extent::Long] {
                let jobs = jobs(program, extent, &[]).unwrap();
                assert!(jobs.len() >= 3, "{program}");
            }
        }
        let small = |wanted: &[&str]| super::small(wanted);
        assert!(small(&PROGRAMS).iter().all(|job| job.parties() == PARTIES));
        assert_eq!((small(&["blas"]).len(), small(&["pi"]).len()), (3, 1));
    }
}
