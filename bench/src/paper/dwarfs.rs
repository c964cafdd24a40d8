//! The scientific programs (the paper's Figures 8 to 11) in every programming model.

use super::campaign::{Batch, Campaign};
use super::field::{Field, Ground, Party};
use super::group::{Member, together};
use super::sample::Sample;
use super::{Extent, PARTIES};
use anyhow::{Context, Result, bail, ensure};
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

/// The programs' names.
pub const PROGRAMS: [&str; 4] = ["blas", "laplace", "pi", "nbody"];

/// A programming model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Model {
    /// Its name in tables.
    name: &'static str,
    /// What the workshop calls its program.
    program: &'static str,
    how: How,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// One process, no model at all.
    Alone,
    /// System V, so many parties.
    SystemV(Ground, usize),
    /// Threads.
    OpenMp,
    /// A launcher with these words before the program and these variables.
    Mpi(&'static [&'static str], &'static [(&'static str, &'static str)]),
}

const MPICH: &[&str] = &["mpirun.mpich", "-np", "2", "-bind-to", "core"];

const MODELS: &[Model] = &[
    Model {
        name: "serial",
        program: "serial",
        how: How::Alone,
    },
    Model {
        name: "kernel System V",
        program: "sysv",
        how: How::SystemV(Ground::Kernel, PARTIES),
    },
    Model {
        name: "Vshmem, one domain",
        program: "sysv",
        how: How::SystemV(Ground::Vshmem, PARTIES),
    },
    Model {
        name: "Vshmem, two VMs",
        program: "sysv",
        how: How::SystemV(Ground::Guests, PARTIES),
    },
    Model {
        name: "Vshmem, one VM",
        program: "sysv",
        how: How::SystemV(Ground::Guests, 1),
    },
    Model {
        name: "OpenMP",
        program: "openmp",
        how: How::OpenMp,
    },
    Model {
        name: "MPICH",
        program: "mpich",
        how: How::Mpi(MPICH, &[]),
    },
    Model {
        name: "MPICH, TCP",
        program: "mpich",
        how: How::Mpi(
            MPICH,
            &[
                ("MPIR_CVAR_NOLOCAL", "1"),
                ("UCX_TLS", "tcp,self"),
                ("FI_PROVIDER", "tcp"),
            ],
        ),
    },
    Model {
        name: "Open MPI",
        program: "openmpi",
        how: How::Mpi(
            &[
                "mpirun.openmpi",
                "-np",
                "2",
                "--bind-to",
                "core",
                "--mca",
                "pml",
                "ob1",
                "--mca",
                "btl",
                "vader,self",
            ],
            OPEN_MPI,
        ),
    },
    Model {
        name: "Open MPI, TCP",
        program: "openmpi",
        how: How::Mpi(
            &[
                "mpirun.openmpi",
                "-np",
                "2",
                "--bind-to",
                "core",
                "--mca",
                "pml",
                "ob1",
                "--mca",
                "btl",
                "tcp,self",
            ],
            OPEN_MPI,
        ),
    },
];

/// It refuses to run as root otherwise, which a benchmark in a container is.
const OPEN_MPI: &[(&str, &str)] = &[
    ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
    ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
];

/// How often a round runs everything in each model: a guest's boot takes longer than many a program.
const fn passes(extent: Extent) -> usize {
    match extent {
        Extent::Short => 1,
        Extent::Long => 3,
    }
}

/// One program of one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    program: &'static str,
    variant: &'static str,
    size: u64,
    repetitions: u64,
}

impl Job {
    fn argument(&self) -> String {
        format!(
            "{}:{}:{}:{}",
            self.program, self.variant, self.size, self.repetitions
        )
    }

