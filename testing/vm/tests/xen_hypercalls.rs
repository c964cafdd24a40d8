//! Exchange of data between two guests of Xen makes no hypercall: counted by the hypervisor's own trace, in which every hypercall of every domain stands.
//!
//! A paravirtual guest comes back from each system call, interrupt and page fault by a hypercall (`iret`), sets its timer by another, and so on: those are counted too, apart
//! from those by which a domain could tell another one something or reach its memory. Timer ticks and the daemons' heartbeats cannot be switched off: how many
//! hypercalls they make is seen in an empty loop of the same programs for the same time, right after each kind of exchange, and what exchanges make is compared with that.
//! A guest with hardware virtualisation (`VSHMEM_XEN_TYPE=pvh`) has fewer of its own; they are counted alike.
//! `cargo xtask xen-lab --test` runs it; elsewhere it is skipped, with the reason.

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use vshmem_testing_vm::machine::{finish, program, signal};
use vshmem_testing_vm::{Machine, Place, missing, xen_missing};

/// Classes of events: PV's entries and what its multicalls are made of, HVM's exits and what was done there, the scheduler's switches.
const EVENTS: &str = "0x002ab000";
const HYPERCALL: u32 = 0x0020_100d;
const IN_MULTICALL: u32 = 0x0020_200e;
const OF_HVM: u32 = 0x0008_2012;
const SWITCH: u32 = 0x0002_800a;
const OTHER_CPU: u32 = 0x0001_f003;
const LOST: u32 = 0x0001_f001;

/// Exchanges of each kind. Many are under way at once: two parties that took turns would, on a busy machine, whose processors the guests must wait for, do so at the
/// scheduler's pace.
const EXCHANGES: u64 = 1_000_000;
/// Pieces that each kind is made in, each bounded by the worker's patience.
const PIECES: u64 = 10;
/// Exchanges of which one may make a hypercall that ticks do not explain.
const SELDOM: u64 = 1000;
/// Events beside an empty loop's: each piece is a line of text to a worker and one back.
const EVENTS_OF_PIECES: u64 = 20 * PIECES;

