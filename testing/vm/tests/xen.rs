//! Dom0 and two guests of Xen, booted once: everything of `exchange`, three parties on one construct, a killed back-end, a killed process, and a guest that is
//! destroyed while it holds a semaphore with SEM_UNDO. `cargo xtask xen-lab --test` runs it; elsewhere it is skipped, with the reason.

use anyhow::{Context, Result, ensure};
use std::process::Command;
use std::time::Duration;
use vshmem_testing_vm::machine::finish;
use vshmem_testing_vm::{Actor, Machine, Place, missing, scenario, xen_missing};

const CREATE: &str = "01600";

/// Each adds to one word and takes turns in a ring of semaphores.
fn three_parties(parties: &mut [Actor; 3]) -> Result<()> {
    let [first, ..] = parties;
    let segment = first.number(&format!("shmget 0x33 4096 {CREATE}"))?;
    let set = first.number(&format!("semget 0x33 3 {CREATE}"))?;
    let mut handles = Vec::new();
    for party in parties.iter_mut() {
        party.number("semget 0x33 3 0")?;
        let handle = party.number(&format!("shmat {segment} 0"))?;
        handles.push(handle);
    }
    for (party, handle) in parties.iter_mut().zip(&handles) {
        party.tell(&format!("add {handle} 0 300000"))?;
    }
    for party in parties.iter_mut() {
        ensure!(party.answer_within(Duration::from_secs(60))?.is_ok());
    }
    for (party, handle) in parties.iter_mut().zip(&handles) {
        let seen = party.number(&format!("peek {handle} 0"))?;
        ensure!(seen == 900_000, "additions were lost: {seen}");
    }
    for turn in 0..9 {
        let (waits, wakes) = (turn % 3, (turn + 1) % 3);
        parties[waits].tell(&format!("semop {set} {waits}:-1"))?;
        parties[wakes].number(&format!("semop {set} {waits}:1"))?;
        ensure!(parties[waits].answer_within(Duration::from_secs(20))?.is_ok());
    }
    let stat = parties[0].ask(&format!("shmstat {segment}"))?;
    ensure!(
        stat == Ok(vec!["4096".into(), "3".into(), "600".into()]),
        "{stat:?}"
    );
    parties[1].number(&format!("semrm {set}"))?;
    parties[2].number(&format!("shmrm {segment}"))?;
    for (party, handle) in parties.iter_mut().zip(&handles) {
        party.number(&format!("shmdt {handle}"))?;
    }
    Ok(())
}

fn destroy(name: &str) -> Result<()> {
    let out = finish(
        Command::new("xl").args(["destroy", name]),
        Duration::from_secs(60),
    )?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Ok(())
}

/// Both at once, since most of a boot is waiting.
fn two_guests(machine: &Machine) -> Result<[Actor; 2]> {
    std::thread::scope(|scope| {
        let started = ["a", "b"].map(|name| scope.spawn(move || Actor::start(machine, Place::Xen(name))));
        let [a, b] = started.map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a panic")));
        Ok([a??, b??])
    })
}

#[test]
fn dom0_and_two_guests_share_and_survive() -> Result<()> {
    if let Some(why) = xen_missing() {
        missing("dom0_and_two_guests_share_and_survive", &why);
        return Ok(());
    }
    let mut machine = Machine::start_for(&[Place::Xen("a"), Place::Xen("b")])?;
    let dom0 = Actor::start(&machine, Place::Host)?;
    let [a, b] = two_guests(&machine)?;
    let mut parties = [dom0, a, b];
    let [dom0, a, b] = &mut parties;
    step("two guests", || scenario::exchange(a, b))?;
    step("dom0 and a guest", || scenario::exchange(dom0, a))?;
    step("three parties", || three_parties(&mut parties))?;
    let [dom0, a, b] = &mut parties;
    step("the back-end is killed, then a process", || {
        scenario::survives(&machine, dom0, b)
    })?;
    step("a guest is destroyed", || {
        scenario::dies_while_it_holds(dom0, a, |_| destroy("a"))
    })?;
    drop(parties);
    machine.stop()?;
    let left = finish(Command::new("xl").arg("list"), Duration::from_secs(60))?;
    let left = String::from_utf8_lossy(&left.stdout).into_owned();
    ensure!(left.lines().count() == 2, "more than dom0 is left:\n{left}");
    Ok(())
}

fn step(what: &str, body: impl FnOnce() -> Result<()>) -> Result<()> {
    let start = std::time::Instant::now();
    body().with_context(|| what.to_owned())?;
    println!("{what}: held ({:.1} s)", start.elapsed().as_secs_f64());
    Ok(())
}
