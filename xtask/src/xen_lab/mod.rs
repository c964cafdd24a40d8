//! `cargo xtask xen-lab`: a complete Xen machine (hypervisor, dom0, toolstack) under QEMU's software emulation, for those who have no Xen.
//!
//! Dom0 sees this host's own tree with the distribution's packages laid over it, so that every program that was built here is there; what is written there is
//! gone with the machine. A command's input, output and exit status are those of the laboratory. Guests are paravirtual, or PVH ones with `--hvm`, which has QEMU
//! emulate hardware virtualisation as well; `VSHMEM_XEN_TYPE` says otherwise.
//!
//! | module | what it holds |
//! |---|---|
//! | `packages` | the distribution's packages, unpacked into the cache |
//! | `image` | kernels, unpacked |
//! | `first_root` | what dom0's kernel begins with (`init.sh`) |
//! | `machine` | QEMU; dom0 is made by `dom0.sh` |
//! | `trials` | the scenarios, run by `trials.sh` |
//!
//! Not for users of Vshmem, who have a Xen machine of their own: for the port's tests.

mod first_root;
mod image;
mod machine;
mod packages;
mod trials;

use anyhow::{Context, Result, bail, ensure};
use machine::{Machine, Streams};
use packages::Packages;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

const USAGE: &str = "usage: cargo xtask xen-lab [--timeout SECONDS] [--verbose] [--hvm] [--dom0-cpus N] [--test [--quick] | [--release] -- COMMAND [ARGUMENT…]]";
/// How long dom0 may take to come up: a quiet machine needs a quarter of a minute.
const BOOT: Duration = Duration::from_secs(180);
/// How long a command may take if nothing is said.
const RUN: Duration = Duration::from_secs(900);
/// How long a machine may take to switch itself off.
const LEAVE: Duration = Duration::from_secs(15);
/// What a command gets of this process's environment, beside what begins so.
const VARIABLES: [&str; 6] = ["HOME", "USER", "LANG", "LC_ALL", "TERM", "NO_COLOR"];
/// The type of the guests that port xen makes.
const TYPE: &str = "VSHMEM_XEN_TYPE";
const FAMILIES: [&str; 3] = ["VSHMEM_", "RUST_", "NEXTEST"];

/// What was asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Request {
    command: Vec<String>,
    timeout: Option<Duration>,
    verbose: bool,
    /// The scenarios instead of a command; the short setting of them.
    test: bool,
    quick: bool,
    /// What is built with optimisation is first on dom0's path, and built before: for figures.
    release: bool,
    processor: Processor,
}

/// How the machine is run.
#[derive(Debug)]
struct Setting {
    /// This process's own terminal is one of dom0's.
    terminal: bool,
    /// The console is shown.
    verbose: bool,
    processor: Processor,
}

/// What dom0 and guests run on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Processor {
    /// With hardware virtualisation (AMD's, which is what software emulates), for PVH guests.
    hvm: bool,
    /// Virtual CPUs of dom0, if not one.
    dom0_cpus: Option<u32>,
}

/// `cargo xtask xen-lab`.
pub(crate) fn main(args: &[String]) -> Result<ExitCode> {
    let request = parse(args)?;
    check()?;
    let packages = packages::find_or_fetch()?;
    let first_root = first_root::find_or_make(&packages)?;
    let terminal = request.command.is_empty() && !request.test && std::io::stdin().is_terminal();
    let target = crate::tasks::target()?;
    if request.release {
        ensure!(crate::tasks::build(true)?, "the build failed");
    }
    let mut command = request.command;
    if request.test {
        command = trials::prepare(request.quick, request.processor.hvm, &target)?;
    }
    if command.is_empty() && !terminal {
        command.push("bash".to_owned());
    }
    if terminal {
        eprintln!("xen-lab: booting Xen in software; in dom0's shell try `xl list`; `exit` ends the machine");
    }
    let limit = match terminal {
        true => Duration::MAX,
        false if request.test => Duration::from_secs(trials::seconds(request.quick, request.processor.hvm)),
        false => RUN,
    };
    let folder = std::env::current_dir()?;
    run(
        &packages,
        &first_root,
        &words(
            &folder,
            &target.join(if request.release { "release" } else { "debug" }),
            request.processor,
            &command,
        ),
        request.timeout.unwrap_or(limit),
        &Setting {
            terminal,
            verbose: request.verbose,
            processor: request.processor,
        },
    )
}

