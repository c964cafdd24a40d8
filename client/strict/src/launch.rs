//! Starting a program under a supervisor, and the supervisor itself, which is another life of the command's executable.
//!
//! | process | what it is |
//! |---|---|
//! | the command | waits for the program's end, passes signals on |
//! | the supervisor | its child, in a process group of its own; outlives it while something that the program started runs on |
//! | the program | the supervisor's child, in the command's process group |
//! | stand-ins | the supervisor's children |
#![allow(unsafe_code)] // fork(2), execve(2), signals.

use crate::errand;
use crate::filter;
use crate::supervisor::Supervisor;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::process::Resource;
use serde::{Deserialize, Serialize};
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};

/// Environment variable by which the supervisor is told from the command: the number of its descriptor for reports.
const REPORTS: &str = "VSHMEM_STRICT_REPORTS";
/// Longest report.
const REPORT: usize = 4096;
const OLD: &str = "this kernel has no seccomp user notification of the kind that is needed";
const NEWER: &str =
    "use Linux 5.19 or later with CONFIG_SECCOMP_FILTER, or a dynamically linked build of the program";
const YAMA: &str = "/proc/sys/kernel/yama/ptrace_scope";

/// What the supervisor tells the command.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The program runs, under this pid.
    Runs(i32),
    /// It cannot be executed: errno.
    NotExecuted(i32),
    /// It cannot be supervised: why, and what to do.
    NotSupervised(String, String),
    /// It has ended, with this status of wait(2).
    Ended(i32),
}

/// Why a program does not run.
#[derive(Debug)]
pub enum Failed {
    /// It cannot be executed: errno.
    NotExecuted(i32),
    /// It cannot be supervised.
    NotSupervised {
        /// Why.
        why: String,
        /// What to do.
        remedy: String,
    },
}

fn not_supervised(why: impl ToString) -> Failed {
    Failed::NotSupervised {
        why: why.to_string(),
        remedy: String::new(),
    }
}

/// A program that runs under a supervisor.
#[derive(Debug)]
pub struct Running {
    _supervisor: Child,
    reports: OwnedFd,
    /// The program's first process.
    pub pid: i32,
}

/// Starts a program: its file, its arguments with the name first, and what to add to the environment. The calling executable must call
/// [`supervisor_main`] first of all.
pub fn start(
    file: &Path,
    arguments: &[OsString],
    environment: &[(&str, OsString)],
) -> Result<Running, Failed> {
    let (reports, its) = errand::pair().map_err(not_supervised)?;
    let own = std::env::current_exe().map_err(not_supervised)?;
    rustix::io::fcntl_setfd(&its, rustix::io::FdFlags::empty()).map_err(not_supervised)?;
    let mut command = Command::new(own);
    command
        .arg(file)
        .args(arguments)
        .env(REPORTS, its.as_raw_fd().to_string())
        .stdin(Stdio::inherit());
    for (name, value) in environment {
        command.env(name, value);
    }
    let supervisor = command.spawn().map_err(not_supervised)?;
    drop(its);
    match errand::receive::<Report, REPORT>(&reports).map_err(not_supervised)? {
        Some((Report::Runs(pid), _)) => Ok(Running {
            _supervisor: supervisor,
            reports,
            pid,
        }),
        Some((Report::NotExecuted(errno), _)) => Err(Failed::NotExecuted(errno)),
        Some((Report::NotSupervised(why, remedy), _)) => Err(Failed::NotSupervised { why, remedy }),
        _ => Err(not_supervised("its supervisor has died")),
    }
}

impl Running {
    /// Waits for the program's end. If the supervisor dies, so does the program.
    pub fn wait(self) -> io::Result<ExitStatus> {
        match errand::receive::<Report, REPORT>(&self.reports)? {
            Some((Report::Ended(status), _)) => Ok(ExitStatus::from_raw(status)),
            _ => {
                if let Ok(pidfd) = crate::memory::open(self.pid) {
                    crate::memory::kill(&pidfd);
                }
                Err(io::Error::other("its supervisor has died, so it was ended"))
            }
        }
    }
}

