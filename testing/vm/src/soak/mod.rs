//! The soak: everything at once for a long time, with random kills, and nothing may be lost or left over.
//!
//! | module | what it holds |
//! |---|---|
//! | [`model`] | random operations whose every result is compared with a model's |
//! | [`stress`] | stress-ng in local domains |
//! | [`parties`] | who plays where: local domains, guests whose front-ends are killed |
//! | [`used`] | what the daemon uses, and what must be back at the end |
//!
//! Killed with SIGKILL at random: processes of stress-ng, the models' actors (idle and in the middle of an operation), guests' front-ends, the back-end.

mod dice;
pub mod model;
pub mod parties;
pub mod stress;
mod used;

use crate::machine::{Machine, missing, program, signal, uml_available};
use anyhow::{Context, Result, bail};
use dice::Dice;
use model::{Count, Model};
use parties::Guest;
use rustix::process::Signal;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use stress::Stress;
use used::Used;

/// Between two deaths of the back-end: it is given up when it dies again and again within seconds.
const BETWEEN_DEATHS: Duration = Duration::from_secs(6);
/// What is long enough for all stressors in guests.
const LONG: Duration = Duration::from_secs(180);
/// The domain whose processes are killed.
const VICTIMS: &str = "victims";

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How long to go on.
    pub length: Duration,
    /// Where random numbers begin.
    pub seed: u64,
    /// Whether two guests take part.
    pub guests: bool,
    /// Whether the daemon is in a process group of its own, so that Ctrl-C is the soak's alone.
    pub apart: bool,
}

/// What was done.
#[derive(Debug, Default)]
pub struct Report {
    /// Results compared with a model's.
    pub checked: u64,
    /// Processes killed, front-ends and back-ends among them.
    pub actors: u64,
    /// Processes of stress-ng killed.
    pub stressors: u64,
    /// Front-ends killed.
    pub front_ends: u64,
    /// Back-ends killed.
    pub back_ends: u64,
    /// What the daemon used at first and at the end.
    pub memory: String,
}

/// Runs it. `tell` gets a line of progress now and then. `stop` ends it early, as cleanly as at its end.
pub fn soak(options: Options, stop: &'static AtomicBool, tell: &mut dyn FnMut(&str)) -> Result<Report> {
    let mut command = Command::new(program());
    if options.apart {
        command.process_group(0);
    }
    let mut machine = Machine::started_by(command, "")?;
    let mut soak = Soak::start(&machine, options)?;
    let until = Instant::now() + options.length;
    let result = soak.until(&machine, until, stop, tell);
    let ended = soak.finish(&machine, tell);
    let report = match (result, ended) {
        (Ok(()), ended) => ended?,
        (Err(first), Ok(_)) => return Err(first),
        (Err(first), Err(then)) => bail!("{first:#}; then {then:#}"),
    };
    let status = machine.stop()?;
    anyhow::ensure!(status.success(), "the daemon ended with {status}");
    Ok(report)
}

struct Soak {
    at_first: Used,
    dice: Dice,
    steady: Vec<Stress>,
    victim: Option<Stress>,
    victims: usize,
    models: Vec<JoinHandle<Result<()>>>,
    guests: Vec<Guest>,
    began: Instant,
    daemon_died: Instant,
    report: Report,
}

static COUNT: Count = Count {
    checked: std::sync::atomic::AtomicU64::new(0),
    killed: std::sync::atomic::AtomicU64::new(0),
};
/// The models are to end.
static ENOUGH: AtomicBool = AtomicBool::new(false);

impl Soak {
    fn start(machine: &Machine, options: Options) -> Result<Soak> {
        let guests = options.guests && uml_available();
        if options.guests && !guests {
            missing("the soak's guests", "linux.uml is not installed");
        }
        let stressed = stress::available();
        if !stressed {
            missing("the soak's stressors", "stress-ng is not installed");
        }
        let at_first = Used::now(machine)?;
        let mut soak = Soak {
            at_first,
            dice: Dice::new(options.seed),
            steady: Vec::new(),
            victim: None,
            victims: 0,
            models: Vec::new(),
            guests: Vec::new(),
            began: Instant::now(),
            daemon_died: Instant::now(),
            report: Report::default(),
        };
        let play = |parties, seed| -> Result<JoinHandle<Result<()>>> {
            let model = Model::new(parties, seed)?;
            Ok(std::thread::spawn(move || model.play(&ENOUGH, &COUNT)))
        };
        let here = parties::local(machine, &["host", "a", "b"])?;
        soak.models.push(play(here, options.seed)?);
        if guests {
            let mut across = parties::local(machine, &["host"])?;
            // In a guest it takes the queues' stressor minutes to make a thousand of them.
            let all: &[&str] = if options.length < LONG {
                &stress::BRIEF
            } else {
                &stress::STRESS
            };
            let stressors = stressed.then_some(all);
            for name in ["u1", "u2"] {
                let (guest, party) = Guest::start(machine, name, stressors)?;
                soak.guests.push(guest);
                across.push(party);
            }
            soak.models.push(play(across, options.seed + 1)?);
        }
        if stressed {
            for domain in ["a", "b"] {
                soak.steady.push(Stress::start(machine, domain, 0)?);
            }
        }
        Ok(soak)
    }

