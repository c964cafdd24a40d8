//! What the machine must have, and how it gets it.
//!
//! As root on a system with apt the missing packages are installed; elsewhere they are named and the tasks go on without them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A Debian package, the file that shows it is there (or one of several, separated by `|`), and what it is for.
struct Package {
    name: &'static str,
    file: &'static str,
    for_what: &'static str,
}

const PACKAGES: &[Package] = &[
    Package {
        name: "gcc",
        file: "/usr/bin/cc",
        for_what: "the C examples and the C library's test",
    },
    Package {
        name: "libc6-dev",
        file: "/usr/include/stdio.h",
        for_what: "the C examples",
    },
    Package {
        name: "user-mode-linux",
        file: "/usr/bin/linux.uml",
        for_what: "guests with a kernel of their own",
    },
    Package {
        name: "qemu-system-x86",
        file: "/usr/bin/qemu-system-x86_64",
        for_what: "virtual machines as guests",
    },
    Package {
        name: "qemu-system-common",
        file: "/usr/lib/qemu/qemu-bridge-helper",
        for_what: "virtual machines as guests",
    },
    // Part of qemu-system-common up to Debian 12.
    Package {
        name: "virtiofsd",
        file: "/usr/lib/qemu/virtiofsd|/usr/libexec/virtiofsd",
        for_what: "the host's tree in virtual machines",
    },
    Package {
        name: "util-linux",
        file: "/usr/bin/ipcs",
        for_what: "unmodified ipcs, ipcmk, ipcrm",
    },
    Package {
        name: "stress-ng",
        file: "/usr/bin/stress-ng",
        for_what: "unmodified stress-ng",
    },
    Package {
        name: "pkg-config",
        file: "/usr/bin/pkg-config",
        for_what: "the C library's test",
    },
    Package {
        name: "python3-venv",
        file: "/usr/share/doc/python3-venv",
        for_what: "unmodified Python programs",
    },
];

/// For the end-to-end tests alone. Not PostgreSQL, whose package starts a server, nor Open MPI, which brings much along: whoever wants those tests installs them.
const PROGRAMS: &[Package] = &[
    Package {
        name: "libipc-shareable-perl",
        file: "/usr/share/perl5/IPC/Shareable.pm",
        for_what: "unmodified Perl programs",
    },
    Package {
        name: "php-cli",
        file: "/usr/bin/php",
        for_what: "unmodified PHP programs",
    },
    Package {
        name: "fakeroot",
        file: "/usr/bin/fakeroot-sysv",
        for_what: "unmodified fakeroot",
    },
    Package {
        name: "python3-sysv-ipc",
        file: "/usr/share/doc/python3-sysv-ipc",
        for_what: "the Python example",
    },
    Package {
        name: "ruby",
        file: "/usr/bin/ruby",
        for_what: "the Ruby example",
    },
    Package {
        name: "g++",
        file: "/usr/bin/g++",
        for_what: "the Boost example",
    },
    Package {
        name: "libboost-dev",
        file: "/usr/include/boost/interprocess/xsi_shared_memory.hpp",
        for_what: "the Boost example",
    },
    Package {
        name: "musl-tools",
        file: "/usr/bin/musl-gcc",
        for_what: "the test of what cannot be served",
    },
];

/// What `vshmem bench report` compares with, beside what gcc brings (OpenMP). What is missing is left out of a report by name.
const EVALUATION: &[Package] = &[
    Package {
        name: "mpich",
        file: "/usr/bin/mpirun.mpich",
        for_what: "the model MPICH",
    },
    Package {
        name: "libmpich-dev",
        file: "/usr/bin/mpicc.mpich",
        for_what: "the model MPICH",
    },
    Package {
        name: "openmpi-bin",
        file: "/usr/bin/mpirun.openmpi",
        for_what: "the model Open MPI",
    },
    Package {
        name: "libopenmpi-dev",
        file: "/usr/bin/mpicc.openmpi",
        for_what: "the model Open MPI",
    },
    Package {
        name: "libzmq3-dev",
        file: "/usr/include/zmq.h",
        for_what: "ZeroMQ among the peers",
    },
];

impl Package {
    fn is_there(&self) -> bool {
        self.file.split('|').any(|file| Path::new(file).exists())
    }
}

/// Installs what is missing, if it can. Missing packages are no error: tests that need them say so and are skipped.
pub(crate) fn packages() {
    install(PACKAGES);
}

/// Installs what the tests alone need and is missing, if it can.
pub(crate) fn packages_of_tests() {
    install(PROGRAMS);
}

/// Installs what the evaluation compares with and is missing, if it can.
pub(crate) fn packages_of_the_evaluation() {
    install(PACKAGES);
    install(EVALUATION);
}

fn install(wanted: &'static [Package]) {
    let missing: Vec<&Package> = wanted.iter().filter(|p| !p.is_there()).collect();
    if missing.is_empty() {
        return;
    }
    let names: Vec<&str> = missing.iter().map(|p| p.name).collect();
    if is_root() && Path::new("/usr/bin/apt-get").exists() {
        eprintln!("xtask: installing {}", names.join(" "));
        if apt(&["update", "-qq"]) {
            for package in &missing {
                // Another one may have brought it along.
                if package.is_there() {
                    continue;
                }
                let name = package.name;
                if !apt(&["install", "-y", "-qq", "--no-install-recommends", name]) {
                    eprintln!("xtask: {name} could not be installed; going on without it");
                }
            }
        }
    }
    for package in missing.iter().filter(|p| !p.is_there()) {
        eprintln!(
            "xtask: missing {} ({}): install it with `apt-get install {}`; going on without it",
            package.name, package.for_what, package.name
        );
    }
}

/// The program that gives virtual machines vsock where the host's kernel does not, and its version.
const VSOCK_DEVICE: (&str, &str) = ("vhost-device-vsock", "0.3.0");

/// That program: built into a folder below the target folder, once (about half a minute on two cores). None where it cannot be had, and tests are skipped.
pub(crate) fn vsock_device(target: &Path) -> Option<PathBuf> {
    let (name, version) = VSOCK_DEVICE;
    let root = target.join("tools");
    let program = root.join("bin").join(name);
    if program.exists() {
        return Some(program);
    }
    eprintln!("xtask: building {name}");
    let built = Command::new("cargo")
        .args([
            "install",
            name,
            "--version",
            version,
            "--locked",
            "--debug",
            "--quiet",
            "--root",
        ])
        .arg(&root)
        .env_remove("CARGO_TARGET_DIR")
        .stdin(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !built {
        eprintln!("xtask: {name} could not be built; going on without it");
    }
    Some(program).filter(|program| program.exists())
}

fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|out| out.stdout.trim_ascii() == b"0")
}

fn apt(args: &[&str]) -> bool {
    Command::new("apt-get")
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

/// Whether `cargo <tool> --version` works.
pub(crate) fn has_cargo_tool(tool: &str) -> bool {
    Command::new("cargo")
        .args([tool, "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}
