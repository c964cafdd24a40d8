//! The port conformance suite, with UML guests as domains.
//!
//! The program is both sides: as the first process of a guest it is the agent, over the guest's own serial line and `/dev/mmapper`.
//! Where `linux.uml` is missing every check is skipped, by name, with the reason.

use anyhow::Context;
use libtest_mimic::{Arguments, Failed, Trial};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::mount::{MountFlags, mount};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, Signal, kill_process_group};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use vshmem_port::conformance::{CHECKS, Domain, Fixture, POOL_BYTES, serve};
use vshmem_port::store::{Serial, Store};
use vshmem_port_local::PoolStore;
use vshmem_port_uml::guest::UmlGuest;
use vshmem_wire::Window;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        in_guest();
    }
    let arguments = Arguments::from_args();
    let kernel = linux_uml();
    let trials = CHECKS
        .iter()
        .map(|check| {
            let kernel = kernel.clone();
            Trial::test(format!("uml::{}", check.name), move || match kernel {
                Some(kernel) => check
                    .run(&Uml { kernel })
                    .map_err(|why| Failed::from(format!("{why:#}"))),
                None => {
                    eprintln!(
                        "skipped: linux.uml is not installed (Debian: apt-get install user-mode-linux)"
                    );
                    Ok(())
                }
            })
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn linux_uml() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join("linux.uml"))
        .find(|p| p.is_file())
}

// The host's side.

struct Uml {
    kernel: PathBuf,
}

impl Fixture for Uml {
    fn new_store(&self) -> anyhow::Result<Box<dyn Store>> {
        Ok(Box::new(PoolStore::new(POOL_BYTES)?))
    }

    fn start(&self, store: &dyn Store) -> anyhow::Result<Box<dyn Domain>> {
        let (pool, _) = store.descriptor(Serial(0), true)?;
        let (stream, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let folder = tempfile::tempdir()?;
        let program = std::env::current_exe()?;
        let child = Command::new(&self.kernel)
            .args([
                "mem=64M",
                "root=/dev/root",
                "rootfstype=hostfs",
                "rootflags=/",
                "ro",
                "quiet",
            ])
            .args([
                "con=null",
                "con0=null,fd:1",
                "ssl=null",
                "ssl0=fd:0",
                "panic=-1",
                "umid=guest",
            ])
            .arg(format!("uml_dir={}", folder.path().display()))
            .arg(format!(
                "iomem=mmapper,/proc/{}/fd/{}",
                std::process::id(),
                pool.as_raw_fd()
            ))
            .arg(format!("init={}", program.display()))
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::from(std::io::stderr()))
            .process_group(0)
            .spawn()
            .context("starting linux.uml")?;
        Ok(Box::new(Guest {
            child,
            stream,
            _pool: pool,
            _folder: folder,
        }))
    }
}

struct Guest {
    child: Child,
    stream: OwnedFd,
    /// The kernel opens it by its number while it boots.
    _pool: OwnedFd,
    _folder: tempfile::TempDir,
}

impl Domain for Guest {
    fn stream(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    fn hand(&mut self, _: OwnedFd, _: Window) -> anyhow::Result<()> {
        Ok(())
    }

    fn kill(&mut self) {
        // The kernel's helpers are in the group, and outlive a kernel that is killed alone. It is not reaped yet, so the number is still its own.
        if let Ok(None) | Err(_) = self.child.try_wait() {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.kill();
    }
}

// The domain's side.

/// The guest's first process: the agent, then the end of the guest.
fn in_guest() -> ! {
    let outcome = prepare().and_then(|()| serve(&UmlGuest));
    if let Err(why) = outcome {
        let _ = std::fs::write("/dev/console", format!("agent: {why:#}\n"));
    }
    let _ = rustix::system::reboot(rustix::system::RebootCommand::PowerOff);
    std::process::exit(1)
}

fn prepare() -> anyhow::Result<()> {
    mount("proc", "/proc", "proc", MountFlags::empty(), None)?;
    match mount("dev", "/dev", "devtmpfs", MountFlags::empty(), None) {
        // Most kernels mount it themselves.
        Ok(()) | Err(rustix::io::Errno::BUSY) => Ok(()),
        Err(other) => Err(other.into()),
    }
}
