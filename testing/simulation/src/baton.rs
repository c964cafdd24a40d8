//! Who runs, who sleeps, who dies.
//!
//! One thread holds the baton. It gives it on only in [`Sim::step`] and where it waits, to a thread that the seed chooses; everything shared is behind one mutex that
//! is never held across that. A thread that is doomed unwinds as soon as it holds the baton again, and makes no access before: for the others it is dead from the
//! moment of its doom.

use crate::Report;
use crate::backend::Disk;
use crate::ledger::Ledger;
use crate::rng::Rng;
use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::resume_unwind;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use vshmem_ipc::{Sleeper, Slept};
use vshmem_registry::Done;
use vshmem_wire::{Credentials, Failure, Request};
use vshmem_words::{Heap, Ordering, Words};

/// Bytes of the pool.
pub(crate) const POOL: usize = 4 << 20;
/// The back-end's thread.
pub(crate) const BACKEND: usize = 0;
/// A run that has not ended by then never will.
const STEPS: u64 = 4_000_000;
/// One step in so many gives the baton on.
const SWITCH: usize = 6;
/// One step in so many is somebody's last; the seed says which.
const DEATH: [usize; 2] = [400, 1500];

/// Why a thread unwinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doom {
    /// Its process is killed.
    Die,
    /// Its process execs.
    Exec,
    /// Its domain goes down.
    Down,
    /// The back-end is killed.
    Crash,
    /// Something did not hold: the run is over.
    Stop,
}

/// What a thread waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Ready,
    /// The back-end has nothing to do.
    Idle,
    /// A process waits for an answer.
    Awaiting(u64),
    /// A process sleeps in a construct.
    Sleeping {
        serial: u64,
        /// Offset of the watched word in the construct, and in the pool.
        at: usize,
        place: usize,
        expected: u32,
        space: u16,
    },
    Done,
}

/// What is said to the back-end.
#[derive(Debug, Clone)]
pub(crate) enum What {
    Up(&'static str),
    Down(&'static str),
    /// The child of a fork says which.
    Connect(&'static str, Credentials, Option<u64>),
    /// A client is about to fork.
    Fork(u32, u64),
    /// The child of that domain's fork ended before it connected.
    Abandoned(&'static str, u64),
    Request(u32, u64, Request),
    /// A process of that domain and pid died, or was replaced by exec.
    Gone(&'static str, u32, bool),
}

/// A letter to the back-end.
#[derive(Debug, Clone)]
pub(crate) struct Mail {
    ticket: u64,
    from: usize,
    pub(crate) what: What,
}

pub(crate) type Answer = Result<Done, Failure>;

/// What a thread for processes is at.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    /// Its process's image runs.
    pub(crate) alive: bool,
    /// The constructs it maps.
    pub(crate) maps: BTreeSet<u64>,
    /// Its process.
    pub(crate) pid: u32,
    /// The fork it comes from, until it has connected.
    pub(crate) fork: Option<u64>,
    /// The queue it is receiving from.
    pub(crate) receiving: Option<u64>,
}

/// Everything shared.
pub(crate) struct State {
    pub(crate) rng: Rng,
    turn: usize,
    status: Vec<Status>,
    doom: Vec<Option<Doom>>,
    woke: Vec<Slept>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) mail: VecDeque<Mail>,
    answers: BTreeMap<u64, Answer>,
    tickets: u64,
    pub(crate) seconds: u64,
    pub(crate) failed: Option<String>,
    pub(crate) report: Report,
    pub(crate) disk: Disk,
    pub(crate) ledger: Ledger,
    pub(crate) pids: u32,
    death: usize,
}

/// A simulation.
pub(crate) struct Sim {
    state: Mutex<State>,
    turns: Vec<Condvar>,
    pub(crate) pool: Heap,
    /// `VSHMEM_SIM_TRACE`: say what happens.
    traced: bool,
}

/// The domain of a thread's processes.
pub(crate) fn home(thread: usize) -> &'static str {
    ["host", "a", "b"][thread % 3]
}

/// What a doomed thread unwinds with.
pub(crate) struct Doomed(pub(crate) Doom);

/// What a panic says.
pub(crate) fn said(payload: Box<dyn Any + Send>) -> String {
    match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => payload
            .downcast::<&str>()
            .map_or("a panic".into(), |text| text.to_string()),
    }
}

impl Sim {
    pub(crate) fn new(seed: u64, processes: usize) -> Self {
        let threads = processes + 1;
        let mut rng = Rng::new(seed);
        Sim {
            state: Mutex::new(State {
                turn: usize::MAX,
                status: vec![Status::Ready; threads],
                doom: vec![None; threads],
                woke: vec![Slept::Look; threads],
                slots: (0..threads).map(|_| Slot::default()).collect(),
                mail: VecDeque::new(),
                answers: BTreeMap::new(),
                tickets: 0,
                seconds: 1_000_000,
                failed: None,
                report: Report::default(),
                disk: Disk::new(&mut rng),
                ledger: Ledger::default(),
                pids: 100,
                death: DEATH[rng.below(2)],
                rng,
            }),
            turns: (0..threads).map(|_| Condvar::new()).collect(),
            pool: Heap::new(POOL),
            traced: std::env::var_os("VSHMEM_SIM_TRACE").is_some(),
        }
    }

