//! `cargo run -p vshmem-testing-rules --example rules [PART-OF-A-NAME] [PLACE...]`: the table of rules, at all places if none is named.
//!
//! Ends with 0 only if every rule holds at every place asked for, known differences apart, and none was skipped.

use anyhow::{Result, bail};
use std::process::ExitCode;
use vshmem_testing_rules::place::Column;
use vshmem_testing_rules::table;

fn main() -> Result<ExitCode> {
    let mut only = String::new();
    let mut columns = Vec::new();
    for argument in std::env::args().skip(1) {
        match Column::ALL.iter().find(|c| c.name() == argument) {
            Some(column) => columns.push(*column),
            None if only.is_empty() => only = argument,
            None => bail!("no place is called {argument}"),
        }
    }
    if columns.is_empty() {
        columns = Column::ALL.to_vec();
    }
    let table = table::run(&columns, &only)?;
    table.print();
    Ok(if table.holds() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
