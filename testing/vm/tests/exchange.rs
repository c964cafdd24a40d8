//! Two unmodified programs in two domains use one segment, one set, one queue.

use anyhow::{Result, ensure};
use std::time::Duration;
use vshmem_testing_vm::{Actor, Machine, Place, containers_available, missing, qemu_missing, uml_available};

/// What each party asks for: IPC_CREAT | 0600.
const CREATE: &str = "01600";

fn exchange(a: Place, b: Place) -> Result<()> {
    let machine = Machine::start()?;
    let mut a = Actor::start(&machine, a)?;
    let mut b = Actor::start(&machine, b)?;
    segment(&mut a, &mut b)?;
    semaphores(&mut a, &mut b)?;
    queue(&mut a, &mut b)?;
    Ok(())
}

fn segment(a: &mut Actor, b: &mut Actor) -> Result<()> {
    let id = a.number(&format!("shmget 0x1234 10000 {CREATE}"))?;
    ensure!(
        b.number("shmget 0x1234 0 0")? == id,
        "the two see different segments"
    );
    let (ha, hb) = (
        a.number(&format!("shmat {id} 0"))?,
        b.number(&format!("shmat {id} 0"))?,
    );
    a.number(&format!("poke {ha} 8192 4711"))?;
    ensure!(
        b.number(&format!("peek {hb} 8192"))? == 4711,
        "a store was not seen"
    );
    a.tell(&format!("add {ha} 0 1000000"))?;
    b.tell(&format!("add {hb} 0 1000000"))?;
    for party in [&mut *a, &mut *b] {
        ensure!(party.answer_within(Duration::from_secs(30))?.is_ok());
    }
    ensure!(
        a.number(&format!("peek {ha} 0"))? == 2_000_000,
        "atomic additions were lost"
    );
    ensure!(a.ask(&format!("shmstat {id}"))? == Ok(vec!["10000".into(), "2".into(), "600".into()]));
    b.number(&format!("shmdt {hb}"))?;
    ensure!(a.ask(&format!("shmstat {id}"))?.unwrap()[1] == "1");
    // A read-only attachment cannot be made writable.
    let read_only = b.number(&format!("shmat {id} 010000"))?;
    ensure!(b.number(&format!("peek {read_only} 8192"))? == 4711);
    ensure!(b.ask(&format!("protect {read_only}"))? == Err("EACCES".into()));
    // Removed: the key goes, the memory stays until the last detach.
    a.number(&format!("shmrm {id}"))?;
    ensure!(b.ask("shmget 0x1234 0 0")? == Err("ENOENT".into()));
    ensure!(b.number(&format!("peek {read_only} 8192"))? == 4711);
    b.number(&format!("shmdt {read_only}"))?;
    a.number(&format!("shmdt {ha}"))?;
    let gone = a.ask(&format!("shmstat {id}"))?;
    ensure!(
        gone == Err("EINVAL".into()) || gone == Err("EIDRM".into()),
        "the segment is still there: {gone:?}"
    );
    Ok(())
}

fn semaphores(a: &mut Actor, b: &mut Actor) -> Result<()> {
    let id = a.number(&format!("semget 0x1234 3 {CREATE}"))?;
    ensure!(b.number("semget 0x1234 3 0")? == id);
    ensure!(
        a.number(&format!("semotime {id}"))? == 0,
        "sem_otime is 0 until the first semop"
    );
    b.tell(&format!("semop {id} 0:-1"))?;
    ensure!(b.is_blocked(), "P of a semaphore at 0 went through");
    ensure!(a.number(&format!("semncnt {id} 0"))? == 1);
    a.number(&format!("semop {id} 0:1"))?;
    ensure!(b.answer_within(Duration::from_secs(10))?.is_ok());
    ensure!(a.number(&format!("semval {id} 0"))? == 0);
    ensure!(a.number(&format!("semotime {id}"))? > 0);
    // Array operations are atomic: all or nothing.
    ensure!(a.ask(&format!("semop {id} 0:1 1:-1:2"))? == Err("EAGAIN".into()));
    ensure!(a.number(&format!("semval {id} 0"))? == 0);
    // A time-out is EAGAIN and leaves nobody counted.
    ensure!(b.ask(&format!("semtimedop {id} 200 2:-1"))? == Err("EAGAIN".into()));
    ensure!(a.number(&format!("semncnt {id} 2"))? == 0);
    // A signal is EINTR, whatever SA_RESTART says.
    b.number("alarm 200")?;
    ensure!(b.ask(&format!("semop {id} 2:-1"))? == Err("EINTR".into()));
    // Wait for zero.
    a.number(&format!("semop {id} 1:1"))?;
    b.tell(&format!("semop {id} 1:0"))?;
    ensure!(b.is_blocked());
    ensure!(a.number(&format!("semzcnt {id} 1"))? == 1);
    a.number(&format!("semop {id} 1:-1"))?;
    ensure!(b.answer_within(Duration::from_secs(10))?.is_ok());
    // Removal wakes with EIDRM.
    b.tell(&format!("semop {id} 0:-1"))?;
    ensure!(b.is_blocked());
    a.number(&format!("semrm {id}"))?;
    ensure!(b.answer_within(Duration::from_secs(10))? == Err("EIDRM".into()));
    Ok(())
}

