//! The vsock device of a machine: the host's kernel's, or a program's that turns it into unix sockets.

use super::{Process, host};
use crate::boot::spawn::spawn;
use crate::vsock::report::{GET_ONE, KERNEL, PROGRAM, program};
use rustix::fd::OwnedFd;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use vshmem_port::boot::{BootError, MachineSpec, Vsock};

/// How long the program may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);

/// What QEMU is given.
#[derive(Debug)]
pub(crate) enum Device {
    /// The kernel's, with this CID.
    Kernel(u32),
    /// A connection to the program.
    User(OwnedFd),
}

/// What a machine is given, and the program that goes with it.
pub(crate) fn start(spec: &MachineSpec) -> Result<Option<(Device, Option<Process>)>, BootError> {
    let Some(vsock) = &spec.special.vsock else {
        return Ok(None);
    };
    if Path::new(KERNEL).exists() {
        return Ok(Some((Device::Kernel(vsock.cid), None)));
    }
    let program = program().ok_or_else(|| {
        BootError::Unsupported(format!(
            "this host can give a machine no vsock: {GET_ONE}; or leave --stream out"
        ))
    })?;
    let (process, connection) = serve(&program, vsock, spec)?;
    Ok(Some((Device::User(connection), Some(process))))
}

fn serve(program: &Path, vsock: &Vsock, spec: &MachineSpec) -> Result<(Process, OwnedFd), BootError> {
    let what = || format!("starting {PROGRAM}");
    let folder = folder().map_err(host(&what()))?;
    let socket = folder.join("vsock");
    let paths = [&socket, &vsock.place].map(|path| path.display().to_string());
    if let Some(path) = paths.iter().find(|path| path.contains([',', '='])) {
        let _ = std::fs::remove_dir(&folder);
        return Err(BootError::Unsupported(format!(
            "{path} has characters that {PROGRAM} does not take in a path: choose another runtime directory"
        )));
    }
    let mut command = Command::new(program);
    let console = || spec.console.try_clone().map_err(host(&what()));
    command
        .arg("--vm")
        .arg(format!(
            "guest-cid={},socket={},uds-path={}",
            vsock.cid, paths[0], paths[1]
        ))
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(console()?)
        .stderr(console()?);
    let connected = spawn(&mut command, &[], &spec.cpus).and_then(|child| {
        let mut process = Process(child);
        let connection = connect(&mut process, &socket)?;
        Ok((process, connection))
    });
    let _ = std::fs::remove_file(&socket);
    let _ = std::fs::remove_dir(&folder);
    connected.map_err(host(&what()))
}

/// Connects to the program as soon as it listens.
fn connect(process: &mut Process, socket: &Path) -> io::Result<OwnedFd> {
    let until = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(socket) {
            Ok(connection) => return Ok(connection.into()),
            Err(e) if Instant::now() > until => return Err(e),
            Err(_) => {}
        }
        if let Some(status) = process.0.try_wait()? {
            return Err(io::Error::other(format!("it ended at once ({status})")));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A folder of our own.
fn folder() -> io::Result<PathBuf> {
    for attempt in 0..1000_u32 {
        let path = std::env::temp_dir().join(format!("vshmem-vsock.{}.{attempt}", std::process::id()));
        match std::fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map(|()| path),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}
