//! Holds one rule's dialogue and gives what was said in words that mean the same at every place.
//!
//! Ids are told by the order in which they came up, process ids by party, times as `0` or `set`, keys by name.

use crate::place::Parties;
use crate::rule::{How, Party, Rule, Step};
use anyhow::{Context, Result, bail};
use std::fmt::Write;
use std::time::{Duration, Instant};

/// How long an answer may take before the rule counts as broken.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long a call must stay silent to count as asleep.
const ASLEEP: Duration = Duration::from_millis(200);

/// What was said, a line per step.
#[derive(Debug, Default, Clone)]
pub struct Transcript {
    /// `a shmget KEY 4096 01600: id1` and so on.
    pub lines: Vec<String>,
    /// Answers that differ from what the rule itself says.
    pub unexpected: Vec<String>,
}

struct Dialogue<'a> {
    parties: &'a mut Parties,
    keys: [u32; 2],
    names: Vec<(String, String)>,
    ids: Vec<(String, char)>,
    told: [Option<String>; 2],
    early: [Option<String>; 2],
    speaker: Party,
    transcript: Transcript,
}

/// Holds the dialogue of a rule. Leaves nothing behind: what it made is removed, parties that still sleep are replaced.
pub fn hold(rule: &Rule, number: usize, parties: &mut Parties) -> Result<Transcript> {
    let base = 0x5600_0000 | (std::process::id() & 0xfff) << 12 | (number as u32 & 0x7ff) << 1;
    let mut dialogue = Dialogue {
        parties,
        keys: [base, base + 1],
        names: Vec::new(),
        ids: Vec::new(),
        told: [None, None],
        early: [None, None],
        speaker: Party::A,
        transcript: Transcript::default(),
    };
    let mut held = Ok(());
    for step in &rule.steps {
        held = dialogue.step(step);
        if held.is_err() {
            break;
        }
    }
    let clean = dialogue.clean();
    if held.is_err() || clean.is_err() || dialogue.told.iter().any(Option::is_some) {
        dialogue.parties.restart()?;
    }
    held.and(clean).map(|()| dialogue.transcript)
}

