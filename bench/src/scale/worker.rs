//! The worker's part of the scale benchmark: making many constructs, clients and waiters, and timing single operations among them.
//!
//! Every answer is nanoseconds of one operation: the median of those timed, so that one pre-emption counts for nothing. `role` says how many there are or
//! shall be, `key` where their keys begin, `n` how many operations to time.

use super::calls::{self, Kind};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Sets and queues that are operated on in turn: no more, lest the processor's caches be measured.
const WORKING: usize = 60;
/// Operations of the data path that are timed together.
const BATCH: u32 = 32;
/// Stack of a thread that only waits.
const STACK: usize = 64 << 10;

/// What this worker has made.
struct Made {
    ids: Vec<i32>,
    /// Sets up to here were operated on.
    opened: usize,
    children: Vec<(Child, Option<ChildStdin>)>,
    threads: Vec<JoinHandle<std::io::Result<()>>>,
}

static MADE: Mutex<Made> = Mutex::new(Made {
    ids: Vec::new(),
    opened: 0,
    children: Vec::new(),
    threads: Vec::new(),
});

fn made() -> MutexGuard<'static, Made> {
    MADE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Carries a command out. The duration is that of one operation.
pub(crate) fn command(test: &str, role: u32, key: i32, n: u64) -> Result<Duration> {
    let mut made = made();
    match test {
        "scale_make" => make(&mut made, role as usize, key),
        "scale_count" => Ok(Duration::from_nanos(made.ids.len() as u64)),
        "scale_unmake" => unmake(&mut made),
        "scale_get" => each(&made, n, |i, _| {
            calls::get(Kind::of(i), key + i as i32, false).map(drop)
        }),
        "scale_stat" => each(&made, n, |i, id| calls::stat(Kind::of(i), id)),
        "scale_info" => median(n, |i| calls::info(Kind::of(i))),
        "scale_new" => new(key, n),
        "scale_attach" => each_of(&made, Kind::Shm, n, |id| {
            calls::attach(id).and_then(calls::detach)
        }),
        "scale_open" => open(&mut made, n),
        "scale_semop" => working(&made, Kind::Sem, n, |id| {
            calls::semop(id, 0, 1)?;
            calls::semop(id, 0, -1)
        }),
        "scale_message" => working(&made, Kind::Msg, n, calls::message),
        "scale_list" => list(role),
        "scale_children" => children(&mut made, role as usize, key, n),
        "scale_join" => join(key),
        "scale_kill" => kill(&mut made, key),
        "scale_daemon" => Ok(Duration::from_nanos(super::memory::of_daemons_here()?)),
        "scale_threads" => threads(&mut made, role, key),
        "scale_threads_end" => threads_end(&mut made),
        "scale_waiting" => waiting(role, key),
        "scale_wake" => wake(key, n),
        _ => bail!("no such test: {test}"),
    }
}

/// The median of `n` single operations.
fn median(n: u64, mut operation: impl FnMut(usize) -> std::io::Result<()>) -> Result<Duration> {
    let mut took = Vec::with_capacity(n as usize);
    for turn in 0..n as usize {
        let start = Instant::now();
        operation(turn)?;
        took.push(start.elapsed());
    }
    took.sort_unstable();
    took.get(took.len() / 2).copied().context("nothing was timed")
}

/// Numbers below `count` in an order that no cache foresees: the steps are by a prime.
fn scattered(turn: usize, count: usize) -> usize {
    (turn.wrapping_mul(7919) + 17) % count.max(1)
}

fn each(
    made: &Made,
    n: u64,
    mut operation: impl FnMut(usize, i32) -> std::io::Result<()>,
) -> Result<Duration> {
    median(n, |turn| {
        let index = scattered(turn, made.ids.len());
        operation(index, made.ids[index])
    })
}

/// The same with constructs of one kind.
fn each_of(
    made: &Made,
    kind: Kind,
    n: u64,
    mut operation: impl FnMut(i32) -> std::io::Result<()>,
) -> Result<Duration> {
    let of_kind = of_kind(made, kind);
    median(n, |turn| operation(of_kind[scattered(turn, of_kind.len())]))
}

fn of_kind(made: &Made, kind: Kind) -> Vec<i32> {
    let ids = made.ids.iter().enumerate();
    ids.filter(|(i, _)| Kind::of(*i) == kind)
        .map(|(_, &id)| id)
        .collect()
}

/// Operations that need no daemon, on some constructs spread over all: nanoseconds of one of a batch.
fn working(
    made: &Made,
    kind: Kind,
    n: u64,
    operation: impl Fn(i32) -> std::io::Result<()>,
) -> Result<Duration> {
    let all = of_kind(made, kind);
    let step = (all.len() / WORKING).max(1);
    let some: Vec<i32> = all.into_iter().step_by(step).take(WORKING).collect();
    some.iter().try_for_each(|&id| operation(id))?;
    let batch = median(n, |turn| {
        (0..BATCH as usize).try_for_each(|i| operation(some[(turn + i) % some.len()]))
    })?;
    Ok(batch / BATCH)
}

/// Makes constructs until there are so many, or the daemon says that there is no room for more.
fn make(made: &mut Made, count: usize, key: i32) -> Result<Duration> {
    let from = made.ids.len();
    let mut full = false;
    median(count.saturating_sub(from) as u64, |turn| {
        let index = from + turn;
        if full {
            return Ok(());
        }
        match calls::get(Kind::of(index), key + index as i32, true) {
            Ok(id) => made.ids.push(id),
            // There may be no more files: `scale_count` tells how many there are.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => full = true,
            Err(error) => return Err(error),
        }
        Ok(())
    })
    .with_context(|| format!("with {} constructs there", made.ids.len()))
}

