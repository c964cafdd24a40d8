//! Teams: processes of several domains meet in collectives, and notice when one of them dies.

use anyhow::{Context, Result, ensure};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use vshmem_testing_vm::Machine;
use vshmem_testing_vm::actor::compile_for_library;
use vshmem_testing_vm::machine::{built, finish, missing, signal, uml_available, wait};

const PI: &str = "pi is 3.14159265359";

/// The Rust example in a domain of this host: `team PARTIES KEY ROUNDS`.
fn party(machine: &Machine, domain: &str, arguments: [&str; 3]) -> Command {
    let mut command = Command::new(built().join("examples/team"));
    command
        .args(arguments)
        .env("VSHMEM_RUNTIME_DIR", machine.runtime())
        .env("VSHMEM_DOMAIN", domain);
    command
}

/// Starts all, waits for all, gives what each said.
fn together(commands: Vec<Command>, limit: Duration) -> Result<Vec<Output>> {
    let threads: Vec<_> = commands
        .into_iter()
        .map(|mut command| std::thread::spawn(move || finish(&mut command, limit)))
        .collect();
    threads
        .into_iter()
        .map(|t| t.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?)
        .collect()
}

fn all_found_pi(outputs: &[Output]) -> Result<()> {
    for out in outputs {
        let said = String::from_utf8_lossy(&out.stdout);
        ensure!(
            out.status.success() && said.contains(PI),
            "{said}{}",
            String::from_utf8_lossy(&out.stderr)
        );
    }
    Ok(())
}

/// That no segment and no set is left.
fn nothing_left(machine: &Machine) -> Result<()> {
    let out = machine.vshmem(&["ipcs", "--json"])?;
    let text = String::from_utf8_lossy(&out.stdout);
    let left: serde_json::Value = serde_json::from_str(&text).with_context(|| text.clone().into_owned())?;
    let empty = |value: &serde_json::Value| value.as_array().is_none_or(Vec::is_empty);
    ensure!(
        left.as_object().is_some_and(|o| o.values().all(empty)),
        "left over: {text}"
    );
    Ok(())
}

#[test]
fn five_parties_in_three_domains_meet_twice_under_one_key() -> Result<()> {
    let machine = Machine::start()?;
    for _ in 0..2 {
        let domains = ["host", "a", "b", "a", "host"];
        let commands = domains.map(|d| party(&machine, d, ["5", "9", "1"]));
        all_found_pi(&together(commands.into(), Duration::from_secs(60))?)?;
        nothing_left(&machine)?;
    }
    Ok(())
}

#[test]
fn a_c_program_and_a_rust_program_are_one_team() -> Result<()> {
    let machine = Machine::start()?;
    let mut c = Command::new(compile_for_library("team")?);
    c.args(["2", "1", "9", "20000"])
        .env("VSHMEM_RUNTIME_DIR", machine.runtime());
    let outputs = together(
        vec![party(&machine, "a", ["2", "9", "1"]), c],
        Duration::from_secs(60),
    )?;
    all_found_pi(&outputs)?;
    let said = String::from_utf8_lossy(&outputs[1].stdout);
    ensure!(
        said.starts_with("rank 1 of 2") && !said.contains("not refused"),
        "{said}"
    );
    nothing_left(&machine)
}

fn spawned(mut command: Command) -> Result<Child> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start a party")
}

fn told(child: &mut Child) -> String {
    let mut said = String::new();
    if let Some(mut from) = child.stderr.take() {
        let _ = std::io::Read::read_to_string(&mut from, &mut said);
    }
    said
}

#[test]
fn a_killed_party_gives_the_others_an_error_and_the_key_serves_again() -> Result<()> {
    let machine = Machine::start()?;
    // Fewer rounds would do; nobody is to be through before the kill.
    let mut parties = ["host", "a", "b"]
        .map(|d| spawned(party(&machine, d, ["3", "9", "1000000"])))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    std::thread::sleep(Duration::from_millis(1500));
    signal(parties[1].id() as i32, rustix::process::Signal::KILL)?;
    let killed = Instant::now();
    for i in [0, 2] {
        let status = wait(&mut parties[i], Duration::from_secs(20))?;
        let said = told(&mut parties[i]);
        ensure!(!status.success() && said.contains("is gone"), "{status}: {said}");
    }
    ensure!(
        killed.elapsed() < Duration::from_secs(10),
        "{:?}",
        killed.elapsed()
    );
    wait(&mut parties[1], Duration::from_secs(5))?;
    let again = [0, 1, 2].map(|_| party(&machine, "a", ["3", "9", "1"]));
    all_found_pi(&together(again.into(), Duration::from_secs(60))?)?;
    nothing_left(&machine)
}

#[test]
fn fewer_parties_than_asked_for_and_other_sizes_are_refused_with_a_reason() -> Result<()> {
    let machine = Machine::start()?;
    let program = compile_for_library("team")?;
    let run = |arguments: [&str; 4]| -> Result<String> {
        let mut command = Command::new(&program);
        command
            .args(arguments)
            .env("VSHMEM_RUNTIME_DIR", machine.runtime());
        let out = finish(&mut command, Duration::from_secs(20))?;
        ensure!(!out.status.success(), "joined");
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    };
    for (arguments, reason) in [
        (["2", "-1", "9", "300"], "Connection timed out"),
        (["4", "-1", "9", "300"], "Invalid argument"),
        (["0", "-1", "10", "300"], "Invalid argument"),
        (["257", "-1", "10", "300"], "Invalid argument"),
        (["2", "2", "10", "300"], "Invalid argument"),
        (["2", "-1", "0", "300"], "Invalid argument"),
    ] {
        let said = run(arguments)?;
        ensure!(said == format!("join: {reason}\n"), "{arguments:?}: {said}");
    }
    Ok(())
}

#[test]
fn two_uml_guests_and_the_host_are_one_team() -> Result<()> {
    if !uml_available() {
        missing("a team of two UML guests", "user-mode-linux is not installed");
        return Ok(());
    }
    let machine = Machine::start()?;
    let mut commands = vec![party(&machine, "host", ["3", "9", "1"])];
    for domain in ["a", "b"] {
        let mut guest = machine.command(&["vm", "run", "--port", "uml", "--domain", domain, "--"]);
        guest.arg(built().join("examples/team")).args(["3", "9", "1"]);
        commands.push(guest);
    }
    all_found_pi(&together(commands, Duration::from_secs(120))?)?;
    nothing_left(&machine)
}
