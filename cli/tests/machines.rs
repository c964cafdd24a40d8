//! `vshmem vm flags`: what it prints is given to those whom it is for.

mod support;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::{Daemon, LIMIT, err, finish, out};

const QEMU: &str = "qemu-system-x86_64";

/// A machine that does not run, with options that were printed.
struct Machine(Child);

impl Machine {
    fn start(options: &str) -> Machine {
        let mut command = Command::new(QEMU);
        command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
        command.args(["-machine", "q35", "-S", "-m", "16M"]);
        command.args(options.split_whitespace());
        Machine(command.stdin(Stdio::null()).spawn().expect("QEMU"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn is_here(program: &str) -> bool {
    let here = Command::new(program).arg("--version").output().is_ok();
    if !here {
        println!("skipped: {program} is not installed");
    }
    here
}

fn wait_until_up(daemon: &Daemon, domain: &str, up: bool) {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let status = daemon.json(&["status"]);
        let domains = status["domains"].as_array().expect("domains").clone();
        if domains.iter().any(|d| d["name"] == domain && d["up"] == true) == up {
            return;
        }
        assert!(Instant::now() < until, "{status:#}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_options_are_qemus_as_they_are() {
    if !is_here(QEMU) {
        return;
    }
    let daemon = Daemon::start_with(&["--pool", "64M"]);
    for device in ["doorbell", "plain"] {
        for domain in ["a", "b"] {
            let flags = daemon.ok(&["vm", "flags", "qemu", "--domain", domain, "--device", device]);
            let machine = Machine::start(&flags);
            wait_until_up(&daemon, domain, true);
            drop(machine);
            wait_until_up(&daemon, domain, false);
        }
    }
}

#[test]
fn the_elements_are_libvirts() {
    let daemon = Daemon::start_with(&["--pool", "64M"]);
    for stream in ["serial", "vsock"] {
        let elements = daemon.ok(&["vm", "flags", "libvirt", "--domain", "db", "--stream", stream]);
        assert_eq!(elements.contains("<vsock"), stream == "vsock", "{elements}");
        let file = daemon.folder().join("db.xml");
        let domain = format!(
            "<domain type='qemu'><name>db</name><memory unit='MiB'>64</memory><vcpu current='1'>2</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os>
<devices><emulator>/usr/bin/{QEMU}</emulator>{elements}</devices></domain>"
        );
        std::fs::write(&file, domain).expect("written");
        if ["virt-xml-validate", "xmllint"].into_iter().all(is_here) {
            let output = finish(Command::new("virt-xml-validate").arg(&file).arg("domain"), LIMIT);
            assert!(output.status.success(), "{}{}", out(&output), err(&output));
        }
        std::fs::remove_file(file).expect("removed");
    }
}

#[test]
fn remarks_are_beside_the_text_and_json_has_both() {
    let daemon = Daemon::start_with(&["--pool", "64M"]);
    let output = finish(
        &mut daemon.vshmem(&["vm", "flags", "qemu", "--domain", "db"]),
        LIMIT,
    );
    assert!(
        out(&output).lines().all(|line| line.starts_with('-')),
        "{output:?}"
    );
    assert!(err(&output).contains("[[domain]]") && err(&output).contains("vshmem join"));
    let json = daemon.json(&["vm", "flags", "qemu", "--domain", "db"]);
    assert_eq!(json["pools"][0]["bytes"], 64 << 20);
    assert_eq!(json["configured"], false);
    assert!(json["text"].as_str().expect("text").contains("ivshmem-doorbell"));
    for bad in [
        &["vm", "flags", "qemu", "--domain", "host"][..],
        &["vm", "flags", "libvirt", "--domain", "db", "--device", "plain"],
        &["vm", "flags", "vmware", "--domain", "db"],
        &[
            "vm",
            "flags",
            "libvirt",
            "--domain",
            "db",
            "--stream",
            "vsock-user",
        ],
        &["vm", "flags", "qemu", "--domain", "db", "--cid", "5"],
        &[
            "vm", "flags", "qemu", "--domain", "other", "--stream", "vsock", "--cid", "2",
        ],
    ] {
        let output = finish(&mut daemon.vshmem(bad), LIMIT);
        assert!(!output.status.success() && out(&output).is_empty(), "{bad:?}");
        assert!(!err(&output).is_empty());
    }
}

#[test]
fn the_doctor_uses_the_memory_and_looks_at_the_sockets() {
    let daemon = Daemon::start_with(&["--pool", "64M"]);
    daemon.ok(&["vm", "flags", "qemu", "--domain", "db"]);
    let doctor = daemon.json(&["doctor"]);
    let checks = doctor["checks"].as_array().expect("checks");
    let detail = |name: &str| {
        let check = checks.iter().find(|check| check["name"] == name);
        let check = check.unwrap_or_else(|| panic!("no {name}: {doctor:#}"));
        assert_eq!(check["state"], "ok", "{check}");
        check["detail"].as_str().expect("text").to_owned()
    };
    assert!(detail("daemon").contains("a pool of 64 MiB"));
    assert!(detail("memory").contains("GB/s"));
    assert!(detail("atomics").contains("none is lost"));
    assert!(detail("bell").contains("µs"));
    assert!(detail("machine db").contains("mode 0600"));
    assert_eq!(
        daemon.json(&["ipcs"]),
        serde_json::json!({"msg": [], "shm": [], "sem": []}),
        "nothing is left behind"
    );
}
