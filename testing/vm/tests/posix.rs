//! What POSIX offers for segments, `sem_t` and its like, between processes of one domain: `programs/posix.c`.

use anyhow::{Result, ensure};
use std::process::Command;
use std::time::Duration;
use vshmem_testing_vm::actor::compile;
use vshmem_testing_vm::machine::finish;
use vshmem_testing_vm::{Machine, missing, uml_available};

fn runs_well(command: &mut Command) -> Result<()> {
    let out = finish(command.arg(compile("posix")?), Duration::from_secs(90))?;
    let (said, errors) = (
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr),
    );
    ensure!(
        out.status.success() && said.trim() == "well",
        "{}: {said}{errors}",
        out.status
    );
    Ok(())
}

#[test]
fn posix_objects_under_the_kernel_itself() -> Result<()> {
    runs_well(&mut Command::new("env"))
}

#[test]
fn posix_objects_on_the_host() -> Result<()> {
    let machine = Machine::start()?;
    runs_well(&mut machine.command(&["run", "--"]))
}

#[test]
fn posix_objects_in_a_uml_guest() -> Result<()> {
    if !uml_available() {
        missing("posix_objects_in_a_uml_guest", "linux.uml is not installed");
        return Ok(());
    }
    let machine = Machine::start()?;
    let run = [
        "vm",
        "run",
        "--port",
        "uml",
        "--domain",
        "a",
        "--timeout",
        "60",
        "--",
    ];
    runs_well(&mut machine.command(&run))
}
