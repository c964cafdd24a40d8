//! Whether KVM runs guests here, found by running one of six instructions.
//!
//! `/dev/kvm` proves little: on a virtual machine without nested virtualisation it may be there, take every request, and fail when a guest is to run. So QEMU
//! itself is asked, with a firmware that does nothing but end it.

use crate::boot::spawn::bounded;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

/// Bytes of the firmware; its last 16 are where the processor starts.
const FIRMWARE: usize = 64 << 10;
/// mov al, 0x10; out 0xf4, al; hlt; jmp to the hlt.
const CODE: [u8; 7] = [0xb0, 0x10, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd];
/// What QEMU's exit device makes of 0x10.
const ENDED: &str = "exit status: 33";
const PATIENCE: Duration = Duration::from_secs(10);

/// How a guest's instructions are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Accelerator {
    /// By the processor.
    Kvm,
    /// By software, and why.
    Emulation(String),
}

/// What works here. Asked once in a process.
pub(crate) fn find(qemu: &Path) -> Accelerator {
    static FOUND: OnceLock<Accelerator> = OnceLock::new();
    FOUND
        .get_or_init(|| match probe(qemu) {
            Ok(()) => Accelerator::Kvm,
            Err(why) => Accelerator::Emulation(why),
        })
        .clone()
}

fn probe(qemu: &Path) -> Result<(), String> {
    let device = std::fs::File::options().read(true).write(true).open("/dev/kvm");
    device.map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            "there is no /dev/kvm: turn virtualisation on in the firmware, or nested virtualisation in the hypervisor below, and load kvm_intel or kvm_amd"
                .to_owned()
        }
        std::io::ErrorKind::PermissionDenied => "/dev/kvm may not be opened: join the group kvm".to_owned(),
        _ => format!("/dev/kvm: {e}"),
    })?;
    run(qemu, "kvm", "host").map_err(|why| format!("/dev/kvm is there but runs no guest ({why})"))
}

/// Starts a machine that ends itself by its first instructions.
fn run(qemu: &Path, accelerator: &str, processor: &str) -> Result<(), String> {
    let firmware = firmware().map_err(|e| e.to_string())?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), firmware.as_raw_fd());
    let mut command = Command::new(qemu);
    command.args([
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-machine",
        "pc",
        "-accel",
        accelerator,
        "-cpu",
        processor,
        "-m",
        "16M",
        "-device",
        "isa-debug-exit,iobase=0xf4,iosize=0x04",
        "-bios",
        &path,
    ]);
    match bounded(&mut command, PATIENCE) {
        Ok(_) => Err("it ended too early".to_owned()),
        Err(why) => {
            let why = why.to_string();
            if why.contains(ENDED) {
                return Ok(());
            }
            Err(told(&why))
        }
    }
}

/// The first thing that QEMU said, without its own name.
fn told(why: &str) -> String {
    let first = why.split("; ").next().unwrap_or_default();
    let said = first.rsplit("qemu-system-x86_64: ").next().unwrap_or_default();
    said.chars().take(200).collect()
}

fn firmware() -> std::io::Result<std::fs::File> {
    use std::io::Write;
    let mut bytes = vec![0xf4; FIRMWARE];
    let start = FIRMWARE - 16;
    bytes[start..start + CODE.len()].copy_from_slice(&CODE);
    let mut file = std::fs::File::from(rustix::fs::memfd_create(
        "vshmem-probe",
        rustix::fs::MemfdFlags::CLOEXEC,
    )?);
    file.write_all(&bytes)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_is_told() {
        let why = "/usr/bin/qemu-system-x86_64: signal: 6: qemu-system-x86_64: error: no MSR; qemu-system-x86_64: more";
        assert_eq!(told(why), "error: no MSR");
    }

    /// The probe's own proof: software emulation runs everywhere.
    #[test]
    fn a_processor_that_works_is_seen_to_work() {
        let qemu = Path::new("/usr/bin/qemu-system-x86_64");
        if !qemu.exists() {
            println!("skipped: qemu-system-x86_64 is not installed");
            return;
        }
        run(qemu, "tcg", "qemu64").unwrap();
        assert!(run(qemu, "no-such-thing", "qemu64").is_err());
    }
}