    fn until(
        &mut self,
        machine: &Machine,
        until: Instant,
        stop: &AtomicBool,
        tell: &mut dyn FnMut(&str),
    ) -> Result<()> {
        let mut told = Instant::now();
        while Instant::now() < until && !stop.load(Ordering::Relaxed) {
            let pause = 1000 + self.dice.below(2500) as u64;
            let next = Instant::now() + Duration::from_millis(pause);
            while Instant::now() < next.min(until) && !stop.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(50));
            }
            if self.models.iter().any(JoinHandle::is_finished) {
                bail!("a model ended early");
            }
            self.kill_somebody(machine)?;
            if told.elapsed() > Duration::from_secs(5) {
                told = Instant::now();
                tell(&self.progress(until));
            }
        }
        Ok(())
    }

    fn progress(&self, until: Instant) -> String {
        let left = until.saturating_duration_since(Instant::now()).as_secs();
        format!(
            "{} s, {left} s left: {} results checked; killed: {} actors, {} stressors, {} back-ends",
            self.began.elapsed().as_secs(),
            COUNT.checked.load(Ordering::Relaxed),
            COUNT.killed.load(Ordering::Relaxed),
            self.report.stressors,
            self.report.back_ends
        )
    }

    fn kill_somebody(&mut self, machine: &Machine) -> Result<()> {
        if self.dice.below(3) == 0 && self.daemon_died.elapsed() > BETWEEN_DEATHS {
            self.daemon_died = Instant::now();
            signal(machine.daemon_pid()?, Signal::KILL).context("killing the back-end")?;
            self.report.back_ends += 1;
            return Ok(());
        }
        if !stress::available() {
            return Ok(());
        }
        if let Some(victim) = &mut self.victim
            && victim.has_ended()?
        {
            self.victim = None;
            used::take_away_of(machine, VICTIMS)?;
        }
        let Some(victim) = &self.victim else {
            self.victims += 1;
            self.victim = Some(Stress::start(machine, VICTIMS, self.victims)?);
            return Ok(());
        };
        let all = victim.processes();
        if let Some(&pid) = all.get(self.dice.below(all.len())) {
            // It may have ended by itself meanwhile.
            if signal(pid, Signal::KILL).is_ok() {
                self.report.stressors += 1;
            }
        }
        Ok(())
    }

    /// Ends everybody and looks at what is left.
    fn finish(mut self, machine: &Machine, tell: &mut dyn FnMut(&str)) -> Result<Report> {
        tell("ending");
        ENOUGH.store(true, Ordering::Relaxed);
        let mut first = None;
        for model in std::mem::take(&mut self.models) {
            let ended = match model.join() {
                Ok(result) => result,
                Err(_) => Err(anyhow::anyhow!("a model panicked")),
            };
            if let Err(error) = ended {
                first.get_or_insert(error);
            }
        }
        let guests: Vec<String> = self.guests.iter().map(|g| g.name.clone()).collect();
        for guest in std::mem::take(&mut self.guests) {
            match guest.finish() {
                Ok(killed) => self.report.front_ends += killed,
                Err(error) => {
                    first.get_or_insert(error);
                }
            }
        }
        for stress in std::mem::take(&mut self.steady) {
            if let Err(error) = stress.finish() {
                first.get_or_insert(error);
            }
        }
        drop(self.victim.take());
        if let Some(error) = first {
            return Err(error);
        }
        used::nothing_left(machine, VICTIMS, &guests)?;
        self.report.memory = Used::is_back(machine, &self.at_first)?;
        self.report.checked = COUNT.checked.load(Ordering::Relaxed);
        self.report.actors = COUNT.killed.load(Ordering::Relaxed);
        Ok(self.report)
    }
}
