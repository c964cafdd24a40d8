//! A virtual machine of somebody's own, with nothing of Vshmem's in its making but what `vshmem vm flags` prints: a distribution's kernel, an initial root of a few
//! programs, and in it the steps of docs/guides/qemu.md. The back-end is killed under it.

mod support;

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::{Daemon, LIMIT, cc, finish, out};

const QEMU: &str = "qemu-system-x86_64";
/// How long the machine may take to its last word.
const PATIENCE: Duration = Duration::from_secs(120);
/// Programs of the guest.
const PROGRAMS: [&str; 6] = ["sh", "mount", "mkdir", "sleep", "ipcmk", "ipcs"];
/// Drivers, in the order in which they can be loaded.
const DRIVERS: [&str; 6] = [
    "virtio/virtio_ring",
    "virtio/virtio",
    "virtio/virtio_pci_modern_dev",
    "virtio/virtio_pci_legacy_dev",
    "virtio/virtio_pci",
    "char/virtio_console",
];
/// What the machine makes is the second group's, what the host makes is the first one's: each sees both.
const CONFIG: &str = "[group]
pool = \"64M\"
[[groups]]
name = \"jobs\"
pool = \"16M\"
members = [\"host\", \"own\"]
[[domain]]
name = \"own\"
port = \"ivshmem\"
groups = [\"jobs\", \"default\"]
";
const LOADER: &str = "#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(int count, char **files) {
    for (int i = 1; i < count; i++) {
        int file = open(files[i], O_RDONLY);
        if (file < 0 || syscall(SYS_finit_module, file, \"\", 0)) return 1;
    }
    return 0;
}
";
const STEPS: &str = "#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /run
load /drivers/*
vshmem join --domain own &
while [ ! -S /run/vshmem/vshmem.sock ]; do sleep 0.1; done
vshmem run -- ipcmk -M 12288
vshmem doctor
echo FIRST
until vshmem run -- ipcs -m | grep_20480; do sleep 0.2; done
vshmem doctor
echo LAST
sleep 1000
";

/// A cached kernel: its folder, which has `boot` and `lib`.
fn kernel() -> Option<PathBuf> {
    let home = std::env::var_os("HOME")?;
    let cache =
        std::env::var_os("XDG_CACHE_HOME").map_or_else(|| Path::new(&home).join(".cache"), PathBuf::from);
    let found = std::fs::read_dir(cache.join("vshmem/kernels")).ok()?;
    found
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.join("boot").is_dir())
}

/// The only entry of a folder whose name begins so.
fn only(folder: &Path, prefix: &str) -> Option<PathBuf> {
    let mut all = std::fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|entry| entry.path());
    all.find(|path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    })
}

/// An archive that the kernel unpacks as its first root ("newc").
#[derive(Default)]
struct Root {
    bytes: Vec<u8>,
    folders: BTreeSet<PathBuf>,
}

impl Root {
    fn entry(&mut self, name: &str, mode: u32, data: &[u8], device: (u32, u32)) {
        let length = u32::try_from(data.len()).expect("a small file");
        let fields = [
            1,
            mode,
            0,
            0,
            1,
            0,
            length,
            0,
            0,
            device.0,
            device.1,
            name.len() as u32 + 1,
            0,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            write!(self.bytes, "{field:08X}").expect("memory");
        }
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.fill();
        self.bytes.extend(data);
        self.fill();
    }

    fn fill(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    fn folder(&mut self, folder: &Path) {
        let all: Vec<&Path> = folder.ancestors().filter(|f| f.file_name().is_some()).collect();
        for folder in all.into_iter().rev() {
            if self.folders.insert(folder.to_owned()) {
                let name = folder.strip_prefix("/").unwrap_or(folder);
                self.entry(&name.display().to_string(), 0o40755, &[], (0, 0));
            }
        }
    }

    fn file(&mut self, at: &Path, bytes: &[u8]) {
        self.folder(at.parent().expect("a folder"));
        let name = at.strip_prefix("/").unwrap_or(at).display().to_string();
        self.entry(&name, 0o100_755, bytes, (0, 0));
    }

    /// A program with the libraries it loads.
    fn program(&mut self, at: &Path, program: &Path, known: &mut BTreeSet<PathBuf>) {
        self.file(at, &std::fs::read(program).expect("a program"));
        let loads = out(&finish(Command::new("ldd").arg(program), LIMIT));
        for library in loads.split_whitespace().filter(|word| word.starts_with('/')) {
            if known.insert(library.into()) {
                self.file(Path::new(library), &std::fs::read(library).expect("a library"));
            }
        }
    }
}

fn which(program: &str) -> PathBuf {
    let places = ["/usr/bin", "/bin"].map(|place| Path::new(place).join(program));
    places
        .into_iter()
        .find(|path| path.exists())
        .expect("a program of every system")
}

fn stripped(program: &Path, into: &Path) -> PathBuf {
    let target = into.join(program.file_name().expect("a name"));
    let strip = finish(Command::new("strip").arg("-o").arg(&target).arg(program), LIMIT);
    if strip.status.success() {
        target
    } else {
        program.to_owned()
    }
}

/// None, and a line that says so, where something is missing.
fn root(kernel: &Path, place: &Path) -> Option<Vec<u8>> {
    std::fs::write(place.join("load.c"), LOADER).expect("written");
    cc(&place.join("load.c"), &place.join("load"), &[])?;
    let (mut root, mut known) = (Root::default(), BTreeSet::new());
    for folder in ["/proc", "/sys", "/dev", "/run", "/tmp"] {
        root.folder(Path::new(folder));
    }
    root.entry("dev/console", 0o20600, &[], (5, 1));
    for program in PROGRAMS {
        root.program(&Path::new("/bin").join(program), &which(program), &mut known);
    }
    root.program(Path::new("/bin/load"), &place.join("load"), &mut known);
    let own = stripped(Path::new(env!("CARGO_BIN_EXE_vshmem")), place);
    root.program(Path::new("/bin/vshmem"), &own, &mut known);
    let library = stripped(&support::build_preload(), place);
    root.program(Path::new("/bin/libvshmem_preload.so"), &library, &mut known);
    let drivers = only(&kernel.join("lib/modules"), "")?.join("kernel/drivers");
    for (index, driver) in DRIVERS.iter().enumerate() {
        // Where it is missing, it is built into the kernel.
        if let Ok(bytes) = std::fs::read(drivers.join(format!("{driver}.ko"))) {
            root.file(Path::new(&format!("/drivers/{index}")), &bytes);
        }
    }
    let search = "while read -r line; do case $line in *20480*) exit 0;; esac; done; exit 1\n";
    root.file(
        Path::new("/bin/grep_20480"),
        format!("#!/bin/sh\n{search}").as_bytes(),
    );
    root.file(Path::new("/init"), STEPS.as_bytes());
    root.entry("TRAILER!!!", 0, &[], (0, 0));
    Some(root.bytes)
}

/// The machine; what its console says goes to a file.
struct Machine(Child, PathBuf);

impl Machine {
    fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.1).unwrap_or_default()).into_owned()
    }

    fn wait_for(&mut self, word: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.said().contains(word) {
            let lives = matches!(self.0.try_wait(), Ok(None));
            assert!(lives && Instant::now() < until, "no {word}: {}", self.said());
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// QEMU with a kernel, the root and what `vm flags` prints.
fn qemu(kernel: &Path, root: &[u8], place: &Path, daemon: &Daemon) -> Command {
    let initrd = place.join("root");
    std::fs::write(&initrd, root).expect("written");
    std::fs::set_permissions(&initrd, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    let mut command = Command::new(QEMU);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command.args([
        "-machine",
        "q35",
        "-cpu",
        "max",
        "-smp",
        "1,maxcpus=2",
        "-m",
        "512M",
    ]);
    command
        .arg("-kernel")
        .arg(only(&kernel.join("boot"), "vmlinuz").expect("a kernel"));
    command.arg("-initrd").arg(&initrd);
    command.args(["-append", "console=ttyS0 quiet panic=-1", "-serial", "stdio"]);
    command.args(
        daemon
            .ok(&["vm", "flags", "qemu", "--domain", "own"])
            .split_whitespace(),
    );
    command
}

#[test]
fn a_qemu_of_ones_own_joins_and_a_killed_back_end_is_nothing_to_it() {
    let Some(kernel) = kernel() else {
        println!("skipped: no kernel in the cache (`vshmem vm run --port qemu` fetches one)");
        return;
    };
    if Command::new(QEMU).arg("--version").output().is_err() {
        println!("skipped: {QEMU} is not installed");
        return;
    }
    let place = tempfile::tempdir().expect("temporary folder");
    let Some(root) = root(&kernel, place.path()) else {
        return;
    };
    let config = place.path().join("vshmem.toml");
    std::fs::write(&config, CONFIG).expect("written");
    let daemon = Daemon::start_with(&["--config", config.to_str().expect("a plain name")]);
    let mut command = qemu(&kernel, &root, place.path(), &daemon);
    let console = place.path().join("console");
    let said = std::fs::File::create(&console).expect("a file");
    let child = command.stdin(Stdio::null()).stdout(said).spawn().expect("QEMU");
    let mut machine = Machine(child, console);
    machine.wait_for("FIRST");
    let segments = daemon.json(&["ipcs", "-m"]);
    assert_eq!(segments["shm"][0]["bytes"], 12288, "{segments:#}");
    assert_eq!(segments["shm"][0]["domain"], "own");
    let pid = daemon.json(&["status"])["pid"].as_i64().expect("a pid");
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
    let until = Instant::now() + LIMIT;
    while !finish(&mut daemon.vshmem(&["ipcmk", "-M", "20480"]), LIMIT)
        .status
        .success()
    {
        assert!(Instant::now() < until, "the back-end is not back");
    }
    machine.wait_for("LAST");
    let said = machine.said();
    for finding in [
        "this is domain own",
        "BAR2 of 64 MiB",
        "BAR2 of 16 MiB",
        "the pool of group default",
        "the pool of group jobs",
        "none is lost",
    ] {
        assert_eq!(said.matches(finding).count(), 2, "{finding}: {said}");
    }
    let groups = &daemon.json(&["status"])["groups"];
    assert_eq!(
        (groups[0]["used"].as_u64(), groups[1]["used"].as_u64()),
        (Some(20480), Some(12288))
    );
}
