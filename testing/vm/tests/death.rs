//! Processes and whole guests die at the worst moment; the others go on with a right state.

use anyhow::{Result, ensure};
use std::time::Duration;
use vshmem_testing_vm::scenario::{self, eventually};
use vshmem_testing_vm::{
    Actor, Machine, Place, containers_available, missing, qemu_missing, uml_available, xen_missing,
};

const CREATE: &str = "01600";

/// How the victim ends.
#[derive(Clone, Copy)]
enum End {
    /// kill -9 of the process.
    Process,
    /// The whole machine it is in goes.
    Machine,
}

fn end(victim: &mut Actor, how: End) -> Result<()> {
    match how {
        End::Process => victim.die(),
        End::Machine => victim.kill(),
    }
}

/// The victim holds a SEM_UNDO, is attached, and has a message half of an exchange; it dies idle.
fn dies_while_it_holds(survivor: Place, victim: Place, how: End) -> Result<()> {
    let machine = Machine::start_for(&[survivor, victim])?;
    let mut a = Actor::start(&machine, survivor)?;
    let mut b = Actor::start(&machine, victim)?;
    scenario::dies_while_it_holds(&mut a, &mut b, |b| end(b, how))
}

/// The victim is blocked in semop and in msgrcv when it dies: nobody counts it any more and what it waited for goes to others.
fn dies_while_it_waits(survivor: Place, victim: Place, how: End) -> Result<()> {
    let machine = Machine::start_for(&[survivor, victim])?;
    let mut a = Actor::start(&machine, survivor)?;
    let set = a.number(&format!("semget 0x43 1 {CREATE}"))?;
    let queue = a.number(&format!("msgget 0x43 {CREATE}"))?;
    let mut b = Actor::start(&machine, victim)?;
    b.number("semget 0x43 1 0")?;
    b.tell(&format!("semop {set} 0:-1"))?;
    eventually(&mut a, &format!("semncnt {set} 0"), "1")?;
    b.kill()?;
    eventually(&mut a, &format!("semncnt {set} 0"), "0")?;
    a.number(&format!("semop {set} 0:1"))?;
    ensure!(
        a.number(&format!("semval {set} 0"))? == 1,
        "the dead took what it waited for"
    );

    let mut c = Actor::start(&machine, victim)?;
    c.number("msgget 0x43 0")?;
    c.tell(&format!("msgrcv {queue} 64 0 0"))?;
    ensure!(c.is_blocked());
    end(&mut c, End::Machine).or_else(|_| end(&mut c, how))?;
    std::thread::sleep(Duration::from_millis(500));
    a.number(&format!("msgsnd {queue} 1 late 0"))?;
    ensure!(a.ask(&format!("msgrcv {queue} 64 0 04000"))? == Ok(vec!["4".into(), "1".into(), "late".into()]));
    Ok(())
}

/// The victim is killed in the middle of a loop of semop with SEM_UNDO and of msgsnd, many times; the count of permits never drifts.
fn dies_in_the_middle(survivor: Place, victim: Place, times: u32) -> Result<()> {
    let machine = Machine::start_for(&[survivor, victim])?;
    let mut a = Actor::start(&machine, survivor)?;
    let set = a.number(&format!("semget 0x44 1 {CREATE}"))?;
    let queue = a.number(&format!("msgget 0x44 {CREATE}"))?;
    a.number(&format!("semset {set} 0 5"))?;
    for round in 0..times {
        let mut b = Actor::start(&machine, victim)?;
        b.number("semget 0x44 1 0")?;
        if round % 2 == 0 {
            b.tell(&format!("semcycle {set} 0 100000000"))?;
        } else {
            b.tell(&format!("msgflood {queue} 3 100000000"))?;
        }
        a.number(&format!("semcycle {set} 0 {}", 500 + 37 * round))?;
        std::thread::sleep(Duration::from_millis(u64::from(round % 7)));
        b.kill()?;
        eventually(&mut a, &format!("semval {set} 0"), "5")?;
        // The queue is whole: it can be emptied and used.
        while a.ask(&format!("msgrcv {queue} 64 0 04000"))?.is_ok() {}
        eventually(&mut a, &format!("msgstat {queue}"), "0 0 16384")?;
        a.number(&format!("msgsnd {queue} 1 x 0"))?;
        ensure!(a.ask(&format!("msgrcv {queue} 64 1 04000"))?.is_ok());
    }
    Ok(())
}

