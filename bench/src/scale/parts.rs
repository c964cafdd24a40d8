//! The parts: who makes how many of what, and which operations are timed in between.

use super::memory::{self, Used};
use super::{FLAT_WAKING, Point, ScaleOptions};
use crate::daemon::Daemon;
use crate::party::{Guest, Party, Place, Where};
use anyhow::{Context, Result};
use std::sync::Arc;
use std::time::Duration;

/// Where keys begin.
const KEY: i32 = 0x5ca1_0000;
/// The CPU of the daemon and of the process that times: on two, an answer takes the longer the more soundly the other one sleeps.
const CPU: usize = 0;
/// Operations timed for one figure.
const TIMES: u64 = 60;
/// Rounds of them, of which the best counts.
const ROUNDS: usize = 3;
/// Constructs that are there while clients or waiters become many.
const SOME: u32 = 99;
/// Of a figure that has a bound of its own: waking goes through the kernel's futex.
const WAKING: &str = "waking, ns";
/// Processes among which waiting threads are divided.
const WAITING_PROCESSES: u32 = 10;

/// The figures of one part, and who wants to know them at once.
pub(super) struct Points<'a> {
    part: &'a str,
    tell: &'a mut dyn FnMut(&Point),
    pub(super) all: Vec<Point>,
}

impl<'a> Points<'a> {
    pub(super) fn new(part: &'a str, tell: &'a mut dyn FnMut(&Point)) -> Self {
        let all = Vec::new();
        Points { part, tell, all }
    }

    fn add(&mut self, count: u64, what: &str, value: f64, unit: &'static str) {
        let point = Point {
            part: self.part.into(),
            count,
            what: what.into(),
            value,
            unit,
        };
        (self.tell)(&point);
        self.all.push(point);
    }

    /// What the daemon and its keeper use now, and by what more than at first for each.
    fn memory(&mut self, count: u64, keeper: u32, at_first: Used) -> Result<()> {
        let used = memory::daemon(keeper)?;
        let more = used.bytes.saturating_sub(at_first.bytes) as f64;
        self.add(count, "daemon's memory", used.bytes as f64, "bytes");
        self.add(count, "more for each", more / count.max(1) as f64, "bytes each");
        self.add(
            count,
            "daemon's descriptors",
            used.descriptors as f64,
            "descriptors",
        );
        Ok(())
    }
}

/// Runs a part; gives what is to be said below its table.
pub(super) fn run(part: &str, options: &ScaleOptions, points: &mut Points<'_>) -> Result<Option<String>> {
    match part {
        "constructs" => constructs(options, "pool", points),
        "files" => constructs(options, "memfd", points),
        "clients" => clients(options, points),
        "waiters" => waiters(options, points),
        _ => guest(options, points),
    }
}

struct Machine {
    daemon: Daemon,
    folder: tempfile::TempDir,
    at_first: Used,
}

impl Machine {
    fn start(options: &ScaleOptions, memory: &str) -> Result<Machine> {
        let folder = tempfile::tempdir().context("a temporary directory")?;
        let config = format!(
            "log = \"off\"\n[group]\nmemory = \"{memory}\"\n[limits]\nshmmni = 32768\nsemmni = 32768\nmsgmni = 32768\n"
        );
        let daemon = Daemon::start(&options.program, folder.path(), &config, Some(CPU))?;
        std::thread::sleep(Duration::from_millis(100));
        let at_first = memory::daemon(daemon.keeper())?;
        Ok(Machine {
            daemon,
            folder,
            at_first,
        })
    }

    /// What the daemon uses more than at first, once it has had time to give memory back.
    fn left(&self, when: &str) -> Result<String> {
        std::thread::sleep(Duration::from_millis(2_500));
        let left = memory::daemon(self.daemon.keeper())?;
        Ok(format!(
            "{when}: {} KiB and {} descriptors more than at first",
            left.bytes.saturating_sub(self.at_first.bytes) / 1024,
            left.descriptors.saturating_sub(self.at_first.descriptors)
        ))
    }

    fn party(&self, options: &ScaleOptions, at: &Where, cpu: usize) -> Result<Party> {
        let place = Place {
            program: &options.program,
            runtime: self.folder.path(),
        };
        Party::start(&place, at, cpu, &[])
    }
}

/// Times these operations, each of which the worker knows by `scale_` and its name.
fn time(
    party: &mut Party,
    points: &mut Points<'_>,
    count: u64,
    role: u32,
    operations: &[(&str, &str)],
) -> Result<()> {
    for (operation, name) in operations {
        let mut best = f64::INFINITY;
        for _ in 0..ROUNDS {
            best = best.min(party.ask(&format!("scale_{operation}"), role, KEY, TIMES)?);
        }
        points.add(count, name, best, "ns");
    }
    Ok(())
}

const CALLS: &[(&str, &str)] = &[
    ("get", "get"),
    ("new", "make and remove"),
    ("stat", "IPC_STAT"),
    ("info", "*_INFO"),
    ("attach", "attach and detach"),
    ("semop", "semop"),
    ("message", "msgsnd and msgrcv"),
];

/// Reading what `ipcs` reads.
const LIST: (&str, &str) = ("list", "/proc/sysvipc, a line");

