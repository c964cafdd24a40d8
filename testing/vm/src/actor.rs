//! A System V program under remote control, anywhere: `programs/actor.c`.

use crate::machine::{Machine, Place, built};
use anyhow::{Context, Result, bail, ensure};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// What a command gave: its words, or the name of an errno.
pub type Answer = Result<Vec<String>, String>;

/// The compiled actor.
pub fn actor_program() -> Result<PathBuf> {
    static MADE: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    MADE.get_or_init(|| compile("actor").map_err(|e| format!("{e:#}")))
        .clone()
        .map_err(anyhow::Error::msg)
}

/// The actor as a static program, which no library can be loaded into.
pub fn static_actor() -> Result<PathBuf> {
    static MADE: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    MADE.get_or_init(|| compile_with("actor", "actor-static", &["-static"]).map_err(|e| format!("{e:#}")))
        .clone()
        .map_err(anyhow::Error::msg)
}

/// Compiles `programs/NAME.c` into the target folder.
pub fn compile(name: &str) -> Result<PathBuf> {
    compile_with(name, name, &[])
}

/// Compiles a C program of a few lines in a folder.
pub fn compile_text(name: &str, text: &str, folder: &Path) -> Result<PathBuf> {
    let (source, program) = (folder.join(format!("{name}.c")), folder.join(name));
    std::fs::write(&source, text)?;
    let status = Command::new("cc")
        .arg("-o")
        .arg(&program)
        .arg(&source)
        .status()
        .context("cc")?;
    ensure!(status.success(), "cc failed on {}", source.display());
    Ok(program)
}

/// Compiles `programs/NAME.c` against the C library.
pub fn compile_for_library(name: &str) -> Result<PathBuf> {
    let include = concat!(env!("CARGO_MANIFEST_DIR"), "/../../client/capi/include");
    let folder = built().display().to_string();
    let path = format!("-Wl,-rpath,{folder}");
    compile_with(
        name,
        name,
        &["-I", include, "-L", &folder, "-lvshmem", "-lm", &path],
    )
}

/// The actor, its System V calls replaced by the C library's when it was compiled.
fn actor_with_library() -> Result<PathBuf> {
    let header = concat!(env!("CARGO_MANIFEST_DIR"), "/../../client/capi/include/vshmem.h");
    let folder = built().display().to_string();
    let flags = [
        "-D_GNU_SOURCE",
        "-DVSHMEM_REPLACE_SYSV",
        "-include",
        header,
        "-L",
        &folder,
        "-lvshmem",
        "-Wl,-rpath",
        &folder,
    ];
    compile_with("actor", "actor-library", &flags)
}

fn compile_with(name: &str, program: &str, flags: &[&str]) -> Result<PathBuf> {
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("programs")
        .join(format!("{name}.c"));
    let folder = built().join("programs");
    std::fs::create_dir_all(&folder)?;
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let fresh = folder.join(format!("{program}.{}.{count}", std::process::id()));
    let program = folder.join(program);
    let made = |path: &PathBuf| std::fs::metadata(path).and_then(|found| found.modified()).ok();
    // With flags it is made of more than its source.
    if flags.is_empty() && made(&program).is_some_and(|at| made(&source).is_some_and(|source| source < at)) {
        return Ok(program);
    }
    // Tests run in parallel processes and threads: compile beside and rename.
    let mut cc = Command::new("cc");
    let status = cc
        .args(["-O1", "-o"])
        .arg(&fresh)
        .arg(&source)
        .args(flags)
        .arg("-pthread")
        .status()
        .context("cc")?;
    ensure!(status.success(), "cc failed on {}", source.display());
    std::fs::rename(&fresh, &program)?;
    Ok(program)
}

/// A running actor.
pub struct Actor {
    child: Child,
    input: Option<ChildStdin>,
    answers: Receiver<String>,
    place: Place,
}

impl Actor {
    /// Starts one at a place.
    pub fn start(machine: &Machine, place: Place) -> Result<Actor> {
        let program = actor_program()?;
        let mut command = match place {
            Place::Kernel => Command::new(&program),
            Place::Library => {
                let mut command = Command::new(actor_with_library()?);
                command.env("VSHMEM_RUNTIME_DIR", machine.runtime());
                command
            }
            Place::Host => machine.command(&["run", "--"]),
            Place::Local(domain) => machine.command(&["run", "--domain", domain, "--"]),
            Place::Container(domain) => machine.contained(&["run", "--domain", domain, "--"]),
            Place::Uml(domain) => machine.command(&[
                "vm", "run", "--port", "uml", "--domain", domain, "--mem", "128M", "--",
            ]),
            Place::Qemu(domain) => machine.command(&[
                "vm", "run", "--port", "qemu", "--domain", domain, "--mem", "192M", "--",
            ]),
            Place::QemuVsock(domain) => machine.command(&[
                "vm", "run", "--port", "qemu", "--stream", "vsock", "--domain", domain, "--mem", "192M", "--",
            ]),
            Place::Xen(domain) => machine.command(&[
                "vm",
                "run",
                "--port",
                "xen",
                "--domain",
                domain,
                "--mem",
                "192M",
                "--boot-timeout",
                "300",
                "--",
            ]),
        };
        if !matches!(place, Place::Kernel | Place::Library) {
            command.arg(&program);
        }
        Actor::from_command(command, place)
    }

