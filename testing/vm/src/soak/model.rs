//! Random System V operations by actors in several domains, each result compared with what a plain model says.
//!
//! One model has a set, a queue and a segment of its own and asks its actors one after another, so that there is one right answer to each question, however
//! many daemons die meanwhile. Actors are killed, idle or in the middle of an operation; what they owed by SEM_UNDO must then be done.

use super::dice::Dice;
use crate::actor::{Actor, Answer};
use anyhow::{Context, Result, bail, ensure};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Semaphores of the set.
const SEMS: usize = 4;
/// Words of the segment that are used.
const WORDS: usize = 64;
/// The most messages in the queue.
const MESSAGES: usize = 60;
/// How long an answer may take, daemons that restart and guests that hardly run included.
const PATIENCE: Duration = Duration::from_secs(60);

const NOWAIT: i64 = 0o4000;
const EXCEPT: i64 = 0o20000;

/// An actor that whoever started it starts again when it dies.
pub struct Party {
    /// Its place, for messages.
    pub name: String,
    /// The actor.
    pub actor: Actor,
    /// Whether its process ids are those of this host, so that it can be killed at any instruction.
    pub here: bool,
    undo: [i64; SEMS],
    attached: Option<i64>,
    pid: i32,
}

impl Party {
    /// An actor that is ready.
    pub fn new(name: &str, actor: Actor, here: bool) -> Party {
        Party {
            name: name.into(),
            actor,
            here,
            undo: [0; SEMS],
            attached: None,
            pid: 0,
        }
    }

    fn ask(&mut self, command: &str) -> Result<Answer> {
        self.actor.tell(command)?;
        self.actor
            .answer_within(PATIENCE)
            .with_context(|| format!("{} after {command:?}", self.name))
    }

    fn number(&mut self, command: &str) -> Result<i64> {
        match self.ask(command)? {
            Ok(words) => Ok(words[0].parse()?),
            Err(errno) => bail!("{}: {command:?} failed with {errno}", self.name),
        }
    }
}

/// An operation on a semaphore, with IPC_NOWAIT.
#[derive(Debug, Clone, Copy)]
struct Operation {
    number: usize,
    change: i64,
    undo: bool,
}

/// What becomes of values, and of what the caller owes, if the operations can be done.
fn after(mut values: [i64; SEMS], operations: &[Operation]) -> Option<After> {
    let mut debts = [0; SEMS];
    for Operation { number, change, undo } in operations.iter().copied() {
        let value = &mut values[number];
        if change == 0 && *value != 0 || *value + change < 0 {
            return None;
        }
        *value += change;
        debts[number] -= if undo { change } else { 0 };
    }
    Some((values, debts))
}

/// Values after debts were paid.
fn undone(mut values: [i64; SEMS], undo: [i64; SEMS]) -> [i64; SEMS] {
    for (value, owed) in values.iter_mut().zip(undo) {
        *value = (*value + owed).max(0);
    }
    values
}

/// What all of it should be.
pub struct Model {
    parties: Vec<Party>,
    dice: Dice,
    ids: [i64; 3],
    values: [i64; SEMS],
    queue: VecDeque<(i64, String)>,
    words: [i64; WORDS],
    sent: u64,
}

/// What operations would make of the values, and of what their caller owes.
type After = ([i64; SEMS], [i64; SEMS]);

/// Results compared, and actors killed, so far.
#[derive(Debug, Default)]
pub struct Count {
    /// Results compared.
    pub checked: AtomicU64,
    /// Actors killed.
    pub killed: AtomicU64,
}

impl Model {
    /// Makes the constructs by the first party.
    pub fn new(mut parties: Vec<Party>, seed: u64) -> Result<Model> {
        let first = &mut parties[0];
        let ids = [
            first.number("semget 0 4 01600")?,
            first.number("msgget 0 01600")?,
            first.number("shmget 0 8192 01600")?,
        ];
        for party in &mut parties {
            party.pid = party.number("pid")? as i32;
        }
        Ok(Model {
            parties,
            dice: Dice::new(seed),
            ids,
            values: [0; SEMS],
            queue: VecDeque::new(),
            words: [0; WORDS],
            sent: 0,
        })
    }