    /// Everything shared. Not to be held across a step.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what happens, if asked to.
    pub(crate) fn trace(&self, me: usize, what: impl FnOnce() -> String) {
        if self.traced {
            let (step, what) = (self.state().report.steps, what());
            eprintln!("{step:>8} {me} {what}");
        }
    }

    /// Says who changes a word that somebody sleeps on, if asked to.
    pub(crate) fn trace_word(&self, thread: Option<usize>, place: usize, value: u32) {
        if !self.traced {
            return;
        }
        let state = self.state();
        let watches = |s: &Status| matches!(s, Status::Sleeping { place: at, .. } if *at == place);
        let sleeper = state.status.iter().position(watches);
        drop(state);
        if let Some(sleeper) = sleeper {
            self.trace(thread.unwrap_or(BACKEND), || {
                format!("{value} into the word that {sleeper} sleeps on")
            });
        }
    }

    /// A random number below `bound`.
    pub(crate) fn below(&self, bound: usize) -> usize {
        self.state().rng.below(bound)
    }

    /// Gives the baton out for the first time.
    pub(crate) fn begin(&self) {
        let mut state = self.state();
        state.turn = BACKEND;
        self.turns[BACKEND].notify_one();
    }

    /// Waits for the first turn.
    pub(crate) fn enter(&self, me: usize) {
        let state = self.state();
        drop(self.await_turn(state, me));
    }

    fn await_turn<'a>(&'a self, mut state: MutexGuard<'a, State>, me: usize) -> MutexGuard<'a, State> {
        while state.turn != me {
            state = self.turns[me].wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state
    }

    /// Before every access: somebody may be doomed, somebody else may run.
    pub(crate) fn step(&self, me: usize) {
        let mut state = self.state();
        state.report.steps += 1;
        if state.report.steps > STEPS {
            state.fail("the run does not end".into());
        }
        let turn = state.turn as u64;
        let print = &mut state.report.fingerprint;
        *print = print.wrapping_mul(31).wrapping_add(turn);
        let death = state.death;
        if state.rng.one_in(death) {
            state.doom_somebody();
        }
        let switch = state.rng.one_in(SWITCH);
        self.go_on(state, me, switch);
    }

    /// Lets another one run, if there is one.
    pub(crate) fn give_way(&self, me: usize) {
        let mut state = self.state();
        state.report.steps += 1;
        if state.report.steps > STEPS {
            state.fail("the run does not end".into());
        }
        self.go_on(state, me, true);
    }

    /// Gives the baton on or not, and comes back with it; unwinds if doomed meanwhile.
    fn go_on<'a>(&'a self, mut state: MutexGuard<'a, State>, me: usize, switch: bool) {
        if switch {
            state = self.hand_over(state, me);
        }
        if let Some(doom) = state.doom[me].take() {
            state.status[me] = Status::Ready;
            drop(state);
            self.trace(me, || format!("{doom:?}"));
            resume_unwind(Box::new(Doomed(doom)));
        }
    }

