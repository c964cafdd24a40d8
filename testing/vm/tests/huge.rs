//! Segments of huge pages where the rules do not reach: a back-end that is killed, programs past the library, guests. The rules of shmget(2) and shmop(2) for them are
//! `testing/rules`'.

use anyhow::{Result, ensure};
use vshmem_testing_vm::actor::actor_program;
use vshmem_testing_vm::huge::HugePages;
use vshmem_testing_vm::machine::signal;
use vshmem_testing_vm::{Actor, Machine, Place, missing, uml_available};

/// SHM_HUGETLB, IPC_CREAT, IPC_EXCL and mode 0600.
const HUGE: &str = "07600";

#[test]
fn a_segment_of_huge_pages_outlives_the_back_end_and_is_strict_programs_too() -> Result<()> {
    let _pages = match HugePages::set_aside() {
        Ok(pages) => pages,
        Err(why) => {
            missing("segments of huge pages", &why);
            return Ok(());
        }
    };
    let machine = Machine::start()?;
    let mut host = Actor::start(&machine, Place::Host)?;
    let id = host.number(&format!("shmget 0x51 3000000 {HUGE}"))?;
    let at = host.number(&format!("shmat {id} 0"))?;
    host.number(&format!("poke {at} 4194300 11"))?;
    let mut command = machine.command(&["run", "--strict", "--"]);
    command.arg(actor_program()?);
    let mut strict = Actor::from_command(command, Place::Host)?;
    ensure!(strict.number("shmget 0x51 0 0")? == id);
    let there = strict.number(&format!("shmat {id} 0"))?;
    ensure!(strict.number(&format!("peek {there} 4194300"))? == 11);
    let before = machine.daemon_pid()?;
    signal(before, rustix::process::Signal::KILL)?;
    host.number(&format!("poke {at} 0 12"))?;
    ensure!(strict.number(&format!("peek {there} 0"))? == 12);
    ensure!(strict.number(&format!("shmdt {there}"))? == 0);
    let again = strict.number(&format!("shmat {id} 0"))?;
    ensure!(machine.daemon_pid()? != before);
    ensure!(strict.number(&format!("peek {again} 4194300"))? == 11);
    ensure!(host.number(&format!("shmrm {id}"))? == 0);
    Ok(())
}

#[test]
fn a_uml_guest_is_refused_segments_of_huge_pages() -> Result<()> {
    let row = "segments of huge pages and a UML guest";
    if !uml_available() {
        missing(row, "linux.uml is not installed");
        return Ok(());
    }
    let _pages = match HugePages::set_aside() {
        Ok(pages) => pages,
        Err(why) => {
            missing(row, &why);
            return Ok(());
        }
    };
    let machine = Machine::start()?;
    let mut host = Actor::start(&machine, Place::Host)?;
    let mut guest = Actor::start(&machine, Place::Uml("a"))?;
    let no_memory = Err("ENOMEM".to_owned());
    ensure!(guest.ask(&format!("shmget 0x51 4096 {HUGE}"))? == no_memory);
    let id = host.number(&format!("shmget 0x51 4096 {HUGE}"))?;
    // It is there, as everybody's segments are, and its memory is not.
    ensure!(guest.number("shmget 0x51 0 0")? == id);
    ensure!(guest.ask(&format!("shmat {id} 0"))? == no_memory);
    let fine = guest.number("shmget 0x52 4096 01600")?;
    ensure!(
        guest.ask(&format!("shmat {fine} 0"))?.is_ok(),
        "others are served on"
    );
    Ok(())
}
