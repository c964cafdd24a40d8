//! Bodies of scenarios that more than one test runs, between parties that are there already.

use crate::actor::Actor;
use crate::machine::{Machine, signal};
use anyhow::{Result, ensure};
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// What each party asks for: IPC_CREAT | 0600.
const CREATE: &str = "01600";

/// Asks until the answer is the one expected: news of a death takes a moment to arrive.
pub fn eventually(party: &mut Actor, command: &str, expected: &str) -> Result<()> {
    let until = Instant::now() + party.patience(Duration::from_secs(15));
    loop {
        let answer = party.ask(command)?;
        if answer.as_ref().is_ok_and(|words| words.join(" ") == expected) {
            return Ok(());
        }
        ensure!(
            Instant::now() < until,
            "{command:?} still gives {answer:?}, not {expected}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Two parties use one segment, one set, one queue, and remove them.
pub fn exchange(a: &mut Actor, b: &mut Actor) -> Result<()> {
    segment(a, b)?;
    semaphores(a, b)?;
    queue(a, b)
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
    // Its command may take a moment to arrive.
    eventually(a, &format!("semncnt {id} 0"), "1")?;
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
    // The command may be under way for longer than any one alarm waits.
    b.number("alarm 700 again")?;
    ensure!(b.ask(&format!("semop {id} 2:-1"))? == Err("EINTR".into()));
    b.number("alarm 0")?;
    // Wait for zero.
    a.number(&format!("semop {id} 1:1"))?;
    b.tell(&format!("semop {id} 1:0"))?;
    ensure!(b.is_blocked());
    eventually(a, &format!("semzcnt {id} 1"), "1")?;
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

/// The victim holds a SEM_UNDO and is attached; it dies idle, by `end`.
pub fn dies_while_it_holds(
    a: &mut Actor,
    b: &mut Actor,
    end: impl FnOnce(&mut Actor) -> Result<()>,
) -> Result<()> {
    let set = a.number(&format!("semget 0x42 2 {CREATE}"))?;
    let segment = a.number(&format!("shmget 0x42 4096 {CREATE}"))?;
    a.number(&format!("semset {set} 0 1"))?;
    a.number(&format!("shmat {segment} 0"))?;
    b.number("semget 0x42 2 0")?;
    b.number(&format!("semop {set} 0:-1:1 1:3:1"))?;
    b.number(&format!("shmat {segment} 0"))?;
    b.number(&format!("shmat {segment} 0"))?;
    eventually(a, &format!("shmstat {segment}"), "4096 3 600")?;
    ensure!(a.number(&format!("semval {set} 1"))? == 3);
    a.tell(&format!("semop {set} 0:-1"))?;
    ensure!(a.is_blocked());
    end(b)?;
    // The undo of the dead wakes the living.
    ensure!(
        a.answer_within(Duration::from_secs(15))?.is_ok(),
        "the undo of the dead did not wake the living"
    );
    eventually(a, &format!("semval {set} 0"), "0")?;
    eventually(a, &format!("semval {set} 1"), "0")?;
    eventually(a, &format!("shmstat {segment}"), "4096 1 600")
}

/// Kills the back-end and waits until it is there again.
pub fn kill_and_wait(machine: &Machine) -> Result<()> {
    let before = machine.daemon_pid()?;
    signal(before, Signal::KILL)?;
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        if machine.daemon_pid().is_ok_and(|now| now != before) {
            return Ok(());
        }
        ensure!(
            Instant::now() < until,
            "the daemon did not come back within a minute"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The back-end is killed four times while `b` sleeps and both are attached; then `b` dies.
pub fn survives(machine: &Machine, a: &mut Actor, b: &mut Actor) -> Result<()> {
    let set = a.number(&format!("semget 0x51 1 {CREATE}"))?;
    let segment = a.number(&format!("shmget 0x51 4096 {CREATE}"))?;
    let queue = a.number(&format!("msgget 0x51 {CREATE}"))?;
    let (ha, hb) = (
        a.number(&format!("shmat {segment} 0"))?,
        b.number(&format!("shmat {segment} 0"))?,
    );
    a.number(&format!("poke {ha} 64 99"))?;
    a.number(&format!("msgsnd {queue} 2 kept 0"))?;
    b.number("semget 0x51 1 0")?;
    b.tell(&format!("semop {set} 0:-1"))?;
    ensure!(b.is_blocked());
    for round in 0..3 {
        kill_and_wait(machine)?;
        ensure!(
            a.number("shmget 0x51 0 0")? == segment,
            "round {round}: the segment is gone"
        );
        ensure!(a.ask(&format!("shmstat {segment}"))? == Ok(vec!["4096".into(), "2".into(), "600".into()]));
    }
    a.number(&format!("semop {set} 0:1"))?;
    ensure!(
        b.answer_within(Duration::from_secs(10))?.is_ok(),
        "a blocked caller did not go on"
    );
    ensure!(b.number(&format!("peek {hb} 64"))? == 99);
    ensure!(b.ask(&format!("msgrcv {queue} 64 0 04000"))? == Ok(vec!["4".into(), "2".into(), "kept".into()]));
    // A death that the restarted daemon never saw being born.
    b.number(&format!("semop {set} 0:2:1"))?;
    kill_and_wait(machine)?;
    b.die()?;
    let until = Instant::now() + a.patience(Duration::from_secs(10));
    while a.number(&format!("semval {set} 0"))? != 0 {
        ensure!(
            Instant::now() < until,
            "the undo of a client that died after the restart was not applied"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The victim holds a SEM_UNDO and is stopped, as a whole, in the middle of an operation, with the set's lock in its hands; then it dies. `stopped` stops it and
/// lets it go on.
pub fn dies_with_the_lock(
    a: &mut Actor,
    victim: &mut Actor,
    stopped: impl Fn(bool) -> Result<()>,
    end: impl FnOnce(&mut Actor) -> Result<()>,
) -> Result<()> {
    let set = a.number(&format!("semget 0x43 4 {CREATE}"))?;
    a.number(&format!("semset {set} 1 1"))?;
    victim.number("semget 0x43 4 0")?;
    victim.number(&format!("semop {set} 1:-1:1 2:5:1"))?;
    let segment = a.number(&format!("shmget 0x43 4096 {CREATE}"))?;
    victim.number(&format!("shmat {segment} 0"))?;
    // Long operations: nearly always one of them has the lock.
    let there_and_back = " 0:1:1 0:-1:1".repeat(150);
    victim.tell(&format!("semagain {set} 1000000000{there_and_back}"))?;
    let mut tries = 0;
    loop {
        std::thread::sleep(Duration::from_millis(100));
        stopped(true)?;
        // An operation with SEM_UNDO needs the lock, whatever semaphore it is on.
        a.tell(&format!("semop {set} 3:1:1"))?;
        match a.answer_if_within(Duration::from_secs(3)) {
            // The lock is in the stopped one's hands.
            None => break,
            Some(_) => stopped(false)?,
        }
        tries += 1;
        ensure!(tries < 30, "the lock was never held when the victim was stopped");
    }
    end(victim)?;
    ensure!(
        a.answer_within(Duration::from_secs(30))?.is_ok(),
        "whoever waited for the lock did not get it"
    );
    // What was held is given back once: the semaphore taken, those added; nothing of the operation under way is left.
    for (number, expected) in [(0, "0"), (1, "1"), (2, "0")] {
        eventually(a, &format!("semval {set} {number}"), expected)?;
    }
    let left = a.number(&format!("semval {set} 3"))?;
    ensure!(left == tries + 1, "{left}, not {}", tries + 1);
    a.number(&format!("semop {set} 1:-1"))?;
    eventually(a, &format!("shmstat {segment}"), "4096 0 600")?;
    a.number(&format!("shmrm {segment}"))?;
    a.number(&format!("semrm {set}")).map(drop)
}

/// `b` forks while it has segments attached, one of them for reading only: its children have them at the same addresses, count, and see what others store.
pub fn forks(a: &mut Actor, b: &mut Actor) -> Result<()> {
    let id = a.number(&format!("shmget 0x44 12288 {CREATE}"))?;
    let (ha, hb) = (
        a.number(&format!("shmat {id} 0"))?,
        b.number(&format!("shmat {id} 0"))?,
    );
    let read_only = b.number(&format!("shmat {id} 010000"))?;
    a.number(&format!("poke {ha} 8192 31"))?;
    b.number(&format!("child 1 peek {hb} 8192"))?;
    ensure!(
        b.ask("hear 1")? == Ok(vec!["31".into()]),
        "the child sees nothing"
    );
    b.number(&format!("childstay 2 poke {hb} 4096 32"))?;
    ensure!(b.ask("hear 2")? == Ok(vec!["0".into()]));
    ensure!(
        a.number(&format!("peek {ha} 4096"))? == 32,
        "a child's store was not seen"
    );
    // One here, two of the parent's, two of the child's.
    eventually(a, &format!("shmstat {id}"), "12288 5 600")?;
    a.number(&format!("poke {ha} 0 33"))?;
    b.number(&format!("child 3 peek {read_only} 0"))?;
    ensure!(b.ask("hear 3")? == Ok(vec!["33".into()]));
    b.number(&format!("child 4 protect {read_only}"))?;
    ensure!(
        b.ask("hear 4")? == Err("EACCES".into()),
        "a child may write what its parent may only read"
    );
    b.number("kill 2 9")?;
    eventually(a, &format!("shmstat {id}"), "12288 3 600")?;
    ensure!(
        b.number(&format!("peek {hb} 0"))? == 33,
        "the parent lost its segment"
    );
    b.number(&format!("shmdt {hb}"))?;
    b.number(&format!("shmdt {read_only}"))?;
    a.number(&format!("shmdt {ha}"))?;
    a.number(&format!("shmrm {id}")).map(drop)
}
