//! Threads of several processes storm one set and one queue, under signals, fork, exec and kill -9; afterwards everything is there.

use anyhow::{Context, Result, ensure};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use vshmem_testing_vm::actor::compile;
use vshmem_testing_vm::machine::wait;
use vshmem_testing_vm::{Actor, Machine, Place, containers_available, missing, uml_available};

const CREATE: &str = "01600";
const THREADS: &str = "8";
const TOKENS: i64 = 40;

fn seconds() -> u64 {
    let wanted = std::env::var("VSHMEM_STORM_SECONDS").ok();
    wanted.and_then(|s| s.parse().ok()).unwrap_or(10)
}

/// Ends with the test, whatever happens.
struct Party(Child);

impl Drop for Party {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn party(machine: &Machine, place: Place, seconds: u64, role: &str) -> Result<Party> {
    let program = compile("storm")?;
    let mut command = match place {
        Place::Kernel => Command::new(&program),
        Place::Local(domain) => machine.command(&["run", "--domain", domain, "--"]),
        Place::Container(domain) => machine.contained(&["run", "--domain", domain, "--"]),
        Place::Uml(domain) => machine.command(&[
            "vm", "run", "--port", "uml", "--domain", domain, "--mem", "128M", "--",
        ]),
        _ => machine.command(&["run", "--"]),
    };
    if place != Place::Kernel {
        command.arg(&program);
    }
    command.args([&seconds.to_string(), THREADS, role]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    Ok(Party(child))
}

fn ends_well(mut party: Party, limit: Duration) -> Result<()> {
    let status = wait(&mut party.0, limit).context("a party hangs")?;
    let mut said = String::new();
    if let Some(mut out) = party.0.stdout.take() {
        std::io::Read::read_to_string(&mut out, &mut said)?;
    }
    println!("permits, arrays, messages, alarms: {}", said.trim());
    ensure!(status.success(), "a party failed: {status}");
    Ok(())
}

fn eventually(party: &mut Actor, command: &str, expected: i64) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(15);
    loop {
        let found = party.number(command)?;
        if found == expected {
            return Ok(());
        }
        ensure!(
            Instant::now() < until,
            "{command:?} gives {found}, not {expected}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// `steady` parties work to the end; the one at `victim` is killed and begun anew again and again.
fn storm(observer: Place, steady: [Place; 2], victim: Place) -> Result<()> {
    let machine = Machine::start()?;
    let mut a = Actor::start(&machine, observer)?;
    let set = a.number(&format!("semget 0x5707 3 {CREATE}"))?;
    let queue = a.number(&format!("msgget 0x5707 {CREATE}"))?;
    let outcome = storm_on(&machine, &mut a, (set, queue), steady, victim);
    // The kernel's own constructs would stay.
    a.number(&format!("semrm {set}"))?;
    a.number(&format!("msgrm {queue}"))?;
    outcome
}

fn storm_on(
    machine: &Machine,
    a: &mut Actor,
    (set, queue): (i64, i64),
    steady: [Place; 2],
    victim: Place,
) -> Result<()> {
    a.number(&format!("semset {set} 0 10"))?;
    a.number(&format!("semset {set} 1 5"))?;
    for token in 0..TOKENS {
        a.number(&format!("msgsnd {queue} {} 12345678 0", token % 5 + 1))?;
    }
    let limit = Duration::from_secs(seconds());
    let until = Instant::now() + limit;
    let parties = [
        party(machine, steady[0], seconds(), "steady")?,
        party(machine, steady[1], seconds(), "steady")?,
    ];
    let mut round = 0;
    while Instant::now() < until {
        let reborn = party(machine, victim, 60, "reborn")?;
        // Early, in the middle, and after it has executed itself anew.
        std::thread::sleep(Duration::from_millis([300, 900, 1700, 40][round % 4]));
        drop(reborn);
        round += 1;
    }
    for party in parties {
        ends_well(party, limit + Duration::from_secs(60))?;
    }
    println!("{round} parties were killed");
    eventually(a, &format!("semval {set} 0"), 10)?;
    eventually(a, &format!("semval {set} 1"), 5)?;
    eventually(a, &format!("semval {set} 2"), 0)?;
    for number in 0..3 {
        eventually(a, &format!("semncnt {set} {number}"), 0)?;
    }
    for token in 0..TOKENS {
        let got = a.ask(&format!("msgrcv {queue} 100 0 04000"))?;
        ensure!(
            got.as_ref().is_ok_and(|w| w[2] == "12345678"),
            "token {token}: {got:?}"
        );
    }
    ensure!(
        a.ask(&format!("msgrcv {queue} 100 0 04000"))? == Err("ENOMSG".into()),
        "there are more tokens than there were"
    );
    Ok(())
}

#[test]
fn storm_on_the_kernel_itself() -> Result<()> {
    storm(Place::Kernel, [Place::Kernel; 2], Place::Kernel)
}

#[test]
fn storm_on_the_host() -> Result<()> {
    storm(Place::Host, [Place::Host; 2], Place::Host)
}

#[test]
fn storm_in_local_domains_and_containers() -> Result<()> {
    if !containers_available() {
        missing("storm in containers", "unshare is not permitted or not installed");
        return Ok(());
    }
    let steady = [Place::Container("a"), Place::Local("b")];
    storm(Place::Host, steady, Place::Container("b"))
}

#[test]
fn storm_of_a_uml_guest_and_the_host() -> Result<()> {
    if !uml_available() {
        missing("storm of a UML guest and the host", "linux.uml is not installed");
        return Ok(());
    }
    storm(Place::Host, [Place::Uml("a"), Place::Host], Place::Host)
}