/// A worker of the benchmarks in a guest.
struct Worker {
    child: Child,
    input: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl Worker {
    fn start(machine: &Machine, domain: &str, cpu: &str) -> Result<Worker> {
        let mut command = machine.command(&["vm", "run", "--port", "xen", "--domain", domain]);
        command.args(["--cpus", cpu, "--mem", "192M", "--boot-timeout", "300", "--"]);
        command.arg(program()).args(["bench", "worker"]);
        // Nobody falls asleep, however busy the machine is: what is counted is exchange, not sleep.
        command.env("VSHMEM_SPIN", "60000000");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take().context("stdout")?);
        let (send, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        let worker = Worker {
            child,
            input,
            answers,
        };
        let first = worker.answers.recv_timeout(Duration::from_secs(300))?;
        ensure!(first == "ready", "the worker in {domain} says {first:?}");
        Ok(worker)
    }

    fn tell(&mut self, test: &str, role: usize, key: i32, times: u64) -> Result<()> {
        let input = self.input.as_mut().context("closed")?;
        Ok(writeln!(input, "{test} {role} {key} {times}")?)
    }

    fn answer(&mut self) -> Result<()> {
        let line = self.answers.recv_timeout(Duration::from_secs(400))?;
        ensure!(line.starts_with("ok "), "a worker says {line:?}");
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.input = None;
        if vshmem_testing_vm::machine::wait(&mut self.child, Duration::from_secs(60)).is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The hypervisor's trace, being written to a file.
struct Trace {
    child: Child,
    file: std::path::PathBuf,
}

impl Trace {
    fn start(folder: &Path) -> Result<Trace> {
        let file = folder.join("trace");
        let mut command = Command::new("xentrace");
        command.args(["-D", "-S", "256", "-e", EVENTS]).arg(&file);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let trace = Trace {
            child: child.context("xentrace (package xen-utils)")?,
            file,
        };
        let until = Instant::now() + Duration::from_secs(30);
        while std::fs::metadata(&trace.file).map_or(0, |found| found.len()) == 0 {
            ensure!(Instant::now() < until, "xentrace writes nothing");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(trace)
    }

    /// Hypercalls by domain.
    fn end(mut self) -> Result<BTreeMap<u32, Calls>> {
        signal(i32::try_from(self.child.id())?, rustix::process::Signal::INT)?;
        vshmem_testing_vm::machine::wait(&mut self.child, Duration::from_secs(60))?;
        hypercalls(&std::fs::read(&self.file)?)
    }
}

/// A domain's hypercalls, by what they are good for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Calls {
    /// About events: nearly all of them send one to another domain.
    events: u64,
    /// Grants mapped, unmapped, or asked about.
    grants: u64,
    /// Pages had or given back.
    memory: u64,
    /// The kernel's own affair: returns from system calls and interrupts, timers, switches between processes.
    own: u64,
}

impl Calls {
    /// By number (`__HYPERVISOR_*`).
    fn count(&mut self, number: u32) {
        match number {
            32 => self.events += 1,
            20 => self.grants += 1,
            12 => self.memory += 1,
            _ => self.own += 1,
        }
    }

    fn all(self) -> u64 {
        self.events + self.grants + self.memory + self.own
    }

    fn and(self, more: Calls) -> Calls {
        Calls {
            events: self.events + more.events,
            grants: self.grants + more.grants,
            memory: self.memory + more.memory,
            own: self.own + more.own,
        }
    }
}

/// Not every record of a trace is there.
#[derive(Debug)]
struct Lost;

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the trace has lost records: the machine is too slow to write it")
    }
}

impl std::error::Error for Lost {}

/// Counts hypercalls by domain. A record: a word with the event, how many words follow and whether a time comes before them; then those. A hypercall's first word is its
/// number, in the lower 20 bits; above it stands which arguments follow.
fn hypercalls(trace: &[u8]) -> Result<BTreeMap<u32, Calls>> {
    let word = |at: usize| {
        let bytes = trace.get(at..at + 4)?;
        Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    };
    let mut counts: BTreeMap<u32, Calls> = BTreeMap::new();
    // By processor: who runs, and hypercalls of whoever ran before that was known.
    let mut running: BTreeMap<u32, u32> = BTreeMap::new();
    let mut unknown: BTreeMap<u32, Calls> = BTreeMap::new();
    let (mut at, mut cpu) = (0, 0);
    while let Some(head) = word(at) {
        let (event, words, timed) = (head & 0x0fff_ffff, (head >> 28 & 7) as usize, head >> 31 == 1);
        let first = at + 4 + if timed { 8 } else { 0 };
        match event {
            OTHER_CPU => cpu = word(first).context("a processor's number")?,
            LOST => bail!(Lost),
            SWITCH => {
                let (from, to) = (word(first).unwrap_or(0), word(first + 8).unwrap_or(0));
                let known = counts.entry(from).or_default();
                *known = known.and(unknown.remove(&cpu).unwrap_or_default());
                running.insert(cpu, to);
            }
            HYPERCALL | IN_MULTICALL | OF_HVM => {
                let said = word(first).filter(|_| words > 0).unwrap_or(0);
                let calls = match running.get(&cpu) {
                    Some(&domain) => counts.entry(domain).or_default(),
                    None => unknown.entry(cpu).or_default(),
                };
                calls.count(said & 0xf_ffff);
            }
            _ => {}
        }
        at = first + 4 * words;
    }
    Ok(counts)
}

fn domain_number(name: &str) -> Result<u32> {
    let out = finish(Command::new("xl").args(["domid", name]), Duration::from_secs(60))?;
    String::from_utf8_lossy(&out.stdout)
        .trim()
        .parse()
        .with_context(|| format!("xl domid {name}"))
}

/// What was counted: seconds, and the hypercalls of either guest.
#[derive(Clone, Copy)]
struct Counted {
    seconds: f64,
    made: [Calls; 2],
}

/// How often something is counted anew where the trace has lost records.
const ATTEMPTS: u32 = 4;

/// Has both workers do something `times` times in pieces, and counts; once more if what wrote the trace was left behind.
fn count(
    workers: &mut [Worker],
    domains: [u32; 2],
    folder: &Path,
    what: (&str, i32, u64),
) -> Result<Counted> {
    for _ in 1..ATTEMPTS {
        match count_once(workers, domains, folder, what) {
            Err(why) if why.is::<Lost>() => println!("{}: {why}; once more", what.0),
            counted => return counted,
        }
    }
    count_once(workers, domains, folder, what)
}

fn count_once(
    workers: &mut [Worker],
    domains: [u32; 2],
    folder: &Path,
    (test, key, times): (&str, i32, u64),
) -> Result<Counted> {
    let trace = Trace::start(folder)?;
    let start = Instant::now();
    for _ in 0..PIECES {
        for (role, worker) in workers.iter_mut().enumerate() {
            worker.tell(test, role, key, times / PIECES)?;
        }
        for worker in workers.iter_mut() {
            worker.answer()?;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let counts = trace.end()?;
    let made = domains.map(|domain| counts.get(&domain).copied().unwrap_or_default());
    // No kernel goes without for so long: the trace would be of something else.
    ensure!(
        made.iter().all(|calls| calls.own > 0),
        "the trace has no hypercall of a guest's"
    );
    println!("{test:>9} {times:>9} times in {seconds:>6.1} s");
    for (domain, calls) in domains.iter().zip(made) {
        let Calls {
            events,
            grants,
            memory,
            own,
        } = calls;
        let rate = calls.all() as f64 / seconds;
        println!(
            "          domain {domain}: events {events}, grants {grants}, memory {memory}, the kernel's own {own}; {rate:.0} a second"
        );
    }
    Ok(Counted { seconds, made })
}

/// What exchange may make beside what an empty loop makes in that time.
fn compare(test: &str, exchange: &Counted, empty: &Counted) -> Result<()> {
    for guest in 0..2 {
        let (made, beside) = (exchange.made[guest], empty.made[guest]);
        let length = exchange.seconds / empty.seconds;
        let expected = |of: u64| 2 * (of as f64 * length) as u64;
        ensure!(
            (made.grants, made.memory) == (0, 0),
            "{EXCHANGES} times {test} made calls about memory in guest {guest}: {made:?}"
        );
        let events = expected(beside.events) + EVENTS_OF_PIECES;
        ensure!(
            made.events <= events,
            "{EXCHANGES} times {test} made {} calls about events in guest {guest}; daemons and the program's streams explain {events}",
            made.events
        );
        // How often ticks come depends on how much of its processor a guest gets, which no two minutes of a busy machine have in common.
        let most = 2 * expected(beside.all()) + EXCHANGES / SELDOM;
        ensure!(
            made.all() <= most,
            "{EXCHANGES} times {test} made {made:?} in guest {guest}; an empty loop, {length:.2} times as short, {beside:?}"
        );
    }
    Ok(())
}

fn two_workers(machine: &Machine) -> Result<[Worker; 2]> {
    std::thread::scope(|scope| {
        let started = [("hyper-a", "0"), ("hyper-b", "1")]
            .map(|(name, cpu)| scope.spawn(move || Worker::start(machine, name, cpu)));
        let [a, b] = started.map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a panic")));
        Ok([a??, b??])
    })
}

#[test]
fn a_million_exchanges_make_no_hypercall() -> Result<()> {
    if let Some(why) = xen_missing() {
        missing("a_million_exchanges_make_no_hypercall", &why);
        return Ok(());
    }
    let mut machine = Machine::start_for(&[Place::Xen("hyper-a"), Place::Xen("hyper-b")])?;
    let mut workers = two_workers(&machine)?;
    let domains = [domain_number("hyper-a")?, domain_number("hyper-b")?];
    let folder = tempfile::tempdir()?;
    let mut counted = |what| count(&mut workers, domains, folder.path(), what);
    let kinds = [("flow_shm", 0x71), ("flow_sem", 0x72), ("flow_msg", 0x73)];
    // Once, so that constructs are got and mapped.
    for (test, key) in kinds {
        counted((test, key, 100 * PIECES))?;
    }
    let turns = 20_000_000;
    let mut a_second = turns as f64 / counted(("spin", 0, turns))?.seconds;
    for (test, key) in kinds {
        let exchange = counted((test, key, EXCHANGES))?;
        // As long as the exchange was, as far as that can be known before.
        let turns = (a_second * exchange.seconds.clamp(2.0, 60.0)) as u64;
        let empty = counted(("spin", 0, turns))?;
        a_second = turns as f64 / empty.seconds;
        compare(test, &exchange, &empty)?;
    }
    drop(workers);
    machine.stop()?;
    Ok(())
}

#[test]
fn a_trace_is_read_by_domain_and_processor() -> Result<()> {
    let mut trace = Vec::new();
    let mut put = |event: u32, words: &[u32], time: bool| {
        let head = event | (words.len() as u32) << 28 | u32::from(time) << 31;
        let time = if time { &[7u32, 0][..] } else { &[] };
        for word in [&[head], time, words].concat() {
            trace.extend(word.to_le_bytes());
        }
    };
    // With arguments and without.
    let (events, with_first) = (32, 1 << 20);
    put(OTHER_CPU, &[0, 99], false);
    put(HYPERCALL, &[23], true);
    put(SWITCH, &[5, 0, 6, 0], true);
    put(HYPERCALL, &[events, 4], true);
    put(HYPERCALL, &[events | with_first, 9], true);
    put(HYPERCALL, &[29 | with_first, 0], true);
    put(OTHER_CPU, &[1, 99], false);
    put(SWITCH, &[0x7fff, 0, 5, 0], true);
    put(HYPERCALL, &[20 | with_first, 0, 3], false);
    put(IN_MULTICALL, &[12], false);
    put(OF_HVM, &[24], true);
    put(OTHER_CPU, &[0, 99], false);
    put(0x0002_2203, &[1, 2, 3], true);
    put(HYPERCALL, &[14], true);
    let calls = |events, grants, memory, own| Calls {
        events,
        grants,
        memory,
        own,
    };
    let counts = hypercalls(&trace)?;
    ensure!(
        counts
            == BTreeMap::from([
                (5, calls(0, 1, 1, 2)),
                (6, calls(2, 0, 0, 2)),
                (0x7fff, Calls::default())
            ]),
        "{counts:?}"
    );
    trace.extend(LOST.to_le_bytes());
    ensure!(hypercalls(&trace).is_err());
    Ok(())
}
