//! The command line of QEMU.
//!
//! | what | why |
//! |---|---|
//! | `maxcpus=2` at least | with one possible virtual CPU software emulation leaves out what makes atomics atomic to other machines |
//! | memory from a file, shared | virtiofsd reads and writes it |
//! | `ivshmem-plain`, `master=off` | a snapshot must not carry the pool, nor write an old one over the live one |
//! | virtio-serial `stdio` and `vshmem.0` | the program's streams, and the stream to the back-end |
//! | `no_timer_check` | on a loaded host an emulated timer may be late at the one moment when the kernel looks whether it works at all; then it gives up |
//! | `-no-reboot`, `panic=-1` | a guest whose kernel fails is over; its console says why |

use crate::boot::accelerator::Accelerator;
use crate::boot::vsock::Device;
use crate::channel::CONTROL;
use crate::inside::{STDIO, TAG};
use rustix::fd::{AsRawFd, OwnedFd};
use std::ffi::OsString;
use std::path::Path;
use vshmem_port::boot::{BootError, MachineSpec};

/// More options for QEMU, separated by blanks: a disk, another device.
pub const OPTIONS_VARIABLE: &str = "VSHMEM_QEMU_OPTIONS";

/// What a machine is made of, beside its specification.
pub(crate) struct Parts<'a> {
    pub(crate) accelerator: &'a Accelerator,
    pub(crate) kernel: &'a Path,
    pub(crate) initramfs: &'a OwnedFd,
    pub(crate) files: &'a OwnedFd,
    pub(crate) monitor: &'a OwnedFd,
    pub(crate) vsock: Option<&'a Device>,
    /// Bytes of each pool.
    pub(crate) pools: Vec<u64>,
}

/// Bytes of the huge pages that a pool may lie in.
const HUGE: u64 = 2 << 20;

/// An option for a pool's memory: where the pool lies in huge pages the guest reaches it by them, addresses lying in them as places in the file do.
pub(crate) const fn aligned(bytes: u64) -> &'static str {
    if bytes >= HUGE { ",align=2M" } else { "" }
}

/// Virtual CPUs that a machine has.
pub(crate) fn virtual_cpus(spec: &MachineSpec) -> usize {
    spec.cpus.len().max(1)
}

/// The command line.
pub(crate) fn arguments(spec: &MachineSpec, parts: &Parts<'_>) -> Result<Vec<OsString>, BootError> {
    let mut line = Line::default();
    line.word("-nodefaults")
        .word("-no-user-config")
        .word("-no-reboot");
    line.pair("-display", "none");
    line.pair("-name", format!("{},debug-threads=on", spec.name));
    line.pair("-machine", "q35,usb=off,graphics=off");
    let cpus = virtual_cpus(spec);
    match parts.accelerator {
        Accelerator::Kvm => line.pair("-accel", "kvm").pair("-cpu", "host"),
        Accelerator::Emulation(_) => line.pair("-accel", "tcg,thread=multi").pair("-cpu", "max"),
    };
    line.pair("-smp", format!("{cpus},maxcpus={}", cpus.max(2)));
    line.pair("-m", format!("{}K", spec.memory >> 10));
    let placed = match spec.special.numa_node {
        Some(node) => format!(",host-nodes={node},policy=bind"),
        None => String::new(),
    };
    let huge = if spec.special.hugepages { ",hugetlb=on" } else { "" };
    line.pair(
        "-object",
        format!(
            "memory-backend-memfd,id=memory,size={}K,share=on{huge}{placed}",
            spec.memory >> 10
        ),
    );
    line.pair("-numa", "node,memdev=memory");
    line.socket("monitor", parts.monitor)
        .pair("-mon", "chardev=monitor,mode=control");
    line.pair(
        "-chardev",
        format!(
            "file,id=console,path=/proc/self/fd/{},append=on",
            spec.console.as_raw_fd()
        ),
    );
    line.pair("-serial", "chardev:console");
    // First, so that addresses chosen in them are still free.
    for word in std::env::var(OPTIONS_VARIABLE)
        .unwrap_or_default()
        .split_whitespace()
    {
        line.word(word);
    }
    devices(&mut line, spec, parts, &placed);
    line.pair("-kernel", parts.kernel);
    line.pair(
        "-initrd",
        format!("/proc/self/fd/{}", parts.initramfs.as_raw_fd()),
    );
    line.pair("-append", kernel_line(spec)?);
    Ok(line.words)
}

