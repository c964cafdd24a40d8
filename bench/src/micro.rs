//! Which rows `vshmem bench micro` has, and who plays in them.

use crate::daemon::Daemon;
use crate::guests;
use crate::party::{Party, Place, Where};
use crate::row::{Row, Target};
use anyhow::{Context, Result};
use std::path::PathBuf;

/// What to run and how long.
#[derive(Debug, Clone)]
pub struct MicroOptions {
    /// The `vshmem` command to run workers with.
    pub program: PathBuf,
    /// Rounds of each comparison; the median is reported.
    pub rounds: usize,
    /// A factor for the number of iterations in a round; 1.0 is the usual.
    pub scale: f64,
    /// Only rows whose name contains this.
    pub only: Option<String>,
    /// Guest port for the rows between two guests; None: skip them, for the reason given beside.
    pub guests: Option<&'static str>,
}

/// A comparison within one kernel: the same test, once by the kernel and once by Vshmem.
struct Local {
    name: &'static str,
    test: &'static str,
    iterations: u64,
    parties: usize,
    env: &'static [(&'static str, &'static str)],
    same_cpu: bool,
    target: Option<Target>,
}

const fn row(name: &'static str, iterations: u64, parties: usize, most: f64) -> Local {
    Local {
        name,
        test: name,
        iterations,
        parties,
        env: &[],
        same_cpu: false,
        target: Some(Target::AtMost(most)),
    }
}

const LOCAL: &[Local] = &[
    row("sem_uncontended", 400_000, 1, 0.12),
    row("sem_undo_uncontended", 200_000, 1, 0.35),
    row("sem_array_4", 200_000, 1, 0.40),
    row("msg_pair_64", 100_000, 1, 0.15),
    row("sem_handoff", 5_000, 2, 0.05),
    row("msg_pingpong_64", 5_000, 2, 0.05),
    Local {
        name: "sem_handoff_sleeping",
        test: "sem_handoff",
        env: &[("VSHMEM_SPIN", "0")],
        ..row("", 3_000, 2, 1.3)
    },
    Local {
        name: "sem_handoff_same_cpu",
        test: "sem_handoff",
        same_cpu: true,
        ..row("", 10_000, 2, 1.5)
    },
    Local {
        target: None,
        ..row("attach_cycle", 1_000, 1, 0.0)
    },
    Local {
        target: None,
        ..row("attach_cycle_get", 1_000, 1, 0.0)
    },
    Local {
        target: None,
        ..row("attach_cycle_attach", 1_000, 1, 0.0)
    },
    Local {
        target: None,
        ..row("attach_cycle_detach", 1_000, 1, 0.0)
    },
    Local {
        target: None,
        ..row("attach_cycle_remove", 1_000, 1, 0.0)
    },
];

/// Runs the rows, handing each to `tell` as it is done.
pub fn micro(options: &MicroOptions, tell: &mut dyn FnMut(&Row)) -> Result<()> {
    let folder = tempfile::tempdir().context("a temporary directory")?;
    // Messages of 64 KiB need limits raised; everything else is as by default.
    let config = guests::configuration(options.guests)? + "[limits]\nmsgmax = 65536\nmsgmnb = 524288\n";
    let daemon = Daemon::start(&options.program, folder.path(), &config, None)?;
    let place = Place {
        program: &options.program,
        runtime: folder.path(),
    };
    let wanted = |name: &str| options.only.as_deref().is_none_or(|only| name.contains(only));
    let mut rows = 0;
    let tell = &mut |row: &Row| {
        rows += 1;
        tell(row);
    };
    let mut key = 0x0bec_0000 | (std::process::id() as i32 & 0xfff) << 4;
    for local in LOCAL.iter().filter(|l| wanted(l.name)) {
        key += 1;
        tell(&one_kernel(options, &place, local, key)?);
    }
    if wanted("msg_stream_64k") {
        tell(&stream(options, &place, key + 1)?);
    }
    if let Some(port) = options.guests {
        guests::rows(options, &place, port, key + 2, &wanted, tell)?;
    }
    drop(daemon);
    match &options.only {
        Some(only) if rows == 0 => {
            anyhow::bail!("no row has {only:?} in its name: leave --only out to see all")
        }
        _ => Ok(()),
    }
}

pub(crate) fn iterations(options: &MicroOptions, usual: u64) -> u64 {
    ((usual as f64 * options.scale) as u64).max(10)
}

/// The kernel's own constructs of a key, which outlive those who made them: taken away however the measurement ends.
pub(crate) struct LeftInTheKernel(pub(crate) i32);

impl Drop for LeftInTheKernel {
    fn drop(&mut self) {
        let _ = crate::worker::remove(self.0);
    }
}

/// The kernel against Vshmem, in turns.
fn one_kernel(options: &MicroOptions, place: &Place<'_>, local: &Local, key: i32) -> Result<Row> {
    let n = iterations(options, local.iterations);
    let cpu = |party: usize| if local.same_cpu { 0 } else { party % 2 };
    let start = |at: &Where| -> Result<Vec<Party>> {
        (0..local.parties)
            .map(|p| Party::start(place, at, cpu(p), local.env))
            .collect()
    };
    let _left = LeftInTheKernel(key);
    let (mut kernel, mut ours) = (start(&Where::Kernel)?, start(&Where::Local)?);
    let mut rounds = Vec::new();
    for round in 0..=options.rounds {
        let value = play(&mut ours, local.test, key, n)?;
        let baseline = play(&mut kernel, local.test, key, n)?;
        // The first round warms up.
        if round > 0 {
            rounds.push((value, baseline));
        }
    }
    for side in [&mut kernel, &mut ours] {
        side[0].ask("remove", 0, key, 0)?;
    }
    let row = Row::from_rounds(local.name, "local", "ns", "kernel System V IPC", &rounds);
    Ok(Row {
        target: local.target,
        ..row
    })
}

/// One round: nanoseconds an iteration, as role 0 measured.
pub(crate) fn play<'a>(
    parties: impl IntoIterator<Item = &'a mut Party>,
    test: &str,
    key: i32,
    n: u64,
) -> Result<f64> {
    let mut parties: Vec<&mut Party> = parties.into_iter().collect();
    for (role, party) in parties.iter_mut().enumerate().rev() {
        party.tell(test, role as u32, key, n)?;
    }
    // Role 0 measures; what the other says only shows that it did its part.
    let first = parties[0].answer()?;
    for party in &mut parties[1..] {
        party.answer()?;
    }
    Ok(first / n as f64)
}

/// 64 KiB messages between two cores, against the bare ring: bandwidth, so more is better.
fn stream(options: &MicroOptions, place: &Place<'_>, key: i32) -> Result<Row> {
    let n = iterations(options, 3_000);
    let mut parties = [
        Party::start(place, &Where::Local, 0, &[])?,
        Party::start(place, &Where::Local, 1, &[])?,
    ];
    let bandwidth = |nanos: f64| 65536.0 * 1e3 / nanos;
    let mut rounds = Vec::new();
    // Role 0 raises the queue's limit before role 1 may fill it.
    for round in 0..=options.rounds {
        let value = bandwidth(play(&mut parties, "msg_stream_64k", key, n)?);
        let baseline = bandwidth(play(&mut parties, "ring_stream_64k", key, n)?);
        if round > 0 {
            rounds.push((value, baseline));
        }
    }
    parties[0].ask("remove", 0, key, 0)?;
    Ok(Row::from_rounds(
        "msg_stream_64k",
        "local",
        "MB/s",
        "bare 8-slot ring, same copy routine",
        &rounds,
    )
    .target(Target::AtLeast(0.85)))
}
