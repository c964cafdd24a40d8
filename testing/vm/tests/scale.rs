//! Many constructs, clients, domains and waiters, by the benchmark that measures them; and what happens at the limit of open files.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;
use vshmem_testing_vm::machine::{finish, program};
use vshmem_testing_vm::{Actor, Machine, Place, missing};

/// How many times as long an operation may take with the most as with a hundred: more than the benchmark allows, as much else may run beside this test, and far
/// less than what looks at each of two thousand constructs takes.
const FLAT: f64 = 4.0;

#[test]
fn operations_stay_flat() -> Result<()> {
    let mut command = Command::new(program());
    command.args(["bench", "scale", "--short", "--json", "--guests", "none"]);
    let out = finish(&mut command, Duration::from_secs(120))?;
    let (said, complaints) = (
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr),
    );
    // 1: something was not as flat as the benchmark wants it, which is judged here instead.
    ensure!(matches!(out.status.code(), Some(0 | 1)), "{complaints}");
    let mut curves: BTreeMap<(String, String), Vec<f64>> = BTreeMap::new();
    for line in said.lines() {
        let point: serde_json::Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let word = |name: &str| {
            point[name]
                .as_str()
                .map(str::to_owned)
                .context("a field is missing")
        };
        let count = point["count"].as_u64().context("count")?;
        let value = point["value"].as_f64().context("value")?;
        println!("{line}");
        if word("unit")? == "ns" && count >= 100 {
            curves
                .entry((word("part")?, word("what")?))
                .or_default()
                .push(value);
        }
    }
    for part in ["constructs", "files", "clients", "waiters"] {
        ensure!(
            curves.keys().any(|(p, _)| p == part),
            "part {part} is missing: {complaints}"
        );
    }
    for ((part, what), values) in curves {
        let growth = values.last().context("no value")? / values[0];
        ensure!(growth <= FLAT, "{part}: {what} grows by {growth:.1}: {values:?}");
    }
    Ok(())
}

#[test]
fn a_daemon_out_of_descriptors_says_so_and_serves_on() -> Result<()> {
    let name = "a_daemon_out_of_descriptors_says_so_and_serves_on";
    // Root may raise the limit, unless it is kept from it.
    let keep = [
        "--bounding-set=-sys_resource",
        "--inh-caps=-sys_resource",
        "prlimit",
        "--nofile=600:600",
    ];
    let mut check = Command::new("setpriv");
    if !finish(check.args(keep).arg("true"), Duration::from_secs(10)).is_ok_and(|out| out.status.success()) {
        missing(
            name,
            "setpriv and prlimit are not installed, or dropping a capability is not permitted",
        );
        return Ok(());
    }
    let mut command = Command::new("setpriv");
    command.args(keep).arg(program());
    let machine = Machine::started_by(command, "[group]\nmemory = \"memfd\"\n")?;
    let mut a = Actor::start(&machine, Place::Host)?;
    let mut ids = Vec::new();
    let refused = loop {
        match a.ask("semget 0 1 01600")? {
            Ok(answer) => ids.push(answer[0].clone()),
            Err(errno) => break errno,
        }
        ensure!(ids.len() < 1000, "no limit was met");
    };
    println!("{} sets, then {refused}", ids.len());
    ensure!(refused == "ENOSPC", "{refused}");
    ensure!(ids.len() > 300, "only {} sets could be made", ids.len());
    // What is there works, others can come, and what is removed makes room.
    let mut b = Actor::start(&machine, Place::Local("b"))?;
    b.number(&format!("semset {} 0 5", ids[0]))?;
    ensure!(a.number(&format!("semval {} 0", ids[0]))? == 5);
    a.number(&format!("semrm {}", ids[1]))?;
    b.number("semget 0 1 01600")?;
    ensure!(a.ask("semget 0 1 01600")? == Err("ENOSPC".into()));
    // A restarted daemon knows how many there are.
    vshmem_testing_vm::machine::signal(machine.daemon_pid()?, rustix::process::Signal::KILL)?;
    ensure!(a.ask("semget 0 1 01600")? == Err("ENOSPC".into()));
    ensure!(a.number(&format!("semval {} 0", ids[0]))? == 5);
    Ok(())
}