/// fork counts attachments, exec drops them and keeps the undo, exit ends it all.
fn lives_of_a_process(survivor: Place, other: Place) -> Result<()> {
    let machine = Machine::start_for(&[survivor, other])?;
    let mut a = Actor::start(&machine, survivor)?;
    let mut b = Actor::start(&machine, other)?;
    let set = a.number(&format!("semget 0x45 1 {CREATE}"))?;
    let segment = a.number(&format!("shmget 0x45 4096 {CREATE}"))?;
    a.number(&format!("semset {set} 0 4"))?;
    b.number(&format!("shmat {segment} 0"))?;
    b.number(&format!("semop {set} 0:-1:1"))?;
    let child = b.number("fork")?;
    eventually(&mut a, &format!("shmstat {segment}"), "4096 2 600")?;
    b.number(&format!("reap {child}"))?;
    eventually(&mut a, &format!("shmstat {segment}"), "4096 1 600")?;
    ensure!(
        a.number(&format!("semval {set} 0"))? == 3,
        "the child's end undid the parent's operation"
    );
    ensure!(b.ask("exec")?.is_ok());
    eventually(&mut a, &format!("shmstat {segment}"), "4096 0 600")?;
    ensure!(
        a.number(&format!("semval {set} 0"))? == 3,
        "exec undid the operation"
    );
    b.tell("exit 0")?;
    eventually(&mut a, &format!("semval {set} 0"), "4")
}

macro_rules! rows {
    ($($name:ident => $body:expr;)*) => { $(
        #[test]
        fn $name() -> Result<()> {
            if stringify!($name).contains("uml") && !uml_available() {
                missing(stringify!($name), "linux.uml is not installed");
                return Ok(());
            }
            if stringify!($name).contains("qemu") && let Some(why) = qemu_missing() {
                missing(stringify!($name), &why);
                return Ok(());
            }
            if stringify!($name).contains("xen") && let Some(why) = xen_missing() {
                missing(stringify!($name), &why);
                return Ok(());
            }
            if stringify!($name).contains("container") && !containers_available() {
                missing(stringify!($name), "unshare is not permitted or not installed");
                return Ok(());
            }
            $body
        }
    )* };
}

rows! {
    holding_a_process_of_the_host => dies_while_it_holds(Place::Host, Place::Host, End::Process);
    holding_a_process_in_a_container => dies_while_it_holds(Place::Container("a"), Place::Container("b"), End::Process);
    holding_a_whole_container => dies_while_it_holds(Place::Host, Place::Container("b"), End::Machine);
    holding_a_process_in_a_uml_guest => dies_while_it_holds(Place::Uml("a"), Place::Uml("b"), End::Process);
    holding_a_whole_uml_guest => dies_while_it_holds(Place::Host, Place::Uml("b"), End::Machine);
    holding_a_process_in_a_qemu_guest => dies_while_it_holds(Place::Qemu("a"), Place::Qemu("b"), End::Process);
    holding_a_whole_qemu_guest => dies_while_it_holds(Place::Host, Place::Qemu("b"), End::Machine);
    holding_a_process_in_a_xen_guest => dies_while_it_holds(Place::Xen("a"), Place::Xen("b"), End::Process);
    waiting_a_process_of_the_host => dies_while_it_waits(Place::Host, Place::Local("b"), End::Process);
    waiting_a_whole_uml_guest => dies_while_it_waits(Place::Uml("a"), Place::Uml("b"), End::Machine);
    in_the_middle_a_process_of_the_host => dies_in_the_middle(Place::Host, Place::Host, 30);
    waiting_a_whole_container => dies_while_it_waits(Place::Host, Place::Container("b"), End::Machine);
    in_the_middle_a_whole_container => dies_in_the_middle(Place::Container("a"), Place::Container("b"), 10);
    in_the_middle_a_whole_uml_guest => dies_in_the_middle(Place::Host, Place::Uml("b"), 3);
    in_the_middle_a_whole_xen_guest => dies_in_the_middle(Place::Host, Place::Xen("b"), 2);
    in_the_middle_a_whole_qemu_guest => dies_in_the_middle(Place::Host, Place::Qemu("b"), 2);
    lives_on_the_host => lives_of_a_process(Place::Host, Place::Host);
    lives_in_a_container => lives_of_a_process(Place::Container("a"), Place::Container("b"));
    lives_in_a_uml_guest => lives_of_a_process(Place::Host, Place::Uml("b"));
    lives_in_a_qemu_guest => lives_of_a_process(Place::Host, Place::Qemu("b"));
    lives_in_a_xen_guest => lives_of_a_process(Place::Host, Place::Xen("b"));
    lives_under_the_kernel_itself => lives_of_a_process(Place::Kernel, Place::Kernel);
}