    fn hand_over<'a>(&'a self, mut state: MutexGuard<'a, State>, me: usize) -> MutexGuard<'a, State> {
        let Some(next) = self.next(&mut state) else {
            return state;
        };
        if next == me {
            return state;
        }
        state.turn = next;
        self.turns[next].notify_one();
        self.await_turn(state, me)
    }

    /// Who runs next. Where all wait, time passes until somebody's time is over.
    fn next(&self, state: &mut State) -> Option<usize> {
        loop {
            let ready: Vec<usize> = state.all(|s| s == Status::Ready);
            if !ready.is_empty() {
                let i = state.rng.below(ready.len());
                return Some(ready[i]);
            }
            if state.status.iter().all(|s| *s == Status::Done) {
                return None;
            }
            if state.all(|s| matches!(s, Status::Sleeping { .. })).is_empty() {
                state.fail(format!("nobody can go on: {:?}", state.status));
                continue;
            }
            self.nobody_runs(state);
        }
    }

    /// All wait: whoever is due a wake-up should have had it.
    fn nobody_runs(&self, state: &mut State) {
        let quiet = state.ledger.check_quiet(self, &state.disk);
        if let Err(wrong) = quiet {
            return state.fail(wrong);
        }
        let sleeping = state.all(|s| matches!(s, Status::Sleeping { .. }));
        let mut due = Vec::new();
        for &thread in &sleeping {
            if let Status::Sleeping {
                serial,
                place,
                expected,
                space,
                ..
            } = state.status[thread]
                && self.pool.load32(place, Ordering::SeqCst) != expected
            {
                if space == 0 {
                    let wrong = format!("thread {thread} sleeps in construct {serial} and nobody woke it");
                    return state.fail(wrong);
                }
                // A guest's front-end looks ten times a second.
                due.push(thread);
            }
        }
        let which = if due.is_empty() { &sleeping } else { &due };
        let slept = if due.is_empty() {
            Slept::TimedOut
        } else {
            Slept::Look
        };
        let thread = which[state.rng.below(which.len())];
        state.woke[thread] = slept;
        state.status[thread] = Status::Ready;
    }

    /// Waits for something; the baton is somebody else's meanwhile.
    pub(crate) fn block(&self, me: usize, status: Status) -> Slept {
        let mut state = self.state();
        state.status[me] = status;
        self.go_on(state, me, true);
        self.state().woke[me]
    }

    /// Wakes whoever watches a word of a construct, or everybody of a guest.
    pub(crate) fn wake(&self, serial: u64, sleeper: Sleeper) {
        let mut state = self.state();
        for thread in 0..state.status.len() {
            if let Status::Sleeping {
                serial: where_,
                at,
                space,
                ..
            } = state.status[thread]
                && space == sleeper.space
                && (space != 0 || (where_ == serial && at == sleeper.at))
            {
                state.woke[thread] = Slept::Look;
                state.status[thread] = Status::Ready;
                if self.traced {
                    eprintln!("{:>8} . wakes {thread}", state.report.steps);
                }
            }
        }
    }

    /// Says something to the back-end without waiting for an answer.
    pub(crate) fn tell(&self, from: usize, what: What) -> u64 {
        let mut state = self.state();
        state.tell(from, what)
    }

