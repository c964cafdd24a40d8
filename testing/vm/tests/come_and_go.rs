//! Machines that come and go and come back under one name, by every kind of end: what others have stays, what died with them is set right, and the name is free at once.

use anyhow::{Result, ensure};
use std::time::Duration;
use vshmem_testing_vm::own::{Maker, Own, flags, missing_here};
use vshmem_testing_vm::scenario::eventually;
use vshmem_testing_vm::{Actor, Machine, Place, missing, qemu_missing};

const CREATE: &str = "01600";
/// Lives of a machine of somebody's own.
const LIVES: usize = 3;

/// What the host has, whatever comes and goes.
struct Stays {
    host: Actor,
    segment: i64,
    at: i64,
    set: i64,
    queue: i64,
}

impl Stays {
    fn make(machine: &Machine) -> Result<Stays> {
        let mut host = Actor::start(machine, Place::Host)?;
        let segment = host.number(&format!("shmget 0x71 4096 {CREATE}"))?;
        let at = host.number(&format!("shmat {segment} 0"))?;
        let set = host.number(&format!("semget 0x71 1 {CREATE}"))?;
        let queue = host.number(&format!("msgget 0x71 {CREATE}"))?;
        Ok(Stays {
            host,
            segment,
            at,
            set,
            queue,
        })
    }

    /// After a guest's end: its attachment is gone, its undo applied once, what it said is there.
    fn are_right(&mut self, life: usize) -> Result<()> {
        let Stays {
            host,
            segment,
            at,
            set,
            queue,
        } = self;
        eventually(host, &format!("shmstat {segment}"), "4096 1 600")?;
        eventually(host, &format!("semval {set} 0"), "0")?;
        ensure!(host.number(&format!("peek {at} 64"))? == life as i64);
        let said = host.ask(&format!("msgrcv {queue} 64 {} 04000", life + 1))?;
        ensure!(
            said == Ok(vec!["4".into(), (life + 1).to_string(), "life".into()]),
            "{said:?}"
        );
        Ok(())
    }

    /// What a guest does in one life: finds everything, attaches, owes an undo, and leaves its word.
    fn lines(&self, life: usize) -> [String; 5] {
        let Stays {
            segment, set, queue, ..
        } = self;
        [
            "shmget 0x71 0 0".into(),
            format!("shmat {segment} 0"),
            format!("poke 0 64 {life}"),
            format!("semop {set} 0:3:1"),
            format!("msgsnd {queue} {} life 0", life + 1),
        ]
    }
}

fn live(own: &mut Own, stays: &Stays, life: usize) -> Result<()> {
    own.join("--domain own")?;
    own.actor()?;
    for line in stays.lines(life) {
        own.number(&line)?;
    }
    Ok(())
}

#[test]
fn a_qemu_of_ones_own_comes_and_goes_and_comes_back() -> Result<()> {
    if let Some(why) = missing_here() {
        missing("a QEMU of one's own that comes and goes", &why);
        return Ok(());
    }
    let machine = Machine::configured("[group]\npool = \"64M\"\n")?;
    let options = flags(&machine, "own", &[])?;
    let mut stays = Stays::make(&machine)?;
    let mut maker = Maker::new()?;
    for life in 0..LIVES {
        let mut own = maker.start("q35", &options)?;
        live(&mut own, &stays, life)?;
        match life % 3 {
            // Switched off by its own kernel, pulled out of the wall, reset.
            0 => own.last_words("echo o > /proc/sysrq-trigger")?,
            1 => own.kill(),
            _ => own.last_words("echo b > /proc/sysrq-trigger")?,
        }
        // The next one comes at once: nobody waits until the last one's death is known.
        if life + 1 < LIVES {
            continue;
        }
        drop(own);
        stays.are_right(life)?;
    }
    Ok(())
}

#[test]
fn a_qemu_guest_comes_back_under_its_name_right_after_any_end() -> Result<()> {
    if let Some(why) = qemu_missing() {
        missing("a QEMU guest that comes back", &why);
        return Ok(());
    }
    let machine = Machine::start()?;
    let mut stays = Stays::make(&machine)?;
    for life in 0..3 {
        let mut guest = Actor::start(&machine, Place::Qemu("b"))?;
        for line in stays.lines(life) {
            guest.number(&line)?;
        }
        match life {
            0 => ensure!(guest.finish(Duration::from_secs(30))?.success()),
            1 => guest.kill()?,
            _ => drop(guest),
        }
        if life == 2 {
            stays.are_right(life)?;
        }
    }
    Ok(())
}
