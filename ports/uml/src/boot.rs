//! Starts `linux.uml` on the host's own root, and ends it with all its helpers.
//!
//! A UML machine is one main process and several helpers: I/O threads, and one traced process for each address space of
//! the guest. All of them live in a session of their own. What this file knows about their ends, seen on 6.1:
//!
//! | event | what becomes of the helpers |
//! |---|---|
//! | guest powers off | the main process ends them |
//! | the main process gets SIGTERM | it ends them, **or spins for ever** if the signal met it in an interrupt |
//! | the main process is killed by SIGKILL | they stay, **and traced ones go on running as host processes** |
//! | the whole group is killed by SIGKILL | they go |
//!
//! So [`Machine::stop`] always kills the group, before it reaps the main process (a group keeps its number while its
//! leader is a zombie). If our own process is killed, a *guard* does the same: a shell that waits for the end of a pipe
//! that only we hold. The parent-death signal of the main process, SIGTERM, covers the moment before the guard is there.
#![allow(unsafe_code)] // one `pre_exec`: session, parent-death signal and CPU set of the new process

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::FdFlags;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use rustix::thread::CpuSet;
use vshmem_port::boot::{self, Boot, BootError, Machine, MachineSpec};

use crate::guest::{BELLS, POOL_BYTES};
use crate::inside::{CONTROL_LINE, RING_LINE, STDIO_LINE};

/// Names another `linux.uml` than the one on the path.
pub const PROGRAM_VARIABLE: &str = "VSHMEM_UML";

/// Guest memory and pool together may not exceed this: a larger sum leaves a 6.1 kernel too little room for its own
/// mappings, and it panics in early boot.
const MEMORY_AND_POOL_MAX: u64 = 2 << 30;

/// When 4096 bytes that nobody has read yet stand in a guest's serial line, the line is throttled, and a 6.1 kernel never
/// listens to it again.
const LINE_BURST: usize = 3072;

/// Pools that a guest can be shown: `/dev/mmapper` is one region.
pub const MOST_POOLS: usize = 1;

/// Below this the kernel does not come up with an overlay and one program.
const MEMORY_MIN: u64 = 64 << 20;

/// `linux.uml` cuts its command line here.
const COMMAND_LINE_MAX: usize = 2000;

/// Bells of a guest, each for one thread that sleeps: threads beyond them are woken by their front-end.
const BELL_LINES: usize = 16;

/// The host's side of the port.
#[derive(Debug)]
pub struct UmlBoot {
    program: Option<PathBuf>,
}

impl UmlBoot {
    /// Looks for `linux.uml`: `$VSHMEM_UML`, then the path, then where Debian puts it.
    #[must_use]
    pub fn new() -> Self {
        Self {
            program: find_program(),
        }
    }

    fn program(&self) -> Result<&Path, BootError> {
        boot::named_program(PROGRAM_VARIABLE)?;
        self.program.as_deref().ok_or_else(|| BootError::NotInstalled {
            what: "User Mode Linux (linux.uml)".to_owned(),
            package: "user-mode-linux".to_owned(),
        })
    }
}

impl Default for UmlBoot {
    fn default() -> Self {
        Self::new()
    }
}

impl Boot for UmlBoot {
    fn check(&self) -> Result<(), BootError> {
        self.program()?;
        crate::memory::check(MEMORY_MIN)
    }

    fn bells(&self) -> usize {
        1 + BELL_LINES
    }

    fn start(&self, spec: MachineSpec) -> Result<Box<dyn Machine>, BootError> {
        let program = self.program()?;
        spec.special.refuse("uml")?;
        check_sizes(&spec)?;
        crate::memory::check(spec.memory)?;
        let folder = BootFolder::new().map_err(host("a folder for the machine's identity"))?;
        let arguments = arguments(&spec, &folder.path)?;
        let child =
            spawn(program, &arguments, &spec).map_err(host(&format!("starting {}", program.display())))?;
        let machine = UmlMachine::new(child, folder).map_err(host("watching linux.uml"))?;
        Ok(Box::new(machine))
    }
}

fn host(what: &str) -> impl FnOnce(io::Error) -> BootError + use<> {
    let what = what.to_owned();
    move |source| BootError::Host { what, source }
}

fn find_program() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os(PROGRAM_VARIABLE) {
        let named = PathBuf::from(named);
        return named.is_file().then_some(named);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/bin"), PathBuf::from("/usr/local/bin")])
        .map(|folder| folder.join("linux.uml"))
        .find(|candidate| candidate.is_file())
}