fn constructs(options: &ScaleOptions, memory: &str, points: &mut Points<'_>) -> Result<Option<String>> {
    let counts: &[u32] = if options.short {
        &[102, 2_100]
    } else {
        &[12, 102, 1_002, 10_002, 32_001]
    };
    let machine = Machine::start(options, memory)?;
    let mut party = machine.party(options, &Where::Local, CPU)?;
    let (mut count, mut note) = (0, String::new());
    for &wanted in counts {
        let made = party.ask("scale_make", wanted, KEY, 0)?;
        count = party.ask("scale_count", 0, KEY, 0)? as u32;
        if count == wanted {
            points.add(count.into(), "make", made, "ns");
        }
        let opened = party.ask("scale_open", count, KEY, TIMES)?;
        points.add(count.into(), "first semop", opened, "ns");
        if count < wanted {
            note = format!(
                "with {count} the next is ENOSPC: the daemon's limit of open files allows no more, each has one\n"
            );
        }
        let calls = CALLS
            .iter()
            .filter(|(operation, _)| count == wanted || *operation != "new");
        let calls: Vec<_> = calls.copied().chain([LIST]).collect();
        time(&mut party, points, count.into(), count, &calls)?;
        points.memory(count.into(), machine.daemon.keeper(), machine.at_first)?;
    }
    memory::kill_daemon(machine.daemon.keeper())?;
    let back = party.ask("scale_stat", count, KEY, 1)?;
    points.add(count.into(), "restart after kill -9", back, "once, ns");
    let removed = party.ask("scale_unmake", 0, KEY, 0)?;
    points.add(count.into(), "remove", removed, "ns");
    Ok(Some(note + &machine.left("all removed")?))
}

fn clients(options: &ScaleOptions, points: &mut Points<'_>) -> Result<Option<String>> {
    let counts: &[u32] = if options.short {
        &[10, 100, 300]
    } else {
        &[10, 100, 1_000]
    };
    // Only root and the daemon's own user, which is this one, may choose domains.
    let domains = 64;
    let machine = Machine::start(options, "pool")?;
    let (mut party, mut nest) = (
        machine.party(options, &Where::Local, CPU)?,
        machine.party(options, &Where::Local, 1)?,
    );
    party.ask("scale_make", SOME, KEY, 0)?;
    for &count in counts {
        let joined = nest.ask("scale_children", count, KEY, domains)?;
        points.add(count.into(), "a process's first calls", joined, "ns");
        time(&mut party, points, count.into(), SOME, CALLS)?;
        points.memory(count.into(), machine.daemon.keeper(), machine.at_first)?;
    }
    let last = counts.last().copied().unwrap_or(0);
    let killed = nest.ask("scale_kill", 0, KEY, 0)?;
    points.add(last.into(), "death of one", killed, "ns");
    Ok(Some(format!(
        "over {domains} domains; {}",
        machine.left("all killed")?
    )))
}

fn waiters(options: &ScaleOptions, points: &mut Points<'_>) -> Result<Option<String>> {
    let counts: &[u32] = if options.short {
        &[100, 1_000]
    } else {
        &[10, 100, 1_000, 10_000]
    };
    let machine = Machine::start(options, "pool")?;
    let mut party = machine.party(options, &Where::Local, CPU)?;
    let mut waiting = (0..WAITING_PROCESSES)
        .map(|_| machine.party(options, &Where::Local, 1))
        .collect::<Result<Vec<_>>>()?;
    party.ask("scale_make", 3, KEY, 0)?;
    for &count in counts {
        for process in &mut waiting {
            process.ask("scale_threads", count / WAITING_PROCESSES, KEY, 0)?;
        }
        party.ask("scale_waiting", count, KEY, 0)?;
        let beside = [("semop", "semop beside them"), ("stat", "IPC_STAT")];
        time(&mut party, points, count.into(), count, &beside)?;
        let some = (count / 2).min(TIMES as u32);
        let woken = party.ask("scale_wake", 0, KEY, some.into())?;
        points.add(count.into(), "wake one", woken, WAKING);
        points.memory(count.into(), machine.daemon.keeper(), machine.at_first)?;
        // None may be lost: all threads have to end.
        let rest = party.ask("scale_wake", 0, KEY, u64::from(count - some))?;
        points.add(count.into(), "wake all, each", rest, WAKING);
        for process in &mut waiting {
            process.ask("scale_threads_end", 0, KEY, 0)?;
        }
    }
    Ok(Some(format!(
        "threads of {WAITING_PROCESSES} processes; every one of them was woken. Waking may take {FLAT_WAKING} times as long: the kernel keeps all sleepers of \
         the machine in a few chains, and walks one"
    )))
}

fn guest(options: &ScaleOptions, points: &mut Points<'_>) -> Result<Option<String>> {
    let Some(port) = options.guests else {
        return Ok(Some("no guest was asked for, or none can be started here".into()));
    };
    let machine = Machine::start(options, "pool")?;
    let (card, _other) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    let place = Where::Guest(Guest {
        port,
        domain: "scale",
        card: Some(Arc::new(card)),
        address: "10.0.0.1",
    });
    let mut party = machine.party(options, &place, CPU)?;
    party.ask("scale_make", SOME, KEY, 0)?;
    let at_first = party.ask("scale_daemon", 0, KEY, 0)?;
    let counts: &[u32] = if options.short { &[10] } else { &[10, 50, 100] };
    for &count in counts {
        party.ask("scale_children", count, KEY, 0)?;
        let bytes = party.ask("scale_daemon", 0, KEY, 0)?;
        points.add(count.into(), "front-end's memory", bytes, "bytes");
        let more = (bytes - at_first).max(0.0) / f64::from(count);
        points.add(count.into(), "more for each client", more, "bytes each");
        time(&mut party, points, count.into(), SOME, &[("stat", "IPC_STAT")])?;
    }
    Ok(Some(format!("a guest of port {port}")))
}
