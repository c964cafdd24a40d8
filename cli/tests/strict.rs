//! `vshmem run --strict`: programs that no library can be loaded into, and calls made past the one that is.
//!
//! The preload library's own test programs are run as static ones, too: what holds there must hold here.
#![cfg(target_arch = "x86_64")]

mod support;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use support::{Daemon, LIMIT, err, finish, finish_child, out};

const STATIC: &[&str] = &["-static", "-pthread", "-DPAST_THE_LIBRARY"];

fn source(name: &str) -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    match own.join("tests/strict").join(name) {
        here if here.exists() => here,
        _ => own.join("../client/preload/tests/programs").join(name),
    }
}

/// Compiles a test program. `None` (and a line that says so) without the compiler.
fn compile(compiler: &str, name: &str, daemon: &Daemon, options: &[&str]) -> Option<PathBuf> {
    let program = daemon.folder().join(format!("{name}-{compiler}"));
    let mut command = Command::new(compiler);
    if compiler == "go" {
        command
            .args(["build", "-o"])
            .arg(&program)
            .arg(source(&format!("{name}.go")))
            .env("CGO_ENABLED", "0")
            .env("GO111MODULE", "off")
            .env("GOCACHE", daemon.folder().join("go"));
    } else {
        command
            .args(["-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-I"])
            .arg(source("check.h").parent().expect("folder"))
            .arg("-o")
            .args([&program, &source(&format!("{name}.c"))])
            .args(options);
    }
    if Command::new(compiler).arg("version").output().is_err() {
        println!("skipped: no {compiler}");
        return None;
    }
    let output = finish(&mut command, Duration::from_secs(300));
    assert!(output.status.success(), "{name}: {}", err(&output));
    Some(program)
}

fn strict(daemon: &Daemon, program: &Path, argument: &str) -> Command {
    let mut command = daemon.vshmem(&["run", "--strict", "--"]);
    command.arg(program).arg(argument);
    command
}

fn well(output: &Output, words: &str) {
    let text = format!("{}{}", out(output), err(output));
    assert!(output.status.success(), "{}: {text}", output.status);
    assert_eq!(text, words);
}

/// A part of rules.c in a static program: at the kernel first, then under `--strict`.
fn part(name: &str) {
    let daemon = Daemon::start();
    let Some(program) = compile("cc", "rules", &daemon, STATIC) else {
        return;
    };
    well(&finish(Command::new(&program).arg(name), LIMIT), "well\n");
    well(&finish(&mut strict(&daemon, &program, name), LIMIT), "well\n");
}

/// A test program of the preload library, as a static one.
fn preloads(name: &str) {
    let daemon = Daemon::start();
    if let Some(program) = compile("cc", name, &daemon, STATIC) {
        let output = finish(&mut strict(&daemon, &program, ""), Duration::from_secs(100));
        assert!(
            output.status.success(),
            "{}: {}{}",
            output.status,
            out(&output),
            err(&output)
        );
    }
}

#[test]
fn addresses_that_are_none_give_efault() {
    part("addresses");
}

#[test]
fn signals_end_waits_and_only_waits() {
    part("signals");
}

#[test]
fn a_stop_ends_waits_at_semaphores_alone() {
    part("stop");
}

#[test]
fn a_signal_ends_one_wait() {
    part("one");
}

#[test]
fn undo_is_of_the_process_and_lasts_to_its_death() {
    part("undo");
}

#[test]
fn the_blocked_are_killed_and_counted_no_more() {
    part("blocked");
}

#[test]
fn attachments_count_for_children_until_they_execute() {
    part("children");
}

#[test]
fn a_process_that_becomes_another_user_has_that_users_rights() {
    if rustix::process::geteuid().is_root() {
        part("users");
    } else {
        println!("skipped: only root can become another user");
    }
}

#[test]
fn who_changes_what_a_call_points_to_harms_nobody() {
    let daemon = Daemon::start();
    if let Some(program) = compile("cc", "liar", &daemon, STATIC) {
        well(&finish(&mut strict(&daemon, &program, ""), LIMIT), "well\n");
    }
    let all = daemon.json(&["ipcs"]);
    assert_eq!(all["shm"].as_array().map(Vec::len), Some(0));
}

#[test]
fn a_program_executed_has_no_waiters_of_the_one_before() {
    part("exec");
}

#[test]
fn processes_that_share_memory_share_what_is_attached() {
    part("shared");
}

