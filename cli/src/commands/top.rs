//! `vshmem top`: the back-end, its domains and its constructs, drawn again every second.

use crate::connection::Connection;
use crate::inventory::{Inventory, KINDS, key, user};
use crate::place::Place;
use crate::table::{self, Head};
use crate::text::human_size;
use crate::trouble::{Outcome, Trouble};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use vshmem_wire::{Kind, Stat, StatBody, Status};

/// Shows the back-end, its domains and its constructs, again and again. Ctrl-C ends it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vshmem top
  vshmem top --interval 0.5
  vshmem top --count 1 > snapshot")]
pub(crate) struct Top {
    #[command(flatten)]
    place: Place,
    /// Seconds between two looks, up to a day
    #[arg(long, value_name = "SECS", default_value = "1", value_parser = interval)]
    interval: Duration,
    /// End after so many looks
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// The shortest time between two looks, and the longest.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(86_400);

fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds: &f64| !seconds.is_nan());
    let interval = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let interval = interval.filter(|interval| *interval <= LONGEST);
    interval.ok_or_else(|| format!("'{text}' is not a number of seconds up to a day"))
}

/// Goes to the alternate screen, and back from it when dropped.
struct Screen;

impl Screen {
    fn enter() -> Self {
        print!("\x1b[?1049h\x1b[?25l");
        Screen
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        print!("\x1b[?25h\x1b[?1049l");
        let _ = std::io::stdout().flush();
    }
}

/// Runs the command.
pub(crate) fn run(options: &Top) -> Outcome {
    let interval = options.interval.max(SHORTEST);
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP, SIGQUIT] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|error| Trouble::new("signals", error))?;
    }
    let mut inventory = Inventory::open(Connection::open(&options.place)?)?;
    let terminal = std::io::stdout().is_terminal();
    let _screen = terminal.then(Screen::enter);
    let mut looks = 0;
    loop {
        let text = match picture(&mut inventory) {
            Ok(text) => text,
            Err(_) => {
                // The daemon may have been started again: its successor answers, or says why not.
                inventory = Inventory::open(Connection::open(&options.place)?)?;
                picture(&mut inventory)?
            }
        };
        if terminal {
            draw(&text);
        } else {
            println!("{text}");
        }
        looks += 1;
        if options.count.is_some_and(|count| looks >= count) {
            return Ok(0);
        }
        let until = Instant::now() + interval;
        while Instant::now() < until {
            if stop.load(Ordering::Relaxed) {
                return Ok(0);
            }
            std::thread::sleep(Duration::from_millis(20).min(interval));
        }
    }
}

/// As many lines as the terminal has, each cut to its width.
fn draw(text: &str) {
    let size = rustix::termios::tcgetwinsize(std::io::stdout())
        .ok()
        .filter(|size| size.ws_row > 0 && size.ws_col > 0);
    let (rows, columns) = size.map_or((24, 80), |size| {
        (usize::from(size.ws_row), usize::from(size.ws_col))
    });
    print!("{}", fitted(text, rows, columns));
    let _ = std::io::stdout().flush();
}

/// The upper left corner of the text, as large as the screen, and what draws it there. Nothing follows the last line, which would move all of them up.
fn fitted(text: &str, rows: usize, columns: usize) -> String {
    let mut out = String::from("\x1b[H");
    for (row, line) in text.lines().take(rows).enumerate() {
        out.push_str(if row > 0 { "\r\n" } else { "" });
        out.extend(line.chars().take(columns));
        // A line that is full has nothing behind it; there the cursor still stands on its last character.
        out.push_str(if line.chars().count() < columns {
            "\x1b[K"
        } else {
            ""
        });
    }
    out.push_str(if text.lines().count() < rows {
        "\r\n\x1b[J"
    } else {
        ""
    });
    out
}

fn picture(inventory: &mut Inventory) -> Result<String, Trouble> {
    let status = inventory.refresh()?;
    let mut text = heading(&status);
    let heads = ["DOMAIN", "PORT", "STATE", "CLIENTS"].map(Head::left);
    let rows: Vec<Vec<String>> = status
        .domains
        .iter()
        .map(|d| {
            let state = if d.up { "up" } else { "gone" };
            vec![
                d.name.clone(),
                d.port.clone(),
                state.to_owned(),
                d.clients.to_string(),
            ]
        })
        .collect();
    let _ = writeln!(text, "\n{}", table::render(&heads, &rows, false));
    let mut rows = Vec::new();
    for kind in KINDS {
        rows.extend(
            inventory
                .list(kind)?
                .iter()
                .map(|stat| row(inventory, kind, stat)),
        );
    }
    let heads = ["KIND", "KEY", "ID", "OWNER", "DOMAIN", "HOLDS", "LAST"].map(Head::left);
    let _ = writeln!(text, "{}", table::render(&heads, &rows, false));
    Ok(text)
}

fn heading(status: &Status) -> String {
    let groups = status.groups.iter().map(|group| match group.pool_bytes {
        0 => format!("group {}", group.name),
        bytes => format!(
            "group {}, pool {} of {}",
            group.name,
            human_size(group.used),
            human_size(bytes)
        ),
    });
    let groups = groups.collect::<Vec<_>>().join(", ");
    let up = super::status::span(status.uptime);
    format!(
        "vshmem {}, {groups}, {} in quarantine, up {up}, restarted {} times\n",
        status.version,
        human_size(status.quarantine),
        status.restarts
    )
}

fn row(inventory: &Inventory, kind: Kind, stat: &Stat) -> Vec<String> {
    let (word, holds, last) = match &stat.body {
        StatBody::Shm {
            segsz, nattch, lpid, ..
        } => (
            "shm",
            format!("{}, {nattch} attached", human_size(*segsz)),
            inventory.pid(*lpid),
        ),
        StatBody::Sem { nsems, .. } => ("sem", format!("{nsems} semaphores"), String::new()),
        StatBody::Msg {
            qnum,
            cbytes,
            qbytes,
            lspid,
            lrpid,
            ..
        } => (
            "msg",
            format!(
                "{qnum} messages, {} of {}",
                human_size(*cbytes),
                human_size(*qbytes)
            ),
            format!("{} > {}", inventory.pid(*lspid), inventory.pid(*lrpid)),
        ),
    };
    debug_assert_eq!(kind, stat.body.kind());
    vec![
        word.to_owned(),
        key(&stat.perm),
        stat.id.to_string(),
        user(stat.perm.uid),
        inventory.domain(stat.domain),
        holds,
        last,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_fits_the_smallest_screen() {
        let text = "one two\nthree\nfour\n";
        assert_eq!(fitted(text, 1, 3), "\x1b[Hone");
        assert_eq!(fitted(text, 2, 7), "\x1b[Hone two\r\nthree\x1b[K");
        assert_eq!(
            fitted(text, 24, 80),
            "\x1b[Hone two\x1b[K\r\nthree\x1b[K\r\nfour\x1b[K\r\n\x1b[J"
        );
    }

    #[test]
    fn intervals_are_up_to_a_day() {
        assert_eq!(interval("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["", "x", "-1", "nan", "inf", "1e19", "90000"] {
            assert!(interval(bad).is_err(), "{bad}");
        }
    }
}
