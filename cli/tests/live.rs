//! The ipcs family against a live back-end, beside the real ones for the same kind of construct.

mod support;

use std::process::Command;
use support::{Daemon, LIMIT, err, finish, out};

#[test]
fn what_ipcmk_makes_ipcs_shows_and_ipcrm_removes() {
    let daemon = Daemon::start();
    let made = daemon.json(&["ipcmk", "-M", "5000", "-S", "3", "-Q", "-p", "0640"]);
    let created = made["created"].as_array().expect("array");
    assert_eq!(created.len(), 3);
    let all = daemon.json(&["ipcs"]);
    assert_eq!(all["shm"][0]["bytes"], 5000);
    assert_eq!(all["shm"][0]["perms"], "640");
    assert_eq!(all["shm"][0]["nattch"], 0);
    assert_eq!(all["sem"][0]["nsems"], 3);
    assert_eq!(all["msg"][0]["messages"], 0);
    for (kind, created) in ["shm", "sem", "msg"].iter().zip(created) {
        assert_eq!(created["kind"], *kind);
        assert_eq!(all[kind][0]["id"], created["id"]);
        assert_eq!(all[kind][0]["key"], created["key"]);
        assert!(all[kind][0]["domain"].is_string());
    }
    let shm = created[0]["id"].to_string();
    let key = created[1]["key"].as_str().expect("key");
    assert_eq!(daemon.json(&["ipcrm", "-m", &shm])["removed"][0]["kind"], "shm");
    daemon.ok(&["ipcrm", "-S", key, "--all=msg"]);
    assert_eq!(
        daemon.json(&["ipcs"]),
        serde_json::json!({"msg": [], "shm": [], "sem": []})
    );
}

#[test]
fn text_has_the_columns_of_the_real_one_and_the_domain_after_them() {
    let daemon = Daemon::start();
    daemon.ok(&["ipcmk", "-M", "4096", "-S", "2", "-Q"]);
    let real = |args: &[&str]| out(&finish(Command::new("ipcs").args(args), LIMIT));
    for args in [
        &[][..],
        &["-c"],
        &["-t"],
        &["-p"],
        &["-l"],
        &["-u"],
        &["-m"],
        &["-s", "-t"],
    ] {
        let ours = daemon.ok(&[&["ipcs"], args].concat());
        for head in real(args).lines().filter(|line| is_head(line)) {
            let words: Vec<&str> = head.split_whitespace().collect();
            let found = ours.lines().any(|line| {
                line.split_whitespace()
                    .take(words.len())
                    .eq(words.iter().copied())
            });
            assert!(found, "{args:?}: {head:?} is not in\n{ours}");
        }
    }
    let shown = daemon.ok(&["ipcs", "-m"]);
    let line = shown.lines().find(|line| line.starts_with("0x")).expect("a line");
    let cells: Vec<&str> = line.split_whitespace().collect();
    assert_eq!((cells[3], cells[4], cells[5]), ("644", "4096", "0"), "{line}");
}

/// Titles and column names.
fn is_head(line: &str) -> bool {
    line.starts_with("------")
        || line.starts_with("key")
        || line.split_whitespace().next().is_some_and(|w| w.ends_with("id"))
}

#[test]
fn a_summary_has_every_line_of_the_real_one() {
    let daemon = Daemon::start();
    daemon.ok(&["ipcmk", "-M", "4096", "-S", "2", "-Q"]);
    // Numbers apart: pages that are resident may become more in between.
    let lines = |text: &str| -> Vec<String> {
        let lines = text
            .lines()
            .map(|line| line.trim_end_matches(|c: char| c.is_ascii_digit()));
        lines.map(str::to_owned).collect()
    };
    let real = lines(&daemon.ok(&["run", "--", "ipcs", "-u"]));
    assert_eq!(lines(&daemon.ok(&["ipcs", "-u"])), real);
    assert!(real.len() > 10, "{real:?}");
}

#[test]
fn what_cannot_be_printed_is_said_and_status_1() {
    let daemon = Daemon::start();
    for args in [
        &["ipcs"][..],
        &["ipcs", "--json"],
        &["status"],
        &["lsipc"],
        &["man"],
    ] {
        let full = std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .expect("/dev/full");
        let mut command = daemon.vshmem(args);
        let child = command
            .stdout(full)
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("started");
        let output = support::finish_child(child, LIMIT);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", err(&output));
        assert_eq!(
            err(&output),
            "vshmem: standard output: No space left on device\n",
            "{args:?}"
        );
    }
}

