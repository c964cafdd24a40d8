//! Runs named steps one after another and tells at the end what ran, what failed and what was skipped and why.

use std::process::Command;
use std::time::{Duration, Instant};

/// What came of a step.
enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

/// Steps done so far.
#[derive(Default)]
pub(crate) struct Steps {
    done: Vec<(String, Outcome, Duration)>,
}

impl Steps {
    /// Runs a command as a step; it passes if the command exits with 0.
    pub(crate) fn run(&mut self, name: &str, command: &mut Command) {
        eprintln!("\n=== {name}: {}", shown(command));
        let start = Instant::now();
        let outcome = match command.status() {
            Ok(status) if status.success() => Outcome::Passed,
            Ok(status) => Outcome::Failed(status.to_string()),
            Err(error) => Outcome::Failed(format!("cannot start: {error}")),
        };
        self.done.push((name.to_string(), outcome, start.elapsed()));
    }

    /// Notes a step that cannot run here.
    pub(crate) fn skip(&mut self, name: &str, why: &str) {
        eprintln!("\n=== {name}: skipped: {why}");
        self.done.push((
            name.to_string(),
            Outcome::Skipped(why.to_string()),
            Duration::ZERO,
        ));
    }

    /// Prints the table and the closing line; `true` if nothing failed.
    pub(crate) fn report(&self) -> bool {
        let (mut passed, mut failed, mut skipped) = (0, 0, 0);
        println!("\nWhat ran:");
        for (name, outcome, took) in &self.done {
            let (mark, note) = match outcome {
                Outcome::Passed => (&mut passed, String::new()),
                Outcome::Failed(why) => (&mut failed, format!("FAILED: {why}")),
                Outcome::Skipped(why) => (&mut skipped, format!("skipped: {why}")),
            };
            *mark += 1;
            println!("  {name:<32} {:>6.1} s  {note}", took.as_secs_f64());
        }
        println!("\nsteps: {passed} passed, {failed} failed, {skipped} skipped");
        failed == 0
    }
}

fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|a| a.to_string_lossy().into_owned()));
    words.join(" ")
}