fn check_sizes(spec: &MachineSpec) -> Result<(), BootError> {
    let unsupported = |text: String| Err(BootError::Unsupported(text));
    if spec.memory < MEMORY_MIN {
        return unsupported(format!(
            "a guest needs at least {} MiB of memory",
            MEMORY_MIN >> 20
        ));
    }
    if spec.pools.len() > MOST_POOLS {
        return unsupported(format!(
            "the domain is in {} groups with a pool each, and a UML guest has one region of memory to show a pool in: have the configuration name one \
             group for it, or start it with --port qemu",
            spec.pools.len()
        ));
    }
    let pool = spec.pools.first().map_or(Ok(0), pool_bytes)?;
    if spec.memory.saturating_add(pool) > MEMORY_AND_POOL_MAX {
        return unsupported(format!(
            "guest memory ({} MiB) and pool ({} MiB) together exceed the {} MiB that a UML kernel can address; \
             make one of them smaller",
            spec.memory >> 20,
            pool >> 20,
            MEMORY_AND_POOL_MAX >> 20
        ));
    }
    if let Some(cpu) = spec.cpus.iter().find(|&&cpu| cpu >= CpuSet::MAX_CPU) {
        return unsupported(format!("CPU {cpu} is out of range"));
    }
    boot::check_cpus(&spec.cpus)
}

fn pool_bytes(pool: &OwnedFd) -> Result<u64, BootError> {
    let found = rustix::fs::fstat(pool).map_err(|e| host("reading the pool's size")(e.into()))?;
    Ok(u64::try_from(found.st_size).unwrap_or(u64::MAX))
}

/// The command line of `linux.uml`, which is also the kernel's.
fn arguments(spec: &MachineSpec, folder: &Path) -> Result<Vec<OsString>, BootError> {
    let console = spec.console.as_raw_fd();
    let mut line: Vec<OsString> = vec![
        format!("mem={}K", spec.memory >> 10).into(),
        "root=/dev/root".into(),
        "rootfstype=hostfs".into(),
        "rootflags=/".into(),
        "ro".into(),
        "quiet".into(),
        "con=null".into(),
        format!("con0=null,fd:{console}").into(),
        "ssl=null".into(),
        format!("ssl{STDIO_LINE}=fd:{}", spec.stdio.as_raw_fd()).into(),
        // Half of a boot's time: choosing among RAID checksums, and starting modprobe for a compressor of swap.
        "initcall_blacklist=raid6_select_algo,init_zswap".into(),
        // A panic ends the machine at once; the console says why.
        "panic=-1".into(),
        keyed("uml_dir=", folder)?,
        "umid=guest".into(),
    ];
    if let Some(control) = &spec.control {
        line.push(format!("ssl{CONTROL_LINE}=fd:{}", control.as_raw_fd()).into());
    }
    for (number, bell) in spec.bells.iter().take(1 + BELL_LINES).enumerate() {
        line.push(format!("ssl{}=fd:{}", usize::from(RING_LINE) + number, bell.as_raw_fd()).into());
    }
    if spec.bells.len() > 1 {
        line.push(format!("{BELLS}{}", spec.bells.len().min(1 + BELL_LINES) - 1).into());
    }
    if let Some(card) = &spec.network {
        line.push(format!("vec0:transport=fd,fd={},depth=64", card.as_raw_fd()).into());
    }
    if let Some(pool) = spec.pools.first() {
        line.push(format!("iomem=mmapper,/proc/self/fd/{}", pool.as_raw_fd()).into());
        // The guest's kernel takes the region for longer than it is: see `guest`.
        line.push(format!("{POOL_BYTES}{}", pool_bytes(pool)?).into());
    }
    line.push(keyed("init=", &spec.init)?);
    line.push("--".into());
    for word in &spec.init_args {
        if word.is_empty()
            || !word
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b))
        {
            return Err(BootError::Unsupported(format!(
                "{word:?} cannot stand on a kernel command line"
            )));
        }
        line.push(word.into());
    }
    if line.iter().map(|word| word.len() + 1).sum::<usize>() > COMMAND_LINE_MAX {
        return Err(BootError::Unsupported(
            "the kernel command line is too long; use shorter paths".to_owned(),
        ));
    }
    Ok(line)
}