    /// Plays until told to stop, then removes everything.
    pub fn play(mut self, stop: &AtomicBool, count: &Count) -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            self.step(count)?;
            count.checked.fetch_add(1, Ordering::Relaxed);
        }
        let [set, queue, segment] = self.ids;
        let first = &mut self.parties[0];
        for command in [
            format!("semrm {set}"),
            format!("msgrm {queue}"),
            format!("shmrm {segment}"),
        ] {
            first.number(&command)?;
        }
        for party in self.parties {
            let ended = party.actor.finish(2 * PATIENCE);
            ended.with_context(|| format!("{} does not end", party.name))?;
        }
        Ok(())
    }

    fn step(&mut self, count: &Count) -> Result<()> {
        let who = self.dice.below(self.parties.len());
        match self.dice.below(1000) {
            0..=299 => self.operate(who),
            300..=379 => self.look_at_a_value(who),
            380..=399 => self.set_a_value(who),
            400..=559 => self.send(who),
            560..=719 => self.receive(who),
            720..=759 => self.look_at_the_queue(who),
            760..=839 => self.write(who),
            840..=919 => self.read(who),
            920..=939 => self.attach_or_detach(who),
            940..=959 => self.count_attachments(who),
            960..=991 => self.hand_over(who),
            992..=996 => self.die_idle(who, count),
            _ => self.die_working(who, count),
        }
    }

    fn expect(&mut self, who: usize, command: &str, expected: Answer) -> Result<()> {
        let found = self.parties[who].ask(command)?;
        ensure!(
            found == expected,
            "{}: {command:?} gave {found:?} where the model says {expected:?}",
            self.parties[who].name
        );
        Ok(())
    }

    /// Random operations, all with IPC_NOWAIT.
    fn operations(&mut self) -> Vec<Operation> {
        (0..=self.dice.below(3))
            .map(|_| {
                let number = self.dice.below(SEMS);
                let most = if self.values[number] > 200 { 0 } else { 3 };
                Operation {
                    number,
                    change: self.dice.below(4 + most) as i64 - 3,
                    undo: self.dice.below(3) == 0,
                }
            })
            .collect()
    }

    fn semop(&self, operations: &[Operation]) -> String {
        let mut command = format!("semop {}", self.ids[0]);
        for Operation { number, change, undo } in operations {
            command += &format!(" {number}:{change}:{}", 2 + i64::from(*undo));
        }
        command
    }

    fn operate(&mut self, who: usize) -> Result<()> {
        let operations = self.operations();
        let command = self.semop(&operations);
        let Some((values, debts)) = after(self.values, &operations) else {
            return self.expect(who, &command, Err("EAGAIN".into()));
        };
        self.expect(who, &command, Ok(vec!["0".into()]))?;
        self.values = values;
        for (owed, more) in self.parties[who].undo.iter_mut().zip(debts) {
            *owed += more;
        }
        Ok(())
    }

    fn look_at_a_value(&mut self, who: usize) -> Result<()> {
        let number = self.dice.below(SEMS);
        let set = self.ids[0];
        self.expect(who, &format!("semncnt {set} {number}"), Ok(vec!["0".into()]))?;
        let value = self.values[number].to_string();
        self.expect(who, &format!("semval {set} {number}"), Ok(vec![value]))
    }

    fn set_a_value(&mut self, who: usize) -> Result<()> {
        let (number, value) = (self.dice.below(SEMS), self.dice.below(20) as i64);
        let command = format!("semset {} {number} {value}", self.ids[0]);
        self.expect(who, &command, Ok(vec!["0".into()]))?;
        self.values[number] = value;
        for party in &mut self.parties {
            party.undo[number] = 0;
        }
        Ok(())
    }

    fn send(&mut self, who: usize) -> Result<()> {
        if self.queue.len() >= MESSAGES {
            return self.receive(who);
        }
        let (kind, length) = (self.dice.below(5) as i64 + 1, self.dice.below(40));
        let text = format!("{}{}", self.sent, "m".repeat(length));
        self.sent += 1;
        let command = format!("msgsnd {} {kind} {text} {NOWAIT}", self.ids[1]);
        self.expect(who, &command, Ok(vec!["0".into()]))?;
        self.queue.push_back((kind, text));
        Ok(())
    }

    /// Which message msgrcv gives.
    fn chosen(&self, wanted: i64, except: bool) -> Option<usize> {
        let queue = self.queue.iter().enumerate();
        match wanted {
            0 => queue.map(|(i, _)| i).next(),
            1.. => queue
                .filter(|(_, (kind, _))| (*kind == wanted) != except)
                .map(|(i, _)| i)
                .next(),
            _ => queue
                .filter(|(_, (kind, _))| *kind <= -wanted)
                .min_by_key(|(i, (kind, _))| (*kind, *i))
                .map(|(i, _)| i),
        }
    }

    fn receive(&mut self, who: usize) -> Result<()> {
        let wanted = self.dice.below(11) as i64 - 5;
        let except = wanted > 0 && self.dice.below(4) == 0;
        let flags = NOWAIT | if except { EXCEPT } else { 0 };
        let command = format!("msgrcv {} 200 {wanted} {flags}", self.ids[1]);
        let Some(at) = self.chosen(wanted, except) else {
            return self.expect(who, &command, Err("ENOMSG".into()));
        };
        let (kind, text) = self.queue.remove(at).context("it was there")?;
        let answer = vec![text.len().to_string(), kind.to_string(), text];
        self.expect(who, &command, Ok(answer))
    }

    fn look_at_the_queue(&mut self, who: usize) -> Result<()> {
        let bytes: usize = self.queue.iter().map(|(_, text)| text.len()).sum();
        let answer = vec![self.queue.len().to_string(), bytes.to_string(), "16384".into()];
        self.expect(who, &format!("msgstat {}", self.ids[1]), Ok(answer))
    }

    fn attached(&mut self, who: usize) -> Result<i64> {
        if let Some(handle) = self.parties[who].attached {
            return Ok(handle);
        }
        let handle = self.parties[who].number(&format!("shmat {} 0", self.ids[2]))?;
        self.parties[who].attached = Some(handle);
        Ok(handle)
    }

    fn write(&mut self, who: usize) -> Result<()> {
        let handle = self.attached(who)?;
        let (at, value) = (self.dice.below(WORDS), self.dice.below(1 << 30) as i64);
        let command = format!("poke {handle} {} {value}", at * 64);
        self.expect(who, &command, Ok(vec!["0".into()]))?;
        self.words[at] = value;
        Ok(())
    }

    fn read(&mut self, who: usize) -> Result<()> {
        let handle = self.attached(who)?;
        let at = self.dice.below(WORDS);
        let value = self.words[at].to_string();
        self.expect(who, &format!("peek {handle} {}", at * 64), Ok(vec![value]))
    }

    fn attach_or_detach(&mut self, who: usize) -> Result<()> {
        match self.parties[who].attached.take() {
            Some(handle) => self.expect(who, &format!("shmdt {handle}"), Ok(vec!["0".into()])),
            None => self.attached(who).map(drop),
        }
    }

    fn count_attachments(&mut self, who: usize) -> Result<()> {
        let count = self.parties.iter().filter(|p| p.attached.is_some()).count();
        let answer = vec!["8192".into(), count.to_string(), "600".into()];
        self.eventually(who, &format!("shmstat {}", self.ids[2]), &answer)
    }

    /// One waits for more than there is, another gives it.
    fn hand_over(&mut self, who: usize) -> Result<()> {
        let giver = (who + 1 + self.dice.below(self.parties.len() - 1)) % self.parties.len();
        let (number, more) = (self.dice.below(SEMS), self.dice.below(3) as i64 + 1);
        let (set, wanted) = (self.ids[0], self.values[number] + more);
        self.parties[who]
            .actor
            .tell(&format!("semop {set} {number}:-{wanted}"))?;
        // It waits, or has not come so far yet.
        self.expect(
            giver,
            &format!("semop {set} {number}:{more}"),
            Ok(vec!["0".into()]),
        )?;
        let party = &mut self.parties[who];
        let woken = party.actor.answer_within(PATIENCE);
        let woken = woken.with_context(|| format!("{}: a wake-up is lost", party.name))?;
        ensure!(
            woken == Ok(vec!["0".into()]),
            "{}: woken with {woken:?}",
            party.name
        );
        self.values[number] = 0;
        Ok(())
    }

    fn die_idle(&mut self, who: usize, count: &Count) -> Result<()> {
        self.parties[who].actor.die()?;
        let after = undone(self.values, self.parties[who].undo);
        self.reborn(who, count)?;
        self.settles(who, &[after])
    }

    /// Killed by another hand while it operates: either it has happened or it has not, or the actor that came after it found the command unread.
    fn die_working(&mut self, who: usize, count: &Count) -> Result<()> {
        if !self.parties[who].here {
            return self.die_idle(who, count);
        }
        let operations = self.operations();
        let command = self.semop(&operations);
        let party = &mut self.parties[who];
        party.actor.tell(&command)?;
        let pause = self.dice.below(60) as u64;
        std::thread::sleep(Duration::from_micros(pause));
        crate::machine::signal(party.pid, rustix::process::Signal::KILL)?;
        let undo = party.undo;
        let late = self.reborn(who, count)?;
        let nothing = undone(self.values, undo);
        let Some(late) = late else {
            let mut possible = vec![nothing];
            if let Some((values, debts)) = after(self.values, &operations) {
                let mut owed = undo;
                owed.iter_mut().zip(debts).for_each(|(o, more)| *o += more);
                possible.push(undone(values, owed));
            }
            return self.settles(who, &possible);
        };
        // Its predecessor's undo may have been done before or after.
        let mut possible = Vec::new();
        for start in [nothing, self.values] {
            match (after(start, &operations), late.is_ok()) {
                (Some((values, debts)), true) => {
                    self.parties[who].undo = debts;
                    possible.push(values);
                    possible.push(undone(values, undo));
                }
                (None, false) => possible.push(nothing),
                _ => {}
            }
        }
        self.settles(who, &possible)
    }

    /// It is started again. Gives the answer to what its predecessor had not read, if there was anything.
    fn reborn(&mut self, who: usize, count: &Count) -> Result<Option<Answer>> {
        count.killed.fetch_add(1, Ordering::Relaxed);
        let party = &mut self.parties[who];
        party.actor.await_ready(PATIENCE)?;
        (party.undo, party.attached) = ([0; SEMS], None);
        let (mut late, mut answer) = (None, party.ask("pid")?);
        loop {
            match answer.as_ref().map(|words| words[0].parse::<i32>()) {
                Ok(Ok(pid)) if pid > 0 => {
                    party.pid = pid;
                    return Ok(late);
                }
                _ => late = Some(answer),
            }
            answer = party.actor.answer_within(PATIENCE)?;
        }
    }

    /// The values must become one of these.
    fn settles(&mut self, who: usize, possible: &[[i64; SEMS]]) -> Result<()> {
        let set = self.ids[0];
        let until = Instant::now() + PATIENCE;
        loop {
            let mut values = [0; SEMS];
            for (number, value) in values.iter_mut().enumerate() {
                *value = self.parties[who].number(&format!("semval {set} {number}"))?;
            }
            if possible.contains(&values) {
                self.values = values;
                return Ok(());
            }
            ensure!(
                Instant::now() < until,
                "{} was killed; the values are {values:?} where the model says {possible:?}",
                self.parties[who].name
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// News of a death takes a moment to arrive.
    fn eventually(&mut self, who: usize, command: &str, answer: &[String]) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let found = self.parties[who].ask(command)?;
            if found.as_deref() == Ok(answer) {
                return Ok(());
            }
            let name = &self.parties[who].name;
            ensure!(
                Instant::now() < until,
                "{name}: {command:?} still gives {found:?} where the model says {answer:?}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
