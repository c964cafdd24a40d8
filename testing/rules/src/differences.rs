//! What may differ from the kernel, where and why: `rules/differences.txt`. The list only shrinks: an entry that is not needed fails.
//!
//! One difference is in the nature of things and holds for every rule: a process id of another domain means nothing, so it must read 0
//! there ([`across_domains`]).

use crate::place::Column;
use anyhow::{Context, Result, ensure};

/// One expected difference.
#[derive(Debug, Clone)]
pub struct Difference {
    /// The rule's name.
    pub rule: String,
    /// Where it differs.
    pub columns: Vec<String>,
    /// Why.
    pub reason: String,
}

/// The list.
pub fn all() -> Result<Vec<Difference>> {
    parse(include_str!("../rules/differences.txt"))
}

fn parse(text: &str) -> Result<Vec<Difference>> {
    let lines = text.lines().map(str::trim);
    let entries = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    entries
        .map(|line| {
            let mut parts = line.splitn(3, ' ');
            let (rule, columns) = (parts.next(), parts.next());
            let reason = parts.next().unwrap_or("").trim();
            ensure!(!reason.is_empty(), "{line}: no reason");
            let columns = columns.with_context(|| format!("{line}: where?"))?;
            Ok(Difference {
                rule: rule.unwrap_or_default().to_string(),
                columns: columns.split(',').map(str::to_string).collect(),
                reason: reason.to_string(),
            })
        })
        .collect()
}

/// Why this rule may differ there, if it may.
pub fn reason<'a>(list: &'a [Difference], rule: &str, column: Column) -> Option<&'a str> {
    list.iter()
        .find(|d| d.rule == rule && d.columns.iter().any(|c| c == column.name()))
        .map(|d| d.reason.as_str())
}

/// What the kernel said, as two parties in different domains must hear it.
pub fn across_domains(line: &str) -> String {
    let other = if line.starts_with("a ") {
        "party-b"
    } else {
        "party-a"
    };
    line.replace(other, "0")
}
