//! Runs rules at places and tells the outcome, rule by rule.

use crate::dialogue::{Transcript, hold};
use crate::differences::{self, Difference};
use crate::place::{Column, Parties};
use crate::rule::{self, Need, Rule};
use anyhow::Result;
use std::fs::File;
use vshmem_testing_vm::alone::alone;
use vshmem_testing_vm::huge::HugePages;

/// How a rule fared at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As the kernel, and as the rule says.
    Holds,
    /// Differs for a known reason.
    Known(String),
    /// Differs, or differs no more although the list says so.
    Broken(Vec<String>),
    /// Was not run, and why.
    Skipped(String),
    /// Cannot be held there, by that place's nature.
    NotThere(&'static str),
}

impl Outcome {
    fn cell(&self) -> &'static str {
        match self {
            Outcome::Holds => "ok",
            Outcome::Known(_) => "known",
            Outcome::Broken(_) => "BROKEN",
            Outcome::Skipped(_) => "skipped",
            Outcome::NotThere(_) => "not there",
        }
    }
}

/// The whole table.
pub struct Table {
    rules: Vec<Rule>,
    columns: Vec<Column>,
    /// By column, by rule.
    outcomes: Vec<Vec<Outcome>>,
}

/// Runs the rules whose name contains `only` at these places; the kernel always comes first.
pub fn run(columns: &[Column], only: &str) -> Result<Table> {
    let rules: Vec<Rule> = rule::all()?
        .into_iter()
        .filter(|r| r.name.contains(only))
        .collect();
    let known = differences::all()?;
    let mut table = Table {
        rules,
        columns: vec![Column::Kernel],
        outcomes: Vec::new(),
    };
    table
        .columns
        .extend(columns.iter().filter(|c| **c != Column::Kernel));
    let mut reference = Vec::new();
    for column in table.columns.clone() {
        if let Some(why) = column.missing() {
            table
                .outcomes
                .push(vec![Outcome::Skipped(why); table.rules.len()]);
            continue;
        }
        let mut parties = Parties::start(column)?;
        let mut outcomes = Vec::new();
        for (number, rule) in table.rules.iter().enumerate() {
            let (outcome, lines) = match needed(rule, column) {
                Err(outcome) => (outcome, Vec::new()),
                Ok(_needs) => {
                    let said = hold(rule, number, &mut parties);
                    let outcome = judge(rule, column, &said, reference.get(number), &known);
                    (outcome, said.map(|t| t.lines).unwrap_or_default())
                }
            };
            outcomes.push(outcome);
            if column == Column::Kernel {
                reference.push(lines);
            }
        }
        table.outcomes.push(outcomes);
    }
    Ok(table)
}

/// What a rule needs, as long as it is held.
#[derive(Default)]
struct Needs {
    _pages: Option<HugePages>,
    _locked_memory: Option<File>,
}

/// Gets that, or says that it cannot be had.
fn needed(rule: &Rule, column: Column) -> std::result::Result<Needs, Outcome> {
    let mut needs = Needs::default();
    // The kernel counts what a user has locked over all processes of the machine, whatever IPC namespace they are in.
    if rule
        .steps
        .iter()
        .any(|step| step.command.starts_with("limit memlock"))
    {
        let lock = alone("locked-memory").map_err(|e| Outcome::Skipped(format!("a lock: {e}")))?;
        needs._locked_memory = Some(lock);
    }
    let Some(need) = rule.needs else {
        return Ok(needs);
    };
    if let Some(why) = column.lacks(need) {
        return Err(Outcome::NotThere(why));
    }
    if need == Need::HugePages {
        needs._pages = Some(HugePages::set_aside().map_err(Outcome::Skipped)?);
    }
    Ok(needs)
}

fn judge(
    rule: &Rule,
    column: Column,
    said: &Result<Transcript>,
    reference: Option<&Vec<String>>,
    known: &[Difference],
) -> Outcome {
    let mut wrong = Vec::new();
    match said {
        Ok(said) => {
            wrong.extend(said.unexpected.iter().cloned());
            for (line, kernel) in said.lines.iter().zip(reference.into_iter().flatten()) {
                let kernel = if column.crosses() {
                    &differences::across_domains(kernel)
                } else {
                    kernel
                };
                if line != kernel {
                    wrong.push(format!("{line}; the kernel: {kernel}"));
                }
            }
        }
        Err(error) => wrong.push(format!("{error:#}")),
    }
    match (differences::reason(known, &rule.name, column), wrong.is_empty()) {
        (None, true) => Outcome::Holds,
        (Some(why), false) => Outcome::Known(why.to_string()),
        (None, false) => Outcome::Broken(wrong),
        (Some(_), true) => Outcome::Broken(vec!["holds: take it out of rules/differences.txt".to_string()]),
    }
}

impl Table {
    /// Whether every rule holds at every place where it can be held, known differences apart, and none was skipped.
    pub fn holds(&self) -> bool {
        self.count("BROKEN") + self.count("skipped") == 0
    }

    /// The rules that are broken: what was heard, where, line by line.
    pub fn broken(&self) -> Vec<String> {
        let mut all = Vec::new();
        for (column, outcomes) in self.columns.iter().zip(&self.outcomes) {
            for (rule, outcome) in self.rules.iter().zip(outcomes) {
                if let Outcome::Broken(wrong) = outcome {
                    let place = column.name();
                    all.extend(
                        wrong
                            .iter()
                            .map(|line| format!("{} at {place}: {line}", rule.name)),
                    );
                }
            }
        }
        all
    }

    fn count(&self, cell: &str) -> usize {
        self.outcomes
            .iter()
            .flatten()
            .filter(|o| o.cell() == cell)
            .count()
    }

    /// Prints it: a row per rule, then the totals, then what is broken and why the rest differs.
    pub fn print(&self) {
        let row = |name: &str, page: &str, cells: Vec<String>| {
            let cells: String = cells.iter().map(|cell| format!(" {cell:<11}")).collect();
            println!("{name:<66} {page:<12}{}", cells.trim_end());
        };
        let heads = self.columns.iter().map(|c| c.name().to_string()).collect();
        row("rule", "page", heads);
        for (number, rule) in self.rules.iter().enumerate() {
            let cells = self.outcomes.iter().map(|o| o[number].cell().to_string());
            row(&rule.name, &rule.page, cells.collect());
        }
        for cell in ["ok", "known", "BROKEN", "skipped", "not there"] {
            let count = |o: &Vec<Outcome>| o.iter().filter(|o| o.cell() == cell).count().to_string();
            row(
                &format!("total {cell} of {}", self.rules.len()),
                "",
                self.outcomes.iter().map(count).collect(),
            );
        }
        self.print_reasons();
        for line in self.broken() {
            println!("broken: {line}");
        }
    }

    fn print_reasons(&self) {
        for (column, outcomes) in self.columns.iter().zip(&self.outcomes) {
            for (rule, outcome) in self.rules.iter().zip(outcomes) {
                let what = format!("{} at {}", rule.name, column.name());
                match outcome {
                    Outcome::Holds | Outcome::Broken(_) => {}
                    Outcome::Known(why) => println!("known: {what}: {why}"),
                    Outcome::Skipped(why) => println!("skipped: {what}: {why}"),
                    Outcome::NotThere(why) => println!("not there: {what}: {why}"),
                }
            }
        }
    }
}
