//! Snapshots with memory. QEMU refuses them as long as a machine has the pool's device. Without the device one can be taken; a machine that is restored from it goes
//! on with what it knew then: its front-end is refused, it harms nobody, and it joins anew.

use anyhow::{Result, ensure};
use serde_json::json;
use vshmem_testing_vm::own::{Maker, Own, PORTS, flags, missing_here, monitor_commands};
use vshmem_testing_vm::scenario::eventually;
use vshmem_testing_vm::{Actor, Machine, Place, missing};

const CREATE: &str = "01600";
const STOP: &str = "for p in $(pids vshmem-daemon); do kill -STOP $p; done";
const CONTINUE: &str = "for p in $(pids vshmem-daemon); do kill -CONT $p; done";

/// What the host has, and changes after the snapshot.
struct World {
    host: Actor,
    set: i64,
    segment: i64,
    at: i64,
}

impl World {
    fn make(machine: &Machine) -> Result<World> {
        let mut host = Actor::start(machine, Place::Host)?;
        let segment = host.number(&format!("shmget 0x72 4096 {CREATE}"))?;
        let at = host.number(&format!("shmat {segment} 0"))?;
        host.number(&format!("poke {at} 128 1"))?;
        Ok(World {
            set: host.number(&format!("semget 0x72 1 {CREATE}"))?,
            segment,
            at,
            host,
        })
    }

    fn goes_on(&mut self) -> Result<()> {
        eventually(&mut self.host, &format!("semval {} 0", self.set), "0")?;
        self.host.number(&format!("poke {} 128 2", self.at))?;
        self.host.number(&format!("semop {} 0:7", self.set)).map(drop)
    }

    fn is_as_it_was(&mut self) -> Result<()> {
        let World {
            host,
            at,
            set,
            segment,
        } = self;
        ensure!(
            host.number(&format!("peek {at} 128"))? == 2,
            "an old pool came back"
        );
        ensure!(
            host.number(&format!("semval {set} 0"))? == 7,
            "an old undo was applied"
        );
        eventually(host, &format!("shmstat {segment}"), "4096 1 600")
    }
}

/// A machine that has joined, with a program that has attached and owes an undo; then its front-end stands still and the device is pulled.
fn without_its_device(maker: &mut Maker, options: &[String], world: &World) -> Result<Own> {
    let mut own = maker.start("q35", options)?;
    own.join("")?;
    own.actor()?;
    own.number("shmget 0x72 0 0")?;
    own.number(&format!("shmat {} 0", world.segment))?;
    own.number("semget 0x72 1 0")?;
    own.number(&format!("semop {} 0:3:1", world.set))?;
    own.sh(STOP)?;
    let mut monitor = own.monitor()?;
    monitor.insist("device_del vshmem")?;
    own.until("! ls /sys/bus/pci/devices/*/resource2 >/dev/null 2>&1")?;
    // QEMU would put the pool into the snapshot even now.
    monitor.insist("object_del vshmem-pool")?;
    monitor.until_silent_about("info ramblock", "vshmem-pool")?;
    Ok(own)
}

#[test]
fn a_qemu_restored_from_a_snapshot_is_refused_harms_nobody_and_joins_anew() -> Result<()> {
    if let Some(why) = missing_here() {
        missing("a snapshot of a QEMU", &why);
        return Ok(());
    }
    let machine = Machine::configured("[group]\npool = \"64M\"\n")?;
    let mut world = World::make(&machine)?;
    let daemon = machine.daemon_pid()?;
    let mut maker = Maker::new()?;
    let file = maker.folder().join("snapshot");
    let to = json!({ "uri": format!("exec:cat > {}", file.display()) });
    let printed = flags(&machine, "own", &["--device", "plain"])?;
    let mut options: Vec<String> = PORTS.map(str::to_owned).into();
    options.extend(
        printed
            .iter()
            .map(|word| match word.starts_with("ivshmem-plain") {
                true => format!("{word},bus=slot2"),
                false => word.clone(),
            }),
    );
    let mut own = without_its_device_but_first_refused(&mut maker, &options, &world, &to)?;
    let mut monitor = own.monitor()?;
    monitor.ask("migrate", to)?;
    monitor.until("query-migrate", |answer| answer["status"] == "completed")?;
    own.kill();
    world.goes_on()?;

    // The device is not there when it is restored; everything else is.
    let device = options.iter().position(|word| word.starts_with("ivshmem-plain"));
    let object = options.iter().position(|word| word == "-object");
    for at in [device.map(|at| at - 1), object].into_iter().flatten() {
        options.drain(at..at + 2);
    }
    options.extend(["-incoming".to_owned(), format!("exec:cat {}", file.display())]);
    let mut own = maker.launch("q35", &options)?;
    let mut monitor = own.monitor()?;
    monitor.until("query-status", |answer| answer["running"] == true)?;
    own.sh(CONTINUE)?;
    // It hears that its session is over, or notices first that its memory is gone; either is its end.
    own.await_any(&["restored from a snapshot", "was pulled out of this machine"])?;
    world.is_as_it_was()?;
    ensure!(machine.daemon_pid()? == daemon, "the back-end was restarted");

    // With its device, as a new one.
    own.sh("exec 3>&- 4<&-")?;
    own.until("test -z \"$(pids vshmem)\" && test -z \"$(pids actor)\"")?;
    for command in monitor_commands(&machine)?
        .iter()
        .filter(|c| c.contains("vshmem-pool"))
    {
        monitor.insist(command)?;
    }
    own.join("--wait")?;
    own.actor()?;
    ensure!(own.number("semget 0x72 1 0")? == world.set);
    ensure!(own.number(&format!("semval {} 0", world.set))? == 7);
    world.is_as_it_was()
}

/// The same, after QEMU has refused both kinds of snapshots of a machine with the device.
fn without_its_device_but_first_refused(
    maker: &mut Maker,
    options: &[String],
    world: &World,
    to: &serde_json::Value,
) -> Result<Own> {
    let whole = maker.launch("q35", options)?;
    let mut monitor = whole.monitor()?;
    let refused = monitor.attempt("migrate", to.clone())?.err().unwrap_or_default();
    let too = monitor.say("savevm before")?;
    for why in [refused, too] {
        ensure!(
            why.contains("peer mode") && why.contains("ivshmem"),
            "QEMU says {why:?}"
        );
    }
    drop(whole);
    without_its_device(maker, options, world)
}