    /// Says something to the back-end and waits for the answer.
    pub(crate) fn ask(&self, me: usize, what: What) -> Answer {
        let ticket = self.tell(me, what);
        self.block(me, Status::Awaiting(ticket));
        let answer = self.state().answers.remove(&ticket);
        answer.unwrap_or_else(|| Err(Failure::because(5, "no answer")))
    }

    /// The back-end answers its first letter, which is done with.
    pub(crate) fn answer(&self, answer: Answer) {
        let mut state = self.state();
        let Some(mail) = state.mail.pop_front() else {
            return;
        };
        if state.status[mail.from] == Status::Awaiting(mail.ticket) {
            state.status[mail.from] = Status::Ready;
            state.answers.insert(mail.ticket, answer);
        }
    }

    /// A process thread has no more to do, or the back-end.
    pub(crate) fn leave(&self, me: usize) {
        let mut state = self.state();
        state.status[me] = Status::Done;
        if state.status[1..].iter().all(|s| *s == Status::Done) && state.status[BACKEND] == Status::Idle {
            state.status[BACKEND] = Status::Ready;
        }
        if let Some(next) = self.next(&mut state) {
            state.turn = next;
            self.turns[next].notify_one();
        }
    }

    /// Whether all process threads are done.
    pub(crate) fn all_left(&self) -> bool {
        self.state().status[1..].iter().all(|s| *s == Status::Done)
    }

    /// Ends the run.
    pub(crate) fn fail(&self, wrong: String) {
        self.state().fail(wrong);
    }
}

impl State {
    fn all(&self, which: impl Fn(Status) -> bool) -> Vec<usize> {
        (0..self.status.len())
            .filter(|&t| which(self.status[t]))
            .collect()
    }

    pub(crate) fn fail(&mut self, wrong: String) {
        if self.failed.is_none() {
            self.failed = Some(wrong);
        }
        for thread in 0..self.status.len() {
            if self.status[thread] != Status::Done {
                self.doom[thread] = Some(Doom::Stop);
                self.status[thread] = Status::Ready;
            }
        }
    }

    fn tell(&mut self, from: usize, what: What) -> u64 {
        self.tickets += 1;
        let ticket = self.tickets;
        self.mail.push_back(Mail { ticket, from, what });
        if self.status[BACKEND] == Status::Idle {
            self.status[BACKEND] = Status::Ready;
        }
        ticket
    }

    /// Kills, execs, takes a domain down or crashes the back-end.
    fn doom_somebody(&mut self) {
        if self.failed.is_some() {
            return;
        }
        match self.rng.below(16) {
            0 => {
                let name = ["a", "b"][self.rng.below(2)];
                if self.ledger.up.remove(name) {
                    self.report.downs += 1;
                    for thread in (1..self.slots.len()).filter(|&t| home(t) == name) {
                        self.doom(thread, Doom::Down);
                    }
                    self.tell(BACKEND, What::Down(name));
                }
            }
            1..=4 => {
                if self.status[BACKEND] == Status::Ready {
                    self.doom[BACKEND] = Some(Doom::Crash);
                    self.report.crashes += 1;
                }
            }
            n => {
                let thread = 1 + self.rng.below(self.slots.len() - 1);
                self.doom(thread, if n < 8 { Doom::Exec } else { Doom::Die });
            }
        }
    }

    fn doom(&mut self, thread: usize, doom: Doom) {
        let slot = &mut self.slots[thread];
        if !slot.alive || self.doom[thread].is_some() {
            return;
        }
        slot.alive = false;
        slot.maps.clear();
        if let Some(serial) = slot.receiving.take() {
            self.ledger.queues.entry(serial).or_default().lost_with += 1;
        }
        if doom != Doom::Exec {
            self.ledger.living.remove(&slot.pid);
        }
        self.doom[thread] = Some(doom);
        self.status[thread] = Status::Ready;
        if doom == Doom::Exec {
            self.report.execs += 1;
        } else {
            self.report.deaths += 1;
        }
    }
}
