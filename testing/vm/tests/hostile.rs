//! A guest that writes rubbish over all of the pool: users of that pool get errors, nobody crashes or hangs, the daemon goes on.

use anyhow::{Result, ensure};
use std::time::{Duration, Instant};
use vshmem_testing_vm::actor::compile;
use vshmem_testing_vm::machine::finish;
use vshmem_testing_vm::{Actor, Machine, Place, missing, qemu_missing, uml_available};

const CREATE: &str = "01600";
/// A small pool, so that much of the rubbish hits something.
const POOL: &str = "4M";
const POOL_BYTES: &str = "4194304";

/// Errors that a System V program may be given when its construct was destroyed.
fn tolerable(errno: &str) -> bool {
    [
        "EIDRM", "EINVAL", "EAGAIN", "ENOMSG", "ERANGE", "E2BIG", "ENOMEM", "ENOSPC", "EINTR",
    ]
    .contains(&errno)
}

#[test]
fn rubbish_over_the_whole_pool_of_a_uml_guest() -> Result<()> {
    if !uml_available() {
        missing(
            "rubbish_over_the_whole_pool_of_a_uml_guest",
            "linux.uml is not installed",
        );
        return Ok(());
    }
    rubbish_over_the_whole_pool("uml")
}

#[test]
fn rubbish_over_the_whole_pool_of_a_qemu_guest() -> Result<()> {
    if let Some(why) = qemu_missing() {
        missing("rubbish_over_the_whole_pool_of_a_qemu_guest", &why);
        return Ok(());
    }
    rubbish_over_the_whole_pool("qemu")
}

fn rubbish_over_the_whole_pool(port: &str) -> Result<()> {
    let scribble = compile("scribble")?;
    let machine = Machine::configured(&format!("[group]\npool = \"{POOL}\"\n"))?;
    // Another group, another daemon: untouched.
    let neighbour = Machine::start()?;
    let mut other = Actor::start(&neighbour, Place::Host)?;
    let spared = other.number(&format!("semget 0x61 1 {CREATE}"))?;
    other.number(&format!("semset {spared} 0 3"))?;

    let mut users = [
        Actor::start(&machine, Place::Host)?,
        Actor::start(&machine, Place::Host)?,
    ];
    let daemon = machine.daemon_pid()?;
    let hostile = std::thread::scope(|scope| -> Result<_> {
        let guest = scope.spawn(|| {
            let mut command = machine.command(&[
                "vm", "run", "--port", port, "--domain", "evil", "--mem", "192M", "--",
            ]);
            finish(
                command.arg(&scribble).args([POOL_BYTES, "8"]),
                Duration::from_secs(60),
            )
        });
        use_everything(&mut users, &|| guest.is_finished())?;
        guest
            .join()
            .unwrap_or_else(|_| anyhow::bail!("the guest's thread panicked"))
    })?;
    let said = String::from_utf8_lossy(&hostile.stdout);
    ensure!(
        said.contains("and then everything"),
        "the hostile guest did not get to it: {said} {}",
        String::from_utf8_lossy(&hostile.stderr)
    );

    // The daemon never fell over, the old users' programs still run, and new constructs work.
    ensure!(machine.daemon_pid()? == daemon, "the daemon was restarted");
    for user in &mut users {
        ensure!(user.number("pid")? > 0);
    }
    let set = users[0].number(&format!("semget 0 1 {CREATE}"))?;
    users[0].number(&format!("semop {set} 0:1"))?;
    ensure!(users[1].number(&format!("semval {set} 0"))? == 1);
    let queue = users[0].number(&format!("msgget 0 {CREATE}"))?;
    users[0].number(&format!("msgsnd {queue} 1 fine 0"))?;
    ensure!(users[1].ask(&format!("msgrcv {queue} 64 0 0"))?.is_ok());
    ensure!(
        other.number(&format!("semval {spared} 0"))? == 3,
        "another group was harmed"
    );
    Ok(())
}

/// Uses sets and queues from two processes until told to stop; every answer must come in time and be a value or a tolerable error.
fn use_everything(users: &mut [Actor; 2], stop: &dyn Fn() -> bool) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(60);
    let (mut calls, mut errors) = (0, 0);
    while !stop() {
        ensure!(Instant::now() < until, "the hostile guest did not end");
        let mut commands = Vec::new();
        for (verb, call) in [("semget 0x62 4", "set"), ("msgget 0x62", "queue")] {
            match users[0].ask(&format!("{verb} {CREATE}"))? {
                Ok(words) => commands.push((call, words[0].clone())),
                Err(errno) => ensure!(tolerable(&errno), "{verb}: {errno}"),
            }
        }
        for (what, id) in commands {
            for user in &mut *users {
                let batch: Vec<String> = if what == "set" {
                    vec![
                        format!("semop {id} 0:1"),
                        format!("semop {id} 1:2:1 2:1"),
                        format!("semtimedop {id} 5 3:-1"),
                        format!("semval {id} 0"),
                    ]
                } else {
                    vec![
                        format!("msgsnd {id} 3 rubbish 04000"),
                        format!("msgrcv {id} 64 0 04000"),
                        format!("msgbig {id} 2 4000 04000"),
                        format!("msgrcv {id} 8192 -5 04000"),
                        format!("msgstat {id}"),
                    ]
                };
                for command in batch {
                    calls += 1;
                    if let Err(errno) = user.ask(&command)? {
                        errors += 1;
                        ensure!(tolerable(&errno), "{command}: {errno}");
                    }
                }
            }
            if calls % 5 == 0 {
                let _ = users[0].ask(&format!("{} {id}", if what == "set" { "semrm" } else { "msgrm" }))?;
            }
        }
    }
    println!("{calls} calls, {errors} of them gave an error");
    Ok(())
}
