//! The programming models, and how a program is started in each.

use super::PARTIES;
use super::field::{Field, Ground, Party, cores};
use super::group::{Member, together};
use super::jobs::Job;
use anyhow::Result;
use std::process::Command;
use std::time::Duration;

/// A programming model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Model {
    /// Its name in tables.
    pub(super) name: &'static str,
    /// What the workshop calls its program.
    pub(super) program: &'static str,
    pub(super) how: How,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// One process, no model at all.
    Alone,
    /// Processes that share memory: as many as the job is for, or just one.
    Shared(Ground, Crowd),
    /// Threads.
    OpenMp,
    /// A launcher with these words behind it and these variables.
    Mpi(&'static [&'static str], &'static [(&'static str, &'static str)]),
}

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Crowd {
    /// As many as the job is for.
    All,
    /// One alone, for what the others add.
    One,
}

impl Model {
    /// Its name in tables.
    pub(super) fn title(&self, field: &Field) -> String {
        match self.how {
            How::Shared(ground @ Ground::Further, _) => format!("Vshmem, two {}", field.machines(ground)),
            _ => self.name.to_owned(),
        }
    }

    /// Whether it can run here with so many parties, or why not.
    pub(super) fn able(&self, field: &Field, parties: usize) -> Result<(), String> {
        if self.name == "MPICH, TCP" && parties > cores() {
            return Err(format!(
                "its processes look at their sockets busily, and {parties} of them on {} cores take minutes for it",
                cores()
            ));
        }
        match self.how {
            How::Shared(ground, _) => field.program(ground, self.program).map(drop),
            _ => field.shop.program(self.program).map(drop),
        }
    }

    /// Whether it takes part in a job: alone nobody meets, and teams differ from the others in how they meet, not in what they compute.
    pub(super) fn takes(&self, job: &Job) -> bool {
        match (self.how, job.collective()) {
            (How::Alone | How::Shared(_, Crowd::One), collective) => !collective,
            _ => job.collective() || self.program != "team",
        }
    }

    /// Runs all jobs, which are for the same number of parties, so many times over; gives what rank 0 wrote.
    pub(super) fn start(
        &self,
        field: &Field,
        jobs: &[Job],
        passes: usize,
        limit: Duration,
    ) -> Result<String> {
        let parties = jobs.first().map_or(PARTIES, Job::parties);
        let once = jobs.iter().map(Job::argument);
        let arguments: Vec<String> = once.cycle().take(passes * jobs.len()).collect();
        let mut command = match self.how {
            How::Alone => return run(field, Ground::Kernel, self, jobs, &arguments, 1, limit),
            How::Shared(ground, crowd) => {
                let parties = if crowd == Crowd::One { 1 } else { parties };
                return run(field, ground, self, jobs, &arguments, parties, limit);
            }
            How::OpenMp => {
                let mut command = Command::new(field.shop.program(self.program).map_err(anyhow::Error::msg)?);
                command
                    .env("OMP_PROC_BIND", "true")
                    .env("OMP_WAIT_POLICY", "active");
                command
            }
            How::Mpi(launcher, variables) => launch(field, self, launcher, variables, parties)?,
        };
        command.args(&arguments).env("CREW_PARTIES", parties.to_string());
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
}

/// The launcher of an MPI: a core for each process, where there are as many.
fn launch(
    field: &Field,
    model: &Model,
    launcher: &[&str],
    variables: &[(&str, &str)],
    parties: usize,
) -> Result<Command> {
    let fits = parties <= cores();
    let mut command = Command::new(launcher[0]);
    command.args(["-np", &parties.to_string()]);
    let open = model.program == "openmpi";
    command.args([
        if open { "--bind-to" } else { "-bind-to" },
        if fits { "core" } else { "none" },
    ]);
    if open && !fits {
        command.arg("--oversubscribe");
    }
    command
        .args(&launcher[1..])
        .arg(field.shop.program(model.program).map_err(anyhow::Error::msg)?)
        .envs(variables.iter().copied());
    Ok(command)
}

/// A process for each party, on a ground.
fn run(
    field: &Field,
    ground: Ground,
    model: &Model,
    jobs: &[Job],
    arguments: &[String],
    parties: usize,
    limit: Duration,
) -> Result<String> {
    let program = field.program(ground, model.program).map_err(anyhow::Error::msg)?;
    let bytes = jobs.iter().map(Job::bytes).max().unwrap_or(0);
    let key = Field::key();
    let party = |rank: usize| Party {
        arguments: arguments.to_vec(),
        environment: [
            ("CREW_RANK", rank.to_string()),
            ("CREW_PARTIES", parties.to_string()),
            ("CREW_KEY", key.clone()),
            ("CREW_BYTES", bytes.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into(),
    };
    let all: Vec<Party> = (0..parties).map(party).collect();
    field.run(ground, &program, &all, limit)
}

const MPICH: &[&str] = &["mpirun.mpich"];

pub(super) const MODELS: &[Model] = &[
    Model {
        name: "serial",
        program: "serial",
        how: How::Alone,
    },
    Model {
        name: "kernel System V",
        program: "sysv",
        how: How::Shared(Ground::Kernel, Crowd::All),
    },
    Model {
        name: "Vshmem, one domain",
        program: "sysv",
        how: How::Shared(Ground::Vshmem, Crowd::All),
    },
    Model {
        name: "Vshmem, two VMs",
        program: "sysv",
        how: How::Shared(Ground::Guests, Crowd::All),
    },
    Model {
        name: "Vshmem, one VM",
        program: "sysv",
        how: How::Shared(Ground::Guests, Crowd::One),
    },
    Model {
        name: "Vshmem team, one domain",
        program: "team",
        how: How::Shared(Ground::Vshmem, Crowd::All),
    },
    Model {
        name: "Vshmem team, two VMs",
        program: "team",
        how: How::Shared(Ground::Guests, Crowd::All),
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

/// Guests of another port, which run the small sizes alone.
pub(super) const FURTHER: Model = Model {
    name: "",
    program: "sysv",
    how: How::Shared(Ground::Further, Crowd::All),
};

/// It refuses to run as root otherwise, which a benchmark in a container is.
const OPEN_MPI: &[(&str, &str)] = &[
    ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
    ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
];