#[test]
fn who_enters_an_ipc_namespace_leaves_what_is_to_undo() {
    let daemon = Daemon::start();
    let Some(program) = compile("cc", "rules", &daemon, STATIC) else {
        return;
    };
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can enter a namespace");
        return;
    }
    well(&finish(Command::new(&program).arg("enters"), LIMIT), "well\n");
    let output = finish(&mut strict(&daemon, &program, "enters"), LIMIT);
    assert_eq!(out(&output), "well\n", "{}", err(&output));
    assert_eq!(
        err(&output).matches("another IPC namespace").count(),
        2,
        "{}",
        err(&output)
    );
}

#[test]
fn where_no_thread_can_be_had_calls_fail_and_do_not_hang() {
    use std::os::unix::fs::PermissionsExt;
    let daemon = Daemon::start();
    let Some(program) = compile("cc", "rules", &daemon, STATIC) else {
        return;
    };
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can become a user who has no other processes");
        return;
    }
    std::fs::set_permissions(daemon.folder(), std::fs::Permissions::from_mode(0o755)).expect("mode");
    let inner = strict(&daemon, &program, "crowd");
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid",
            "54321",
            "--regid",
            "54321",
            "--clear-groups",
            "prlimit",
            "--nproc=40",
            "--",
        ])
        .arg(inner.get_program())
        .args(inner.get_args());
    for (name, value) in inner.get_envs().filter_map(|(name, value)| Some((name, value?))) {
        command.env(name, value);
    }
    let output = finish(&mut command, LIMIT);
    assert_eq!(out(&output), "well\n", "{}", err(&output));
}

#[test]
fn arguments_are_checked_and_structures_filled() {
    preloads("arguments");
}

#[test]
fn addresses_follow_the_rules_of_shmat() {
    preloads("addresses");
}

#[test]
fn a_program_may_close_all_descriptors() {
    preloads("closing");
}

#[test]
fn children_are_counted_however_they_are_made_and_end() {
    preloads("forks");
}

#[test]
fn death_in_the_middle_of_things_leaves_nothing_behind() {
    preloads("deaths");
}

#[test]
fn threads_forks_and_signals_may_come_together() {
    preloads("storm");
}

#[test]
fn threads_come_and_go() {
    preloads("threads");
}

/// A program that is served strictly and one that has the library exchange what they should.
fn meet(compiler: &str, options: &[&str]) {
    let daemon = Daemon::start();
    let (Some(first), Some(second)) = (
        compile(compiler, "meet", &daemon, options),
        compile("cc", "meet", &daemon, &["-DSECOND"]),
    ) else {
        return;
    };
    let spawn = |command: &mut Command| {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(Stdio::piped()).spawn().expect("started")
    };
    let first = spawn(&mut strict(&daemon, &first, "first"));
    let second = spawn(daemon.vshmem(&["run", "--"]).arg(second).arg("second"));
    let second = std::thread::spawn(move || finish_child(second, LIMIT));
    well(&finish_child(first, LIMIT), "met\n");
    well(&second.join().expect("second"), "met\n");
}

#[test]
fn a_static_program_meets_a_dynamic_one() {
    meet("cc", STATIC);
}

#[test]
fn a_musl_program_meets_one_of_glibc() {
    meet("musl-gcc", &[]);
}

#[test]
fn a_static_musl_program_meets_one_of_glibc() {
    meet("musl-gcc", &["-static"]);
}

#[test]
fn a_go_program_meets_one_of_glibc() {
    meet("go", &[]);
}

#[test]
fn calls_past_the_library_meet_those_through_it() {
    let daemon = Daemon::start();
    let Some(program) = compile("cc", "rules", &daemon, &["-pthread"]) else {
        return;
    };
    well(&finish(&mut strict(&daemon, &program, "raw"), LIMIT), "well\n");
    let past = finish(daemon.vshmem(&["run", "--"]).arg(&program).arg("raw"), LIMIT);
    assert!(
        !past.status.success(),
        "without --strict such calls are the kernel's"
    );
}

#[test]
fn keys_of_the_kernel_go_there_from_static_and_dynamic_programs() {
    let daemon = Daemon::start();
    for options in [STATIC, &["-pthread"]] {
        let Some(program) = compile("cc", "rules", &daemon, options) else {
            return;
        };
        let mut command = daemon.vshmem(&["run", "--strict", "--keys", "0x1000-0x1fff", "--"]);
        well(&finish(command.arg(&program).arg("keys"), LIMIT), "well\n");
    }
}

