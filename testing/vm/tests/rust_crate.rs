//! A Rust program on the `vshmem` crate meets itself in the constructs of a key.

use anyhow::{Result, ensure};
use std::time::Duration;
use vshmem_testing_vm::Machine;
use vshmem_testing_vm::machine::{built, finish};

#[test]
fn the_example_meets_itself() -> Result<()> {
    let machine = Machine::start()?;
    let example = built().join("examples/hello");
    for visit in 1..=3 {
        let mut command = std::process::Command::new(&example);
        let out = finish(
            command.env("VSHMEM_RUNTIME_DIR", machine.runtime()),
            Duration::from_secs(20),
        )?;
        let said = String::from_utf8_lossy(&out.stdout);
        ensure!(
            out.status.success(),
            "{said}{}",
            String::from_utf8_lossy(&out.stderr)
        );
        ensure!(said.contains(&format!("type 7: visit {visit}")), "{said}");
        ensure!(said.contains("semaphore 0 is 0"), "{said}");
    }
    Ok(())
}
