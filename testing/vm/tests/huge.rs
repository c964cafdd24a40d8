//! Pools in huge pages, as programs and QEMU have them mapped; and segments of huge pages where the rules do not reach: a back-end that is killed, programs past the library, guests. The rules of shmget(2) and shmop(2) for them are
//! `testing/rules`'.

use anyhow::{Context, Result, ensure};
use vshmem_testing_vm::actor::actor_program;
use vshmem_testing_vm::huge::HugePages;
use vshmem_testing_vm::machine::{hypervisor, signal};
use vshmem_testing_vm::{Actor, Machine, Place, missing, qemu_missing, uml_available};

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

/// Kilobytes of mappings of files with this in their names that a process has in huge pages, by these fields of /proc/PID/smaps.
fn huge_kilobytes(pid: i32, file: &str, fields: &[&str]) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let (mut inside, mut sum) = (false, 0);
    for line in text.lines() {
        let (first, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        if !first.ends_with(':') {
            inside = rest.contains(file);
        } else if inside && fields.contains(&first) {
            let number = rest.split_whitespace().next().context("a number")?;
            sum += number.parse::<u64>()?;
        }
    }
    Ok(sum)
}

#[test]
fn a_qemu_guests_memory_is_in_huge_pages_where_that_is_asked_for() -> Result<()> {
    let row = "a QEMU guest in huge pages";
    if let Some(why) = qemu_missing() {
        missing(row, &why);
        return Ok(());
    }
    let _pages = match HugePages::of_number(64) {
        Ok(pages) => pages,
        Err(why) => {
            missing(row, &why);
            return Ok(());
        }
    };
    let machine = Machine::start()?;
    let mut command = machine.command(&[
        "vm",
        "run",
        "--port",
        "qemu",
        "--domain",
        "a",
        "--mem",
        "128M",
        "--hugepages",
        "--",
    ]);
    command.arg(actor_program()?);
    let mut guest = Actor::from_command(command, Place::Qemu("a"))?;
    let qemu = hypervisor(guest.host_pid())?;
    let memory = huge_kilobytes(qemu, "memory", &["Shared_Hugetlb:", "Private_Hugetlb:"])?;
    ensure!(memory == 128 << 10, "{memory} kB of its memory are in huge pages");
    // Its domain's constructs are the others' as ever.
    let mut host = Actor::start(&machine, Place::Host)?;
    let id = guest.number("shmget 0x53 4096 01600")?;
    let at = guest.number(&format!("shmat {id} 0"))?;
    guest.number(&format!("poke {at} 64 7"))?;
    let here = host.number(&format!("shmat {id} 0"))?;
    ensure!(host.number(&format!("peek {here} 64"))? == 7);
    // So is the pool, which was there before, and QEMU reaches it by them.
    let row = "a QEMU guest's pool in huge pages";
    if let Some(why) = gathering_missing() {
        missing(row, &why);
        return Ok(());
    }
    let large = guest.number(&format!("shmget 0x54 {LARGE} 01600"))?;
    match pool_in_huge_pages(&machine)? {
        Some(huge) => ensure!(huge >= LARGE + (2 << 20), "{huge} bytes of the pool"),
        None => {
            missing(row, "the kernel has no huge page at the moment");
            return Ok(());
        }
    }
    let at = guest.number(&format!("shmat {large} 0"))?;
    for place in (0..LARGE).step_by(1 << 20) {
        guest.number(&format!("poke {at} {place} 7"))?;
    }
    let reached = huge_kilobytes(qemu, "vshmem-pool", &[BY_HUGE_ENTRIES])?;
    ensure!(
        reached >= LARGE >> 10,
        "QEMU reaches {reached} kB of the pool by huge pages"
    );
    Ok(())
}

/// Bytes of a segment of whole huge pages.
const LARGE: u64 = 4 << 20;
const BY_HUGE_ENTRIES: &str = "ShmemPmdMapped:";

/// Why this kernel puts no pool into huge pages, if it does not.
fn gathering_missing() -> Option<String> {
    let folder = std::path::Path::new("/sys/kernel/mm/transparent_hugepage");
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release
        .split(['.', '-'])
        .map(|word| word.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let denied = std::fs::read_to_string(folder.join("shmem_enabled")).unwrap_or_default();
    match () {
        () if !folder.exists() => Some("the kernel has no transparent huge pages".to_owned()),
        () if version < (6, 1) => Some(format!("Linux 6.1 is needed, and this is {}", release.trim())),
        () if denied.contains("[deny]") => Some("shmem_enabled says deny".to_owned()),
        () => None,
    }
}

/// Bytes of the pool in huge pages. None if for a part of it the kernel has none.
fn pool_in_huge_pages(machine: &Machine) -> Result<Option<u64>> {
    let mut found = (0, 0);
    // What takes long goes on with each second.
    for _ in 0..10 {
        let output = machine.vshmem(&["status", "--json"])?;
        let status: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let bytes = |name: &str| status["groups"][0]["huge"][name].as_u64();
        found = (
            bytes("huge").context("not in huge pages")?,
            bytes("ordinary").context("a number")?,
        );
        if found.1 == 0 {
            return Ok(Some(found.0));
        }
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    println!("{} bytes in huge pages, {} in ordinary ones", found.0, found.1);
    Ok(None)
}

#[test]
fn programs_reach_a_pool_in_huge_pages_by_huge_entries_of_their_page_tables() -> Result<()> {
    let machine = Machine::configured("[group]\npool = \"64M\"\n")?;
    let mut first = Actor::start(&machine, Place::Host)?;
    let id = first.number(&format!("shmget 0x55 {LARGE} 01600"))?;
    let at = first.number(&format!("shmat {id} 0"))?;
    first.number(&format!("poke {at} 0 3"))?;
    let name = "vshmem-pool";
    ensure!(huge_kilobytes(first.host_pid(), name, &[BY_HUGE_ENTRIES])? == 0);
    // What a back-end that is told so at its start does, with another program.
    if let Some(why) = gathering_missing() {
        missing("a pool in huge pages", &why);
        return Ok(());
    }
    let machine = Machine::configured("[group]\npool = \"64M\"\nhugepages = true\n")?;
    let mut parties = [
        Actor::start(&machine, Place::Host)?,
        Actor::start(&machine, Place::Host)?,
    ];
    let id = parties[0].number(&format!("shmget 0x55 {LARGE} 01600"))?;
    if pool_in_huge_pages(&machine)?.is_none() {
        missing(
            "a pool in huge pages",
            "the kernel has no huge page at the moment",
        );
        return Ok(());
    }
    for party in &mut parties {
        let at = party.number(&format!("shmat {id} 0"))?;
        for place in (0..LARGE).step_by(1 << 20) {
            party.number(&format!("poke {at} {place} 3"))?;
        }
        let reached = huge_kilobytes(party.host_pid(), name, &[BY_HUGE_ENTRIES])?;
        ensure!(reached == LARGE >> 10, "{reached} kB are reached by huge pages");
    }
    Ok(())
}
