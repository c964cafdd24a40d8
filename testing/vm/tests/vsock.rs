//! Streams over vsock: QEMU guests that are started with them, and a machine of somebody's own with nothing but what `vshmem vm flags` prints.
//!
//! The kernel's vhost-vsock, or where that is missing the program vhost-device-vsock; without either each test says so.

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use vshmem_testing_vm::machine::signal;
use vshmem_testing_vm::own::{Maker, flags, vsock_missing_here};
use vshmem_testing_vm::{Actor, Machine, Place, missing, scenario, vsock_missing};

fn domains(machine: &Machine) -> Result<Vec<Value>> {
    let out = machine.vshmem(&["status", "--json"])?;
    let json: Value = serde_json::from_slice(&out.stdout)?;
    Ok(json["domains"].as_array().context("domains")?.clone())
}

fn is_up(machine: &Machine, name: &str) -> Result<bool> {
    let all = domains(machine)?;
    Ok(all.iter().any(|one| one["name"] == name && one["up"] == true))
}

fn until_down(machine: &Machine, name: &str) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(30);
    while is_up(machine, name)? {
        ensure!(Instant::now() < until, "domain {name} is still up");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

#[test]
fn two_qemu_guests_exchange_outlive_killed_back_ends_and_end() -> Result<()> {
    if let Some(why) = vsock_missing() {
        missing("QEMU guests with streams over vsock", &why);
        return Ok(());
    }
    let machine = Machine::start()?;
    let mut a = Actor::start(&machine, Place::QemuVsock("a"))?;
    let mut b = Actor::start(&machine, Place::QemuVsock("b"))?;
    scenario::exchange(&mut a, &mut b)?;
    scenario::survives(&machine, &mut a, &mut b)?;
    // A whole machine dies with something to undo.
    let mut host = Actor::start(&machine, Place::Host)?;
    scenario::dies_while_it_holds(&mut host, &mut a, Actor::kill)?;
    until_down(&machine, "a")
}

/// The program that is the machine's vsock device. Ends with this.
struct Device(Child);

impl Drop for Device {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts it as the remark of `vshmem vm flags` says.
fn device(machine: &Machine, program: &Path) -> Result<Device> {
    let words = [
        "vm",
        "flags",
        "qemu",
        "--domain",
        "own",
        "--stream",
        "vsock-user",
        "--json",
    ];
    let out = machine.vshmem(&words)?;
    let json: Value = serde_json::from_slice(&out.stdout)?;
    let notes = json["notes"].as_array().context("notes")?;
    let mut notes = notes.iter().filter_map(Value::as_str);
    let note = notes
        .find_map(|note| note.split_once("--vm "))
        .context("no remark")?;
    let (how, _) = note.1.split_once(' ').context("nothing follows")?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    let child = command.args(["--vm", how]).stdin(Stdio::null()).spawn()?;
    let place = json["vsock"]["place"].as_str().context("place")?;
    let socket = PathBuf::from(format!("{place}.device"));
    let until = Instant::now() + Duration::from_secs(15);
    while !socket.exists() {
        ensure!(Instant::now() < until, "vhost-device-vsock does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(Device(child))
}

#[test]
fn a_qemu_of_ones_own_keeps_its_stream_from_unprivileged_programs_and_when_its_front_end_is_killed()
-> Result<()> {
    let program = vshmem_port_select::vsock_program();
    let lacks = || {
        program
            .is_none()
            .then(|| "vhost-device-vsock is not installed".to_owned())
    };
    let why = vsock_missing_here().or_else(lacks);
    let (None, Some(program)) = (&why, &program) else {
        missing(
            "a QEMU of one's own with a stream over vsock",
            &why.unwrap_or_default(),
        );
        return Ok(());
    };
    let machine = Machine::configured(
        "[group]\npool = \"64M\"\n[[domain]]\nname = \"own\"\nport = \"ivshmem\"\ncid = 77\n",
    )?;
    let mut options = flags(&machine, "own", &["--stream", "vsock-user"])?;
    let memory = "memory-backend-memfd,id=ram,size=384M,share=on";
    options.extend(["-object", memory, "-machine", "memory-backend=ram"].map(str::to_owned));
    let device = device(&machine, program)?;
    let mut own = Maker::new()?.start("q35", &options)?;
    // Nobody is privileged there yet: whatever anybody says, the domain is not up.
    for words in ["", "rubbish", "00000000000000000000000000000000"] {
        let said = own.sh(&format!("knock {words}"))?;
        ensure!(said.starts_with("no low port"), "{said}");
        ensure!(
            said.contains(" prove ") && !said.contains("stream 1 open"),
            "{said}"
        );
    }
    ensure!(!is_up(&machine, "own")?);
    own.join("--stream auto --domain own")?;
    own.actor()?;
    let segment = own.number("shmget 0x61 4096 01600")?;
    let at = own.number(&format!("shmat {segment} 0"))?;
    own.number(&format!("poke {at} 0 7"))?;
    let before = own.sh("pids vshmem-daemon")?;
    own.sh(&format!("kill -9 {}", before.trim()))?;
    own.until(&format!(
        "now=$(pids vshmem-daemon); test -n \"$now\" && test \"$now\" != {}",
        before.trim()
    ))?;
    ensure!(own.number("shmget 0x61 0 0")? == segment && own.number(&format!("peek {at} 0"))? == 7);
    ensure!(own.ask(&format!("shmstat {segment}"))? == Ok(vec!["4096".into(), "1".into(), "600".into()]));
    signal(machine.daemon_pid()?, Signal::KILL)?;
    ensure!(own.number("shmget 0x61 0 0")? == segment);
    let doctor = own.sh("vshmem doctor")?;
    ensure!(doctor.contains("has CID 77, and a back-end answers"), "{doctor}");
    // The stream is in use: an unprivileged program changes nothing.
    let said = own.sh("knock hello")?;
    ensure!(!said.contains("stream 1 open"), "{said}");
    ensure!(own.number("shmget 0x61 0 0")? == segment && is_up(&machine, "own")?);
    own.kill();
    until_down(&machine, "own")?;
    drop(device);
    Ok(())
}
