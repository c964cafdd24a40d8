//! The demonstration: a back-end, two guests, unmodified programs, figures.
//!
//! | module | what it holds |
//! |---|---|
//! | `programs` | the C programs |
//! | `party` | a script in a guest, whose lines arrive as they are printed |
//!
//! Two scripts run, one in each domain. They keep step with each other by System V IPC alone. A line that begins with `@` is for the
//! narrator: `@scene TEXT` is a heading, `@figure NAME round trip X us` a result.

mod party;
mod programs;

use crate::backend::Backend;
use crate::place::Place;
use crate::trouble::{FAILED, Outcome, Trouble};
use party::{Event, Party};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::io::FdFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// The `--port` of a demonstration without virtual machines.
pub(crate) const CONTAINERS: &str = "containers";
/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(180);
const TCP_PORT: &str = "4077";
const DOMAINS: [&str; 2] = ["a", "b"];
const ADDRESSES: [&str; 2] = ["10.77.0.1", "10.77.0.2"];

/// What is to be shown.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Port of the guests, or `auto`, or [`CONTAINERS`].
    pub(crate) port: String,
    /// Round trips measured.
    pub(crate) turns: u32,
    /// Print the figures as JSON as well.
    pub(crate) json: bool,
}

/// Runs it.
pub(crate) fn run(settings: &Settings) -> Outcome {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|error| Trouble::new("signals", error))?;
    }
    let began = Instant::now();
    let port = choose(&settings.port)?;
    let folder = tempfile::Builder::new()
        .prefix("vshmem-demo.")
        .tempdir()
        .map_err(|error| Trouble::new("temporary folder", error))?;
    heading("Unmodified C programs, compiled with cc: ping, pong, post, inbox");
    programs::compile(folder.path())?;
    let mut figures = BTreeMap::new();
    heading("First, for comparison, ping and pong with the kernel's own System V IPC, in one kernel");
    kernel(settings, folder.path(), &mut figures, &stop)?;

    heading("Starting a back-end (vshmem serve) in a temporary folder");
    let backend = Backend::start(&Place {
        runtime_dir: Some(folder.path().join("run")),
        domain: None,
    })?;
    match &port {
        Some(port) => {
            heading(&format!(
                "Booting two virtual machines (port {port}), domains a and b, with `vshmem vm run`"
            ));
        }
        None => heading("Starting two containers, domains a and b, each with an IPC namespace of its own"),
    }
    let stage = Stage {
        settings,
        folder: folder.path(),
        port: port.as_deref(),
        backend: &backend,
    };
    let (events, heard) = channel();
    let mut parties = stage.parties(&events)?;
    drop(events);
    while let Some(event) = next(&heard, &stop, began + LIMIT)? {
        match event {
            Event::Line(party, line) => narrate(party, &line, &mut figures, began),
            Event::Complaint(party, line) => eprintln!("{}: {line}", DOMAINS[party]),
            Event::Silent(party) => parties[party].ended_well()?,
        }
    }
    drop(parties);
    drop(backend);
    results(port.as_deref(), &figures);
    say!("\nCleaned up. {:.0} s in all.", began.elapsed().as_secs_f64());
    if settings.json {
        let unit = |micros: &f64| serde_json::json!({"unit": "us", "value": micros});
        let all: BTreeMap<_, _> = figures
            .iter()
            .map(|(name, micros)| (name, unit(micros)))
            .collect();
        say!("{}", serde_json::json!(all));
    }
    Ok(if figures.len() == 3 { 0 } else { FAILED })
}

/// The port to use, None for containers.
fn choose(asked: &str) -> Result<Option<String>, Trouble> {
    if asked == CONTAINERS {
        return Ok(None);
    }
    match crate::commands::vm::port(asked) {
        Ok(port) => Ok(Some(port)),
        Err(why) if asked == "auto" => {
            say!("No virtual machine can be booted here: {}.", why.why());
            say!("Two containers take their place: one kernel, but System V IPC of their own.");
            Ok(None)
        }
        Err(why) => Err(why),
    }
}

fn heading(text: &str) {
    say!("\n=== {text}");
}

