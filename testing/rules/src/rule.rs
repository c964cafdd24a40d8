//! The rules as they are written.
//!
//! ```text
//! ## name_of_the_rule manual-page(2)
//! id = a shmget KEY 4096 01600        a asks, the first value gets a name
//! b shmget KEY 0 0 -> $id             b asks, and must hear this
//! tell a semop $id 0:-1               a asks and does not wait
//! until b semncnt $id 0 -> 1          b asks until it hears this
//! silent a                            a has not answered
//! hear a -> 0                         waits for a's answer
//! ```
//!
//! `KEY` and `KEY2` are keys that no other rule uses. `needs huge-pages` or `needs executable-memory`, before the first step: the rule is held where that can be had.

use anyhow::{Context, Result, bail, ensure};

/// One rule.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The rule in a few words, in snake case.
    pub name: String,
    /// The manual page that states it.
    pub page: String,
    /// It is held where there is this.
    pub needs: Option<Need>,
    /// What is said.
    pub steps: Vec<Step>,
}

/// What not every place has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Huge pages, which can be set aside.
    HugePages,
    /// Shared memory that instructions may be executed from.
    ExecutableMemory,
}

/// Which of the two parties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    /// The first.
    A,
    /// The second, elsewhere.
    B,
}

/// How a step is performed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Asks and waits for the answer.
    Ask,
    /// Asks and goes on.
    Tell,
    /// Asks again and again until the expected answer comes.
    Until,
    /// Makes sure that no answer has come.
    Silent,
    /// Waits for the answer to an earlier `tell`.
    Hear,
}

/// One step of a dialogue.
#[derive(Debug, Clone)]
pub struct Step {
    /// Who is spoken to.
    pub party: Party,
    /// How.
    pub how: How,
    /// The command, with `$names` still in it.
    pub command: String,
    /// The name that the answer's first value gets.
    pub named: Option<String>,
    /// The answer that has to come, the kernel's included.
    pub expected: Option<String>,
}

const FILES: [(&str, &str); 8] = [
    ("shm.rules", include_str!("../rules/shm.rules")),
    ("huge.rules", include_str!("../rules/huge.rules")),
    ("sem.rules", include_str!("../rules/sem.rules")),
    ("msg.rules", include_str!("../rules/msg.rules")),
    ("limits.rules", include_str!("../rules/limits.rules")),
    ("everywhere.rules", include_str!("../rules/everywhere.rules")),
    ("manual.rules", include_str!("../rules/manual.rules")),
    ("clones.rules", include_str!("../rules/clones.rules")),
];

/// All rules, in the order of the files.
pub fn all() -> Result<Vec<Rule>> {
    let mut rules: Vec<Rule> = Vec::new();
    for (file, text) in FILES {
        for rule in parse(text).with_context(|| file.to_string())? {
            ensure!(
                rules.iter().all(|r| r.name != rule.name),
                "{file}: two rules are called {}",
                rule.name
            );
            rules.push(rule);
        }
    }
    Ok(rules)
}

fn parse(text: &str) -> Result<Vec<Rule>> {
    let mut rules: Vec<Rule> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with("# ") {
            continue;
        }
        if let Some(title) = line.strip_prefix("## ") {
            let (name, page) = title
                .split_once(' ')
                .with_context(|| format!("line {}: no manual page", number + 1))?;
            rules.push(Rule {
                name: name.to_string(),
                page: page.trim().to_string(),
                needs: None,
                steps: Vec::new(),
            });
            continue;
        }
        if let Some(what) = line.strip_prefix("needs ") {
            let need = match what {
                "huge-pages" => Need::HugePages,
                "executable-memory" => Need::ExecutableMemory,
                other => bail!("line {}: nobody knows what {other:?} is", number + 1),
            };
            rules.last_mut().context("a need before the first rule")?.needs = Some(need);
            continue;
        }
        let step = parse_step(line).with_context(|| format!("line {}: {line}", number + 1))?;
        rules
            .last_mut()
            .context("a step before the first rule")?
            .steps
            .push(step);
    }
    Ok(rules)
}

fn parse_step(line: &str) -> Result<Step> {
    let (line, expected) = match line.split_once("->") {
        Some((line, expected)) => (line.trim(), Some(expected.trim().to_string())),
        None => (line, None),
    };
    let (line, named) = match line.split_once(" = ") {
        Some((name, line)) => (line.trim(), Some(name.trim().to_string())),
        None => (line, None),
    };
    let mut rest = line;
    let mut word = || {
        let (first, others) = rest.split_once(' ').unwrap_or((rest, ""));
        rest = others.trim();
        first
    };
    let mut first = word();
    let how = match first {
        "tell" => How::Tell,
        "until" => How::Until,
        "silent" => How::Silent,
        "hear" => How::Hear,
        _ => How::Ask,
    };
    if how != How::Ask {
        first = word();
    }
    let party = match first {
        "a" => Party::A,
        "b" => Party::B,
        other => bail!("no party {other:?}"),
    };
    let command = rest.to_string();
    ensure!(how != How::Until || expected.is_some(), "until what?");
    let speaks = matches!(how, How::Ask | How::Tell | How::Until);
    ensure!(speaks != command.is_empty(), "a command is missing or too many");
    Ok(Step {
        party,
        how,
        command,
        named,
        expected,
    })
}
