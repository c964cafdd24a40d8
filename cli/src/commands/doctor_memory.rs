//! The part of `vshmem doctor` that uses memory: how fast it is, whether atomic instructions of this domain and of the back-end respect each other, and how long
//! a bell takes.
//!
//! A child process (`vshmem doctor --measure`) maps the memory, so that a fault there, or a wait without end, is a finding and not the end of the
//! doctor. The parent has the back-end work on the same set meanwhile. Both leave nothing behind.

use super::doctor::{Check, State};
use crate::connection::Connection;
use crate::place::{Place, RUNTIME_DIR};
use crate::trouble::{Outcome, Trouble};
use serde::{Deserialize, Serialize};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use vshmem::{Key, Segment, SemaphoreSet};
use vshmem_wire::request::Behalf;
use vshmem_wire::{Kind, Reply, Request};

/// Bytes of the segment that is measured.
const BYTES: usize = 4 << 20;
/// How long this domain's additions go on.
const ADDING: Duration = Duration::from_millis(300);
/// Bells.
const BELLS: usize = 5;
/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// So many times slower than ordinary memory is uncached.
const SLOW: f64 = 4.0;

/// What the child found.
#[derive(Debug, Serialize, Deserialize)]
struct Measured {
    /// Bytes a second: storing to shared and ordinary memory, loading from both.
    store: (f64, f64),
    load: (f64, f64),
    /// When it was woken, in microseconds since the epoch.
    woken: Vec<u64>,
}

/// The child: measures, adds, waits.
pub(crate) fn measure(set: i32) -> Outcome {
    let trouble = |error: vshmem::Error| Trouble::new("measuring", error);
    let segment = Segment::options().key(Key::PRIVATE).create(true).size(BYTES);
    let segment = segment.open().map_err(trouble)?;
    segment.remove().map_err(trouble)?;
    let own: Vec<AtomicU64> = (0..BYTES / 8).map(|_| Default::default()).collect();
    let shared = segment.slice::<AtomicU64>(0, BYTES / 8).map_err(trouble)?;
    let both = |speed: fn(&[AtomicU64]) -> f64| (speed(shared), speed(&own));
    let mut measured = Measured {
        store: both(store_speed),
        load: both(load_speed),
        woken: Vec::new(),
    };
    let set = SemaphoreSet::from_id(set);
    let until = Instant::now() + ADDING;
    while Instant::now() < until {
        for _ in 0..100 {
            set.post(0).map_err(trouble)?;
            set.wait(0).map_err(trouble)?;
        }
    }
    for _ in 0..BELLS {
        set.wait(1).map_err(trouble)?;
        measured.woken.push(now());
    }
    println!("{}", serde_json::json!(measured));
    Ok(0)
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_micros() as u64
}

/// Bytes a second, the best of three.
fn speed(mut pass: impl FnMut()) -> f64 {
    pass();
    let mut best: f64 = 0.0;
    for _ in 0..3 {
        let start = Instant::now();
        pass();
        best = best.max(BYTES as f64 / start.elapsed().as_secs_f64());
    }
    best
}

fn store_speed(words: &[AtomicU64]) -> f64 {
    use std::sync::atomic::Ordering;
    speed(|| words.iter().for_each(|word| word.store(1, Ordering::Relaxed)))
}

fn load_speed(words: &[AtomicU64]) -> f64 {
    use std::sync::atomic::Ordering;
    let mut sum = 0_u64;
    speed(|| {
        sum = words
            .iter()
            .fold(sum, |sum, word| sum.wrapping_add(word.load(Ordering::Relaxed)));
        std::hint::black_box(sum);
    })
}

/// The checks.
pub(crate) fn checks(place: &Place) -> Vec<Check> {
    match examine(place) {
        Ok(checks) => checks,
        Err(why) => vec![Check::new(
            "memory",
            State::Broken,
            why,
            "see what is wrong above; `VSHMEM_LOG=debug vshmem doctor` says more",
        )],
    }
}

fn examine(place: &Place) -> Result<Vec<Check>, String> {
    let mut connection = Connection::open(place).map_err(|why| why.why().to_owned())?;
    let mut ask = |request: Request| connection.ask(&request).map_err(|f| crate::trouble::reason(&f));
    let set = Request::SemGet {
        key: 0,
        nsems: 2,
        flags: 0o600,
    };
    let id = match ask(set)? {
        Reply::Id(id) => id,
        other => return Err(format!("unexpected answer {other:?}")),
    };
    let examined = with_child(place, id, &mut ask);
    let remove = Request::Remove { kind: Kind::Sem, id };
    let _ = ask(remove);
    examined
}

fn with_child(
    place: &Place,
    id: i32,
    ask: &mut dyn FnMut(Request) -> Result<Reply, String>,
) -> Result<Vec<Check>, String> {
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut child = Command::new(own)
        .args(["doctor", "--measure", &id.to_string()])
        .env(RUNTIME_DIR, place.folder())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| e.to_string())?;
    let worked = work(&mut child, id, ask);
    if worked.is_err() {
        let _ = child.kill();
    }
    let output = child.wait_with_output().map_err(|e| e.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let (value, added, rung) = worked.map_err(|why| format!("{why} {said}").trim().to_owned())?;
    let measured: Measured = serde_json::from_slice(&output.stdout)
        .map_err(|_| format!("using the group's memory failed ({}): {said}", output.status))?;
    Ok(vec![
        memory(&measured),
        atomics(value, added, is_alone()),
        bell(&measured.woken, &rung),
    ])
}

