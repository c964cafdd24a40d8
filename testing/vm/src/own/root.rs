//! The root in memory that a machine of one's own starts from: an uncompressed archive ("newc") of a few programs, the libraries they load, and drivers.
//!
//! Its first process ([`INIT`]) loads the drivers and then does what it is told, a line at a time, on the second serial line.

use crate::actor::{actor_program, compile_text};
use crate::machine::{built, program};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Programs of the host that are in it.
const PROGRAMS: [&str; 10] = [
    "sh", "mount", "mkdir", "mkfifo", "cat", "ls", "sleep", "stty", "ipcmk", "ipcs",
];
/// Drivers, in the order in which they can be loaded. Where one is missing, it is built into the kernel.
const DRIVERS: [&str; 9] = [
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci",
    "drivers/char/virtio_console",
    "net/vmw_vsock/vsock",
    "net/vmw_vsock/vmw_vsock_virtio_transport_common",
    "net/vmw_vsock/vmw_vsock_virtio_transport",
];
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
/// A program of an ordinary user, which says something to the back-end over vsock and prints what it hears.
const KNOCK: &str = "#include <linux/vm_sockets.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
int main(int count, char **words) {
    struct sockaddr_vm to = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = 1007 };
    struct sockaddr_vm low = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = 900 };
    struct timeval limit = { .tv_sec = 20 };
    char heard[512];
    ssize_t n;
    if (setgid(65534) || setuid(65534)) return 2;
    int s = socket(AF_VSOCK, SOCK_STREAM, 0);
    puts(bind(s, (struct sockaddr *)&low, sizeof low) ? \"no low port\" : \"a low port\");
    if (connect(s, (struct sockaddr *)&to, sizeof to)) return 3;
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (count > 1) (void)!write(s, words[1], strlen(words[1]));
    while ((n = read(s, heard, sizeof heard)) > 0) fwrite(heard, 1, n, stdout);
    return 0;
}
";
/// The first process. Each line's output goes back, and then its status. `pids NAME` are the processes whose command line begins so.
const INIT: &str = "#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /run
load /drivers/* || echo 'the drivers cannot be loaded'
stty -F /dev/ttyS1 raw -echo
pids() { for p in /proc/[0-9]*; do read -r c 2>/dev/null <$p/cmdline; case $c in \"$1\"*) echo ${p#/proc/};; esac; done; }
exec 5<>/dev/ttyS1
echo '~0' >&5
while read -r line <&5; do
    eval \"$line\" >&5 2>&5 </dev/null
    echo \"~$?\" >&5
done
";

/// A root under way.
#[derive(Default)]
struct Root {
    bytes: Vec<u8>,
    folders: BTreeSet<PathBuf>,
    libraries: BTreeSet<PathBuf>,
}

impl Root {
    fn entry(&mut self, name: &str, mode: u32, data: &[u8], device: (u32, u32)) -> Result<()> {
        let (size, length) = (u32::try_from(data.len())?, u32::try_from(name.len() + 1)?);
        let fields = [1, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, length, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            write!(self.bytes, "{field:08X}")?;
        }
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(data);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn folder(&mut self, folder: &Path) -> Result<()> {
        let all: Vec<&Path> = folder.ancestors().filter(|f| f.file_name().is_some()).collect();
        for folder in all.into_iter().rev() {
            if self.folders.insert(folder.to_owned()) {
                let name = folder.strip_prefix("/").unwrap_or(folder);
                self.entry(&name.display().to_string(), 0o40755, &[], (0, 0))?;
            }
        }
        Ok(())
    }

    fn file(&mut self, at: &Path, bytes: &[u8]) -> Result<()> {
        self.folder(at.parent().context("no folder")?)?;
        let name = at.strip_prefix("/").unwrap_or(at).display().to_string();
        self.entry(&name, 0o100_755, bytes, (0, 0))
    }

    /// A program with the libraries it loads.
    fn program(&mut self, name: &str, program: &Path) -> Result<()> {
        let bytes = std::fs::read(program).with_context(|| program.display().to_string())?;
        self.file(&Path::new("/bin").join(name), &bytes)?;
        let loads = Command::new("ldd").arg(program).output().context("ldd")?;
        for library in String::from_utf8_lossy(&loads.stdout).split_whitespace() {
            if library.starts_with('/') && self.libraries.insert(library.into()) {
                let bytes = std::fs::read(library).with_context(|| library.to_owned())?;
                self.file(Path::new(library), &bytes)?;
            }
        }
        Ok(())
    }
}

fn which(program: &str) -> Result<PathBuf> {
    let places = ["/usr/bin", "/bin"].map(|place| Path::new(place).join(program));
    let found = places.into_iter().find(|path| path.exists());
    found.with_context(|| format!("no {program} on this system"))
}

/// A copy without what only debuggers read.
fn stripped(program: &Path, into: &Path) -> Result<PathBuf> {
    let copy = into.join(program.file_name().context("no name")?);
    let status = Command::new("strip").arg("-o").arg(&copy).arg(program).status();
    ensure!(
        status.context("strip")?.success(),
        "{}: build the workspace first",
        program.display()
    );
    Ok(copy)
}

/// The archive, for a kernel whose modules are in `modules`. `place` is a folder for what is made on the way.
pub(super) fn make(modules: &Path, place: &Path) -> Result<Vec<u8>> {
    let mut root = Root::default();
    for folder in ["/proc", "/sys", "/dev", "/run", "/tmp"] {
        root.folder(Path::new(folder))?;
    }
    root.entry("dev/console", 0o20600, &[], (5, 1))?;
    for program in PROGRAMS {
        root.program(program, &which(program)?)?;
    }
    root.program("load", &compile_text("load", LOADER, place)?)?;
    root.program("knock", &compile_text("knock", KNOCK, place)?)?;
    root.program("actor", &actor_program()?)?;
    root.program("vshmem", &stripped(&program(), place)?)?;
    root.program(
        "libvshmem_preload.so",
        &stripped(&built().join("libvshmem_preload.so"), place)?,
    )?;
    for (index, driver) in DRIVERS.iter().enumerate() {
        if let Ok(bytes) = std::fs::read(modules.join(format!("kernel/{driver}.ko"))) {
            root.file(Path::new(&format!("/drivers/{index}")), &bytes)?;
        }
    }
    root.file(Path::new("/init"), INIT.as_bytes())?;
    root.entry("TRAILER!!!", 0, &[], (0, 0))?;
    Ok(root.bytes)
}
