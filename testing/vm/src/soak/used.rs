//! What the daemon uses, and what must be as it was when all is over.

use crate::machine::Machine;
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};

/// How much more memory of its own the daemon and its keeper may use than at first: they then knew no domain but the host's, and the allocator had nothing that
/// it could not give back.
const MEMORY: u64 = 3 << 20;
/// How many more descriptors: a connection may be about to end.
const DESCRIPTORS: u64 = 2;
/// How long everything may take to settle.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the memory in use must not have fallen, to be what is used in the end.
const SETTLED: Duration = Duration::from_secs(3);

/// What the daemon and its keeper use together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Used {
    bytes: u64,
    descriptors: u64,
}

impl Used {
    pub(super) fn now(machine: &Machine) -> Result<Used> {
        let mut used = Used {
            bytes: 0,
            descriptors: 0,
        };
        for pid in [machine.keeper_pid(), machine.daemon_pid()?] {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
            let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
            let kib = line
                .and_then(|l| l.split_whitespace().next())
                .context("no RssAnon")?;
            used.bytes += kib.parse::<u64>()? * 1024;
            used.descriptors += std::fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64;
        }
        Ok(used)
    }

    /// Waits until it is what it was, and lower no more; says what it is.
    pub(super) fn is_back(machine: &Machine, at_first: &Used) -> Result<String> {
        let until = Instant::now() + PATIENCE;
        let (mut least, mut since) = (u64::MAX, Instant::now());
        loop {
            let now = Used::now(machine)?;
            if now.bytes < least {
                (least, since) = (now.bytes, Instant::now());
            }
            let more = now.bytes.saturating_sub(at_first.bytes);
            let fine = more <= MEMORY && now.descriptors.saturating_sub(at_first.descriptors) <= DESCRIPTORS;
            let says = format!(
                "daemon and keeper use {} KiB and {} descriptors, at first {} KiB and {}",
                now.bytes / 1024,
                now.descriptors,
                at_first.bytes / 1024,
                at_first.descriptors
            );
            if fine && since.elapsed() >= SETTLED {
                return Ok(format!(
                    "{says} (allowed: {} KiB and {DESCRIPTORS} more)",
                    MEMORY / 1024
                ));
            }
            ensure!(Instant::now() < until, "{says}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// A construct of a list.
#[derive(Debug)]
struct Left {
    option: &'static str,
    id: i64,
    domain: String,
    /// All that is known of it, for messages.
    #[allow(dead_code, reason = "shown by Debug")]
    all: serde_json::Value,
    /// A queue that nobody ever sent anything to.
    unused: bool,
}

fn constructs(machine: &Machine) -> Result<Vec<Left>> {
    let out = machine.vshmem(&["ipcs", "--json"])?;
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).context("ipcs --json")?;
    let mut all = Vec::new();
    for (kind, option) in [("shm", "-m"), ("sem", "-s"), ("msg", "-q")] {
        for construct in json[kind].as_array().context("no list")? {
            let id = construct["id"].as_i64().context("no id")?;
            let domain = construct["domain"].as_str().context("no domain")?;
            all.push(Left {
                option,
                id,
                domain: domain.to_owned(),
                all: construct.clone(),
                unused: kind == "msg" && construct["stime"].is_null(),
            });
        }
    }
    Ok(all)
}

/// Removes those constructs that are chosen.
fn take_away(machine: &Machine, mut chosen: impl FnMut(&Left) -> bool) -> Result<()> {
    let all: Vec<Left> = constructs(machine)?.into_iter().filter(|l| chosen(l)).collect();
    for some in all.chunks(200) {
        let ids: Vec<String> = some.iter().map(|left| left.id.to_string()).collect();
        let mut words = vec!["ipcrm"];
        for (left, id) in some.iter().zip(&ids) {
            words.extend([left.option, id]);
        }
        let out = machine.vshmem(&words)?;
        ensure!(out.status.success(), "{some:?} cannot be removed: {out:?}");
    }
    Ok(())
}

/// Takes away what killed stressors left: each leaves the thousand queues it makes at its start, if it is killed then. None of them runs.
pub(super) fn take_away_of(machine: &Machine, victims: &str) -> Result<()> {
    take_away(machine, |left| left.domain == victims)
}

/// Takes away what the killed left, as they would have on any Linux; then nothing must be there, neither in lists nor in the pool.
///
/// stress-ng that is interrupted while it still makes its thousand queues, which takes a guest minutes, leaves the first of them, by the kernel's own IPC
/// as well: so one unused queue may be left by each of `guests`.
pub(super) fn nothing_left(machine: &Machine, victims: &str, guests: &[String]) -> Result<()> {
    let mut interrupted = guests.to_vec();
    take_away(machine, |left| {
        let early = interrupted.iter().position(|d| left.unused && *d == left.domain);
        early.map(|at| interrupted.remove(at));
        left.domain == victims || early.is_some()
    })?;
    let until = Instant::now() + PATIENCE;
    // News of the last deaths takes a moment.
    loop {
        let left = constructs(machine)?;
        if left.is_empty() {
            break;
        }
        ensure!(Instant::now() < until, "left over in `vshmem ipcs`: {left:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    loop {
        let out = machine.vshmem(&["status", "--json"])?;
        let status: serde_json::Value = serde_json::from_slice(&out.stdout).context("status --json")?;
        let domains = status["domains"].as_array().context("no domains")?;
        let clients: u64 = domains.iter().filter_map(|d| d["clients"].as_u64()).sum();
        // The one that asks is a client, too.
        if status["pool"]["used"] == 0 && status["pool"]["quarantine"] == 0 && clients <= 1 {
            return Ok(());
        }
        ensure!(Instant::now() < until, "left over: {status}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
