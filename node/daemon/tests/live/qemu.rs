//! QEMU itself at the sockets for machines that somebody else starts.
//!
//! No guest runs: QEMU's test interface lets this test read and write what a driver in the guest would, so that a device's registers, its memory and its
//! interrupts are seen. Where QEMU is not installed each test says so.

use crate::harness::{Daemon, LONG, until};
use crate::machines::DB;
use rustix::io::Errno;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use vshmem_wire::{Reply, Request};

const QEMU: &str = "qemu-system-x86_64";
/// Where this test maps the device's registers, its interrupt table and its memory.
const REGISTERS: u64 = 0xe000_0000;
const TABLE: u64 = 0xe000_1000;
const MEMORY: u64 = 1 << 32;
/// Where in the guest's memory interrupts are to be written.
const INTERRUPTS: u64 = 0x10_0000;
const NOTE: u64 = 0x4711;

fn is_here() -> bool {
    let here = Command::new(QEMU).arg("--version").output().is_ok();
    if !here {
        println!("skipped: {QEMU} is not installed");
    }
    here
}

/// A conversation of lines.
struct Lines {
    reader: BufReader<UnixStream>,
}

impl Lines {
    fn accept(door: &UnixListener) -> Self {
        door.set_nonblocking(true).unwrap();
        let socket = until("QEMU connects", || match door.accept() {
            Ok((socket, _)) => Some(socket),
            Err(e) if Errno::from_io_error(&e) == Some(Errno::AGAIN) => None,
            Err(e) => panic!("{e}"),
        });
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        Lines {
            reader: BufReader::new(socket),
        }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.reader.get_mut(), "{line}").unwrap();
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

/// A machine.
struct Machine {
    child: Child,
    test: Lines,
    monitor: Lines,
    /// The device's slot on the bus.
    slot: u32,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Machine {
    /// Starts QEMU with these further options.
    fn start(folder: &Path, name: &str, options: &[String]) -> Machine {
        let door = |what: &str| {
            let path = folder.join(format!("{name}.{what}"));
            let _ = std::fs::remove_file(&path);
            (UnixListener::bind(&path).unwrap(), path)
        };
        let ((test, test_path), (monitor, monitor_path)) = (door("test"), door("monitor"));
        let mut command = Command::new(QEMU);
        command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
        command.args(["-machine", "pc", "-accel", "tcg", "-S", "-m", "16M"]);
        command.args(["-qtest-log", "none"]);
        command.args(["-qtest".into(), format!("unix:{}", test_path.display())]);
        command.args(["-qmp".into(), format!("unix:{}", monitor_path.display())]);
        command.args(options).stdin(Stdio::null());
        let child = command.spawn().unwrap();
        let mut machine = Machine {
            child,
            test: Lines::accept(&test),
            monitor: Lines::accept(&monitor),
            slot: 4,
        };
        assert!(machine.monitor.hear().contains("QMP"));
        machine.command(r#"{"execute":"qmp_capabilities"}"#);
        machine
    }

    /// The monitor's answer to a command.
    fn answer(&mut self, json: &str) -> String {
        self.monitor.say(json);
        loop {
            let line = self.monitor.hear();
            if line.contains("\"return\"") || line.contains("\"error\"") {
                return line;
            }
        }
    }

    /// A command to the monitor, which it carries out.
    fn command(&mut self, json: &str) {
        let answer = self.answer(json);
        assert!(answer.contains("\"return\""), "{json}: {answer}");
    }

    fn ask(&mut self, line: &str) -> u64 {
        self.test.say(line);
        loop {
            let answer = self.test.hear();
            if let Some(value) = answer.strip_prefix("OK") {
                let value = value.trim().trim_start_matches("0x");
                return u64::from_str_radix(value, 16).unwrap_or(0);
            }
            assert!(answer.starts_with("IRQ"), "{line}: {answer}");
        }
    }

    fn read(&mut self, at: u64) -> u64 {
        self.ask(&format!("readl {at:#x}"))
    }

    fn write(&mut self, at: u64, value: u64) {
        self.ask(&format!("writel {at:#x} {value:#x}"));
    }

    fn select(&mut self, register: u32) {
        let address = 0x8000_0000 | self.slot << 11 | register;
        self.ask(&format!("outl 0xcf8 {address:#x}"));
    }

    fn config(&mut self, register: u32) -> u32 {
        self.select(register & !3);
        self.ask("inl 0xcfc") as u32 >> (8 * (register & 3))
    }

    fn set_config(&mut self, register: u32, value: u32) {
        self.select(register);
        self.ask(&format!("outl 0xcfc {value:#x}"));
    }

    /// What the firmware and a driver would do: maps the device, and lets its first interrupts be written to memory.
    fn set_up(&mut self, vectors: u64) {
        self.map();
        for vector in 0..vectors {
            let entry = TABLE + 16 * vector;
            self.write(entry, INTERRUPTS + 4 * vector);
            self.write(entry + 4, 0);
            self.write(entry + 8, NOTE + vector);
            self.write(entry + 12, 0);
        }
        let capability = self.interrupts();
        let now = self.config(capability);
        self.set_config(capability, now | 1 << 31);
    }

    fn map(&mut self) {
        assert_eq!(self.config(0), 0x1110_1af4, "an ivshmem device");
        self.set_config(0x10, REGISTERS as u32);
        self.set_config(0x14, TABLE as u32);
        self.set_config(0x18, MEMORY as u32);
        self.set_config(0x1c, (MEMORY >> 32) as u32);
        self.set_config(0x04, 0x6);
    }

    /// Where the device says how its interrupts are sent.
    fn interrupts(&mut self) -> u32 {
        let mut capability = self.config(0x34) & 0xff;
        while self.config(capability) & 0xff != 0x11 {
            capability = self.config(capability) >> 8 & 0xff;
            assert_ne!(capability, 0, "it has interrupts");
        }
        capability
    }

    fn id(&mut self) -> u64 {
        self.read(REGISTERS + 8)
    }

    fn ring(&mut self, peer: u64, vector: u64) {
        self.write(REGISTERS + 12, peer << 16 | vector);
    }

    /// Whether an interrupt has come since it was last looked.
    fn rang(&mut self, vector: u64) -> bool {
        let at = INTERRUPTS + 4 * vector;
        let came = self.read(at);
        self.write(at, 0);
        assert!(came == 0 || came == NOTE + vector, "{came:#x}");
        came != 0
    }
}

fn device(daemon: &Daemon, domain: &str, vectors: u16) -> Vec<String> {
    let path = daemon.machine(domain, "device");
    vec![
        "-chardev".into(),
        format!("socket,id=shared,path={}", path.display()),
        "-device".into(),
        format!("ivshmem-doorbell,id=vshmem,chardev=shared,vectors={vectors},master=off,addr=04.0"),
    ]
}

fn ring_each_other(machines: &mut [Machine], vectors: u64) {
    let ids: Vec<u64> = machines.iter_mut().map(Machine::id).collect();
    for from in 0..machines.len() {
        for (to, id) in ids.iter().enumerate().filter(|(to, _)| *to != from) {
            for vector in 0..vectors {
                machines[from].ring(*id, vector);
                until("the interrupt comes", || machines[to].rang(vector).then_some(()));
            }
        }
    }
}

fn two(folder: &Path, daemon: &Daemon, vectors: u16) -> Vec<Machine> {
    let start = |name: &str| {
        let mut machine = Machine::start(folder, name, &device(daemon, name, vectors));
        machine.set_up(vectors.into());
        machine
    };
    vec![start("db"), start("web")]
}

fn serve(vectors: u16) -> Daemon {
    let web = "[[domain]]\nname = \"web\"\nport = \"ivshmem\"\n";
    Daemon::serve_with(
        &["--pool", "64M"],
        &format!("{DB}{web}[machines]\nvectors = {vectors}\n"),
    )
}

#[test]
fn two_qemus_ring_each_other_across_killed_daemons() {
    if !is_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let daemon = serve(3);
    let mut machines = two(folder.path(), &daemon, 3);
    ring_each_other(&mut machines, 3);
    machines[0].write(MEMORY + 0x10_0000, 42);
    assert_eq!(machines[1].read(MEMORY + 0x10_0000), 42, "one memory");
    let pool = std::fs::File::open(daemon.dir().join("pool")).unwrap();
    let mut word = [0; 4];
    std::os::unix::fs::FileExt::read_exact_at(&pool, &mut word, 0x10_0000).unwrap();
    assert_eq!(u32::from_le_bytes(word), 42, "which is the pool");
    for _ in 0..2 {
        daemon.kill();
        ring_each_other(&mut machines, 3);
    }
    // A machine that came after is known to those that were there before, and is forgotten when it goes.
    let mut late = Machine::start(folder.path(), "late", &device(&daemon, "db", 3));
    late.set_up(3);
    machines.push(late);
    ring_each_other(&mut machines, 3);
    machines.remove(0);
    daemon.kill();
    ring_each_other(&mut machines, 3);
}

#[test]
fn a_qemu_without_interrupts_of_that_number_goes_on() {
    if !is_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let daemon = serve(4);
    let mut machines = two(folder.path(), &daemon, 4);
    // Its device has two vectors, the server gives four: QEMU takes what it has use for.
    let mut less = Machine::start(folder.path(), "less", &device(&daemon, "db", 2));
    less.set_up(2);
    machines.push(less);
    ring_each_other(&mut machines, 2);
}

/// Not pulled again: QEMU up to 7.2 without KVM goes on listening to interrupts of an ivshmem-doorbell device that is gone, and crashes sooner or later.
#[test]
fn a_doorbell_device_is_plugged_into_a_running_qemu() {
    if !is_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let daemon = serve(1);
    let mut first = Machine::start(folder.path(), "db", &device(&daemon, "db", 1));
    first.set_up(1);
    let mut second = Machine::start(folder.path(), "web", &[]);
    let path = daemon.machine("web", "device");
    second.command(&format!(
        r#"{{"execute":"chardev-add","arguments":{{"id":"shared","backend":{{"type":"socket","data":{{"server":false,"addr":{{"type":"unix","data":{{"path":"{}"}}}}}}}}}}}}"#,
        path.display()
    ));
    second.command(
        r#"{"execute":"device_add","arguments":{"driver":"ivshmem-doorbell","id":"vshmem","chardev":"shared","vectors":1,"master":"off","addr":"04.0"}}"#,
    );
    second.set_up(1);
    ring_each_other(&mut [first, second], 1);
}

#[test]
fn a_plain_device_is_plugged_into_a_running_qemu_and_pulled_and_shows_the_pool() {
    if !is_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let daemon = serve(1);
    let mut machine = Machine::start(folder.path(), "web", &[]);
    let path = daemon.dir().join("pool");
    for round in 1..4 {
        machine.command(&format!(
            r#"{{"execute":"object-add","arguments":{{"qom-type":"memory-backend-file","id":"pool{round}","mem-path":"{}","size":{},"share":true}}}}"#,
            path.display(),
            64 << 20
        ));
        // A new name each time: QEMU lets go of the former one's memory later than it says.
        machine.command(&format!(
            r#"{{"execute":"device_add","arguments":{{"driver":"ivshmem-plain","id":"vshmem","memdev":"pool{round}","master":"off","addr":"04.0"}}}}"#,
        ));
        machine.map();
        machine.write(MEMORY + (32 << 20), round);
        let pool = std::fs::File::open(&path).unwrap();
        let mut word = [0; 4];
        std::os::unix::fs::FileExt::read_exact_at(&pool, &mut word, 32 << 20).unwrap();
        assert_eq!(u64::from(u32::from_le_bytes(word)), round);
        machine.command(r#"{"execute":"device_del","arguments":{"id":"vshmem"}}"#);
        // What the guest's ACPI says to let go of a slot.
        let eject = 1 << machine.slot;
        machine.ask(&format!("outl 0xae08 {eject:#x}"));
        until("the device is gone", || {
            (machine.config(0) == u32::MAX).then_some(())
        });
        daemon.kill();
    }
}

#[test]
fn a_qemus_port_is_its_domain_and_comes_back_to_a_new_daemon() {
    if !is_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = serve(1);
    let up = |daemon: &Daemon| {
        let domains = daemon.client().status().domains;
        domains
            .iter()
            .any(|d| d.name == "web" && d.up && d.port == "ivshmem")
    };
    let path = daemon.machine("web", "control");
    let options: Vec<String> = [
        "-device",
        "virtio-serial-pci",
        "-chardev",
        &format!("socket,id=control,path={},reconnect=1", path.display()),
        "-device",
        "virtserialport,chardev=control,name=vshmem.0",
    ]
    .map(str::to_owned)
    .into();
    let machine = Machine::start(folder.path(), "web", &options);
    until("the domain is up", || up(&daemon).then_some(()));
    daemon.kill();
    assert!(up(&daemon), "its stream is kept");
    daemon.stop();
    let mut again = Daemon::command();
    let run = daemon.dir();
    again.arg("serve").arg("--runtime-dir").arg(&run);
    again
        .arg("--config")
        .arg(run.parent().unwrap().join("vshmem.toml"));
    daemon.keeper = again.spawn().unwrap();
    until("the new daemon listens", || {
        crate::harness::connect(&daemon.socket()).ok()
    });
    until("the machine is back", || up(&daemon).then_some(()));
    assert_eq!(daemon.client().ask(Request::Ping), Ok(Reply::Done));
    drop(machine);
    until("it is gone", || (!up(&daemon)).then_some(()));
}
