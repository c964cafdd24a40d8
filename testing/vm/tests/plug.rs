//! The device and the stream are plugged into a running machine of somebody's own, pulled out under programs that use them, and plugged in again.

use anyhow::{Result, ensure};
use vshmem_testing_vm::own::{Maker, PORTS, missing_here, monitor_commands};
use vshmem_testing_vm::{Actor, Machine, Place, missing, scenario};

const CONFIG: &str = "[group]\npool = \"64M\"\n[[domain]]\nname = \"own\"\nport = \"ivshmem\"\n";
const CREATE: &str = "01600";
#[test]
fn what_is_plugged_into_a_running_qemu_joins_and_what_is_pulled_harms_nobody() -> Result<()> {
    if let Some(why) = missing_here() {
        missing("a device plugged into a running QEMU", &why);
        return Ok(());
    }
    let machine = Machine::configured(CONFIG)?;
    let mut host = Actor::start(&machine, Place::Host)?;
    let set = host.number(&format!("semget 0x61 1 {CREATE}"))?;
    let segment = host.number(&format!("shmget 0x61 8192 {CREATE}"))?;
    let at = host.number(&format!("shmat {segment} 0"))?;
    let daemon = machine.daemon_pid()?;

    let mut maker = Maker::new()?;
    let mut own = maker.start("q35", &PORTS.map(str::to_owned))?;
    let refused = own.try_sh("vshmem join")?;
    ensure!(
        refused.0 == 1 && refused.1.contains("vm flags qemu-monitor"),
        "{refused:?}"
    );
    own.sh("vshmem join --wait >/dev/console 2>&1 &")?;
    own.await_word("waiting until this machine can join")?;
    let mut monitor = own.monitor()?;
    let commands = monitor_commands(&machine)?;
    for command in &commands {
        let said = monitor.say(command)?;
        ensure!(said.is_empty(), "{command}: {said}");
    }
    own.until("test -S /run/vshmem/vshmem.sock")?;
    own.actor()?;
    ensure!(own.number("shmget 0x61 0 0")? == segment);
    let there = own.number(&format!("shmat {segment} 0"))?;
    host.number(&format!("poke {at} 4096 4711"))?;
    ensure!(own.number(&format!("peek {there} 4096"))? == 4711);
    own.number("semget 0x61 1 0")?;
    own.number(&format!("semop {set} 0:3:1"))?;
    ensure!(host.number(&format!("semval {set} 0"))? == 3);

    // Pulled under a program that has it mapped and owes an undo.
    monitor.insist("device_del vshmem")?;
    own.await_word("was pulled out of this machine")?;
    scenario::eventually(&mut host, &format!("shmstat {segment}"), "8192 1 600")?;
    scenario::eventually(&mut host, &format!("semval {set} 0"), "0")?;
    ensure!(host.number(&format!("peek {at} 4096"))? == 4711);
    let spare = Actor::start(&machine, Place::Local("spare"))?;
    drop(spare);
    ensure!(machine.daemon_pid()? == daemon, "the back-end was restarted");

    // And plugged in again: under another name, since QEMU lets go of the memory late.
    for command in commands.iter().filter(|c| c.contains("vshmem-pool")) {
        monitor.insist(&command.replace("vshmem-pool", "vshmem-pool-again"))?;
    }
    own.sh("exec 3>&- 4<&-")?;
    // The former front-end tells of the deaths before it ends.
    own.await_word("the daemon has ended for good")?;
    own.until("vshmem status")?;
    own.actor()?;
    ensure!(own.number("shmget 0x61 0 0")? == segment);
    let there = own.number(&format!("shmat {segment} 0"))?;
    ensure!(own.number(&format!("peek {there} 4096"))? == 4711);
    Ok(())
}