/// What a command says at the kernel, in an IPC namespace that nobody else is in.
fn at_the_kernel(program: &Path, arguments: &[&Path]) -> Output {
    let mut command = Command::new("unshare");
    finish(command.args(["--ipc", "--"]).arg(program).args(arguments), LIMIT)
}

#[test]
fn files_below_proc_are_vshmems() {
    let daemon = Daemon::start();
    let Some(program) = compile("cc", "files", &daemon, STATIC) else {
        return;
    };
    let [first, second] = ["first", "second"].map(|name| daemon.folder().join(name));
    for folder in [&first, &second] {
        std::fs::create_dir(folder).expect("a folder");
    }
    if rustix::process::geteuid().is_root() {
        well(&at_the_kernel(&program, &[&first]), "well\n");
    }
    well(
        &finish(&mut strict(&daemon, &program, &second.to_string_lossy()), LIMIT),
        "well\n",
    );
}

#[test]
fn a_static_shell_reads_and_writes_limits_as_with_the_kernel() {
    let busybox = Path::new("/bin/busybox");
    if !busybox.exists() || !rustix::process::geteuid().is_root() {
        println!("skipped: no busybox (apt-get install busybox-static), or not root");
        return;
    }
    let daemon = Daemon::start();
    let script = source("limits.sh");
    let kernels = at_the_kernel(busybox, &[Path::new("sh"), &script]);
    let mut command = daemon.vshmem(&["run", "--strict", "--"]);
    let own = finish(command.arg(busybox).arg("sh").arg(&script), LIMIT);
    assert_eq!(out(&own), out(&kernels));
    assert_eq!(err(&own), err(&kernels));
    assert!(out(&own).contains("kernel.msgmax = 4000"), "{}", out(&own));
    assert!(err(&own).contains("Invalid argument"), "{}", err(&own));
}

#[test]
fn who_has_waited_for_a_child_finds_all_of_it_dealt_with() {
    let daemon = Daemon::start();
    let Some(program) = compile("cc", "waited", &daemon, STATIC) else {
        return;
    };
    let output = finish(&mut strict(&daemon, &program, "200"), Duration::from_secs(100));
    assert!(output.status.success(), "{}{}", out(&output), err(&output));
}

#[test]
fn a_32_bit_call_stops_the_program_with_a_message() {
    let daemon = Daemon::start();
    let Some(program) = compile("cc", "rules", &daemon, STATIC) else {
        return;
    };
    let alone = finish(Command::new(&program).arg("door"), LIMIT);
    if out(&alone).contains("with -38") {
        println!("skipped: this kernel has no 32-bit system calls");
        return;
    }
    let output = finish(&mut strict(&daemon, &program, "door"), LIMIT);
    assert_eq!(output.status.code(), Some(128 + 9));
    assert_eq!(out(&output), "");
    let message = err(&output);
    assert!(
        message.contains("32-bit") && message.contains("rules-cc") && message.lines().count() == 1,
        "{message}"
    );
}

/// Starts `rules waits` and gives its pid.
fn waiting(daemon: &Daemon, program: &Path) -> (std::process::Child, i32) {
    let mut child = strict(daemon, program, "waits")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let mut line = String::new();
    let mut said = BufReader::new(child.stdout.as_mut().expect("a pipe"));
    said.read_line(&mut line).expect("a line");
    (child, line.trim().parse().expect("a pid"))
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
}

fn parent(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let after = stat.rsplit(')').next().expect("a stat");
    after
        .split_whitespace()
        .nth(1)
        .and_then(|w| w.parse().ok())
        .expect("a parent")
}

fn children(pid: i32) -> Vec<i32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|w| w.parse().ok()).collect()
}