fn parse(args: &[String]) -> Result<Request> {
    let mut request = Request::default();
    let mut args = args.iter();
    while let Some(word) = args.next() {
        match word.as_str() {
            "--" => request.command = args.by_ref().cloned().collect(),
            "--verbose" => request.verbose = true,
            "--test" => request.test = true,
            "--quick" => request.quick = true,
            "--release" => request.release = true,
            "--hvm" => request.processor.hvm = true,
            "--dom0-cpus" => {
                let value = args.next().context("--dom0-cpus needs a number")?;
                request.processor.dom0_cpus = Some(value.parse().context("--dom0-cpus")?);
            }
            "--timeout" => {
                let value = args.next().context("--timeout needs a number of seconds")?;
                request.timeout = Some(Duration::from_secs(value.parse().context("--timeout")?));
            }
            _ => bail!("{word}: unknown\n{USAGE}"),
        }
    }
    ensure!(
        request.command.is_empty() || !request.test,
        "the scenarios, or a command\n{USAGE}"
    );
    ensure!(request.test || !request.quick, "--quick is for --test\n{USAGE}");
    ensure!(
        !request.test || !request.release,
        "the scenarios run what is built without --release\n{USAGE}"
    );
    Ok(request)
}

/// Whether a machine can be had here.
pub(crate) fn check() -> Result<()> {
    ensure!(cfg!(target_arch = "x86_64"), "the laboratory runs on x86-64 only");
    let path = std::env::var_os("PATH").unwrap_or_default();
    for (program, package) in [
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("setpriv", "util-linux"),
    ] {
        ensure!(
            std::env::split_paths(&path).any(|folder| folder.join(program).is_file()),
            "{program} is not here; on Debian and Ubuntu: apt-get install {package}"
        );
    }
    packages::can_be_had()
}

/// What dom0 is told: folder, variables, an empty word, command. Programs are looked for in `programs` first.
fn words(folder: &Path, programs: &Path, processor: Processor, command: &[String]) -> Vec<String> {
    let mut words = vec![
        folder.display().to_string(),
        format!("PATH={}", programs.display()),
    ];
    // What this process's environment says comes later, and counts.
    words.extend(processor.hvm.then(|| format!("{TYPE}=pvh")));
    for (name, value) in std::env::vars() {
        if VARIABLES.contains(&name.as_str()) || FAMILIES.iter().any(|family| name.starts_with(family)) {
            words.push(format!("{name}={value}"));
        }
    }
    words.push(String::new());
    words.extend_from_slice(command);
    words
}