/// If this process is to be a supervisor: what it is from then on. `None` if it is not.
pub fn supervisor_main() -> Option<ExitCode> {
    let number = std::env::var(REPORTS).ok()?.parse().ok()?;
    // SAFETY: the command has left this descriptor to us, and nothing else has it.
    let reports = unsafe { OwnedFd::from_raw_fd(number) };
    let _ = rustix::io::fcntl_setfd(&reports, rustix::io::FdFlags::CLOEXEC);
    let mut arguments = std::env::args_os().skip(1);
    let outcome = supervise(&arguments.next()?, arguments.collect(), &reports);
    Some(match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(report) => {
            let _ = errand::send(&reports, &report, &[]);
            ExitCode::FAILURE
        }
    })
}

fn refused(why: impl ToString, remedy: &str) -> Report {
    Report::NotSupervised(why.to_string(), remedy.to_owned())
}

fn supervise(file: &OsStr, arguments: Vec<OsString>, reports: &OwnedFd) -> Result<(), Report> {
    let own = |error: io::Error| refused(error, "");
    may_look_into_others()?;
    let pass = filter::pass_of(u64::from_ne_bytes(random().map_err(own)?));
    let program = Program::new(file, arguments).map_err(own)?;
    // Orphans of the program stay below this process, which may then look into them.
    // SAFETY: numbers.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    let children = child_signals().map_err(own)?;
    let (mine, its) = errand::pair().map_err(own)?;
    // SAFETY: this process has one thread.
    let first = match unsafe { libc::fork() } {
        0 => program.become_it(pass, &its),
        first if first < 0 => return Err(own(io::Error::last_os_error())),
        first => first,
    };
    drop(its);
    let listener = listener(&mine)?;
    let reports_too = reports.try_clone().map_err(own)?;
    aside().map_err(own)?;
    let supervisor = Supervisor::new(listener, pass, reports_too, children, first).map_err(own)?;
    // Nothing more comes when the program is executed.
    match errand::receive::<i32, 64>(&mine) {
        Ok(None) => {}
        Ok(Some((errno, _))) => return Err(Report::NotExecuted(errno)),
        Err(error) => return Err(own(error)),
    }
    let _ = errand::send(reports, &Report::Runs(first), &[]);
    supervisor.run().map_err(own)
}

/// What the program's process says first: the listener, or why there is none.
fn listener(from: &OwnedFd) -> Result<OwnedFd, Report> {
    match errand::receive::<i32, 64>(from) {
        Ok(Some((0, descriptors))) => descriptors
            .into_iter()
            .next()
            .ok_or_else(|| refused("no listener came", "")),
        Ok(Some((libc::EBUSY, _))) => Err(refused(
            "its system calls are supervised already",
            "leave --strict out inside of another `vshmem run --strict`, or of a container whose runtime uses seccomp user notification",
        )),
        Ok(Some((libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP, _))) => Err(refused(OLD, NEWER)),
        Ok(Some((errno, _))) => Err(refused(io::Error::from_raw_os_error(errno), "")),
        Ok(None) => Err(refused("it died before it was executed", "")),
        Err(error) => Err(refused(error, "")),
    }
}

/// Whether programs can be supervised here; why not, and what to do.
pub fn possible() -> Result<(), (String, String)> {
    if !filter::is_possible() {
        return Err((OLD.to_owned(), NEWER.to_owned()));
    }
    match may_look_into_others() {
        Err(Report::NotSupervised(why, remedy)) => Err((why, remedy)),
        _ => Ok(()),
    }
}

/// Stand-ins read and write the memory of processes that are not their children.
fn may_look_into_others() -> Result<(), Report> {
    let scope = std::fs::read_to_string(YAMA).unwrap_or_default();
    let scope: u32 = scope.trim().parse().unwrap_or(0);
    let root = rustix::process::geteuid().is_root();
    if scope == 0 || root && scope < 3 {
        return Ok(());
    }
    Err(refused(
        format!("{YAMA} is {scope}, which keeps one process from another's memory"),
        "run it as root, or have root set that to 0",
    ))
}

