//! A virtual machine of somebody's own, with nothing of Vshmem's in its making but what `vshmem vm flags` prints: the steps of docs/guides/qemu.md in it, while the
//! back-end is killed under it.

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use vshmem_testing_vm::machine::signal;
use vshmem_testing_vm::own::{Maker, flags, missing_here};
use vshmem_testing_vm::{Machine, missing};

/// What the machine makes is the second group's, what the host makes is the first one's: each sees both.
const CONFIG: &str = "[group]
pool = \"64M\"
[[groups]]
name = \"jobs\"
pool = \"16M\"
members = [\"host\", \"own\"]
[[domain]]
name = \"own\"
port = \"ivshmem\"
groups = [\"jobs\", \"default\"]
";

fn json(machine: &Machine, words: &[&str]) -> Result<Value> {
    let out = machine.vshmem(&[words, &["--json"]].concat())?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Ok(serde_json::from_slice(&out.stdout)?)
}

#[test]
fn a_qemu_of_ones_own_joins_and_a_killed_back_end_is_nothing_to_it() -> Result<()> {
    if let Some(why) = missing_here() {
        missing("a QEMU of one's own", &why);
        return Ok(());
    }
    let machine = Machine::configured(CONFIG)?;
    let mut maker = Maker::new()?;
    let mut own = maker.start("q35", &flags(&machine, "own", &[])?)?;
    own.join("--domain own")?;
    own.sh("vshmem run -- ipcmk -M 12288")?;
    let first = own.sh("vshmem doctor")?;
    let segments = json(&machine, &["ipcs", "-m"])?;
    ensure!(segments["shm"][0]["bytes"] == 12288, "{segments:#}");
    ensure!(segments["shm"][0]["domain"] == "own", "{segments:#}");
    signal(machine.daemon_pid()?, Signal::KILL)?;
    own.sh("vshmem run -- ipcs -m")?;
    let made = machine.vshmem(&["ipcmk", "-M", "20480"])?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let seen = own.sh("vshmem run -- ipcs -m")?;
    ensure!(seen.contains("20480"), "{seen}");
    let second = own.sh("vshmem doctor")?;
    for finding in [
        "this is domain own",
        "BAR2 of 64 MiB",
        "BAR2 of 16 MiB",
        "the pool of group default",
        "the pool of group jobs",
        "none is lost",
    ] {
        ensure!(first.contains(finding), "{finding}: {first}");
        ensure!(second.contains(finding), "{finding}: {second}");
    }
    let status = json(&machine, &["status"])?;
    let used: Vec<_> = status["groups"]
        .as_array()
        .context("groups")?
        .iter()
        .map(|group| group["used"].as_u64())
        .collect();
    ensure!(used == [Some(20480), Some(12288)], "{status:#}");
    Ok(())
}
