//! One group of four kernels: a process of the host, a UML guest and two QEMU guests, whose pool is one file.

use anyhow::{Result, ensure};
use std::time::Duration;
use vshmem_testing_vm::{Actor, Machine, Place, missing, qemu_missing, uml_available};

const CREATE: &str = "01600";
const PARTIES: [Place; 4] = [Place::Host, Place::Uml("u"), Place::Qemu("q"), Place::Qemu("r")];
const ADDITIONS: i64 = 300_000;

#[test]
fn the_host_a_uml_guest_and_two_qemu_guests() -> Result<()> {
    let row = "the host, a UML guest and two QEMU guests";
    if let Some(why) = qemu_missing() {
        missing(row, &why);
        return Ok(());
    }
    if !uml_available() {
        missing(row, "linux.uml is not installed");
        return Ok(());
    }
    let machine = Machine::start()?;
    let mut parties = PARTIES
        .iter()
        .map(|place| Actor::start(&machine, *place))
        .collect::<Result<Vec<_>>>()?;
    counter(&mut parties)?;
    round(&mut parties)?;
    post(&mut parties)?;
    death(&mut parties)
}

/// All add to one word at the same time.
fn counter(parties: &mut [Actor]) -> Result<()> {
    let id = parties[0].number(&format!("shmget 0x71 8192 {CREATE}"))?;
    for party in &mut *parties {
        ensure!(party.number("shmget 0x71 0 0")? == id);
        party.number(&format!("shmat {id} 0"))?;
    }
    for party in &mut *parties {
        party.tell(&format!("add 0 4096 {ADDITIONS}"))?;
    }
    for party in &mut *parties {
        ensure!(party.answer_within(Duration::from_secs(60))?.is_ok());
    }
    let all = ADDITIONS * i64::try_from(parties.len())?;
    for party in &mut *parties {
        ensure!(party.number("peek 0 4096")? == all, "additions were lost");
    }
    Ok(())
}

/// A token goes round: each sleeps until its predecessor, in another kernel, wakes it.
fn round(parties: &mut [Actor]) -> Result<()> {
    let set = parties[0].number(&format!("semget 0x72 {} {CREATE}", parties.len()))?;
    for turn in 0..3 {
        for (number, party) in parties.iter_mut().enumerate().skip(1) {
            party.number("semget 0x72 0 0")?;
            party.tell(&format!("semop {set} {number}:-1"))?;
            ensure!(party.is_blocked(), "turn {turn}: {number} did not wait");
        }
        for number in 1..parties.len() {
            parties[number - 1].number(&format!("semop {set} {number}:1"))?;
            ensure!(
                parties[number].answer_within(Duration::from_secs(15))?.is_ok(),
                "turn {turn}: {number} was not woken"
            );
        }
    }
    Ok(())
}

/// Each writes to each.
fn post(parties: &mut [Actor]) -> Result<()> {
    let queue = parties[0].number(&format!("msgget 0x73 {CREATE}"))?;
    let count = parties.len();
    for (from, party) in parties.iter_mut().enumerate() {
        party.number("msgget 0x73 0")?;
        for to in (0..count).filter(|to| *to != from) {
            party.number(&format!("msgsnd {queue} {} from-{from} 0", to + 1))?;
        }
    }
    for (to, party) in parties.iter_mut().enumerate() {
        for from in (0..count).filter(|from| *from != to) {
            let wanted = vec!["6".to_owned(), (to + 1).to_string(), format!("from-{from}")];
            let got = party.ask(&format!("msgrcv {queue} 64 {} 04000", to + 1))?;
            ensure!(got == Ok(wanted), "{got:?}");
        }
    }
    Ok(())
}

/// A whole QEMU guest goes while it holds what all the others wait for.
fn death(parties: &mut [Actor]) -> Result<()> {
    let set = parties[0].number(&format!("semget 0x74 1 {CREATE}"))?;
    parties[0].number(&format!("semset {set} 0 1"))?;
    let (dead, rest) = parties.split_last_mut().expect("four of them");
    dead.number("semget 0x74 0 0")?;
    dead.number(&format!("semop {set} 0:-1:1"))?;
    for party in &mut *rest {
        party.number("semget 0x74 0 0")?;
        party.tell(&format!("semop {set} 0:-1"))?;
        ensure!(party.is_blocked());
    }
    dead.kill()?;
    // One permit comes back; whoever gets it hands it on.
    let mut left = rest.len();
    for _ in 0..100 {
        for party in &mut *rest {
            if let Some(answer) = party.answer_if_within(Duration::from_millis(100)) {
                ensure!(answer.starts_with('='), "{answer}");
                left -= 1;
                if left > 0 {
                    party.number(&format!("semop {set} 0:1"))?;
                }
            }
        }
        if left == 0 {
            return Ok(());
        }
    }
    anyhow::bail!("{left} of the living were not woken by the death of a QEMU guest")
}
