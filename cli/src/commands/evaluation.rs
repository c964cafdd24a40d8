//! `vshmem bench sync`, `socket`, `peers`, `blas`, `laplace`, `pi`, `nbody`, `collective`: the paper's programs. The measuring itself is `vshmem-bench`'s.

use super::bench::{guest_port, guests};
use crate::trouble::{Outcome, Trouble};
use std::io::IsTerminal;
use vshmem_bench::paper::report::{PROGRAMS, ReportOptions, claims, report};
use vshmem_bench::paper::{self, Campaign, Extent, Field, dwarfs, exchange, summary};

/// The paper's programs, each in every programming model that is here.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Programs {
    /// Control passed to and fro: the kernel's System V IPC, Vshmem in one domain, Vshmem between two guests
    Sync(Program),
    /// The same over TCP and UDP between two guests and on loopback, vsock, a unix socket, a pipe
    Socket(Program),
    /// The same by iceoryx2, POSIX shared memory with futex or eventfd, POSIX queues, ZeroMQ, and queues of the kernel and Vshmem
    Peers(Peers),
    /// Dense linear algebra of levels 1, 2, 3 in both precisions
    Blas(Program),
    /// Laplace's equation by Jacobi's method
    Laplace(Program),
    /// π by integration, broadcast and reduction
    Pi(Program),
    /// Molecular dynamics by velocity Verlet in two and three dimensions
    Nbody(Program),
    /// Barrier, broadcast and reductions of 2 and 4 parties: by hand, by teams of the library, by OpenMP and MPI
    Collective(Program),
    Report(Report),
}

/// How a program is measured.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
The programs are C, compiled here with the same options for every model: serial, kernel System V, Vshmem in one domain and in two guests (one and the
same program file), OpenMP, MPICH and Open MPI over shared memory and over TCP. Each model runs once a round, with --long twice. Results are checked against the known answer
and each other; a model that fails is left out as a whole, and the exit status is 1. What is not installed is left out and named.

Examples:
  vshmem bench sync
  vshmem bench laplace --sizes 64,512 --rounds 9
  vshmem bench pi --long --json

With --json one object a line: {\"program\", \"variant\", \"model\", \"size\", \"repetitions\", \"run\", \"nanoseconds\", …}: of an exchange there and back the
mean, of any other program all its repetitions together.")]
pub(crate) struct Program {
    /// Runs of each model
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// The paper's sizes and repetitions and larger ones, instead of a few
    #[arg(long)]
    long: bool,
    /// These sizes only: bytes, elements, rows, intervals or particles
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    sizes: Vec<u64>,
    /// Port of the guests; auto: the first that can start guests here; none: leave the models between guests out
    #[arg(long, value_name = "PORT", default_value = "auto", value_parser = guests())]
    guests: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How the peers are measured.
#[derive(Debug, clap::Args)]
pub(crate) struct Peers {
    #[command(flatten)]
    program: Program,
    /// Build the program that measures iceoryx2 first, with cargo, if it is not built yet
    #[arg(long)]
    build: bool,
}

/// All programs at once: raw values, the paper's figures, and what is claimed beside what was measured
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Writes samples.csv, report.json, the figures as SVG, and index.html, which shows them. Run it on a machine that does nothing else: parties that wait for each
other busily need their cores. With --short it takes less than three minutes, else less than 25. Every target is printed with what was measured, as met or missed.
Guests of a second port (--further) run small sizes once; where software emulates their processor, their rows say so. iceoryx2 takes part once `vshmem bench peers --build` has built it.

Examples:
  vshmem bench report --short --out /tmp/report
  vshmem bench report --rounds 9 --only sync,socket --out report")]
pub(crate) struct Report {
    /// A few sizes and repetitions: less than three minutes
    #[arg(long)]
    short: bool,
    /// Runs of everything [default: 2 with --short, else 3]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: Option<u16>,
    /// The folder to write to; made if it is not there
    #[arg(long, value_name = "DIR", default_value = "vshmem-report")]
    out: std::path::PathBuf,
    /// These programs only
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = PROGRAMS)]
    only: Vec<String>,
    /// Port of the guests; auto: the first that can start guests here; none: leave the models between guests out
    #[arg(long, value_name = "PORT", default_value = "auto", value_parser = guests())]
    guests: String,
    /// Another port whose guests run small sizes, once; auto: the next that can start guests here, none with --short; none: leave these rows out
    #[arg(long, value_name = "PORT", default_value = "auto", value_parser = guests())]
    further: String,
}