fn run(
    packages: &Packages,
    first_root: &Path,
    words: &[String],
    timeout: Duration,
    setting: &Setting,
) -> Result<ExitCode> {
    let started = Instant::now();
    let (mut machine, streams) = Machine::start(packages, first_root, setting)?;
    let Streams {
        mut control,
        input,
        output,
        error,
    } = streams;
    let said = listen(control.try_clone()?);
    let ready = await_line(&said, &mut machine, BOOT)?;
    let Some(ready) = ready else {
        machine.end(Duration::ZERO);
        bail!(
            "dom0 did not come up within {} s; the last lines of its console:\n{}",
            started.elapsed().as_secs(),
            machine.console(30)
        );
    };
    ensure!(ready == "ready", "dom0 says {ready:?}");
    if setting.terminal || setting.verbose {
        eprintln!(
            "xen-lab: dom0 is up after {:.0} s",
            started.elapsed().as_secs_f64()
        );
    }
    let mut order = format!("{}\n", words.len()).into_bytes();
    for word in words {
        order.extend_from_slice(word.as_bytes());
        order.push(0);
    }
    control.write_all(&order).context("telling dom0 what to run")?;
    // QEMU lets go of what is still on its way when the other end is closed: it stays open until the end.
    let _open = input.try_clone()?;
    std::thread::spawn(move || feed(input));
    let outputs = [
        std::thread::spawn(move || drain(output, &mut std::io::stdout())),
        std::thread::spawn(move || drain(error, &mut std::io::stderr())),
    ];
    let end = await_line(&said, &mut machine, timeout)?;
    machine.end(if end.is_some() { LEAVE } else { Duration::ZERO });
    for thread in outputs {
        let _ = thread.join();
    }
    match end.as_deref().and_then(|line| line.strip_prefix("exit ")) {
        Some(code) => Ok(ExitCode::from(code.parse::<u8>().context("dom0's exit status")?)),
        None if started.elapsed() > timeout => {
            eprintln!(
                "xen-lab: the command took longer than {} s; the machine was ended",
                timeout.as_secs()
            );
            Ok(ExitCode::from(124))
        }
        None => bail!(
            "the machine ended before the command did; the last lines of its console:\n{}",
            machine.console(30)
        ),
    }
}

/// Lines that dom0 says on the control port.
fn listen(control: UnixStream) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(control).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// The next line, if it comes in time and before the machine is over.
fn await_line(said: &Receiver<String>, machine: &mut Machine, patience: Duration) -> Result<Option<String>> {
    let start = Instant::now();
    loop {
        match said.recv_timeout(Duration::from_millis(100)) {
            Ok(line) => return Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
            Err(RecvTimeoutError::Timeout) if machine.is_over() || start.elapsed() > patience => {
                return Ok(None);
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// This process's standard input to the command.
fn feed(mut input: UnixStream) {
    let _ = std::io::copy(&mut std::io::stdin().lock(), &mut input);
    let _ = input.shutdown(Shutdown::Write);
}

/// The command's output, as it comes.
fn drain(mut from: UnixStream, to: &mut impl Write) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(n @ 1..) = from.read(&mut piece) {
        if to.write_all(&piece[..n]).and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn what_stands_behind_two_dashes_is_the_command() {
        let request = parse(&strings(&["--timeout", "7", "--", "xl", "--verbose"])).unwrap();
        assert_eq!(request.command, ["xl", "--verbose"]);
        assert_eq!(request.timeout, Some(Duration::from_secs(7)));
        assert!(!request.verbose);
        assert_eq!(parse(&[]).unwrap(), Request::default());
        assert!(parse(&strings(&["--test", "--quick"])).unwrap().quick);
        assert!(parse(&strings(&["--release", "--", "xl"])).unwrap().release);
        for wrong in [
            &["xl"][..],
            &["--timeout"],
            &["--timeout", "soon"],
            &["--quick"],
            &["--test", "--", "xl"],
            &["--test", "--release"],
        ] {
            assert!(parse(&strings(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn dom0_is_told_folder_variables_and_command() {
        let words = |processor| {
            words(
                Path::new("/a b"),
                Path::new("/t/debug"),
                processor,
                &strings(&["x", ""]),
            )
        };
        let told = words(Processor::default());
        assert_eq!(told[..2], ["/a b", "PATH=/t/debug"]);
        let hvm = Processor {
            hvm: true,
            dom0_cpus: None,
        };
        assert_eq!(words(hvm)[2], "VSHMEM_XEN_TYPE=pvh");
        assert_eq!(words(hvm).len(), told.len() + 1);
        let end = told.iter().position(String::is_empty).unwrap();
        assert_eq!(told[end + 1..], ["x", ""]);
    }
}