/// Where the scripts run.
struct Stage<'a> {
    settings: &'a Settings,
    folder: &'a Path,
    port: Option<&'a str>,
    backend: &'a Backend,
}

impl Stage<'_> {
    fn parties(&self, events: &std::sync::mpsc::Sender<Event>) -> Result<Vec<Party>, Trouble> {
        let cards = match self.port {
            None => None,
            Some(_) => Some(cable()?),
        };
        let mut parties = Vec::new();
        for (number, name) in DOMAINS.into_iter().enumerate() {
            let mut command = match (self.port, &cards) {
                (Some(port), Some(cards)) => self.guest(port, number, &cards[number])?,
                _ => self.container(number)?,
            };
            command
                .arg("sh")
                .arg("-c")
                .arg(self.script(number))
                .current_dir(self.folder);
            parties.push(Party::start(name, number, command, events)?);
        }
        Ok(parties)
    }

    fn guest(&self, port: &str, number: usize, card: &OwnedFd) -> Result<Command, Trouble> {
        let mut command = Command::new(own()?);
        let network = format!("{},{}", card.as_raw_fd(), ADDRESSES[number]);
        command.args([
            "vm",
            "run",
            "--port",
            port,
            "--domain",
            DOMAINS[number],
            "--network",
            &network,
        ]);
        if cpus() > 1 {
            command.args(["--cpus", &number.to_string()]);
        }
        command
            .arg("--runtime-dir")
            .arg(self.backend.place().folder())
            .arg("--");
        Ok(command)
    }

    fn container(&self, number: usize) -> Result<Command, Trouble> {
        let mut command = native(Path::new("unshare"), number);
        command.arg("--ipc");
        if !rustix::process::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        command
            .arg("--")
            .arg(own()?)
            .args(["run", "--domain", DOMAINS[number], "--runtime-dir"]);
        command.arg(self.backend.place().folder()).arg("--");
        Ok(command)
    }

    /// What a domain does. The two keep step by the exchanges themselves.
    fn script(&self, number: usize) -> String {
        let turns = self.settings.turns;
        let tcp_turns = (turns / 10).clamp(20, 2000);
        let other = if self.port.is_some() {
            ADDRESSES[1]
        } else {
            "127.0.0.1"
        };
        if number == 0 {
            format!(
                "set -e\n\
                 echo \"$(uname -sr), host $(uname -n)\"\n\
                 echo '@scene a: ipcmk, the one of util-linux, makes a segment. b: ipcs, also unmodified, sees it from the other side'\n\
                 ipcmk -M 65536\n\
                 ./ping 1 > /dev/null; ./ping 1 > /dev/null\n\
                 echo '@scene a: ping, b: pong. They exchange text in a segment and take turns by semaphores'\n\
                 ./ping 3\n\
                 echo '@scene a: post, b: inbox. Letters through a message queue, the most urgent first'\n\
                 ./post\n\
                 echo '@scene The same programs, measured'\n\
                 echo \"@figure vshmem $(./ping {turns})\"\n\
                 echo \"@figure tcp $(./tcp client {other} {TCP_PORT} {tcp_turns})\"\n\
                 ipcrm -a\n"
            )
        } else {
            format!(
                "set -e\n\
                 echo \"$(uname -sr), host $(uname -n)\"\n\
                 ./pong; ipcs -m | sed '/^$/d'; ./pong\n\
                 ./pong\n\
                 ./inbox\n\
                 ./pong\n\
                 ./tcp server {TCP_PORT}\n"
            )
        }
    }
}

/// Two network cards with a cable between them, inherited by children.
fn cable() -> Result<[OwnedFd; 2], Trouble> {
    let trouble = |errno| Trouble::new("network between the guests", errno);
    let (a, b) =
        socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::empty(), None).map_err(trouble)?;
    for card in [&a, &b] {
        rustix::io::fcntl_setfd(card, FdFlags::empty()).map_err(trouble)?;
    }
    Ok([a, b])
}

