//! Exchange of data between two guests of Xen makes no hypercall: counted by the hypervisor's own trace, in which every hypercall of every domain stands.
//!
//! A paravirtual guest comes back from each system call, interrupt and page fault by a hypercall (`iret`), so the count shows those as well. Timer ticks cannot be switched
//! off; how many hypercalls they make is seen in an empty loop of the same programs, before and after, and what exchanges make is compared with that.
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

/// Classes of events: PV's entries, and the scheduler's switches.
const EVENTS: &str = "0x00229000";
const HYPERCALL: u32 = 0x0020_100d;
const SWITCH: u32 = 0x0002_800a;
const OTHER_CPU: u32 = 0x0001_f003;
const LOST: u32 = 0x0001_f001;
/// So many pieces each kind of exchange is made in, and no new one is begun after this: on a busy machine, whose processors the guests must wait for, two parties that
/// spin take turns at the scheduler's pace. Together there must be [`ENOUGH`] exchanges all the same.
const PIECES: u64 = 10;
const LONG: Duration = Duration::from_secs(30);
const ENOUGH: u64 = 1_000_000;
/// Exchanges of which one may make a hypercall that ticks do not explain.
const SELDOM: u64 = 100;

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
    fn end(mut self) -> Result<BTreeMap<u32, u64>> {
        signal(i32::try_from(self.child.id())?, rustix::process::Signal::INT)?;
        vshmem_testing_vm::machine::wait(&mut self.child, Duration::from_secs(30))?;
        hypercalls(&std::fs::read(&self.file)?)
    }
}

/// Counts hypercalls by domain. A record: a word with the event, how many words follow and whether a time comes before them; then those.
fn hypercalls(trace: &[u8]) -> Result<BTreeMap<u32, u64>> {
    let word = |at: usize| {
        let bytes = trace.get(at..at + 4)?;
        Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    };
    let mut counts: BTreeMap<u32, u64> = BTreeMap::new();
    // By processor: who runs, and hypercalls of whoever ran before that was known.
    let mut running: BTreeMap<u32, u32> = BTreeMap::new();
    let mut unknown: BTreeMap<u32, u64> = BTreeMap::new();
    let (mut at, mut cpu) = (0, 0);
    while let Some(head) = word(at) {
        let (event, words, timed) = (head & 0x0fff_ffff, (head >> 28 & 7) as usize, head >> 31 == 1);
        let first = at + 4 + if timed { 8 } else { 0 };
        match event {
            OTHER_CPU => cpu = word(first).context("a processor's number")?,
            LOST => bail!("the trace has lost records: the machine is too slow to write it"),
            SWITCH => {
                let (from, to) = (word(first).unwrap_or(0), word(first + 8).unwrap_or(0));
                *counts.entry(from).or_default() += unknown.remove(&cpu).unwrap_or(0);
                running.insert(cpu, to);
            }
            HYPERCALL => match running.get(&cpu) {
                Some(&domain) => *counts.entry(domain).or_default() += 1,
                None => *unknown.entry(cpu).or_default() += 1,
            },
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

/// What was counted: exchanges, seconds, and the hypercalls of either guest.
struct Counted {
    times: u64,
    seconds: f64,
    made: [u64; 2],
}

/// Has both workers, or the first alone, do something up to `times` times, and counts.
fn count(
    workers: &mut [Worker],
    domains: [u32; 2],
    folder: &Path,
    (test, key, times): (&str, i32, u64),
) -> Result<Counted> {
    let trace = Trace::start(folder)?;
    let start = Instant::now();
    let (piece, mut made) = (times / PIECES, 0);
    while made < times && start.elapsed() < LONG {
        for (role, worker) in workers.iter_mut().enumerate() {
            worker.tell(test, role, key, piece)?;
        }
        for worker in workers.iter_mut() {
            worker.answer()?;
        }
        made += piece;
    }
    let times = made;
    let seconds = start.elapsed().as_secs_f64();
    let counts = trace.end()?;
    let made = domains.map(|domain| counts.get(&domain).copied().unwrap_or(0));
    println!(
        "{test:>16} {times:>9} times  {seconds:>6.1} s   hypercalls {:>7} and {:>7}   {:>6.0} and {:>6.0} a second",
        made[0],
        made[1],
        made[0] as f64 / seconds,
        made[1] as f64 / seconds
    );
    Ok(Counted { times, seconds, made })
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
    let mut counted = |parties: usize, what| count(&mut workers[..parties], domains, folder.path(), what);
    // Once, so that the first mappings and their like are not counted.
    for (test, key) in [
        ("shm_pingpong", 0x71),
        ("sem_handoff", 0x72),
        ("msg_pingpong_64", 0x73),
    ] {
        counted(2, (test, key, 10 * PIECES))?;
    }
    let before = counted(2, ("spin", 0, 40_000_000))?;
    let exchanges = [
        (2, ("shm_pingpong", 0x71, 600_000)),
        (2, ("sem_handoff", 0x72, 100_000)),
        (2, ("msg_pingpong_64", 0x73, 50_000)),
        (1, ("sem_uncontended", 0x74, ENOUGH)),
        (1, ("msg_pair_64", 0x75, 100_000)),
    ];
    let mut all = Vec::new();
    for (parties, what) in exchanges {
        all.push((parties, what, counted(parties, what)?));
    }
    let after = counted(2, ("spin", 0, 40_000_000))?;
    let exchanged: u64 = all.iter().map(|(_, _, counted)| counted.times).sum();
    println!("{exchanged} exchanges in all");
    ensure!(
        exchanged >= ENOUGH,
        "{exchanged} exchanges in all the time there was"
    );
    for (parties, (test, ..), counted) in all {
        let times = counted.times;
        for guest in 0..parties {
            let rate = |of: &Counted| of.made[guest] as f64 / of.seconds;
            let ticks = rate(&before).max(rate(&after)) * counted.seconds;
            let most = (2.0 * ticks) as u64 + times / SELDOM;
            let made = counted.made[guest];
            ensure!(
                made <= most,
                "{times} times {test} made {made} hypercalls in guest {guest}; an empty loop of that length makes {ticks:.0}"
            );
        }
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
    put(OTHER_CPU, &[0, 99], false);
    put(HYPERCALL, &[23], true);
    put(SWITCH, &[5, 0, 6, 0], true);
    put(HYPERCALL, &[23, 1], true);
    put(OTHER_CPU, &[1, 99], false);
    put(SWITCH, &[0x7fff, 0, 5, 0], true);
    put(HYPERCALL, &[], false);
    put(OTHER_CPU, &[0, 99], false);
    put(0x0002_2203, &[1, 2, 3], true);
    put(HYPERCALL, &[14], true);
    let counts = hypercalls(&trace)?;
    ensure!(
        counts == BTreeMap::from([(5, 2), (6, 2), (0x7fff, 0)]),
        "{counts:?}"
    );
    trace.extend(LOST.to_le_bytes());
    ensure!(hypercalls(&trace).is_err());
    Ok(())
}
