//! A pool for each of two groups: a guest in both sees both, one in one sees that one, and rubbish in one pool is nothing to the other.

use anyhow::{Context, Result, ensure};
use std::time::Duration;
use vshmem_testing_vm::actor::{actor_program, compile};
use vshmem_testing_vm::machine::finish;
use vshmem_testing_vm::{Actor, Machine, Place, missing, qemu_missing, uml_available};

const CREATE: &str = "01600";
const SECOND_POOL: &str = "8388608";
/// The host and `both` are in both groups, `one` in the first, `evil` in the second.
const CONFIG: &str = r#"
[group]
pool = "32M"
[[groups]]
name = "jobs"
pool = "8M"
[[domain]]
name = "host"
groups = ["default", "jobs"]
routes = { "0x5000-0x5fff" = "jobs" }
[[domain]]
name = "both"
port = "ivshmem"
groups = ["default", "jobs"]
routes = { "0x5000-0x5fff" = "jobs" }
[[domain]]
name = "one"
port = "ivshmem"
[[domain]]
name = "evil"
port = "ivshmem"
groups = ["jobs"]
"#;

/// Boots `both`, with another program's shared memory before the pools in the order of addresses.
fn boot_both(machine: &Machine, others: &tempfile::NamedTempFile) -> Result<Actor> {
    others.as_file().set_len(1 << 20)?;
    std::os::unix::fs::FileExt::write_all_at(others.as_file(), b"somebody else's ring buffer", 0)?;
    let path = others.path().to_str().context("a plain name")?;
    let options = format!(
        "-object memory-backend-file,id=other,share=on,mem-path={path},size=1M -device ivshmem-plain,memdev=other,master=off,addr=0x1"
    );
    let words = [
        "vm", "run", "--port", "qemu", "--domain", "both", "--mem", "192M", "--",
    ];
    let mut command = machine.command(&words);
    command.arg(actor_program()?).env("VSHMEM_QEMU_OPTIONS", options);
    Actor::from_command(command, Place::Qemu("both"))
}

/// A segment and a set of the group that a key is routed to, shared by two.
fn share(a: &mut Actor, b: &mut Actor, key: u32, value: u32) -> Result<i64> {
    let id = a.number(&format!("shmget {key:#x} 8192 {CREATE}"))?;
    ensure!(
        b.number(&format!("shmget {key:#x} 0 0"))? == id,
        "another segment"
    );
    let at = a.number(&format!("shmat {id} 0"))?;
    let there = b.number(&format!("shmat {id} 0"))?;
    a.number(&format!("poke {at} 4096 {value}"))?;
    ensure!(
        b.number(&format!("peek {there} 4096"))? == i64::from(value),
        "another memory"
    );
    let set = a.number(&format!("semget {key:#x} 2 {CREATE}"))?;
    ensure!(b.number(&format!("semget {key:#x} 0 0"))? == set);
    Ok(set)
}

/// Each is woken by the other, over kernels.
fn wake(a: &mut Actor, b: &mut Actor, set: i64) -> Result<()> {
    for _ in 0..3 {
        b.tell(&format!("semop {set} 0:-1"))?;
        ensure!(b.is_blocked());
        a.number(&format!("semop {set} 0:1"))?;
        ensure!(b.answer_within(Duration::from_secs(15))?.is_ok(), "not woken");
        a.tell(&format!("semop {set} 1:-1"))?;
        ensure!(a.is_blocked());
        b.number(&format!("semop {set} 1:1"))?;
        ensure!(a.answer_within(Duration::from_secs(15))?.is_ok(), "not woken");
    }
    Ok(())
}

#[test]
fn a_qemu_guest_in_two_groups_sees_both_and_rubbish_in_one_is_nothing_to_the_other() -> Result<()> {
    if let Some(why) = qemu_missing() {
        missing("a QEMU guest in two groups", &why);
        return Ok(());
    }
    let scribble = compile("scribble")?;
    let machine = Machine::configured(CONFIG)?;
    let others = tempfile::NamedTempFile::new()?;
    let mut host = Actor::start(&machine, Place::Host)?;
    let mut both = boot_both(&machine, &others)?;
    let mut one = Actor::start(&machine, Place::Qemu("one"))?;

    let first = share(&mut host, &mut both, 0x91, 17)?;
    let second = share(&mut host, &mut both, 0x5001, 23)?;
    wake(&mut host, &mut both, first)?;
    wake(&mut host, &mut both, second)?;
    ensure!(one.number("semget 0x91 0 0")? == first, "the group that it is in");
    wake(&mut both, &mut one, first)?;
    ensure!(
        one.ask("semget 0x5001 0 0")? == Err("ENOENT".to_owned()),
        "a key of the other group"
    );
    ensure!(
        one.ask(&format!("semval {second} 0"))?.is_err(),
        "an id of the other group"
    );

    let daemon = machine.daemon_pid()?;
    let words = [
        "vm", "run", "--port", "qemu", "--domain", "evil", "--mem", "192M", "--",
    ];
    let mut command = machine.command(&words);
    let hostile = finish(
        command.arg(scribble).args([SECOND_POOL, "3"]),
        Duration::from_secs(90),
    )?;
    let said = String::from_utf8_lossy(&hostile.stdout);
    ensure!(
        said.contains("and then everything"),
        "{said} {}",
        String::from_utf8_lossy(&hostile.stderr)
    );
    ensure!(
        both.ask(&format!("semop {second} 0:1"))?.is_err(),
        "it was spared"
    );
    wake(&mut host, &mut both, first)?;
    wake(&mut both, &mut one, first)?;
    ensure!(
        both.number("peek 0 4096")? == 17,
        "the first group's memory was written to"
    );
    // The second group goes on with new constructs.
    let set = both.number(&format!("semget 0x5002 1 {CREATE}"))?;
    both.number(&format!("semop {set} 0:1"))?;
    ensure!(host.number(&format!("semval {set} 0"))? == 1);
    ensure!(machine.daemon_pid()? == daemon, "the daemon was restarted");
    let mut found = [0; 27];
    std::os::unix::fs::FileExt::read_exact_at(others.as_file(), &mut found, 0)?;
    ensure!(
        &found == b"somebody else's ring buffer",
        "another program's memory was written to"
    );
    Ok(())
}

#[test]
fn a_uml_guest_in_two_groups_is_refused_with_what_to_do() -> Result<()> {
    if !uml_available() {
        missing("a UML guest in two groups", "linux.uml is not installed");
        return Ok(());
    }
    let machine = Machine::configured(CONFIG)?;
    let run = |domain| {
        let words = [
            "vm", "run", "--port", "uml", "--domain", domain, "--", "ipcmk", "-M", "4096",
        ];
        finish(&mut machine.command(&words), Duration::from_secs(60))
    };
    let refused = run("both")?;
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(!refused.status.success(), "{said}");
    ensure!(
        said.contains("2 groups") && said.contains("port uml can be shown 1"),
        "{said}"
    );
    // In one group that is not the first it has that one's pool.
    let fine = run("evil")?;
    ensure!(fine.status.success(), "{}", String::from_utf8_lossy(&fine.stderr));
    let status = machine.vshmem(&["status", "--json"])?;
    let status: serde_json::Value = serde_json::from_slice(&status.stdout)?;
    ensure!(
        status["groups"][1]["used"] == 4096 && status["groups"][0]["used"] == 0,
        "{status}"
    );
    Ok(())
}