    /// Starts one by a command of the caller's making, which says that it is at this place.
    pub fn from_command(mut command: Command, place: Place) -> Result<Actor> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("stdout")?;
        let (send, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(std::result::Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        let actor = Actor {
            child,
            input,
            answers,
            place,
        };
        // A machine in a machine that software emulates takes its time.
        let patience = if matches!(place, Place::Xen(_)) { 300 } else { 120 };
        match actor
            .answers
            .recv_timeout(Duration::from_secs(patience))
            .as_deref()
        {
            Ok("ready") => Ok(actor),
            other => bail!("the actor at {place:?} did not get ready: {other:?}"),
        }
    }

    /// Sends a command without waiting.
    pub fn tell(&mut self, command: &str) -> Result<()> {
        let input = self.input.as_mut().context("closed")?;
        Ok(writeln!(input, "{command}")?)
    }

    /// How long to wait for what takes that long elsewhere: in a machine in a machine that software emulates everything takes its time.
    pub fn patience(&self, limit: Duration) -> Duration {
        if crate::machine::xen_missing().is_none() {
            6 * limit
        } else {
            limit
        }
    }

    /// Waits for an answer, at most so long, or as long as this takes here.
    pub fn answer_within(&mut self, limit: Duration) -> Result<Answer> {
        let limit = self.patience(limit);
        let line = self
            .answers
            .recv_timeout(limit)
            .with_context(|| format!("no answer from the actor at {:?} within {limit:?}", self.place))?;
        match line.split_once(' ') {
            Some(("=", rest)) => Ok(Ok(rest.split(' ').map(str::to_string).collect())),
            Some(("!", name)) => Ok(Err(name.to_string())),
            _ => bail!("the actor says {line:?}"),
        }
    }

    /// A command and its answer.
    pub fn ask(&mut self, command: &str) -> Result<Answer> {
        self.tell(command)?;
        self.answer_within(Duration::from_secs(20))
            .with_context(|| format!("after {command:?}"))
    }

    /// A command that gives a number.
    pub fn number(&mut self, command: &str) -> Result<i64> {
        match self.ask(command)? {
            Ok(words) => Ok(words[0].parse()?),
            Err(errno) => bail!("{command:?} at {:?} failed with {errno}", self.place),
        }
    }

    /// Whether an answer is there already within a short time: used to show that a call blocks.
    pub fn is_blocked(&mut self) -> bool {
        std::thread::sleep(Duration::from_millis(300));
        self.answers.try_recv().is_err()
    }

    /// An answer that is there within this time, if any: a later one is not lost.
    pub fn answer_if_within(&mut self, limit: Duration) -> Option<String> {
        self.answers.recv_timeout(limit).ok()
    }

    /// Waits for the program that was started again in its place.
    pub fn await_ready(&mut self, limit: Duration) -> Result<()> {
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let line = self.answers.recv_timeout(left);
            // The answer to what it did last may come before.
            if line.with_context(|| format!("nobody is ready at {:?}", self.place))? == "ready" {
                return Ok(());
            }
        }
    }

    /// Lets it end by itself, and its guest, if it is in one.
    pub fn finish(mut self, limit: Duration) -> Result<std::process::ExitStatus> {
        self.input = None;
        crate::machine::wait(&mut self.child, limit)
    }

    /// kill -9 of the program itself, wherever it runs, by its own hand. It must be idle.
    pub fn die(&mut self) -> Result<()> {
        self.tell("die")
    }

    /// kill -9 of what runs on this host: the program, or the whole guest.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits until what runs on this host ends by itself, at most so long.
    pub fn end_within(&mut self, limit: Duration) -> Result<std::process::ExitStatus> {
        crate::machine::wait(&mut self.child, limit)
    }

    /// Its process id on this host: the program's, or the guest runner's.
    pub fn host_pid(&self) -> i32 {
        self.child.id() as i32
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.input = None;
        let patience = self.patience(Duration::from_secs(15));
        if crate::machine::wait(&mut self.child, patience).is_err() {
            eprintln!("the actor at {:?} had to be killed", self.place);
        }
    }
}
