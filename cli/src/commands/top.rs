//! `vshmem top`: the back-end, its domains and its constructs, drawn again every second.

use crate::connection::Connection;
use crate::inventory::{Inventory, KINDS, key, user};
use crate::place::Place;
use crate::table::{self, Head};
use crate::text::human_size;
use crate::trouble::{Outcome, Trouble};
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
    /// Seconds between two looks
    #[arg(long, value_name = "SECS", default_value_t = 1.0)]
    interval: f64,
    /// End after so many looks
    #[arg(long, value_name = "NUMBER")]
    count: Option<u64>,
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
    let interval = Duration::try_from_secs_f64(options.interval.max(0.05))
        .map_err(|error| Trouble::new("interval", error).with_status(2))?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|error| Trouble::new("signals", error))?;
    }
    let mut inventory = Inventory::open(Connection::open(&options.place)?)?;
    let terminal = std::io::stdout().is_terminal();
    let _screen = terminal.then(Screen::enter);
    let mut looks = 0;
    loop {
        let text = picture(&mut inventory)?;
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
        .filter(|size| size.ws_row > 1 && size.ws_col > 0);
    let (rows, columns) = size.map_or((24, 80), |size| {
        (usize::from(size.ws_row), usize::from(size.ws_col))
    });
    let mut out = String::from("\x1b[H");
    for line in text.lines().take(rows - 1) {
        out.extend(line.chars().take(columns));
        out.push_str("\x1b[K\r\n");
    }
    out.push_str("\x1b[J");
    print!("{out}");
    let _ = std::io::stdout().flush();
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