/// Removes all of them.
fn unmake(made: &mut Made) -> Result<Duration> {
    let ids = std::mem::take(&mut made.ids);
    made.opened = 0;
    median(ids.len() as u64, |index| {
        calls::remove(Kind::of(index), ids[index])
    })
}

/// One more, and its end.
fn new(key: i32, n: u64) -> Result<Duration> {
    median(n, |turn| {
        let kind = Kind::of(turn);
        let id = calls::get(kind, key + (1 << 20), true)?;
        calls::remove(kind, id)
    })
}

/// The first operation on a set, which asks the daemon for it.
fn open(made: &mut Made, n: u64) -> Result<Duration> {
    let sets = of_kind(made, Kind::Sem);
    let fresh: Vec<i32> = sets.iter().skip(made.opened).take(n as usize).copied().collect();
    if fresh.is_empty() {
        bail!("all sets are open");
    }
    made.opened += fresh.len();
    median(fresh.len() as u64, |turn| calls::semop(fresh[turn], 3, 1))
}

/// Reads `/proc/sysvipc`: nanoseconds for each line there.
fn list(expected: u32) -> Result<Duration> {
    let start = Instant::now();
    let mut lines = 0;
    for name in ["shm", "sem", "msg"] {
        let text = std::fs::read_to_string(format!("/proc/sysvipc/{name}"))?;
        lines += text.lines().count().saturating_sub(1);
    }
    let took = start.elapsed();
    if lines != expected as usize {
        bail!("/proc/sysvipc shows {lines} constructs of {expected}");
    }
    Ok(took / expected.max(1))
}

/// Starts processes until there are so many, spread over `n` domains; the median of what their first calls took.
fn children(made: &mut Made, count: usize, key: i32, n: u64) -> Result<Duration> {
    super::memory::raise_descriptor_limit();
    let own = std::env::current_exe()?;
    let mut took = Vec::new();
    while made.children.len() < count {
        let mut command = Command::new(&own);
        command.args(["bench", "worker"]);
        if n > 0 {
            command.env("VSHMEM_DOMAIN", format!("d{}", made.children.len() as u64 % n));
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("process {}", made.children.len()))?;
        let mut input = child.stdin.take().context("no standard input")?;
        let mut output = BufReader::new(child.stdout.take().context("no standard output")?);
        writeln!(input, "scale_join 0 {key} 1")?;
        made.children.push((child, Some(input)));
        let mut line = String::new();
        // "ready", then the answer.
        output.read_line(&mut line)?;
        line.clear();
        output.read_line(&mut line)?;
        match line.split_once(' ') {
            Some(("ok", nanos)) => took.push(nanos.trim().parse::<u64>()?),
            _ => bail!("process {} says {line:?}", made.children.len()),
        }
    }
    took.sort_unstable();
    let median = took.get(took.len() / 2).context("there were so many already")?;
    Ok(Duration::from_nanos(*median))
}

/// What each of these processes does: become a client, attach the segment, use the set.
fn join(key: i32) -> Result<Duration> {
    let start = Instant::now();
    let segment = calls::get(Kind::Shm, key, false)?;
    calls::attach(segment)?;
    let set = calls::get(Kind::Sem, key + 1, false)?;
    calls::semop(set, 3, 1)?;
    Ok(start.elapsed())
}

/// Kills all of them at once; what it took until the daemon had dealt with each, by process.
fn kill(made: &mut Made, key: i32) -> Result<Duration> {
    let segment = calls::get(Kind::Shm, key, false)?;
    let count = made.children.len() as u32;
    let start = Instant::now();
    for (child, _) in &mut made.children {
        child.kill()?;
    }
    for (mut child, _) in std::mem::take(&mut made.children) {
        child.wait()?;
    }
    while calls::nattch(segment)? > 0 {
        if start.elapsed() > Duration::from_secs(30) {
            bail!(
                "{} attachments of dead processes are left",
                calls::nattch(segment)?
            );
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(start.elapsed() / count.max(1))
}

/// Starts threads that wait for the second semaphore of the key's set.
fn threads(made: &mut Made, count: u32, key: i32) -> Result<Duration> {
    let set = calls::get(Kind::Sem, key + 1, false)?;
    let start = Instant::now();
    for _ in 0..count {
        let thread = std::thread::Builder::new()
            .stack_size(STACK)
            .spawn(move || calls::semop(set, 1, -1))
            .context("no more threads can be started")?;
        made.threads.push(thread);
    }
    Ok(start.elapsed() / count.max(1))
}

/// Waits for the ends of all of them.
fn threads_end(made: &mut Made) -> Result<Duration> {
    let start = Instant::now();
    for thread in std::mem::take(&mut made.threads) {
        match thread.join() {
            Ok(result) => result?,
            Err(_) => bail!("a waiting thread panicked"),
        }
    }
    Ok(start.elapsed())
}

/// Waits until so many wait for the second semaphore of the key's set.
fn waiting(count: u32, key: i32) -> Result<Duration> {
    let set = calls::get(Kind::Sem, key + 1, false)?;
    let start = Instant::now();
    loop {
        let now = calls::waiting(set, 1)?;
        if now == count as i32 {
            return Ok(start.elapsed());
        }
        if start.elapsed() > Duration::from_secs(60) {
            bail!("{now} wait where {count} should");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Lets `n` of them go on, one after another.
fn wake(key: i32, n: u64) -> Result<Duration> {
    let set = calls::get(Kind::Sem, key + 1, false)?;
    median(n, |_| calls::semop(set, 1, 1))
}