fn random() -> io::Result<[u8; 8]> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes)
}

/// SIGCHLD by a descriptor.
fn child_signals() -> io::Result<OwnedFd> {
    // SAFETY: a set of ours.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        match libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(io::Error::last_os_error()),
            made => Ok(OwnedFd::from_raw_fd(made)),
        }
    }
}

/// What a child of the supervisor is to find of signals.
pub(crate) fn as_before_signals() {
    // SAFETY: a set of ours; a disposition.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
        // Rust's own start has it ignored.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

/// The supervisor is no part of the program's job, and keeps no stream of its open but standard error.
fn aside() -> io::Result<()> {
    rustix::process::setpgid(None, None)?;
    let null = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    // Some descriptors for each process that uses System V IPC. The program has started with the limit as it was.
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = rustix::process::setrlimit(Resource::Nofile, limit);
    // SAFETY: a disposition: messages are written from the background, too.
    unsafe { libc::signal(libc::SIGTTOU, libc::SIG_IGN) };
    Ok(())
}

/// Closes all descriptors but the standard ones and those named.
pub(crate) fn keep_only(kept: &[BorrowedFd<'_>]) {
    let mut kept: Vec<u32> = kept.iter().map(|fd| fd.as_raw_fd() as u32).collect();
    kept.sort_unstable();
    let mut from = 3;
    for number in kept.into_iter().chain([u32::MAX]) {
        if number > from {
            let last = if number == u32::MAX { number } else { number - 1 };
            // SAFETY: nothing uses those descriptors afterwards: the caller goes on with the ones kept only.
            unsafe { libc::syscall(libc::SYS_close_range, from, last, 0) };
        }
        from = number.saturating_add(1);
    }
}

/// A program, ready to be executed.
struct Program {
    file: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

impl Program {
    fn new(file: &OsStr, arguments: Vec<OsString>) -> io::Result<Program> {
        let variable = |(name, value): (OsString, OsString)| {
            let mut both = name.into_vec();
            both.push(b'=');
            both.extend(value.into_vec());
            c_string(&OsString::from_vec(both))
        };
        Ok(Program {
            file: c_string(file)?,
            arguments: arguments.iter().map(|a| c_string(a)).collect::<Result<_, _>>()?,
            environment: std::env::vars_os()
                .filter(|(name, _)| name != REPORTS)
                .map(variable)
                .collect::<Result<_, _>>()?,
        })
    }

    /// In the child: puts the filter on, hands over the listener, and executes the program.
    fn become_it(&self, pass: u64, to: &OwnedFd) -> ! {
        as_before_signals();
        let errno = match filter::put_on(pass) {
            Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
            Ok(listener) => {
                let _ = errand::send(to, &0i32, &[listener.as_fd()]);
                drop(listener);
                let mut errno = execute(&self.file, &self.arguments, &self.environment, pass);
                if errno == libc::ENOEXEC {
                    // As execvp(3): what is no program is the shell's.
                    let shell = c"/bin/sh".to_owned();
                    let mut arguments = vec![shell.clone(), self.file.clone()];
                    arguments.extend(self.arguments.iter().skip(1).cloned());
                    errno = execute(&shell, &arguments, &self.environment, pass);
                }
                errno
            }
        };
        let _ = errand::send(to, &errno, &[]);
        // SAFETY: ends the process.
        unsafe { libc::_exit(127) }
    }
}

/// Executes a program, with the supervisor's pass; gives errno.
fn execute(file: &CString, arguments: &[CString], environment: &[CString], pass: u64) -> i32 {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        let all = strings.iter().map(|string| string.as_ptr());
        all.chain([std::ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: strings and arrays that end with null and live until after the call.
    unsafe {
        libc::syscall(
            libc::SYS_execve,
            file.as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            0,
            0,
            pass,
        )
    };
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}