impl Dialogue<'_> {
    fn step(&mut self, step: &Step) -> Result<()> {
        self.speaker = step.party;
        let index = step.party as usize;
        let who = ["a", "b"][index];
        let command = self.fill(&step.command)?;
        let expected = step.expected.as_ref().map(|text| self.expectation(text));
        let answer = match step.how {
            How::Tell => {
                self.parties.get(step.party)?.tell(&command)?;
                self.told[index] = Some(step.command.clone());
                return Ok(());
            }
            How::Silent => {
                if self.early[index].is_none() {
                    self.early[index] = self.parties.get(step.party)?.answer_if_within(ASLEEP);
                }
                let silent = self.early[index].is_none();
                self.note(who, "silent", if silent { "yes" } else { "no" }, Some("yes"));
                return Ok(());
            }
            How::Hear => {
                let told = self.told[index].take().context("nothing to hear")?;
                let line = match self.early[index].take() {
                    Some(line) => line,
                    None => self.wait(step.party)?,
                };
                self.normal(&told, &line)
            }
            How::Ask => {
                self.parties.get(step.party)?.tell(&command)?;
                let line = self.wait(step.party)?;
                if self.parties.limits_count_when_next_asked()
                    && let Some(written) = command.strip_prefix("write ")
                {
                    let file = written.split(' ').next().unwrap_or_default();
                    self.parties.get(step.party)?.tell(&format!("read {file}"))?;
                    self.wait(step.party)?;
                }
                if let (Some(name), Some(value)) = (&step.named, line.split(' ').nth(1)) {
                    self.names.push((name.clone(), value.to_string()));
                }
                self.normal(&step.command, &line)
            }
            How::Until => self.until(step, &command, expected.as_deref())?,
        };
        let what = if step.how == How::Hear {
            "hear"
        } else {
            &step.command
        };
        self.note(who, what, &answer, expected.as_deref());
        Ok(())
    }

    fn until(&mut self, step: &Step, command: &str, expected: Option<&str>) -> Result<String> {
        let end = Instant::now() + Duration::from_secs(3);
        loop {
            self.parties.get(step.party)?.tell(command)?;
            let line = self.wait(step.party)?;
            let answer = self.normal(&step.command, &line);
            if Some(answer.as_str()) == expected || Instant::now() > end {
                return Ok(answer);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn note(&mut self, who: &str, what: &str, answer: &str, expected: Option<&str>) {
        let line = format!("{who} {what}: {answer}");
        if let Some(expected) = expected
            && !matches(answer, expected)
        {
            self.transcript
                .unexpected
                .push(format!("{line}, expected {expected}"));
        }
        self.transcript.lines.push(line);
    }

    fn wait(&mut self, party: Party) -> Result<String> {
        self.parties
            .get(party)?
            .answer_if_within(PATIENCE)
            .with_context(|| format!("no answer within {PATIENCE:?}; said: {:?}", self.transcript.lines))
    }

    /// Puts values in the place of names.
    fn fill(&self, command: &str) -> Result<String> {
        let mut words = Vec::new();
        for word in command.split_whitespace() {
            words.push(match word {
                "KEY" => format!("{:#x}", self.keys[0]),
                "KEY2" => format!("{:#x}", self.keys[1]),
                _ => match word.strip_prefix('$') {
                    Some(name) => match self.names.iter().rev().find(|(n, _)| n == name) {
                        Some((_, value)) => value.clone(),
                        None => bail!("nothing is called {name}"),
                    },
                    None => word.to_string(),
                },
            });
        }
        Ok(words.join(" "))
    }

    /// `$id` in an expectation is the normal form of that id.
    fn expectation(&self, text: &str) -> String {
        let word = |word: &str| match word.strip_prefix('$') {
            Some(name) => match self.names.iter().rev().find(|(n, _)| n == name) {
                Some((_, value)) => {
                    let kinds = ['m', 's', 'q'];
                    let id = kinds.iter().find_map(|kind| self.known_id(value, *kind));
                    id.unwrap_or_else(|| value.clone())
                }
                None => word.to_string(),
            },
            None => word.to_string(),
        };
        text.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
    }

    /// The three kinds number on their own: an id alone does not tell which is meant.
    fn known_id(&self, value: &str, kind: char) -> Option<String> {
        let at = self.ids.iter().position(|(id, k)| id == value && *k == kind)?;
        Some(format!("id{}", at + 1))
    }

    /// An answer in words that mean the same at every place.
    fn normal(&mut self, command: &str, line: &str) -> String {
        let Some(values) = line.strip_prefix("= ") else {
            return line.strip_prefix("! ").unwrap_or(line).to_string();
        };
        let verb = command
            .split(' ')
            .find(|word| {
                word.len() > 2 && !["child", "childstay", "thread"].contains(word) && !word.starts_with('$')
            })
            .unwrap_or("");
        let kind = match verb {
            "shmget" => 'm',
            "semget" => 's',
            "msgget" => 'q',
            _ => ' ',
        };
        if kind != ' ' && command.starts_with(verb) {
            if self.known_id(values, kind).is_none() {
                self.ids.push((values.to_string(), kind));
            }
            return self.known_id(values, kind).unwrap_or_default();
        }
        if verb == "sempid" {
            return self.pid(values);
        }
        let mut out = String::new();
        for word in values.split(' ') {
            let word = match word.split_once('=') {
                Some((name, value)) => format!("{name}={}", self.field(name, value)),
                None => word.to_string(),
            };
            let _ = write!(out, "{}{word}", if out.is_empty() { "" } else { " " });
        }
        out
    }

    fn field(&self, name: &str, value: &str) -> String {
        match name {
            "cpid" | "lpid" | "lspid" | "lrpid" => self.pid(value),
            "atime" | "dtime" | "ctime" | "otime" | "stime" | "rtime" if value != "0" => "set".to_string(),
            "shmid" => self.known_id(value, 'm').unwrap_or_else(|| value.to_string()),
            "semid" => self.known_id(value, 's').unwrap_or_else(|| value.to_string()),
            "msqid" => self.known_id(value, 'q').unwrap_or_else(|| value.to_string()),
            "key" => {
                // The kernel's tables print keys as signed decimal, the structures are printed in hexadecimal.
                let is = |key: u32| value == format!("{key:x}") || value == key.to_string();
                match self.keys.map(is) {
                    [true, _] => "KEY".to_string(),
                    [_, true] => "KEY2".to_string(),
                    _ => value.to_string(),
                }
            }
            _ => value.to_string(),
        }
    }

    fn pid(&self, value: &str) -> String {
        let (a, b) = self.parties.pids;
        // Two guests may number alike: then who looks sees itself.
        let own = a == b && value == a.to_string();
        match value {
            "0" => "0".to_string(),
            _ if own && self.speaker == Party::B => "party-b".to_string(),
            _ if value == a.to_string() => "party-a".to_string(),
            _ if value == b.to_string() => "party-b".to_string(),
            _ => "another".to_string(),
        }
    }

    fn clean(&mut self) -> Result<()> {
        for index in [0, 1] {
            let party = [Party::A, Party::B][index];
            if self.told[index].is_none() {
                self.parties.get(party)?.tell("user 0")?;
                self.wait(party)?;
                self.parties.get(party)?.tell("shmclean")?;
                self.wait(party)?;
            }
        }
        let party = [Party::A, Party::B][usize::from(self.told[0].is_some())];
        if self.told.iter().all(Option::is_some) {
            return Ok(());
        }
        for (id, kind) in std::mem::take(&mut self.ids) {
            let verb = match kind {
                'm' => "shmrm",
                's' => "semrm",
                _ => "msgrm",
            };
            self.parties.get(party)?.tell(&format!("{verb} {id}"))?;
            self.wait(party)?;
        }
        Ok(())
    }
}

/// Whether an answer is the expected one; an expectation with `=` names only the fields that matter, `A|B` allows either.
fn matches(answer: &str, expected: &str) -> bool {
    if answer == expected || expected.split('|').any(|one| one == answer) {
        return true;
    }
    expected.contains('=')
        && expected
            .split(' ')
            .all(|field| answer.split(' ').any(|word| word == field))
}
