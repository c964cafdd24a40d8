//! The back-end is killed and restarted: constructs, contents, attachments and waiters go on.

use anyhow::{Context, Result, ensure};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::Duration;
use vshmem_testing_vm::machine::finish;
use vshmem_testing_vm::scenario;
use vshmem_testing_vm::{Actor, Machine, Place, missing, qemu_missing, uml_available, xen_missing};

const CREATE: &str = "01600";

fn survives(a: Place, b: Place) -> Result<()> {
    let machine = Machine::start_for(&[a, b])?;
    let mut a = Actor::start(&machine, a)?;
    let mut b = Actor::start(&machine, b)?;
    scenario::survives(&machine, &mut a, &mut b)
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
fn dom0_and_a_xen_guest() -> Result<()> {
    if let Some(why) = xen_missing() {
        missing("dom0 and a Xen guest", &why);
        return Ok(());
    }
    survives(Place::Host, Place::Xen("b"))
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