/// Has the back-end add while the child does, and ring it; gives the value afterwards, what was added, and when it was rung.
fn work(
    child: &mut Child,
    id: i32,
    ask: &mut dyn FnMut(Request) -> Result<Reply, String>,
) -> Result<(i64, i64, Vec<u64>), String> {
    let until = Instant::now() + PATIENCE;
    let mut behalf = |operation: Behalf| match ask(Request::OnBehalf { id, operation })? {
        Reply::Value(value) => Ok(value),
        _ => Ok(0),
    };
    let mut added = 0;
    let mut rung = Vec::new();
    let mut waits = |behalf: &mut dyn FnMut(Behalf) -> Result<i64, String>| -> Result<bool, String> {
        if Instant::now() > until {
            return Err(format!("no end within {PATIENCE:?}"));
        }
        if !matches!(child.try_wait(), Ok(None)) {
            return Err("the process that uses it has ended".to_owned());
        }
        Ok(behalf(Behalf::GetNcnt(1))? > 0)
    };
    while !waits(&mut behalf)? {
        if added < 20_000 {
            behalf(Behalf::SemOp(vec![(0, 1, 0)]))?;
            added += 1;
        }
    }
    let value = behalf(Behalf::GetValue(0))?;
    for _ in 0..BELLS {
        while !waits(&mut behalf)? {}
        // It sleeps by then.
        std::thread::sleep(Duration::from_millis(20));
        rung.push(now());
        behalf(Behalf::SemOp(vec![(1, 1, 0)]))?;
    }
    Ok((value, added, rung))
}

fn memory(measured: &Measured) -> Check {
    let of = |(shared, own): (f64, f64)| (shared / 1e9, own / 1e9, own / shared);
    let (store, own_store, slower) = of(measured.store);
    let (load, own_load, load_slower) = of(measured.load);
    let detail = format!(
        "stores {store:.2} GB/s, loads {load:.2} GB/s (ordinary memory here: {own_store:.2} and {own_load:.2})"
    );
    if slower.max(load_slower) < SLOW {
        return Check::new("memory", State::Ok, detail, "");
    }
    let (why, remedy) = vshmem_port_select::slow_memory();
    Check::new("memory", State::Ok, format!("{detail}: {why}"), remedy)
}

/// What a few additions do not show.
const ALONE: &str = "this machine has one possible processor: under KVM that is fine, under software emulation its atomic instructions are not atomic to others: \
                     start it with -smp 1,maxcpus=2";

/// Whether this is a machine with a device of ours and one processor for ever.
fn is_alone() -> bool {
    let possible = std::fs::read_to_string("/sys/devices/system/cpu/possible");
    possible.is_ok_and(|cpus| cpus.trim() == "0") && !vshmem_port_select::devices().is_empty()
}

fn atomics(value: i64, added: i64, alone: bool) -> Check {
    let name = "atomics";
    if value == added {
        let detail = format!("{added} additions of the back-end amid this domain's own: none is lost");
        let remedy = if alone { ALONE } else { "" };
        return Check::new(name, State::Ok, detail, remedy);
    }
    Check::new(
        name,
        State::Broken,
        format!(
            "of {added} additions of the back-end amid this domain's own {} were lost: its atomic instructions are not atomic to others",
            added - value
        ),
        "a machine under software emulation needs two possible processors: start it with -smp 1,maxcpus=2 or -smp 2",
    )
}

fn bell(woken: &[u64], rung: &[u64]) -> Check {
    let mut times: Vec<u64> = woken
        .iter()
        .zip(rung)
        .map(|(w, r)| w.saturating_sub(*r))
        .collect();
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    let detail = format!("a sleeper is woken from the back-end in {median} µs, median of {BELLS}");
    // A front-end looks around ten times a second, bells or not.
    let remedy = if median > 50_000 {
        "bells do not arrive, sleepers wake by looking around: see the back-end's log, and whether the stream is held up"
    } else {
        ""
    };
    Check::new("bell", State::Ok, detail, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(store: f64) -> Measured {
        Measured {
            store: (store, 8e9),
            load: (8e9, 8e9),
            woken: vec![],
        }
    }

    #[test]
    fn uncached_memory_is_told_with_a_remedy_and_ordinary_is_not() {
        let slow = memory(&measured(0.2e9));
        assert!(
            slow.detail.contains("uncached") && !slow.remedy.is_empty(),
            "{slow:?}"
        );
        let fast = memory(&measured(7e9));
        assert!(
            fast.remedy.is_empty() && !fast.detail.contains("uncached"),
            "{fast:?}"
        );
    }

    #[test]
    fn lost_additions_are_broken_and_late_bells_are_told() {
        assert!(atomics(100, 100, false).remedy.is_empty());
        assert!(atomics(100, 100, true).remedy.contains("maxcpus=2"));
        let lost = atomics(90, 100, false);
        assert!(lost.state == State::Broken && lost.remedy.contains("maxcpus=2"));
        assert!(bell(&[100, 200, 300], &[0, 100, 200]).remedy.is_empty());
        assert!(!bell(&[90_000, 190_000], &[0, 100_000]).remedy.is_empty());
    }
}
