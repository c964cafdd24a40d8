//! `vshmem bench`: measurements, each against its baseline in the same run. The measuring itself is `vshmem-bench`'s.

use super::evaluation::{self, Programs};
use crate::trouble::{Outcome, Trouble};
use vshmem_bench::scale::{PARTS, Point, ScaleOptions, scale};
use vshmem_bench::{MicroOptions, Row, interrupt};

/// Measures, each figure against its baseline in the same run.
#[derive(Debug, clap::Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Micro(Micro),
    Scale(Scale),
    #[command(flatten)]
    Programs(Programs),
    /// The measured loops, by command on standard input
    #[command(hide = true)]
    Worker,
    /// Sends back what the stream to the host brings, in a guest without a front-end
    #[command(hide = true)]
    Echo {
        /// The guest's port
        port: String,
    },
}

/// Single operations: semaphores, messages, handoffs between processes and between guests.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
The two sides of every comparison take turns in short rounds; what is reported is the median of the rounds.

Examples:
  vshmem bench micro
  vshmem bench micro --only sem_ --rounds 9
  vshmem bench micro --guests none --json

With --json one object a line: {\"name\", \"domains\", \"value\", \"unit\", \"baseline\", \"baseline_value\", \"ratio\"}, and {\"note\"} where there is one.")]
struct Micro {
    /// Rounds of each comparison
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// A factor for the number of iterations in a round
    #[arg(long, default_value = "1", value_name = "FACTOR", value_parser = factor)]
    scale: f64,
    /// Only rows whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Port of the guests for the rows between two of them; auto: the first that can start guests here; none: leave these rows out
    #[arg(long, value_name = "PORT", default_value = "auto", value_parser = guests())]
    guests: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Many constructs, clients, domains and waiters: what operations cost then, and what the daemons use.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Constructs up to 32,000 in the pool and with a file each, clients up to 1,000 over 64 domains, waiters on one set up to 10,000; then the front-end of a
guest. Each figure of time is the median of 60 operations. An operation is flat if it takes at most twice as long with the most as with a hundred; the
exit status is 1 if one is not.

Examples:
  vshmem bench scale
  vshmem bench scale --only waiters
  vshmem bench scale --short --json

With --json one object a line: {\"part\", \"count\", \"what\", \"value\", \"unit\"}.")]
struct Scale {
    /// Fewer of everything: less than a minute
    #[arg(long)]
    short: bool,
    /// Only this part
    #[arg(long, value_name = "PART", value_parser = PARTS)]
    only: Option<String>,
    /// Port of the guest whose front-end is looked at; auto: the first that can start guests here; none: leave that out
    #[arg(long, value_name = "PORT", default_value = "auto", value_parser = guests())]
    guests: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn factor(text: &str) -> Result<f64, String> {
    let factor = text
        .parse()
        .ok()
        .filter(|factor: &f64| factor.is_finite() && *factor > 0.0);
    factor.ok_or_else(|| format!("'{text}' is not a factor above 0"))
}

pub(crate) fn guests() -> clap::builder::PossibleValuesParser {
    ["auto", "none"]
        .iter()
        .chain(vshmem_port_select::BOOTABLE)
        .copied()
        .collect::<Vec<_>>()
        .into()
}

/// The port to start guests with; None, said on standard error, if there is none. One that was asked for by name, and starts none here, is an error: why.
pub(crate) fn guest_port(asked: &str) -> Result<Option<&'static str>, String> {
    let able = |port: &str| {
        let check = vshmem_port_select::boot(port).map(|boot| boot.check());
        match check {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("no rows between guests of port {port}: {error}")),
            Err(error) => Err(format!("no rows between guests of port {port}: {error}")),
        }
    };
    let mut ports = vshmem_port_select::BOOTABLE.iter().copied();
    match asked {
        "none" => Ok(None),
        "auto" => Ok(ports.find(|port| {
            let able = able(port);
            able.inspect_err(|why| eprintln!("vshmem: {why}")).is_ok()
        })),
        named => {
            let port = ports.find(|port| *port == named);
            port.map(|port| able(port).map(|()| port)).transpose()
        }
    }
}

/// The same, for a command that ends if a port that was named starts no guests.
fn guests_or_trouble(asked: &str) -> Result<Option<&'static str>, Trouble> {
    guest_port(asked).map_err(|why| {
        Trouble::new("bench", why).remedy("leave --guests out for a port that can, or give --guests none")
    })
}

/// Runs the command.
pub(crate) fn run(options: &Bench) -> Outcome {
    if !matches!(options.what, What::Worker | What::Echo { .. }) {
        interrupt::watch().map_err(|error| Trouble::new("signals", error))?;
    }
    let outcome = measure(options);
    match interrupt::came() {
        Some(signal) => {
            eprintln!("vshmem: bench: interrupted");
            Ok(128 + signal as u8)
        }
        None => outcome,
    }
}

fn measure(options: &Bench) -> Outcome {
    match &options.what {
        What::Micro(options) => micro(options),
        What::Scale(options) => at_scale(options),
        What::Programs(programs) => evaluation::run(programs),
        What::Worker => match vshmem_bench::worker::worker() {
            Ok(()) => Ok(0),
            Err(error) => Err(Trouble::new("worker", format!("{error:#}"))),
        },
        What::Echo { port } => match vshmem_bench::stream::echo(port) {
            Ok(()) => Ok(0),
            Err(error) => Err(Trouble::new("echo", format!("{error:#}"))),
        },
    }
}

fn micro(options: &Micro) -> Outcome {
    let program = std::env::current_exe().map_err(|error| Trouble::new("bench", error))?;
    let all = MicroOptions {
        program,
        rounds: options.rounds.into(),
        scale: options.scale,
        only: options.only.clone(),
        guests: guests_or_trouble(&options.guests)?,
    };
    if !options.json {
        say!("{}", Row::heading());
    }
    let mut tell = |row: &Row| {
        if options.json {
            match serde_json::to_string(row) {
                Ok(line) => say!("{line}"),
                Err(error) => eprintln!("vshmem: {}: {error}", row.name),
            }
        } else {
            say!("{}", row.line());
        }
    };
    vshmem_bench::micro(&all, &mut tell).map_err(|error| Trouble::new("bench", format!("{error:#}")))?;
    Ok(0)
}

fn at_scale(options: &Scale) -> Outcome {
    let program = std::env::current_exe().map_err(|error| Trouble::new("bench", error))?;
    let wants_guest = options.only.as_deref().is_none_or(|only| only == "guest");
    let all = ScaleOptions {
        program,
        short: options.short,
        only: options.only.clone(),
        guests: if wants_guest {
            guests_or_trouble(&options.guests)?
        } else {
            None
        },
    };
    let progress = !options.json && std::io::IsTerminal::is_terminal(&std::io::stderr());
    let mut tell = |point: &Point| {
        if options.json {
            match serde_json::to_string(point) {
                Ok(line) => say!("{line}"),
                Err(error) => eprintln!("vshmem: {}: {error}", point.what),
            }
        } else if progress {
            eprint!("\r\x1b[K{} {}: {} …", point.count, point.part, point.what);
        }
    };
    let mut show = |table: &str| {
        if progress {
            eprint!("\r\x1b[K");
        }
        if !options.json {
            say!("{table}");
        }
    };
    let steep = scale(&all, &mut tell, &mut show);
    let steep = steep.map_err(|error| Trouble::new("bench", format!("{error:#}")))?;
    for line in &steep {
        eprintln!("vshmem: not flat: {line}");
    }
    Ok(u8::from(!steep.is_empty()))
}
