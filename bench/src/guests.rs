//! The rows between two guests, each pinned to its own CPU.

use crate::daemon::Daemon;
use crate::micro::{LeftInTheKernel, MicroOptions, iterations, play};
use crate::party::{Guest, Party, Place, Where};
use crate::row::{Row, Target};
use crate::stream::Echo;
use anyhow::{Context, Result};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::sync::Arc;

const ADDRESSES: [&str; 2] = ["10.99.0.1", "10.99.0.2"];
/// The environment of workers that never spin.
const SLEEPING: &[(&str, &str)] = &[("VSHMEM_SPIN", "0")];
/// What a stream whose ends share a CPU is called in the table.
const ON_ONE: &str = "one round trip on a bare stream, its ends on one CPU";
/// What two processes of the host are called in the table.
const NATIVE: &str = "Vshmem between two native processes";
/// The handoffs, compared with the kernel's own and with TCP, too.
const HANDOFFS: [&str; 2] = ["sem_handoff", "msg_pingpong_64"];

/// What is measured of the kernel's own, by two processes of the host.
const KERNEL: &str = "kernel System V IPC between two processes of the host";

/// What a daemon is told whose guests are of this port.
pub(crate) fn configuration(port: Option<&str>) -> Result<String> {
    let granted = match port {
        Some(port) => vshmem_port_select::boot(port)?.needs_grants(),
        None => false,
    };
    let group = if granted {
        "[group]\nmemory = \"grants\"\npool = \"64M\"\n"
    } else {
        ""
    };
    Ok(format!("log = \"warn\"\n{group}"))
}

