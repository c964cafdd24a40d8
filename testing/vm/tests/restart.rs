//! The back-end is killed and restarted: constructs, contents, attachments and waiters go on.

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vshmem_testing_vm::machine::{finish, signal};
use vshmem_testing_vm::{Actor, Machine, Place, missing, qemu_missing, uml_available};

const CREATE: &str = "01600";

fn kill_and_wait(machine: &Machine) -> Result<()> {
    let before = machine.daemon_pid()?;
    signal(before, Signal::KILL)?;
    let until = Instant::now() + Duration::from_secs(15);
    loop {
        if machine.daemon_pid().is_ok_and(|now| now != before) {
            return Ok(());
        }
        ensure!(Instant::now() < until, "the daemon did not come back within 15 s");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn survives(a: Place, b: Place) -> Result<()> {
    let machine = Machine::start()?;
    let mut a = Actor::start(&machine, a)?;
    let mut b = Actor::start(&machine, b)?;
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
        kill_and_wait(&machine)?;
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
    kill_and_wait(&machine)?;
    b.die()?;
    let until = Instant::now() + Duration::from_secs(10);
    while a.number(&format!("semval {set} 0"))? != 0 {
        ensure!(
            Instant::now() < until,
            "the undo of a client that died after the restart was not applied"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[test]
fn two_processes_of_one_host() -> Result<()> {
    survives(Place::Host, Place::Host)
}

#[test]
fn the_host_and_a_uml_guest() -> Result<()> {
    if !uml_available() {
        missing("the host and a UML guest", "linux.uml is not installed");
        return Ok(());
    }
    survives(Place::Host, Place::Uml("b"))
}

#[test]
fn the_host_and_a_qemu_guest() -> Result<()> {
    if let Some(why) = qemu_missing() {
        missing("the host and a QEMU guest", &why);
        return Ok(());
    }
    survives(Place::Host, Place::Qemu("b"))
}

#[test]
fn a_clean_stop_leaves_nothing_behind() -> Result<()> {
    let mut machine = Machine::start()?;
    let mut actor = Actor::start(&machine, Place::Host)?;
    actor.number(&format!("shmget 0x52 4096 {CREATE}"))?;
    drop(actor);
    let daemon = machine.daemon_pid()?;
    ensure!(
        machine.stop()?.success(),
        "the daemon's exit status tells of trouble"
    );
    let left: Vec<_> = std::fs::read_dir(machine.runtime())?
        .filter_map(|e| e.ok().map(|e| e.file_name()))
        .collect();
    ensure!(left.is_empty(), "left behind: {left:?}");
    ensure!(
        !std::path::Path::new(&format!("/proc/{daemon}")).exists(),
        "the daemon is still there"
    );
    Ok(())
}

#[test]
fn without_a_daemon_a_program_gets_enosys_and_a_hint() -> Result<()> {
    let mut machine = Machine::start()?;
    machine.stop()?;
    let out = machine
        .run(&["ipcmk", "-M", "4096"], Duration::from_secs(30))
        .context("vshmem run")?;
    ensure!(!out.status.success());
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(said.contains("vshmem serve"), "no hint what to do: {said}");
    Ok(())
}

/// A daemon that takes a new connection in and dies before it answers: here one that never was one, and is replaced by the real one.
fn dies_before_it_answers(folder: &std::path::Path, machine: &Machine) -> Result<JoinHandle<Result<()>>> {
    use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketType};
    let path = folder.join("vshmem.sock");
    let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None)?;
    rustix::net::bind(&listener, &SocketAddrUnix::new(&path)?)?;
    rustix::net::listen(&listener, 4)?;
    let real = machine.runtime().join("vshmem.sock");
    Ok(std::thread::spawn(move || {
        let taken_in = rustix::net::accept(&listener)?;
        rustix::net::recv(&taken_in, &mut [0u8; 4096][..], RecvFlags::empty())?;
        std::fs::remove_file(&path)?;
        std::os::unix::fs::symlink(real, &path)?;
        drop(taken_in);
        Ok(())
    }))
}

fn ended(dying: JoinHandle<Result<()>>) -> Result<()> {
    match dying.join() {
        Ok(result) => result,
        Err(_) => anyhow::bail!("the listener panicked"),
    }
}

#[test]
fn a_daemon_that_dies_before_it_answers_a_new_process_is_waited_for() -> Result<()> {
    let machine = Machine::start()?;
    let folder = tempfile::tempdir()?;
    let dying = dies_before_it_answers(folder.path(), &machine)?;
    let mut command = Command::new(vshmem_testing_vm::actor::actor_program()?);
    let library = vshmem_testing_vm::machine::built().join("libvshmem_preload.so");
    command
        .env("LD_PRELOAD", library)
        .env("VSHMEM_RUNTIME_DIR", folder.path());
    let mut a = Actor::from_command(command, Place::Host)?;
    let set = a.number(&format!("semget 0x55 1 {CREATE}"))?;
    ensure!(a.number(&format!("semval {set} 0"))? == 0);
    ended(dying)
}

#[test]
fn a_daemon_that_dies_before_it_answers_a_command_is_waited_for() -> Result<()> {
    let machine = Machine::start()?;
    let folder = tempfile::tempdir()?;
    let dying = dies_before_it_answers(folder.path(), &machine)?;
    let mut command = Command::new(vshmem_testing_vm::machine::program());
    command.arg("status").env("VSHMEM_RUNTIME_DIR", folder.path());
    let out = finish(&mut command, Duration::from_secs(20))?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    ended(dying)
}