/// The port of further guests, which is not that of the others, or why there is none.
fn further_port(options: &Report, guests: Option<&str>) -> Result<&'static str, String> {
    if options.short && options.further == "auto" || options.further == "none" {
        return Err("without a further port, as asked".into());
    }
    let mut why = "no further port can start guests here; `vshmem doctor` says why".to_owned();
    for port in vshmem_port_select::BOOTABLE {
        let asked = options.further == "auto" || options.further == *port;
        if Some(*port) == guests || !asked {
            continue;
        }
        match vshmem_port_select::boot(port).map(|boot| boot.check()) {
            Ok(Ok(())) => return Ok(port),
            Ok(Err(error)) => why = format!("port {port}: {error}"),
            Err(error) => why = format!("port {port}: {error}"),
        }
    }
    Err(why)
}

/// The port of guests, or why there are none.
pub(crate) fn port_of_guests(asked: &str) -> Result<&'static str, String> {
    guest_port(asked)?.ok_or_else(|| match asked {
        "none" => "without guests, as asked".into(),
        _ => "no port can start guests here; `vshmem doctor` says why".into(),
    })
}

/// Shows progress: a line that is written over on a terminal, else a line each.
pub(crate) fn progress() -> impl FnMut(&str) {
    let terminal = std::io::stderr().is_terminal();
    move |line: &str| {
        if terminal && line.starts_with("run ") {
            eprint!("\r\x1b[K{line}");
        } else if terminal {
            eprintln!("\r\x1b[Kvshmem: {line}");
        } else {
            eprintln!("vshmem: {line}");
        }
    }
}

fn trouble(error: &anyhow::Error) -> Trouble {
    Trouble::new("bench", format!("{error:#}"))
}

/// Runs the command.
pub(crate) fn run(programs: &Programs) -> Outcome {
    let (name, options) = match programs {
        Programs::Sync(options) => ("sync", options),
        Programs::Socket(options) => ("socket", options),
        Programs::Peers(peers) => {
            if peers.build {
                paper::iceoryx2::build().map_err(|error| trouble(&error))?;
            }
            ("peers", &peers.program)
        }
        Programs::Blas(options) => ("blas", options),
        Programs::Laplace(options) => ("laplace", options),
        Programs::Pi(options) => ("pi", options),
        Programs::Nbody(options) => ("nbody", options),
        Programs::Collective(options) => ("collective", options),
        Programs::Report(options) => return whole(options).map_err(|error| trouble(&error)),
    };
    measure(name, options).map_err(|error| trouble(&error))
}

fn measure(name: &'static str, options: &Program) -> anyhow::Result<u8> {
    let extent = if options.long { Extent::Long } else { Extent::Short };
    let further = Err("they are measured by `vshmem bench report`".into());
    let field = Field::open(
        &std::env::current_exe()?,
        port_of_guests(&options.guests),
        further,
    )?;
    let mut campaign = Campaign::default();
    if exchange::PROGRAMS.contains(&name) {
        campaign.extend(exchange::campaign(&field, &[name], extent, &options.sizes)?);
    } else {
        let jobs = dwarfs::jobs(name, extent, &options.sizes)?;
        campaign.extend(dwarfs::campaign(&field, &jobs, extent));
    }
    let outcome = campaign.run(&field, options.rounds.into(), &mut progress());
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
    if options.json {
        for sample in &outcome.samples {
            say!("{}", serde_json::to_string(sample)?);
        }
    } else {
        for line in summary::lines(&outcome.samples) {
            say!("{line}");
        }
    }
    for gap in outcome.gaps.iter().filter(|gap| gap.failed) {
        eprintln!("vshmem: {} failed: {}", gap.name, gap.why);
    }
    Ok(u8::from(outcome.failed()))
}

fn whole(options: &Report) -> anyhow::Result<u8> {
    let all = ReportOptions {
        extent: if options.short {
            Extent::Short
        } else {
            Extent::Long
        },
        rounds: options
            .rounds
            .map_or(if options.short { 2 } else { 3 }, usize::from),
        out: options.out.clone(),
        only: options.only.clone(),
    };
    let guests = port_of_guests(&options.guests);
    let further = further_port(options, guests.as_ref().ok().copied());
    let field = Field::open(&std::env::current_exe()?, guests, further)?;
    let (claimed, well) = report(&field, &all, &mut progress())?;
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
    for line in claims::lines(&claimed) {
        say!("{line}");
    }
    say!("{}", options.out.join("index.html").display());
    Ok(u8::from(!well))
}