    /// Bytes that the parties share.
    fn bytes(&self) -> u64 {
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
    fn tolerance(&self) -> f64 {
        if self.variant == "f32" { 4e-3 } else { 1e-9 }
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
];

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

/// Batches of these jobs: one for each model.
pub fn campaign(field: &Field, jobs: &[Job], extent: Extent) -> Campaign {
    let mut campaign = Campaign::default();
    let jobs: Rc<[Job]> = jobs.into();
    let reference = Rc::new(std::cell::RefCell::new(Vec::new()));
    for model in MODELS {
        let able = field
            .shop
            .program(model.program)
            .map(drop)
            .and_then(|()| match model.how {
                How::SystemV(Ground::Guests, _) => field.guests().map(drop),
                _ => Ok(()),
            });
        let (jobs, reference) = (jobs.clone(), reference.clone());
        let run = move |field: &Field, round: usize| {
            let limit = Duration::from_secs(if extent == Extent::Short { 40 } else { 600 });
            let passes = passes(extent);
            let said = start(field, model, &jobs, passes, limit)?;
            let mut lines = said.lines();
            let mut samples = Vec::new();
            for pass in 0..passes {
                let one = read(model, &jobs, &mut lines, round * passes + pass)?;
                agree(&jobs, &one, &mut reference.borrow_mut())?;
                samples.extend(one);
            }
            Ok(samples)
        };
        let guess = Duration::from_secs(if extent == Extent::Short { 2 } else { 12 });
        campaign.add(
            able,
            Batch {
                name: format!("programs: {}", model.name),
                guess,
                run: Box::new(run),
            },
        );
    }
    campaign
}

/// Runs all jobs in a model, so many times over; gives what rank 0 wrote.
fn start(field: &Field, model: &Model, jobs: &[Job], passes: usize, limit: Duration) -> Result<String> {
    let program = field.shop.program(model.program).map_err(anyhow::Error::msg)?;
    let once = jobs.iter().map(Job::argument);
    let arguments: Vec<String> = once.cycle().take(passes * jobs.len()).collect();
    let bytes = jobs.iter().map(Job::bytes).max().unwrap_or(0);
    let key = Field::key();
    let party = |rank: usize, parties: usize| Party {
        arguments: arguments.clone(),
        environment: [
            ("CREW_RANK", rank.to_string()),
            ("CREW_PARTIES", parties.to_string()),
            ("CREW_KEY", key.clone()),
            ("CREW_BYTES", bytes.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into(),
    };
    let mut command = match model.how {
        How::Alone => return field.run(Ground::Kernel, &program, &[party(0, 1)], limit),
        How::SystemV(ground, parties) => {
            let all: Vec<Party> = (0..parties).map(|rank| party(rank, parties)).collect();
            return field.run(ground, &program, &all, limit);
        }
        How::OpenMp => {
            let mut command = Command::new(&program);
            command
                .env("OMP_PROC_BIND", "true")
                .env("OMP_WAIT_POLICY", "active");
            command
        }
        How::Mpi(launcher, variables) => {
            let mut command = Command::new(launcher[0]);
            command
                .args(&launcher[1..])
                .arg(&program)
                .envs(variables.iter().copied());
            command
        }
    };
    command.args(&arguments).env("CREW_PARTIES", PARTIES.to_string());
    let mut said = together(
        vec![Member {
            command,
            cpu: None,
            card: None,
        }],
        limit,
    )?;
    Ok(said.swap_remove(0))
}

/// Reads a pass of rank 0's lines: one for each job, each near the known answer.
fn read(model: &Model, jobs: &[Job], lines: &mut std::str::Lines<'_>, run: usize) -> Result<Vec<Sample>> {
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
            model: model.name.into(),
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

/// That the results are those of the first model that gave any.
fn agree(jobs: &[Job], samples: &[Sample], reference: &mut Vec<f64>) -> Result<()> {
    let values = samples.iter().map(|s| s.value.unwrap_or(f64::NAN));
    if reference.is_empty() {
        reference.extend(values);
        return Ok(());
    }
    for ((job, value), first) in jobs.iter().zip(values).zip(reference.iter()) {
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
    fn sizes_of_nothing_and_beyond_memory_are_refused() {
        let refused = |program, size| format!("{:#}", jobs(program, Extent::Short, &[size]).unwrap_err());
        assert!(refused("laplace", 0).contains("size of 0"));
        assert!(refused("laplace", 1 << 40).contains("there is room for"));
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
    }

    #[test]
    fn wrong_missing_and_foreign_results_are_no_results() {
        let jobs = jobs("pi", Extent::Short, &[100]).unwrap();
        let read = |said: &str| read(&MODELS[0], &jobs, &mut said.lines(), 0);
        assert!(read("pi:f64:100:200 5 3.14 1e-6 1e-5\n").is_ok());
        assert!(read("pi:f64:100:200 5 3.24 0.1 1e-5\n").is_err());
        assert!(read("pi:f64:100:200 5 3.14 nan 1e-5\n").is_err());
        assert!(read("pi:f64:101:200 5 3.14 1e-6 1e-5\n").is_err());
        assert!(read("").is_err());
        let (one, other) = (
            read("pi:f64:100:200 5 3.14 0 1\n").unwrap(),
            read("pi:f64:100:200 5 3.15 0 1\n").unwrap(),
        );
        let mut reference = Vec::new();
        agree(&jobs, &one, &mut reference).unwrap();
        assert!(agree(&jobs, &one, &mut reference).is_ok() && agree(&jobs, &other, &mut reference).is_err());
    }
}
