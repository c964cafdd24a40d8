//! Limits that a program opens for writing: it gets the kernel's own file, of an IPC namespace that nobody else is in, and what it writes there is told the
//! daemon.
//!
//! So the kernel itself says what is a mistake, to whom and when, and nobody has to hear of every write(2). What is written is seen before the next call that
//! anybody below the same supervisor makes about System V IPC or one of these files, when a process ends, and otherwise within [`TICK`].
//!
//! Where no such namespace can be had (that takes CAP_SYS_ADMIN), the file is one in memory: a mistake in it has no effect, and nobody is told.
#![allow(unsafe_code)] // fork(2), unshare(2), setns(2).

use crate::files::Asked;
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use std::io;
use std::time::{Duration, Instant};
use vshmem_abi::proc_text::Text;
use vshmem_abi::settings::{self, FILES, LONGEST};
use vshmem_wire::Setting;

/// How often files that may be written to are looked at, until nothing was written for [`LATELY`].
const TICK: Duration = Duration::from_millis(2);
const SELDOM: Duration = Duration::from_millis(100);
const LATELY: Duration = Duration::from_secs(2);
/// In place of a number that is used once, so that the same one can be written again.
const USED: &[u8] = b"2147483647\n";

/// A file that was opened.
#[derive(Debug)]
struct Limit {
    setting: Setting,
    file: OwnedFd,
    /// What it said when we last looked.
    known: Vec<u8>,
}

/// The files.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    open: Vec<Limit>,
    /// An IPC namespace, as long as this is open. `Some(None)`: there is none to be had.
    namespace: Option<Option<OwnedFd>>,
    last: Option<Instant>,
}

impl Limits {
    /// What the target of an open(2) for writing gets. `None`: nothing of ours.
    pub(crate) fn open(&mut self, asked: Asked) -> Option<io::Result<OwnedFd>> {
        let Text::Limit(setting) = asked.text else {
            return None;
        };
        self.look();
        self.last = Some(Instant::now());
        Some(self.opened(setting, asked))
    }

    fn opened(&mut self, setting: Setting, asked: Asked) -> io::Result<OwnedFd> {
        let at = match self.open.iter().position(|limit| limit.setting == setting) {
            Some(at) => at,
            None => {
                let file = self.make(setting)?;
                self.open.push(Limit {
                    setting,
                    file,
                    known: Vec::new(),
                });
                self.open.len() - 1
            }
        };
        let limit = &mut self.open[at];
        // As it is now, whoever may have changed it.
        if let Some(text) = told(asked.text) {
            let _ = rustix::fs::ftruncate(&limit.file, 0);
            let _ = rustix::io::pwrite(&limit.file, &text, 0);
        }
        limit.known = read(&limit.file);
        let flags = asked.flags & (libc::O_ACCMODE | libc::O_NONBLOCK | libc::O_APPEND | libc::O_TRUNC);
        let path = format!("/proc/self/fd/{}", limit.file.as_raw_fd());
        let how = OFlags::from_bits_retain(flags as u32) | OFlags::CLOEXEC;
        Ok(rustix::fs::open(path, how, Mode::empty())?)
    }

    fn make(&mut self, setting: Setting) -> io::Result<OwnedFd> {
        let name = FILES
            .iter()
            .find_map(|(name, known)| (*known == setting).then_some(*name));
        let name = name.ok_or(io::ErrorKind::NotFound)?;
        if self.namespace.is_none() {
            self.namespace = Some(within_namespace(None, own_namespace).ok());
        }
        if let Some(Some(namespace)) = &self.namespace {
            let open = || {
                let path = format!("/proc/sys/kernel/{name}");
                rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(Into::into)
            };
            if let Ok(file) = within_namespace(Some(namespace), open) {
                return Ok(file);
            }
        }
        Ok(rustix::fs::memfd_create(
            format!("vshmem-limit:{name}"),
            MemfdFlags::CLOEXEC,
        )?)
    }

    /// Tells the daemon what was written.
    pub(crate) fn look(&mut self) {
        for limit in &mut self.open {
            let now = read(&limit.file);
            if now == limit.known {
                continue;
            }
            self.last = Some(Instant::now());
            if !now.is_empty() {
                tell(limit.setting, &now);
            }
            limit.known = now;
            if matches!(limit.setting, Setting::NextId(_)) && rustix::io::pwrite(&limit.file, USED, 0).is_ok()
            {
                limit.known = read(&limit.file);
            }
        }
    }

    /// When to look again.
    pub(crate) fn tick(&self) -> Option<Duration> {
        let last = self.last?;
        Some(if last.elapsed() < LATELY { TICK } else { SELDOM })
    }
}

fn read(file: &OwnedFd) -> Vec<u8> {
    let mut text = [0; LONGEST];
    let bytes = rustix::io::pread(file, &mut text, 0).unwrap_or(0);
    text[..bytes].to_vec()
}

fn own_namespace() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        "/proc/self/ns/ipc",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// Does something in an IPC namespace, or in a new one: this thread, which comes back.
fn within_namespace<T>(which: Option<&OwnedFd>, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let own = own_namespace()?;
    // SAFETY: numbers.
    let enter = |namespace: &OwnedFd| unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWIPC) };
    let entered = match which {
        // SAFETY: a number.
        None => unsafe { libc::unshare(libc::CLONE_NEWIPC) },
        Some(namespace) => enter(namespace),
    };
    if entered != 0 {
        return Err(io::Error::last_os_error());
    }
    let done = work();
    if enter(&own) != 0 {
        return Err(io::Error::last_os_error());
    }
    done
}

/// Has a child, which is a client of the daemon for as long as that takes, do something; gives what it has written.
fn by_a_client(work: impl FnOnce(&OwnedFd) -> vshmem_runtime::Result<()>) -> io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create(c"vshmem", MemfdFlags::CLOEXEC)?;
    // SAFETY: the other thread has nothing locked that the child uses.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return Err(io::Error::last_os_error());
    }
    if child == 0 {
        crate::launch::keep_only(&[file.as_fd()]);
        crate::launch::as_before_signals();
        let status = match work(&file) {
            Ok(()) => 0,
            Err(errno) => errno.0 & 0xff,
        };
        // SAFETY: ends the process.
        unsafe { libc::_exit(status) }
    }
    let mut status = 0;
    // SAFETY: an int of ours.
    while unsafe { libc::waitpid(child, &raw mut status, 0) } < 0
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
    match (libc::WIFEXITED(status), libc::WEXITSTATUS(status)) {
        (true, 0) => Ok(file),
        (true, errno) => Err(io::Error::from_raw_os_error(errno)),
        (false, _) => Err(io::ErrorKind::Other.into()),
    }
}

/// What the daemon says that a file says.
fn told(text: Text) -> Option<Vec<u8>> {
    let said = by_a_client(|into| {
        let words = text.write()?;
        rustix::io::write(into, words.as_bytes())?;
        Ok(())
    });
    match said {
        Ok(file) => Some(read(&file)),
        Err(error) => {
            vshmem_runtime::debug!("the daemon does not tell its limits: {error}");
            None
        }
    }
}

fn tell(setting: Setting, text: &[u8]) {
    if let Err(error) = by_a_client(|_| settings::set(setting, text)) {
        vshmem_runtime::error!(
            "the daemon has not changed a limit to {}: {error}",
            String::from_utf8_lossy(text).trim_end()
        );
    }
}