/// A pair of guests with a network link of their own, and a worker in each.
fn pair(
    place: &Place<'_>,
    port: &'static str,
    domains: [&'static str; 2],
    cpus: [usize; 2],
    env: &[(&str, &str)],
) -> Result<[Party; 2]> {
    let (a, b) = socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let has_network = vshmem_port_select::boot(port)?.has_network();
    let cards = [a, b].map(|card| has_network.then(|| Arc::new(card)));
    let guest = |i: usize| {
        let guest = Guest {
            port,
            domain: domains[i],
            card: cards[i].clone(),
            address: ADDRESSES[i],
        };
        let mut env = env.to_vec();
        env.push(("VSHMEM_BENCH_PEER", ADDRESSES[1 - i]));
        Party::start(place, &Where::Guest(guest), cpus[i], &env)
    };
    Ok([guest(0)?, guest(1)?])
}

/// Runs the rows that are wanted.
pub(crate) fn rows(
    options: &MicroOptions,
    place: &Place<'_>,
    port: &'static str,
    key: i32,
    wanted: &dyn Fn(&str) -> bool,
    tell: &mut dyn FnMut(&Row),
) -> Result<()> {
    let emulated = vshmem_port_select::boot(port)?.emulates();
    let tell: &mut dyn FnMut(&Row) = &mut |row| {
        if emulated {
            tell(&row.clone().emulated());
        } else {
            tell(row);
        }
    };
    if wanted("shm_pingpong") || HANDOFFS.iter().any(|n| wanted(n)) {
        spinning(options, place, port, key, wanted, tell)?;
    }
    if ["sem_handoff_sleeping", "sem_handoff_sleeping_1cpu", "request"]
        .into_iter()
        .any(wanted)
    {
        sleeping(options, place, port, key + 16, tell)?;
    }
    Ok(())
}

fn spinning(
    options: &MicroOptions,
    place: &Place<'_>,
    port: &'static str,
    key: i32,
    wanted: &dyn Fn(&str) -> bool,
    tell: &mut dyn FnMut(&Row),
) -> Result<()> {
    let mut guests = pair(place, port, ["bench-a", "bench-b"], [0, 1], &[])?;
    let has_network = vshmem_port_select::boot(port)?.has_network();
    if !has_network {
        eprintln!("vshmem: no rows against TCP between guests of port {port}: it gives them no network");
    }
    let on_host = |at: Where| -> Result<[Party; 2]> {
        Ok([
            Party::start(place, &at, 0, &[])?,
            Party::start(place, &at, 1, &[])?,
        ])
    };
    let (mut native, mut kernel) = (on_host(Where::Local)?, on_host(Where::Kernel)?);
    let mixed = with_host(port);
    let names = [
        ("shm_pingpong", 1.15),
        ("sem_handoff", 1.25),
        ("msg_pingpong_64", 1.25),
    ];
    for (i, (name, most)) in names.into_iter().enumerate().filter(|(_, (n, _))| wanted(n)) {
        // Many short rounds: how the two CPUs happen to lie to each other changes from one moment to the next.
        let n = iterations(options, 10_000);
        let few = iterations(options, 500);
        let key = key + 2 * i as i32;
        let _left = LeftInTheKernel(key);
        let mut sides = Sides::default();
        for round in 0..=4 * options.rounds {
            let value = play(&mut guests, name, key, n)?;
            let baseline = play(&mut native, name, key + 1, n)?;
            let beside = play([&mut native[0], &mut guests[1]], name, key, n)?;
            // What sleeps takes long: every fourth round is enough.
            let slow = HANDOFFS.contains(&name) && round % 4 == 0;
            let by_kernel = slow.then(|| play(&mut kernel, name, key, few)).transpose()?;
            let tcp = (slow && has_network)
                .then(|| play(&mut guests, "tcp_pingpong_64", 5000 + round as i32, few))
                .transpose()?;
            if round > 0 {
                sides.native.push((value, baseline));
                sides.mixed.push((beside, baseline));
                sides.kernel.extend(by_kernel.map(|kernel| (value, kernel)));
                sides.tcp.extend(tcp.map(|tcp| (value, tcp)));
            }
        }
        guests[0].ask("remove", 0, key, 0)?;
        native[0].ask("remove", 0, key + 1, 0)?;
        let most = Some(Target::AtMost(most));
        let tcp = Some(Target::AtMost(0.01));
        for (domains, baseline, rounds, target) in [
            (port, NATIVE, &sides.native, most),
            (&mixed, NATIVE, &sides.mixed, None),
            (port, KERNEL, &sides.kernel, None),
            (port, "TCP between the same guests, 64 B", &sides.tcp, tcp),
        ] {
            if !rounds.is_empty() {
                let row = Row::from_rounds(name, domains, "ns", baseline, rounds);
                tell(&Row { target, ..row });
            }
        }
    }
    Ok(())
}

/// Rounds of one test, by what they are compared with.
#[derive(Default)]
struct Sides {
    native: Vec<(f64, f64)>,
    mixed: Vec<(f64, f64)>,
    kernel: Vec<(f64, f64)>,
    tcp: Vec<(f64, f64)>,
}

/// What a row is called in which one party is a process of the host.
fn with_host(port: &str) -> String {
    format!("host+{port}")
}

/// Without spinning: each handoff is two wake-ups across kernels. A request from a guest stands beside it.
///
/// Where the parties run makes most of the difference, for the handoff as for the stream, so each is measured in both ways, and like stands beside like: guests
/// on two CPUs beside a stream whose ends are on two CPUs, and guests and daemon on one CPU beside a stream whose ends share it. The guests on two CPUs are shown
/// beside the faster stream as well, without a target: it never crosses from one CPU to the other, as every handoff between them must.
fn sleeping(
    options: &MicroOptions,
    place: &Place<'_>,
    port: &'static str,
    key: i32,
    tell: &mut dyn FnMut(&Row),
) -> Result<()> {
    let echo = Echo::start(place.program, port, 0)?;
    let n = iterations(options, 300);
    let mut guests = pair(place, port, ["sleep-a", "sleep-b"], [0, 1], SLEEPING)?;
    let mut host = Party::start(place, &Where::Local, 0, SLEEPING)?;
    let mut kernel = [
        Party::start(place, &Where::Kernel, 0, &[])?,
        Party::start(place, &Where::Kernel, 1, &[])?,
    ];
    let _left = LeftInTheKernel(key);
    let mut handoffs = Vec::new();
    let mut handoffs_by_kernel = Vec::new();
    let mut with_the_host = Vec::new();
    let mut handoffs_by_one = Vec::new();
    let mut requests = Vec::new();
    // Short rounds: what waking an idle CPU costs changes from one moment to the next.
    for round in 0..=2 * options.rounds {
        let handoff = play(&mut guests, "sem_handoff", key, n)?;
        let bare = echo.round_trip(1, n)?;
        let bare_on_one = echo.round_trip(0, n)?;
        let by_kernel = play(&mut kernel, "sem_handoff", key, n)?;
        let beside = play([&mut host, &mut guests[1]], "sem_handoff", key, n)?;
        let request = guests[0].ask("request", 0, 0, n)? / n as f64;
        if round > 0 {
            handoffs.push((handoff, bare));
            handoffs_by_one.push((handoff, bare_on_one));
            handoffs_by_kernel.push((handoff, by_kernel));
            with_the_host.push((beside, by_kernel));
            requests.push((request, bare_on_one));
        }
    }
    guests[0].ask("remove", 0, key, 0)?;
    drop(guests);
    let most = Target::AtMost(3.0);
    let baseline = "one round trip on a bare stream, its ends on two CPUs";
    tell(&Row::from_rounds("sem_handoff_sleeping", port, "ns", baseline, &handoffs).target(most));
    let mixed = with_host(port);
    for (domains, baseline, rounds) in [
        (port, ON_ONE, &handoffs_by_one),
        (port, KERNEL, &handoffs_by_kernel),
        (&mixed, KERNEL, &with_the_host),
    ] {
        tell(&Row::from_rounds(
            "sem_handoff_sleeping",
            domains,
            "ns",
            baseline,
            rounds,
        ));
    }
    tell(&Row::from_rounds("request", port, "ns", ON_ONE, &requests));
    let together = sleeping_on_one(options, place, port, key + 1, &echo)?;
    tell(&Row::from_rounds("sem_handoff_sleeping_1cpu", port, "ns", ON_ONE, &together).target(most));
    Ok(())
}

/// The same with everybody who takes part on one CPU: both guests, and a daemon of their own.
fn sleeping_on_one(
    options: &MicroOptions,
    place: &Place<'_>,
    port: &'static str,
    key: i32,
    echo: &Echo,
) -> Result<Vec<(f64, f64)>> {
    let folder = tempfile::tempdir().context("a temporary directory")?;
    let daemon = Daemon::start(place.program, folder.path(), &configuration(Some(port))?, Some(0))?;
    let place = Place {
        program: place.program,
        runtime: folder.path(),
    };
    let mut guests = pair(&place, port, ["near-a", "near-b"], [0, 0], SLEEPING)?;
    let n = iterations(options, 300);
    let mut rounds = Vec::new();
    for round in 0..=2 * options.rounds {
        let handoff = play(&mut guests, "sem_handoff", key, n)?;
        let bare = echo.round_trip(0, n)?;
        if round > 0 {
            rounds.push((handoff, bare));
        }
    }
    guests[0].ask("remove", 0, key, 0)?;
    drop(guests);
    drop(daemon);
    Ok(rounds)
}
