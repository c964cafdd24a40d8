//! What surrounds the calls: no daemon, a daemon that is killed, keys routed to the kernel, `/proc` files, programs that nobody here wrote.

mod daemon;

use daemon::{Daemon, compile, compile_as, finish, preload};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn without_a_daemon_calls_give_enosys_and_say_so_once() {
    let nowhere = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    command
        .args(["-c", "ipcmk -Q; ipcmk -S 1"])
        .env("LD_PRELOAD", preload())
        .env("VSHMEM_RUNTIME_DIR", nowhere.path())
        .env("LC_ALL", "C");
    let finished = finish(&mut command, PATIENCE);
    let error = String::from_utf8_lossy(&finished.0.stderr).into_owned();
    assert!(!finished.0.status.success() && !finished.1);
    assert_eq!(error.matches("Function not implemented").count(), 2, "{error}");
    // Two processes, one line each.
    assert_eq!(error.matches("is `vshmem serve`").count(), 2, "{error}");
}

#[test]
fn ipcs_shows_what_ipcmk_makes_and_ipcrm_removes() {
    let daemon = Daemon::start();
    let script = "ipcmk -M 5000 -p 0640; ipcmk -S 7; ipcmk -Q; ipcs; ipcs -l; ipcs -u; ipcs -t; ipcs -p; ipcs -c; ipcrm -a; ipcs";
    let said = finish(daemon.command("sh").args(["-c", script]), PATIENCE).expect_success("ipcs");
    let has = |words: &[&str]| {
        let found = said.lines().any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            words.iter().all(|word| fields.contains(word))
        });
        assert!(found, "no line with {words:?} in\n{said}");
    };
    has(&["1073741824", "640", "5000", "0"]);
    has(&["1073741824", "644", "7"]);
    has(&["default", "16384"]);
    has(&["used", "arrays", "1"]);
    let last = said.rsplit("Message Queues").next().unwrap();
    assert!(!last.contains("10737"), "something is left:\n{said}");
}

#[test]
fn limits_are_written_as_the_kernels_are() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: limits are root's, and the kernel's are tried in an IPC namespace");
        return;
    }
    let daemon = Daemon::start();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/sysctl.sh");
    let said = |mut command: Command| {
        command.args(["-c", "exec bash \"$0\" 2>&1", script]);
        finish(&mut command, PATIENCE).expect_success("sysctl.sh")
    };
    let mut kernel = Command::new("unshare");
    kernel.args(["--ipc", "sh"]);
    // Another user must reach the library, and may not where it was built, as in root's home.
    let library = daemon.folder().join("libvshmem_preload.so");
    fs::copy(preload(), &library).unwrap();
    fs::set_permissions(daemon.folder(), fs::Permissions::from_mode(0o755)).unwrap();
    // In a namespace of its own here, too: whatever goes past Vshmem must not reach this machine's limits.
    let mut vshmem = daemon.command("unshare");
    vshmem.args(["--ipc", "sh"]).env("LD_PRELOAD", library);
    assert_eq!(said(vshmem), said(kernel));
}

#[test]
fn keys_that_are_not_vshmems_go_to_the_kernel() {
    let daemon = Daemon::start();
    let program = compile("routes", daemon.folder());
    let mut command = daemon.command(program);
    finish(command.env("VSHMEM_KEYS", "0x5ee0-0x5eef,0x77770000"), PATIENCE).expect_success("routes");
}

#[test]
fn plug_ins_loaded_with_deepbind_are_served_too() {
    let daemon = Daemon::start();
    let program = compile("plugin", daemon.folder());
    let plugin = compile_as(
        "plugin",
        &daemon.folder().join("plugin.so"),
        &["-shared", "-fPIC", "-DPLUGIN"],
    );
    finish(daemon.command(program).arg(plugin), PATIENCE).expect_success("a plug-in");
}

#[test]
fn a_killed_daemon_costs_nothing() {
    let daemon = Daemon::start();
    let program = compile("restart", daemon.folder());
    let mut child = daemon
        .command(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program");
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    daemon.kill_the_back_end();
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let until = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > until {
            child.kill().unwrap();
        }
        thread::sleep(Duration::from_millis(5));
    }
    assert!(child.wait().unwrap().success());
}

#[test]
fn another_daemons_constructs_are_not_taken_for_the_former_ones() {
    let mut daemon = Daemon::start();
    let program = compile("another", daemon.folder());
    let mut child = daemon
        .command(program)
        .env("VSHMEM_TIMEOUT", "0.2")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program");
    let (mut to, mut said) = (
        child.stdin.take().unwrap(),
        BufReader::new(child.stdout.take().unwrap()),
    );
    let mut hear = |what: &str| {
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), what);
    };
    hear("ready");
    daemon.stop();
    to.write_all(b"it is gone\n").unwrap();
    hear("alone");
    daemon.start_another();
    to.write_all(b"another one is there\n").unwrap();
    let until = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > until {
            child.kill().unwrap();
        }
        thread::sleep(Duration::from_millis(5));
    }
    assert!(child.wait().unwrap().success());
}