#[test]
fn details_of_one_and_numbers_of_all() {
    let daemon = Daemon::start();
    let made = daemon.json(&["ipcmk", "-S", "2", "--key", "0x1234"]);
    assert_eq!(made["created"][0]["key"], "0x00001234");
    let id = made["created"][0]["id"].to_string();
    let one = daemon.json(&["ipcs", "-s", "-i", &id]);
    assert_eq!(one["semaphores"].as_array().map(Vec::len), Some(2));
    assert!(daemon.ok(&["ipcs", "-s", "-i", &id]).contains("nsems = 2"));
    assert!(daemon.ok(&["lsipc", "-s", "-i", &id]).contains("Semaphores:"));
    assert_eq!(daemon.json(&["ipcs", "-u"])["summary"]["sem"]["sets"], 1);
    assert_eq!(daemon.json(&["ipcs", "-l"])["limits"]["sem"]["semvmx"], 32767);
    let listed = daemon.json(&["lsipc", "-s"]);
    assert_eq!(listed["semaphores"][0]["nsems"], "2");
    let limits = daemon.json(&["lsipc"]);
    assert_eq!(limits["ipclimits"].as_array().map(Vec::len), Some(12));
    assert_eq!(
        daemon.ok(&["lsipc", "-s", "-o", "KEY,NSEMS", "--raw"]),
        "KEY NSEMS\n0x00001234 2\n"
    );
    let again = finish(
        &mut daemon.vshmem(&["ipcmk", "-S", "2", "--key", "0x1234"]),
        LIMIT,
    );
    assert_eq!(
        (again.status.code(), err(&again).as_str()),
        (Some(1), "vshmem: creating a semaphore: File exists\n")
    );
}

#[test]
fn one_wrong_id_among_many_is_named_and_the_others_go() {
    let daemon = Daemon::start();
    let made = daemon.json(&["ipcmk", "-M", "4096", "-S", "1"]);
    let id = |place: usize| made["created"][place]["id"].to_string();
    let mut command = daemon.vshmem(&["ipcrm", "-m", "99", "-m", &id(0), "-s", &id(1), "-q", "7"]);
    let output = finish(&mut command, LIMIT);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        err(&output),
        "vshmem: shared memory segment 99: there is none with this id\n\
         vshmem: message queue 7: there is none with this id\n"
    );
    assert_eq!(
        daemon.json(&["ipcs"]),
        serde_json::json!({"msg": [], "shm": [], "sem": []})
    );
    let shared = finish(&mut daemon.vshmem(&["share", "-m", "99", "a"]), LIMIT);
    assert_eq!(shared.status.code(), Some(1));
    assert!(
        err(&shared).contains("no such shared memory segment"),
        "{}",
        err(&shared)
    );
}

#[test]
fn what_is_not_there_is_said_and_status_1() {
    let daemon = Daemon::start();
    for args in [
        &["ipcs", "-m", "-i", "1073741830"][..],
        &["ipcrm", "-q", "1073741830"],
        &["ipcrm", "-M", "0x7777"],
        &["share", "1073741830", "a"],
    ] {
        let output = finish(&mut daemon.vshmem(args), LIMIT);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", err(&output));
        assert!(
            err(&output).starts_with("vshmem: ") && err(&output).lines().count() == 1,
            "{}",
            err(&output)
        );
    }
}

#[test]
fn status_and_doctor_tell_of_the_daemon() {
    let daemon = Daemon::start();
    let status = daemon.json(&["status"]);
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert!(
        status["domains"]
            .as_array()
            .is_some_and(|domains| !domains.is_empty())
    );
    let doctor = daemon.json(&["doctor"]);
    assert_eq!(doctor["works"], true, "{doctor:#}");
    assert!(daemon.ok(&["top", "--count", "1"]).contains("group "));
    assert!(daemon.ok(&["doctor"]).contains("round trip"));
}

#[test]
fn top_goes_on_when_the_daemon_is_killed_and_comes_back() {
    use std::io::{BufRead, BufReader, Read};
    let daemon = Daemon::start();
    let victim = daemon.json(&["status"])["pid"].as_i64().expect("a pid");
    let mut command = daemon.vshmem(&["top", "--interval", "0.1", "--count", "40"]);
    command.stdout(std::process::Stdio::piped());
    let mut top = command.spawn().expect("started");
    let mut shown = BufReader::new(top.stdout.take().expect("its output"));
    let mut text = String::new();
    shown.read_line(&mut text).expect("a line");
    let victim = i32::try_from(victim)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(victim.expect("a pid"), rustix::process::Signal::KILL).expect("killed");
    shown.read_to_string(&mut text).expect("text");
    assert!(top.wait().expect("its end").success(), "{text}");
    assert!(
        text.contains("restarted 0 times") && text.contains("restarted 1 times"),
        "{text}"
    );
}

