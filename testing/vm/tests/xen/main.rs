//! Dom0 and two guests of Xen, booted once: everything of `exchange`, three parties on one construct, a killed back-end, a killed process, and a guest that is
//! destroyed while it holds a semaphore with SEM_UNDO and, in the middle of an operation, the set's lock. What guests cannot do: [`limits`]. `cargo xtask xen-lab --test` runs it; elsewhere it is skipped, with the reason.

mod limits;

use anyhow::{Context, Result, ensure};
use limits::{holder, within_reach};
use rustix::process::Signal;
use std::process::Command;
use std::time::Duration;
use vshmem_testing_vm::machine::{finish, signal};
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

/// Interrupts that event channels of a Vshmem daemon of this machine have made.
fn events_here() -> Result<u64> {
    let all = std::fs::read_to_string("/proc/interrupts")?;
    let own = all.lines().filter(|line| line.contains("evtchn:vshmem-daemon"));
    let count = |line: &str| {
        let numbers = line.split_whitespace().skip(1);
        numbers.map_while(|word| word.parse::<u64>().ok()).sum::<u64>()
    };
    Ok(own.map(count).sum())
}

/// One sleeps on a semaphore, the other wakes it.
fn handoff((waits, wakes): (&mut Actor, &mut Actor), (set, number): (i64, u32)) -> Result<()> {
    waits.tell(&format!("semop {set} {number}:-1"))?;
    // Asleep by then, most often.
    std::thread::sleep(Duration::from_millis(30));
    wakes.number(&format!("semop {set} {number}:1"))?;
    ensure!(waits.answer_within(Duration::from_secs(30))?.is_ok());
    Ok(())
}

/// While the back-end is stopped, sleepers in dom0 and in a guest are woken by event channels, with nobody in between.
fn woken_without_the_back_end(machine: &Machine, dom0: &mut Actor, guest: &mut Actor) -> Result<()> {
    let set = dom0.number(&format!("semget 0x34 2 {CREATE}"))?;
    guest.number("semget 0x34 2 0")?;
    let mut rounds = |count: u32| -> Result<()> {
        for _ in 0..count {
            handoff((dom0, guest), (set, 0))?;
            handoff((guest, dom0), (set, 1))?;
        }
        Ok(())
    };
    // Who has slept once gets a bell for the next time.
    rounds(6)?;
    let daemon = machine.daemon_pid()?;
    signal(daemon, Signal::STOP)?;
    let woken = events_here().and_then(|before| {
        rounds(20)?;
        Ok(events_here()? - before)
    });
    signal(daemon, Signal::CONT)?;
    // A stopped daemon's own lines make one event each.
    let woken = woken?;
    println!("20 sleepers in dom0 were woken while the back-end was stopped: {woken} events");
    ensure!(
        woken >= 8,
        "{woken} events in 20 rounds: sleepers in dom0 look by themselves"
    );
    dom0.number(&format!("semrm {set}"))?;
    Ok(())
}

/// Runs `xl` to its end; gives what it says.
fn xl(words: &[&str]) -> Result<String> {
    let out = finish(Command::new("xl").args(words), Duration::from_secs(120))?;
    ensure!(
        out.status.success(),
        "xl {words:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

fn destroy(name: &str) -> Result<()> {
    xl(&["destroy", name]).map(drop)
}

/// What one guest has attached is out of the other's reach, with every reference that there is.
fn not_let_in(holder: u16, a: &mut Actor, b: &mut Actor) -> Result<()> {
    // What is left of constructs that are just gone.
    let before = within_reach(b, holder)?;
    let id = a.number(&format!("shmget 0 40960 {CREATE}"))?;
    let handle = a.number(&format!("shmat {id} 0"))?;
    ensure!(within_reach(a, holder)? >= 10);
    let after = within_reach(b, holder)?;
    ensure!(
        after <= before,
        "another guest's pages are mapped: {after}, before {before}"
    );
    a.number(&format!("shmdt {handle}"))?;
    a.number(&format!("shmrm {id}")).map(drop)
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
    let holder = holder(&machine)?;
    let dom0 = Actor::start(&machine, Place::Host)?;
    let [a, b] = two_guests(&machine)?;
    let mut parties = [dom0, a, b];
    let [dom0, a, b] = &mut parties;
    step("two guests", || scenario::exchange(a, b))?;
    step("dom0 and a guest", || scenario::exchange(dom0, a))?;
    step("three parties", || three_parties(&mut parties))?;
    let [dom0, a, b] = &mut parties;
    step("nobody in between", || {
        woken_without_the_back_end(&machine, dom0, b)
    })?;
    step("a guest forks", || scenario::forks(dom0, a))?;
    step("a guest that was not let in", || not_let_in(holder, a, b))?;
    step("the back-end is killed, then a process", || {
        scenario::survives(&machine, dom0, b)
    })?;
    step("a guest is destroyed in the middle of an operation", || {
        let stop = |stop| xl(&[if stop { "pause" } else { "unpause" }, "a"]).map(drop);
        scenario::dies_with_the_lock(dom0, a, stop, |_| destroy("a"))
    })?;
    drop(parties);
    machine.stop()?;
    let left = xl(&["list"])?;
    ensure!(left.lines().count() == 2, "more than dom0 is left:\n{left}");
    Ok(())
}

fn step(what: &str, body: impl FnOnce() -> Result<()>) -> Result<()> {
    let start = std::time::Instant::now();
    body().with_context(|| what.to_owned())?;
    println!("{what}: held ({:.1} s)", start.elapsed().as_secs_f64());
    Ok(())
}