#[test]
fn small_stacks_handlers_at_exit_and_destructors_are_served() {
    let daemon = Daemon::start();
    let program = compile("ends", daemon.folder());
    // What is not optimised takes more.
    let stack = if cfg!(debug_assertions) { "32768" } else { "16384" };
    let said = finish(daemon.command(program).arg(stack), PATIENCE).expect_success("ends");
    assert_eq!(said, "ended\n");
}

#[test]
fn a_process_pays_less_than_a_mebibyte() {
    let daemon = Daemon::start();
    let program = compile("memory", daemon.folder());
    let number = |command: &mut Command| -> i64 {
        finish(command, PATIENCE)
            .expect_success("memory")
            .trim()
            .parse()
            .unwrap()
    };
    let (with, without) = (
        number(&mut daemon.command(&program)),
        number(&mut Command::new(&program)),
    );
    // Kibibytes that are this process's alone. What is shared with other processes of the same library is not a process's cost.
    assert!(
        with - without < 1024,
        "{with} KiB, {without} KiB without the library"
    );
}

#[test]
fn stress_ng_finds_nothing() {
    if skipped("stress-ng") {
        return;
    }
    let daemon = Daemon::start();
    let words = [
        "--shm-sysv",
        "1",
        "--sem-sysv",
        "1",
        "--msg",
        "1",
        "--verify",
        "-t",
        "3",
    ];
    let mut command = daemon.command("stress-ng");
    let finished = finish(command.args(words).current_dir(daemon.folder()), PATIENCE);
    finished.expect_success("stress-ng");
    assert!(!String::from_utf8_lossy(&finished.0.stderr).contains("fail:"));
}

#[test]
fn perls_own_modules_work() {
    if skipped("perl") {
        return;
    }
    let daemon = Daemon::start();
    let script = fs::canonicalize("tests/programs/perl.pl").unwrap();
    finish(daemon.command("perl").arg(script), PATIENCE).expect_success("perl");
}

/// Whether a program is missing here; says so.
fn skipped(program: &str) -> bool {
    let found = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let missing = found.is_err();
    if missing {
        eprintln!("SKIPPED: {program} is not installed");
    }
    missing
}

/// What a program starts that the library will not be in is named, once, however it is started; what it will be in is not.
#[test]
fn programs_that_are_not_served_are_named_when_they_are_started() {
    let daemon = Daemon::start();
    let folder = daemon.folder();
    let (source, program) = (folder.join("main.c"), folder.join("alone"));
    fs::write(&source, "int main(void) { return 0; }\n").unwrap();
    let mut cc = Command::new("cc");
    cc.arg("-static").arg("-o").arg(&program).arg(&source);
    finish(&mut cc, PATIENCE).expect_success("a static program");
    let alone = program.display().to_string();
    let stat =
        "is statically linked: its System V IPC goes to the kernel; `vshmem run --strict` would serve it";
    let without = "is started without LD_PRELOAD: its System V IPC goes to the kernel; `vshmem run --strict` would serve it";
    let python = format!(
        "import os, subprocess as s\nfor i in range(3): s.run(['{alone}']), s.run(['true'])\ns.run(['/bin/true'], env={{}})\n\
         os.posix_spawn('{alone}', ['x'], os.environ)\nos.execlp('{alone}', 'x', 'a', 'b', 'c', 'd', 'e', 'f', 'g')"
    );
    for (words, lines) in [
        (
            vec!["sh", "-c", "true; \"$0\"; exec /bin/true", &alone],
            vec![format!("vshmem: {alone} {stat}")],
        ),
        (vec!["env", "-i", "true"], vec![format!("vshmem: true {without}")]),
        (
            vec![
                "env",
                "PATH=/nowhere:/bin",
                "echo",
                "1",
                "2",
                "3",
                "4",
                "5",
                "6",
                "7",
            ],
            Vec::new(),
        ),
        (
            vec!["python3", "-c", &python],
            vec![
                format!("vshmem: {alone} {stat}"),
                format!("vshmem: /bin/true {without}"),
            ],
        ),
    ] {
        let said = finish(daemon.command(words[0]).args(&words[1..]), PATIENCE).0;
        let error = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.status.success(), "{words:?}: {error}");
        assert_eq!(error.lines().collect::<Vec<_>>(), lines, "{words:?}");
    }
    let mut quiet = daemon.command("sh");
    quiet.args(["-c", &alone]).env("VSHMEM_LOG", "off");
    assert_eq!(finish(&mut quiet, PATIENCE).0.stderr, b"");
}