#[test]
fn a_complaint_that_nobody_hears_is_no_panic() {
    let (reader, writer) = std::io::pipe().expect("pipe");
    drop(reader);
    let folder = tempfile::tempdir().expect("temporary folder");
    let mut command = support::vshmem(&["vm", "run", "--domain", "a", "--runtime-dir"]);
    command
        .arg(folder.path())
        .args(["--", "true"])
        .stdout(std::process::Stdio::null());
    let child = command.stderr(writer).spawn().expect("started");
    let output = support::finish_child(child, LIMIT);
    assert_eq!(output.status.code(), Some(125));
}

#[test]
fn a_program_runs_with_status_arguments_and_environment() {
    let daemon = Daemon::start();
    let output = finish(
        &mut daemon.vshmem(&[
            "run",
            "--",
            "sh",
            "-c",
            "echo $1; echo $LD_PRELOAD >&2; exit 7",
            "x",
            "two words",
        ]),
        LIMIT,
    );
    assert_eq!(output.status.code(), Some(7), "{}", err(&output));
    assert_eq!(out(&output), "two words\n");
    assert!(err(&output).contains("libvshmem_preload.so"), "{}", err(&output));
}

#[test]
fn the_real_tools_work_under_run() {
    let daemon = Daemon::start();
    let made = daemon.ok(&["run", "--", "ipcmk", "-Q"]);
    let id = made.trim().rsplit(' ').next().expect("id");
    assert_eq!(daemon.json(&["ipcs"])["msg"][0]["id"].to_string(), id);
    assert!(daemon.ok(&["run", "--", "ipcs", "-q"]).contains(id));
    daemon.ok(&["run", "--", "ipcrm", "-q", id]);
    assert_eq!(daemon.json(&["ipcs", "-q"])["msg"], serde_json::json!([]));
}

#[test]
fn run_serve_brings_its_own_back_end_and_takes_it_away() {
    support::build_preload();
    let folder = tempfile::tempdir().expect("temporary folder");
    let mut command = support::vshmem(&["run", "--serve", "--runtime-dir"]);
    let output = finish(
        command
            .arg(folder.path())
            .args(["--", "sh", "-c", "ipcmk -Q && exit 3"]),
        LIMIT,
    );
    assert_eq!(output.status.code(), Some(3), "{}", err(&output));
    assert!(out(&output).contains("Message queue id:"), "{}", out(&output));
    let after = finish(
        support::vshmem(&["status", "--runtime-dir"]).arg(folder.path()),
        LIMIT,
    );
    assert_eq!(
        after.status.code(),
        Some(1),
        "the back-end is gone: {}",
        out(&after)
    );
}

#[test]
fn a_file_for_each_construct_works_as_a_pool_does_and_admits_no_guest() {
    let daemon = Daemon::start_with(&["--group-memory", "memfd"]);
    assert_eq!(daemon.json(&["status"])["pool"]["bytes"], 0);
    let made = daemon.ok(&[
        "run",
        "--",
        "sh",
        "-c",
        "ipcmk -M 4096; ipcmk -Q; ipcs -m | grep -c 0x",
    ]);
    assert!(made.ends_with("\n1\n"), "{made}");
    let refused = finish(
        &mut daemon.vshmem(&["vm", "run", "--domain", "a", "--", "true"]),
        LIMIT,
    );
    assert_eq!(refused.status.code(), Some(125), "{}", err(&refused));
}

#[test]
fn a_wrong_configuration_is_named() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let file = folder.path().join("vshmem.toml");
    std::fs::write(&file, "[group]\nnonsense = 1\n").expect("written");
    let output = finish(
        support::vshmem(&["serve", "--config"])
            .arg(&file)
            .arg("--runtime-dir")
            .arg(folder.path()),
        LIMIT,
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("vshmem.toml") && err(&output).contains("nonsense"),
        "{}",
        err(&output)
    );
}

#[test]
fn serve_ends_cleanly_when_told() {
    let mut daemon = Daemon::start();
    daemon.ok(&["ipcmk", "-M", "4096"]);
    assert_eq!(daemon.stop().and_then(|status| status.code()), Some(0));
}