fn queue(a: &mut Actor, b: &mut Actor) -> Result<()> {
    let id = a.number(&format!("msgget 0x1234 {CREATE}"))?;
    ensure!(b.number("msgget 0x1234 0")? == id);
    b.tell(&format!("msgrcv {id} 100 0 0"))?;
    ensure!(b.is_blocked());
    a.number(&format!("msgsnd {id} 7 hello 0"))?;
    ensure!(b.answer_within(Duration::from_secs(10))? == Ok(vec!["5".into(), "7".into(), "hello".into()]));
    for (mtype, text) in [(3, "c"), (1, "a"), (2, "b"), (1, "A")] {
        a.number(&format!("msgsnd {id} {mtype} {text} 0"))?;
    }
    let mut got = String::new();
    for which in [2, -3, -3] {
        got += &b.ask(&format!("msgrcv {id} 100 {which} 04000"))?.unwrap()[2];
    }
    ensure!(got == "baA", "types came in the order {got}");
    ensure!(b.ask(&format!("msgrcv {id} 100 9 04000"))? == Err("ENOMSG".into()));
    // A queue that is full blocks its sender until there is room; thousands of messages keep their order.
    a.tell(&format!("msgflood {id} 5 20000"))?;
    b.tell(&format!("msgdrain {id} 5 20000"))?;
    for party in [&mut *a, &mut *b] {
        let answer = party.answer_within(Duration::from_secs(60))?;
        ensure!(answer.is_ok(), "{answer:?}");
    }
    ensure!(a.ask(&format!("msgstat {id}"))? == Ok(vec!["1".into(), "1".into(), "16384".into()]));
    b.tell(&format!("msgrcv {id} 100 9 0"))?;
    ensure!(b.is_blocked());
    a.number(&format!("msgrm {id}"))?;
    ensure!(b.answer_within(Duration::from_secs(10))? == Err("EIDRM".into()));
    Ok(())
}

#[test]
fn two_processes_of_the_kernel_itself() -> Result<()> {
    exchange(Place::Kernel, Place::Kernel)
}

#[test]
fn two_processes_of_one_host() -> Result<()> {
    exchange(Place::Host, Place::Host)
}

#[test]
fn the_c_library_and_the_preload_library() -> Result<()> {
    exchange(Place::Library, Place::Host)?;
    exchange(Place::Host, Place::Library)
}

#[test]
fn two_local_domains() -> Result<()> {
    exchange(Place::Local("a"), Place::Local("b"))
}

#[test]
fn two_uml_guests() -> Result<()> {
    if !uml_available() {
        missing("two UML guests", "linux.uml is not installed");
        return Ok(());
    }
    exchange(Place::Uml("a"), Place::Uml("b"))
}

#[test]
fn the_host_and_a_uml_guest() -> Result<()> {
    if !uml_available() {
        missing("the host and a UML guest", "linux.uml is not installed");
        return Ok(());
    }
    exchange(Place::Host, Place::Uml("a"))?;
    exchange(Place::Uml("a"), Place::Host)
}

#[test]
fn two_qemu_guests() -> Result<()> {
    if let Some(why) = qemu_missing() {
        missing("two QEMU guests", &why);
        return Ok(());
    }
    exchange(Place::Qemu("a"), Place::Qemu("b"))
}

#[test]
fn two_containers_and_the_host() -> Result<()> {
    if !containers_available() {
        missing("two containers", "unshare is not permitted or not installed");
        return Ok(());
    }
    exchange(Place::Container("a"), Place::Container("b"))?;
    exchange(Place::Container("host"), Place::Host)
}
