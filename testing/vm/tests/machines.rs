//! What befalls whole machines short of their end: a pause at the worst moment, a reset, memory of others beside the pool.

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use std::time::{Duration, Instant};
use vshmem_testing_vm::actor::actor_program;
use vshmem_testing_vm::machine::{finish, hypervisor, signal};
use vshmem_testing_vm::{Actor, Machine, Place, missing, qemu_missing};

const CREATE: &str = "01600";
/// How long a machine stands still with a lock: nothing in Vshmem has a time-out that a longer pause would reach.
const PAUSE: Duration = Duration::from_secs(4);

/// Whether the row can run here.
fn here(row: &str) -> bool {
    match qemu_missing() {
        Some(why) => {
            missing(row, &why);
            false
        }
        None => true,
    }
}

/// Asks until the answer is the one expected.
fn eventually(party: &mut Actor, command: &str, expected: i64) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let found = party.number(command)?;
        if found == expected {
            return Ok(());
        }
        ensure!(
            Instant::now() < until,
            "{command:?} still gives {found}, not {expected}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_qemu_guest_paused_while_it_holds_a_lock_delays_that_construct_alone() -> Result<()> {
    if !here("a QEMU guest paused while it holds a lock") {
        return Ok(());
    }
    let machine = Machine::start()?;
    let mut a = Actor::start(&machine, Place::Host)?;
    let mut other = Actor::start(&machine, Place::Host)?;
    let mut b = Actor::start(&machine, Place::Qemu("b"))?;
    let qemu = hypervisor(b.host_pid())?;
    let set = a.number(&format!("semget 0x81 1 {CREATE}"))?;
    let spared = a.number(&format!("semget 0x82 1 {CREATE}"))?;
    a.number(&format!("semset {set} 0 5"))?;
    b.number("semget 0x81 1 0")?;
    b.tell(&format!("semcycle {set} 0 100000000"))?;
    let mut caught = false;
    for _ in 0..60 {
        std::thread::sleep(Duration::from_millis(17));
        signal(qemu, Signal::STOP)?;
        a.tell(&format!("semcycle {set} 0 20"))?;
        caught = a.answer_if_within(Duration::from_millis(500)).is_none();
        if caught {
            break;
        }
        signal(qemu, Signal::CONT)?;
    }
    ensure!(caught, "sixty pauses met no locked section");
    // The rest of the world goes on, and who waits can be killed.
    let daemon = machine.daemon_pid()?;
    let until = Instant::now() + PAUSE;
    while Instant::now() < until {
        other.number(&format!("semop {spared} 0:1"))?;
        other.number(&format!("semop {spared} 0:-1"))?;
        other.number(&format!("semget 0x83 1 {CREATE}"))?;
        std::thread::sleep(Duration::from_millis(100));
    }
    a.kill()?;
    let mut c = Actor::start(&machine, Place::Host)?;
    c.tell(&format!("semcycle {set} 0 20"))?;
    ensure!(c.is_blocked(), "the paused guest's lock was taken from it");
    signal(qemu, Signal::CONT)?;
    ensure!(
        c.answer_within(Duration::from_secs(20))?.is_ok(),
        "it did not go on with the guest"
    );
    b.kill()?;
    eventually(&mut c, &format!("semval {set} 0"), 5)?;
    ensure!(machine.daemon_pid()? == daemon, "the daemon was restarted");
    Ok(())
}

#[test]
fn a_qemu_guest_that_resets_in_the_middle_is_over_and_harms_nobody() -> Result<()> {
    if !here("a QEMU guest that resets in the middle") {
        return Ok(());
    }
    let machine = Machine::start()?;
    let mut a = Actor::start(&machine, Place::Host)?;
    let set = a.number(&format!("semget 0x84 2 {CREATE}"))?;
    a.number(&format!("semset {set} 0 5"))?;
    let words = [
        "vm", "run", "--port", "qemu", "--domain", "b", "--mem", "192M", "--", "sh", "-c",
    ];
    let mut command = machine.command(&words);
    command
        .arg("(sleep 6; echo b > /proc/sysrq-trigger) & exec \"$0\"")
        .arg(actor_program()?);
    let mut b = Actor::from_command(command, Place::Qemu("b"))?;
    b.number("semget 0x84 0 0")?;
    b.number(&format!("semop {set} 1:3:1"))?;
    b.tell(&format!("semcycle {set} 0 100000000"))?;
    let status = b.end_within(Duration::from_secs(60))?;
    ensure!(status.code() == Some(125), "{status}");
    eventually(&mut a, &format!("semval {set} 0"), 5)?;
    eventually(&mut a, &format!("semval {set} 1"), 0)?;
    // Its name is free again.
    let mut again = Actor::start(&machine, Place::Qemu("b"))?;
    ensure!(again.number("semget 0x84 0 0")? == set);
    Ok(())
}

#[test]
fn a_qemu_guest_with_others_memory_beside_the_pool_finds_the_pool() -> Result<()> {
    if !here("a QEMU guest with others' memory beside the pool") {
        return Ok(());
    }
    let machine = Machine::start()?;
    let file = tempfile::NamedTempFile::new()?;
    file.as_file().set_len(1 << 20)?;
    std::os::unix::fs::FileExt::write_all_at(file.as_file(), b"somebody else's ring buffer", 0)?;
    let path = file.path().to_str().context("a plain name")?;
    // Before the pool's in the order of addresses: a front-end that takes the first device takes the wrong one.
    let options = format!(
        "-object memory-backend-file,id=other,share=on,mem-path={path},size=1M -device ivshmem-plain,memdev=other,master=off,addr=0x1"
    );
    let words = [
        "vm", "run", "--port", "qemu", "--domain", "b", "--", "ipcmk", "-M", "4096",
    ];
    let mut command = machine.command(&words);
    let out = finish(
        command.env("VSHMEM_QEMU_OPTIONS", options),
        Duration::from_secs(90),
    )?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{said}");
    let mut found = [0; 27];
    std::os::unix::fs::FileExt::read_exact_at(file.as_file(), &mut found, 0)?;
    ensure!(
        &found == b"somebody else's ring buffer",
        "the other program's memory was written to"
    );
    Ok(())
}
