//! All rules, against the kernel and against Vshmem. The command and the preload library must have been built.

use anyhow::{Result, ensure};
use vshmem_testing_rules::place::Column;
use vshmem_testing_rules::{differences, rule, table};

fn run(columns: &[Column]) -> Result<()> {
    let table = table::run(columns, "")?;
    table.print();
    // The table is long, and whoever cuts a failed test's output keeps its error.
    let broken = table.broken();
    ensure!(
        broken.is_empty(),
        "{} broken:\n{}",
        broken.len(),
        broken.join("\n")
    );
    Ok(())
}

#[test]
fn rules_hold_on_this_host() -> Result<()> {
    run(&[Column::Kernel, Column::Host, Column::Containers])
}

#[test]
fn rules_hold_for_static_programs() -> Result<()> {
    run(&[Column::Kernel, Column::Strict])
}

#[test]
fn rules_hold_between_two_uml_guests() -> Result<()> {
    run(&[Column::Kernel, Column::Uml])
}

#[test]
fn rules_hold_between_two_qemu_guests() -> Result<()> {
    run(&[Column::Kernel, Column::Qemu])
}

#[test]
fn every_known_difference_names_a_rule_and_places() -> Result<()> {
    let rules = rule::all()?;
    ensure!(rules.len() > 100, "rules got lost");
    for known in differences::all()? {
        ensure!(
            rules.iter().any(|r| r.name == known.rule),
            "no rule {}",
            known.rule
        );
        for place in &known.columns {
            ensure!(
                Column::ALL[1..].iter().any(|c| c.name() == place),
                "{}: no place {place}",
                known.rule
            );
        }
    }
    Ok(())
}