fn own() -> Result<std::path::PathBuf, Trouble> {
    std::env::current_exe().map_err(|error| Trouble::new("demo", error))
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

/// A program on this host, on a CPU of its own where there are two.
fn native(program: &Path, cpu: usize) -> Command {
    if cpus() < 2 {
        return Command::new(program);
    }
    let mut command = Command::new("taskset");
    command.args(["-c", &cpu.to_string()]).arg(program);
    command
}

/// Ping and pong with the kernel's own IPC.
fn kernel(
    settings: &Settings,
    folder: &Path,
    figures: &mut BTreeMap<String, f64>,
    stop: &AtomicBool,
) -> Result<(), Trouble> {
    let (events, heard) = channel();
    let mut ping = native(&folder.join("ping"), 0);
    ping.arg(settings.turns.to_string());
    let pong = Party::start("pong", 1, native(&folder.join("pong"), 1), &events)?;
    let ping = Party::start("ping", 0, ping, &events)?;
    drop(events);
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        match next(&heard, stop, until)? {
            Some(Event::Line(0, line)) => figure(figures, "kernel", &line),
            Some(Event::Line(_, line) | Event::Complaint(_, line)) => say!("    {line}"),
            Some(Event::Silent(_)) => {}
            None => break,
        }
    }
    drop((ping, pong));
    if let Some(micros) = figures.get("kernel") {
        say!("    round trip {micros:.2} µs");
    }
    Ok(())
}

/// The next event; None when there are no more.
fn next(heard: &Receiver<Event>, stop: &AtomicBool, until: Instant) -> Result<Option<Event>, Trouble> {
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(Trouble::new("demo", "interrupted").with_status(130));
        }
        if Instant::now() > until {
            return Err(Trouble::new("demo", "it takes too long; it was ended").with_status(124));
        }
        match heard.recv_timeout(Duration::from_millis(100)) {
            Ok(event) => return Ok(Some(event)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
        }
    }
}

/// Prints a line, or does what it says.
fn narrate(party: usize, line: &str, figures: &mut BTreeMap<String, f64>, began: Instant) {
    if let Some(text) = line.strip_prefix("@scene ") {
        heading(text);
    } else if let Some((name, text)) = line
        .strip_prefix("@figure ")
        .and_then(|rest| rest.split_once(' '))
    {
        figure(figures, name, text);
    } else {
        say!(
            "{:>6.1} s  {} │ {}",
            began.elapsed().as_secs_f64(),
            DOMAINS[party],
            line.trim_end()
        );
    }
}

/// Takes `round trip X us` down.
fn figure(figures: &mut BTreeMap<String, f64>, name: &str, text: &str) {
    let number = text
        .strip_prefix("round trip ")
        .and_then(|rest| rest.strip_suffix(" us"));
    match number.and_then(|number| number.parse().ok()) {
        Some(micros) => {
            figures.insert(name.to_owned(), micros);
        }
        None => say!("    {text}"),
    }
}

/// A factor with as many digits as make sense.
fn times(factor: f64) -> String {
    if factor < 10.0 {
        format!("{factor:.1}")
    } else {
        format!("{factor:.0}")
    }
}

fn results(port: Option<&str>, figures: &BTreeMap<String, f64>) {
    let between = if port.is_some() {
        "the two virtual machines"
    } else {
        "the two containers"
    };
    heading("A round trip, median");
    let ours = figures.get("vshmem").copied();
    for (name, words) in [
        (
            "vshmem",
            format!("segment and semaphores of Vshmem, between {between}"),
        ),
        (
            "kernel",
            "the same programs, the kernel's own IPC, in one kernel".to_owned(),
        ),
        ("tcp", format!("64 bytes over TCP, between {between}")),
    ] {
        let Some(micros) = figures.get(name) else {
            say!("{:>10}     {words}", "not known");
            continue;
        };
        let ratio = match ours {
            Some(ours) if name != "vshmem" && ours > 0.0 => {
                format!("  ({} times as long)", times(micros / ours))
            }
            _ => String::new(),
        };
        say!("{micros:>10.2} µs  {words}{ratio}");
    }
    if port.is_some() {
        say!(
            "TCP takes several system calls a turn, and those are slow in a User Mode Linux guest; hypervisors differ here."
        );
    }
}