/// Its streams, the host's tree, the pool and the network.
fn devices(line: &mut Line, spec: &MachineSpec, parts: &Parts<'_>, placed: &str) {
    line.pair("-device", "virtio-serial-pci,id=ports,max_ports=4");
    line.socket("stdio", &spec.stdio);
    line.pair(
        "-device",
        format!("virtserialport,bus=ports.0,nr=1,chardev=stdio,name={STDIO}"),
    );
    if let Some(control) = &spec.control {
        line.socket("control", control);
        line.pair(
            "-device",
            format!("virtserialport,bus=ports.0,nr=2,chardev=control,name={CONTROL}"),
        );
    }
    match parts.vsock {
        None => {}
        Some(Device::Kernel(cid)) => {
            line.pair("-device", format!("vhost-vsock-pci,guest-cid={cid}"));
        }
        Some(Device::User(connection)) => {
            line.socket("vsock", connection)
                .pair("-device", "vhost-user-vsock-pci,chardev=vsock");
        }
    }
    line.socket("files", parts.files);
    line.pair("-device", format!("vhost-user-fs-pci,chardev=files,tag={TAG}"));
    for (number, (pool, bytes)) in spec.pools.iter().zip(&parts.pools).enumerate() {
        let fd = pool.as_raw_fd();
        let aligned = aligned(*bytes);
        line.pair(
            "-object",
            format!("memory-backend-file,id=pool{number},share=on,mem-path=/proc/self/fd/{fd},size={bytes}{aligned}{placed}"),
        );
        line.pair(
            "-device",
            format!("ivshmem-plain,id=shared{number},memdev=pool{number},master=off"),
        );
    }
    if let Some(card) = &spec.network {
        line.pair(
            "-netdev",
            format!("dgram,id=card,local.type=fd,local.str={}", card.as_raw_fd()),
        );
        line.pair(
            "-device",
            format!("virtio-net-pci,netdev=card,romfile=,mac={}", address(&spec.name)),
        );
    }
}

/// The kernel's command line.
fn kernel_line(spec: &MachineSpec) -> Result<String, BootError> {
    let mut line = "console=ttyS0 quiet panic=-1 no_timer_check rdinit=/init --".to_owned();
    for word in &spec.init_args {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
        if word.is_empty() || !word.bytes().all(plain) {
            return Err(BootError::Unsupported(format!(
                "{word:?} cannot stand on a kernel command line"
            )));
        }
        line.push(' ');
        line.push_str(word);
    }
    Ok(line)
}

/// A network card's address, from the machine's name: of the kind that people give out themselves.
fn address(name: &str) -> String {
    let sum = name.bytes().fold(0x811c_9dc5_u32, |sum, byte| {
        (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    let [a, b, c, d] = sum.to_be_bytes();
    format!("52:54:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// Words under way.
#[derive(Default)]
struct Line {
    words: Vec<OsString>,
}

impl Line {
    fn word(&mut self, word: impl Into<OsString>) -> &mut Self {
        self.words.push(word.into());
        self
    }

    fn pair(&mut self, option: &str, value: impl Into<OsString>) -> &mut Self {
        self.word(option).word(value)
    }

    /// A connected socket as a character device.
    fn socket(&mut self, id: &str, socket: &OwnedFd) -> &mut Self {
        self.pair("-chardev", format!("socket,id={id},fd={}", socket.as_raw_fd()))
    }
}