/// `key` and a path, quoted the way the kernel's parser undoes it when the path holds spaces.
fn keyed(key: &str, path: &Path) -> Result<OsString, BootError> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.iter().any(|&b| b == b'"' || b.is_ascii_control()) {
        return Err(BootError::Unsupported(format!(
            "{} holds a quote or a control character and cannot stand on a kernel command line",
            path.display()
        )));
    }
    let mut word = OsString::from(key);
    if bytes.contains(&b' ') {
        word.push("\"");
        word.push(path);
        word.push("\"");
    } else {
        word.push(path);
    }
    Ok(word)
}

fn spawn(program: &Path, arguments: &[OsString], spec: &MachineSpec) -> io::Result<Child> {
    let mut cpus = CpuSet::new();
    spec.cpus.iter().for_each(|&cpu| cpus.set(cpu));
    let pin = !spec.cpus.is_empty();
    let kept: Vec<_> = [
        Some(&spec.stdio),
        Some(&spec.console),
        spec.control.as_ref(),
        spec.network.as_ref(),
        spec.pools.first(),
    ]
    .into_iter()
    .flatten()
    .chain(&spec.bells)
    .map(AsRawFd::as_raw_fd)
    .collect();
    let parent = rustix::process::getpid();
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| name == "PATH" || name == "HOME" || name == "TMPDIR"))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(spec.console.try_clone()?)
        .stderr(spec.console.try_clone()?);
    let prepare = move || {
        rustix::process::setsid()?;
        rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
        if rustix::process::getppid() != Some(parent) {
            return Err(io::Error::from(rustix::io::Errno::SRCH));
        }
        if pin {
            rustix::thread::sched_setaffinity(None, &cpus)?;
        }
        for &fd in &kept {
            // SAFETY: `spec` owns these descriptors and is borrowed until `spawn` below has returned.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes plain system calls only; it allocates and locks nothing.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}

/// Where UML writes its pid file and its management socket. Needed only while it boots.
#[derive(Debug)]
struct BootFolder {
    path: PathBuf,
}

impl BootFolder {
    const PREFIX: &'static str = "vshmem-uml.";

    fn new() -> io::Result<Self> {
        // UML takes the folder's name without any quoting.
        let plain = |path: &PathBuf| path.is_absolute() && !path.as_os_str().as_bytes().contains(&b' ');
        let above = Some(std::env::temp_dir())
            .filter(plain)
            .unwrap_or_else(|| PathBuf::from("/tmp"));
        Self::sweep(&above);
        let own = std::process::id();
        for attempt in 0..1000_u32 {
            let path = above.join(format!("{}{own}.{attempt}", Self::PREFIX));
            let mut builder = fs::DirBuilder::new();
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            match builder.create(&path) {
                Ok(()) => return Ok(Self { path }),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Removes what a run that was killed while its guest booted has left: folders whose process is gone.
    fn sweep(above: &Path) {
        for entry in fs::read_dir(above).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let owner = name
                .to_str()
                .and_then(|n| n.strip_prefix(Self::PREFIX))
                .and_then(|n| n.split('.').next());
            let Some(owner) = owner.and_then(|n| n.parse::<u32>().ok()) else {
                continue;
            };
            if !Path::new("/proc").join(owner.to_string()).exists() {
                // Another user's folder stays: removing it fails.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

impl Drop for BootFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Kills a process group when this process is gone, however that happened.
#[derive(Debug)]
struct Guard {
    shell: Child,
}

impl Guard {
    const SCRIPT: &'static str = "trap '' HUP INT TERM; read _; kill -s KILL -- \"-$1\" 2>/dev/null";

    fn new(group: Pid) -> io::Result<Self> {
        let shell = Command::new("/bin/sh")
            .args([
                "-c",
                Self::SCRIPT,
                "vshmem-uml-guard",
                &group.as_raw_nonzero().to_string(),
            ])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self { shell })
    }

    /// To be called while the group still has its number.
    fn release(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// One running `linux.uml`.
#[derive(Debug)]
struct UmlMachine {
    child: Child,
    guard: Option<Guard>,
    group: Pid,
    pidfd: OwnedFd,
    folder: Option<BootFolder>,
    stopped: bool,
}

impl UmlMachine {
    /// How long helpers may take to go after SIGKILL.
    const PATIENCE: Duration = Duration::from_secs(5);

    fn new(mut child: Child, folder: BootFolder) -> io::Result<Self> {
        let group = Pid::from_child(&child);
        let watched = pidfd_open(group, PidfdFlags::empty()).map_err(io::Error::from);
        match watched.and_then(|pidfd| Ok((pidfd, Guard::new(group)?))) {
            Ok((pidfd, guard)) => Ok(Self {
                child,
                guard: Some(guard),
                group,
                pidfd,
                folder: Some(folder),
                stopped: false,
            }),
            Err(e) => {
                let _ = kill_process_group(group, Signal::KILL);
                let _ = child.wait();
                Err(e)
            }
        }
    }
}

impl Machine for UmlMachine {
    fn over(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    fn booted(&mut self) {
        self.folder = None;
    }

    fn burst(&self) -> usize {
        LINE_BURST
    }

    fn stop(&mut self) {
        if self.stopped {
            return;
        }
        self.stopped = true;
        // The main process is our child and not reaped yet, so the number still names this group.
        let _ = kill_process_group(self.group, Signal::KILL);
        if let Some(mut guard) = self.guard.take() {
            guard.release();
        }
        let _ = self.child.wait();
        let deadline = Instant::now() + Self::PATIENCE;
        // Helpers are orphans now: they are gone, or are zombies of init, when none can be signalled or all are dead.
        while group_lives(self.group) && Instant::now() < deadline {
            let _ = kill_process_group(self.group, Signal::KILL);
            std::thread::sleep(Duration::from_millis(2));
        }
        self.folder = None;
    }
}

impl Drop for UmlMachine {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Whether the session has a process that is not a zombie. Asked only after the leader was reaped; the number cannot be
/// given to another process before the last member is reaped, and then the answer is no.
fn group_lives(group: Pid) -> bool {
    if rustix::process::test_kill_process_group(group).is_err() {
        return false;
    }
    let wanted = group.as_raw_nonzero().to_string();
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| {
            let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
                return false;
            };
            // pid (name) state ppid pgrp: the name may hold anything, so count from the last parenthesis.
            let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
            let state = fields.next();
            let pgrp = fields.nth(1);
            pgrp == Some(wanted.as_str()) && state != Some("Z") && state != Some("X")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(init: &str) -> MachineSpec {
        let null = || OwnedFd::from(fs::File::open("/dev/null").expect("/dev/null"));
        MachineSpec {
            name: "a".to_owned(),
            memory: 256 << 20,
            cpus: vec![],
            init: init.into(),
            init_args: vec!["guest-init".to_owned(), "uml".to_owned()],
            pools: Vec::new(),
            control: None,
            network: None,
            bells: Vec::new(),
            binds: Vec::new(),
            special: vshmem_port::boot::Special::default(),
            stdio: null(),
            console: null(),
        }
    }

    #[test]
    fn paths_with_spaces_are_quoted_and_quotes_refused() {
        let words = arguments(&spec("/opt/my tools/vshmem"), Path::new("/tmp/x")).expect("arguments");
        assert!(words.contains(&OsString::from("init=\"/opt/my tools/vshmem\"")));
        assert!(words.ends_with(&["--".into(), "guest-init".into(), "uml".into()]));
        assert!(arguments(&spec("/opt/a\"b"), Path::new("/tmp/x")).is_err());
    }

    #[test]
    fn words_that_a_kernel_command_line_would_tear_are_refused() {
        let mut torn = spec("/bin/true");
        torn.init_args.push("two words".to_owned());
        assert!(arguments(&torn, Path::new("/tmp/x")).is_err());
    }

    #[test]
    fn several_pools_are_refused() {
        let mut two = spec("/bin/true");
        two.pools = [two.stdio.try_clone(), two.stdio.try_clone()]
            .map(Result::unwrap)
            .into();
        let said = check_sizes(&two).expect_err("two pools").to_string();
        assert!(
            said.contains("2 groups") && said.contains("--port qemu"),
            "{said}"
        );
    }

    #[test]
    fn too_little_and_too_much_memory_are_refused_before_booting() {
        let mut small = spec("/bin/true");
        small.memory = 1 << 20;
        assert!(check_sizes(&small).is_err());
        let mut large = spec("/bin/true");
        large.memory = 4 << 30;
        let said = check_sizes(&large).expect_err("too large").to_string();
        assert!(said.contains("4096 MiB"), "{said}");
    }
}