/// Whatever of the three that carry a program is killed: the program ends, its undo is applied, its attachments are gone.
#[test]
fn whoever_of_its_carriers_is_killed_a_program_ends_and_leaves_nothing() {
    let daemon = Daemon::start();
    let Some(program) = compile("cc", "rules", &daemon, STATIC) else {
        return;
    };
    let victims: [fn(i32, &std::process::Child) -> i32; 4] = [
        |program, _| program,
        |_, command| command.id() as i32,
        |program, _| parent(program),
        |program, _| {
            let others = children(parent(program));
            others
                .into_iter()
                .find(|child| *child != program)
                .expect("a stand-in")
        },
    ];
    for (number, victim) in victims.into_iter().enumerate() {
        let (child, pid) = waiting(&daemon, &program);
        kill(victim(pid, &child));
        let output = finish_child(child, LIMIT);
        assert!(!output.status.success(), "{number}");
        let until = Instant::now() + Duration::from_secs(10);
        let left = || {
            let all = daemon.json(&["ipcs"]);
            let attached = all["shm"]
                .as_array()
                .expect("array")
                .iter()
                .any(|s| s["nattch"] != 0);
            attached || std::fs::read(format!("/proc/{pid}/maps")).is_ok_and(|maps| !maps.is_empty())
        };
        while left() {
            assert!(Instant::now() < until, "carrier {number}: {}", err(&output));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let all = daemon.json(&["ipcs"]);
    assert_eq!(all["sem"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_terminated_command_terminates_the_program() {
    let daemon = Daemon::start();
    let Some(program) = compile("cc", "rules", &daemon, STATIC) else {
        return;
    };
    let (child, _) = waiting(&daemon, &program);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("sent");
    assert_eq!(finish_child(child, LIMIT).status.code(), Some(128 + 15));
}

#[test]
fn statuses_and_streams_are_the_programs() {
    let daemon = Daemon::start();
    let run = |words: &[&str]| {
        finish(
            &mut daemon.vshmem(&[&["run", "--strict", "--"], words].concat()),
            LIMIT,
        )
    };
    let output = run(&["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((out(&output), err(&output)), ("out\n".into(), "err\n".into()));
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(run(&["sh", "-c", "kill -TERM $$"]).status.code(), Some(128 + 15));
    assert_eq!(run(&["/no/such/program"]).status.code(), Some(127));
    let script = daemon.folder().join("script");
    std::fs::write(&script, "exit 5\n").expect("written");
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mode");
    assert_eq!(run(&[&script.display().to_string()]).status.code(), Some(5));
    // What a program leaves running goes on being served, and nobody waits for it.
    let began = Instant::now();
    let mut command = daemon.vshmem(&["run", "--strict", "--", "sh", "-c"]);
    // The supervisor keeps standard error.
    let status = command
        .arg("(sleep 3; ipcmk -Q) >/dev/null 2>&1 &")
        .stderr(Stdio::null())
        .status();
    assert!(status.expect("status").success());
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    let until = Instant::now() + Duration::from_secs(20);
    while daemon.json(&["ipcs"])["msg"].as_array().is_none_or(Vec::is_empty) {
        assert!(Instant::now() < until, "no queue");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn one_supervisor_in_another_is_refused() {
    let daemon = Daemon::start();
    let own = env!("CARGO_BIN_EXE_vshmem");
    let mut command = daemon.vshmem(&["run", "--strict", "--", own, "run", "--strict", "--", "true"]);
    let output = finish(&mut command, LIMIT);
    assert_eq!(output.status.code(), Some(125));
    assert!(err(&output).contains("supervised already"), "{}", err(&output));
}

/// In a guest, whose kernel has seccomp and ptrace of its own, on device memory.
#[test]
fn static_programs_in_a_uml_guest_keep_the_rules_and_meet_one_on_the_host() {
    let there = Path::new("/usr/bin/linux.uml").exists() || std::env::var_os("VSHMEM_UML").is_some();
    if !there {
        println!("skipped: linux.uml is not installed (apt-get install user-mode-linux)");
        return;
    }
    let daemon = Daemon::start();
    let (Some(rules), Some(meet)) = (
        compile("cc", "rules", &daemon, STATIC),
        compile("cc", "meet", &daemon, STATIC),
    ) else {
        return;
    };
    let script = format!(
        "for part in addresses signals undo blocked children; do {} $part || exit 1; done; {} first afar",
        rules.display(),
        meet.display()
    );
    let guest = [
        "vm", "run", "--strict", "--port", "uml", "--domain", "a", "--", "sh", "-c",
    ];
    let spawn = |command: &mut Command| {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(Stdio::piped()).spawn().expect("started")
    };
    let guest = spawn(daemon.vshmem(&guest).arg(script));
    let here = spawn(strict(&daemon, &meet, "second").arg("afar"));
    let here = std::thread::spawn(move || finish_child(here, Duration::from_secs(170)));
    let output = finish_child(guest, Duration::from_secs(160));
    assert_eq!(
        out(&output),
        "well\nwell\nwell\nwell\nwell\nmet\n",
        "{}",
        err(&output)
    );
    well(&here.join().expect("host"), "met\n");
}
