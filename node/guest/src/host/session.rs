//! One guest from its start to its end: a single loop over the machine, its stream, its console, the program's streams,
//! the user's signals and two clocks. It blocks nowhere but in `poll`.
//!
//! | phase | ends by |
//! |---|---|
//! | booting | `Running` from the guest; the boot time-out; any signal of the user |
//! | running | `Ended` from the guest; the run time-out; the user's second SIGINT or SIGTERM |
//! | leaving | the machine is over and all output is written; a few seconds after which the machine is stopped; the user's second SIGINT or SIGTERM |
//!
//! A machine that ends too early, or says what it must not, is an error; the machine is stopped on every way out.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use vshmem_port::boot::Machine;

use super::console::Console;
use super::signals::Signals;
use super::sink::Sink;
use super::{RunError, Streams};
use crate::frame::{Channel, Decoder, Message, Outcome, Start, VERSION, WINDOW};

/// How long the guest may take to power off after the program ended.
const LEAVING: Duration = Duration::from_secs(5);
/// How long the guest may take to pass a signal to the program.
const ANSWER: Duration = Duration::from_secs(10);
/// Standard input is read in pieces of this size.
const PIECE: usize = 16 << 10;

/// The two clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) boot: Duration,
    pub(super) run: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Booting,
    Running,
    Leaving(Outcome),
}

/// The program's standard input.
#[derive(Debug)]
struct Input {
    fd: Option<OwnedFd>,
    credit: usize,
}

/// What became ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Machine,
    StreamIn,
    StreamOut,
    Console,
    Input,
    Sink(Channel),
    Signal,
}

pub(super) struct Session {
    domain: String,
    machine: Box<dyn Machine>,
    stream: Option<OwnedFd>,
    queue: Vec<u8>,
    /// Sent, and not confirmed by the guest to have been read.
    on_the_way: usize,
    decoder: Decoder,
    console: Console,
    input: Input,
    sinks: [Sink; 2],
    signals: Signals,
    interrupts: u32,
    /// When the guest must have passed on the signal that it was given.
    answer_by: Option<Instant>,
    limits: Limits,
    phase: Phase,
    deadline: Option<Instant>,
    machine_over: bool,
}

impl Session {
    pub(super) fn new(
        domain: String,
        machine: Box<dyn Machine>,
        stream: OwnedFd,
        console: OwnedFd,
        streams: Streams,
        signals: Signals,
        limits: Limits,
    ) -> Self {
        Self {
            domain,
            machine,
            stream: Some(stream),
            queue: Vec::new(),
            on_the_way: 0,
            decoder: Decoder::default(),
            console: Console::new(console),
            input: Input {
                fd: streams.stdin,
                credit: WINDOW,
            },
            sinks: [Sink::new(streams.stdout), Sink::new(streams.stderr)],
            signals,
            interrupts: 0,
            answer_by: None,
            limits,
            phase: Phase::Booting,
            deadline: Instant::now().checked_add(limits.boot),
            machine_over: false,
        }
    }

    /// Carries everything until the machine is over.
    pub(super) fn run(mut self, start: Start) -> Result<Outcome, RunError> {
        let mut start = Some(start);
        let end = loop {
            match self.turn(&mut start) {
                Ok(None) => {}
                Ok(Some(outcome)) => break Ok(outcome),
                Err(error) => break Err(error),
            }
        };
        self.machine.stop();
        end
    }

    fn turn(&mut self, start: &mut Option<Start>) -> Result<Option<Outcome>, RunError> {
        let ready = self.wait()?;
        for source in ready {
            match source {
                Source::Machine => self.machine_ended(),
                Source::StreamIn => self.receive(start)?,
                Source::StreamOut => self.send(),
                Source::Console => self.console.take(),
                Source::Input => self.read_input(),
                Source::Sink(channel) => self.write_output(channel),
                Source::Signal => self.forward_signals()?,
            }
        }
        self.check_end()
    }

    /// Whether to go on, after everything that was ready has been served.
    fn check_end(&mut self) -> Result<Option<Outcome>, RunError> {
        let late = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if let Phase::Leaving(outcome) = self.phase {
            if late {
                self.machine_ended();
            }
            let written = self.sinks.iter().all(|sink| sink.pending() == 0);
            return Ok((self.machine_over && written).then_some(outcome));
        }
        if self.machine_over && self.stream.is_none() {
            // Everything it said before it ended has been read.
            while self.console_readable() {
                self.console.take();
            }
            return Err(RunError::Died {
                domain: self.domain.clone(),
                console: self.console.tail(),
            });
        }
        if self.answer_by.is_some_and(|by| Instant::now() >= by) {
            let (domain, console) = (self.domain.clone(), self.console.tail());
            return Err(RunError::Silent {
                domain,
                seconds: ANSWER.as_secs_f64(),
                console,
            });
        }
        if late {
            let (domain, console) = (self.domain.clone(), self.console.tail());
            return Err(match (self.phase, self.limits.run) {
                (Phase::Running, Some(limit)) => RunError::Timeout {
                    domain,
                    seconds: limit.as_secs_f64(),
                    console,
                },
                _ => RunError::BootTimeout {
                    domain,
                    seconds: self.limits.boot.as_secs_f64(),
                    console,
                },
            });
        }
        Ok(None)
    }

    /// Ends what is left of the machine, too: a helper that survived would keep the stream open.
    fn machine_ended(&mut self) {
        self.machine.stop();
        self.machine_over = true;
        if matches!(self.phase, Phase::Leaving(_)) {
            self.deadline = None;
        }
    }

    fn wait(&self) -> Result<Vec<Source>, RunError> {
        let mut watched: Vec<(Source, BorrowedFd<'_>, PollFlags)> = Vec::with_capacity(12);
        if !self.machine_over {
            watched.push((Source::Machine, self.machine.over(), PollFlags::IN));
        }
        if let Some(stream) = &self.stream {
            watched.push((Source::StreamIn, stream.as_fd(), PollFlags::IN));
            if !self.queue.is_empty() && self.burst() > 0 {
                watched.push((Source::StreamOut, stream.as_fd(), PollFlags::OUT));
            }
        }
        if let Some(console) = &self.console.fd {
            watched.push((Source::Console, console.as_fd(), PollFlags::IN));
        }
        if let (Some(input), 1.., Phase::Running) = (&self.input.fd, self.input.credit, self.phase) {
            watched.push((Source::Input, input.as_fd(), PollFlags::IN));
        }
        for channel in Channel::ALL {
            let sink = &self.sinks[channel.index()];
            if let (Some(fd), 1..) = (&sink.fd, sink.pending()) {
                watched.push((Source::Sink(channel), fd.as_fd(), PollFlags::OUT));
            }
        }
        watched.extend(
            self.signals
                .descriptors()
                .map(|fd| (Source::Signal, fd, PollFlags::IN)),
        );
        let mut polled: Vec<_> = watched
            .iter()
            .map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags))
            .collect();
        let next = [self.deadline, self.answer_by].into_iter().flatten().min();
        let left = next.map(|next| next.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut polled, left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(RunError::Host(format!("waiting for guest {}: {e}", self.domain))),
        }
        let ready = polled
            .iter()
            .zip(&watched)
            .filter(|(polled, _)| !polled.revents().is_empty());
        Ok(ready.map(|(_, (source, _, _))| *source).collect())
    }

    fn console_readable(&self) -> bool {
        let Some(fd) = &self.console.fd else { return false };
        let mut polled = [PollFd::new(fd, PollFlags::IN)];
        poll(&mut polled, Some(&Timespec::default())).is_ok_and(|n| n > 0)
    }

    fn receive(&mut self, start: &mut Option<Start>) -> Result<(), RunError> {
        let Some(stream) = &self.stream else { return Ok(()) };
        let mut piece = [0_u8; 32 << 10];
        let got = rustix::net::recv(stream, &mut piece, RecvFlags::DONTWAIT).map(|(n, _)| n);
        match got {
            Ok(0) => self.stream = None,
            Ok(n) => self.decoder.push(&piece[..n]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => self.stream = None,
        }
        loop {
            match self.decoder.next() {
                Ok(None) => return Ok(()),
                Ok(Some(message)) => self.hear(message, start)?,
                Err(e) => return Err(self.nonsense(&e.to_string())),
            }
        }
    }

    fn hear(&mut self, message: Message, start: &mut Option<Start>) -> Result<(), RunError> {
        match (message, self.phase) {
            (Message::Hello(VERSION), Phase::Booting) => {
                let start = start.take().ok_or_else(|| self.nonsense("it booted twice"))?;
                self.machine.booted();
                self.say(&Message::Start(Box::new(start)));
            }
            (Message::Hello(other), _) => {
                return Err(self.nonsense(&format!(
                    "its first process speaks version {other}, not {VERSION}"
                )));
            }
            (Message::Running, Phase::Booting) => {
                self.phase = Phase::Running;
                self.deadline = self
                    .limits
                    .run
                    .and_then(|limit| Instant::now().checked_add(limit));
                if self.input.fd.is_none() {
                    self.say(&Message::InputEnd);
                }
            }
            (Message::Output(channel, bytes), Phase::Booting | Phase::Running) => {
                if self.sinks[channel.index()].pending() + bytes.len() > WINDOW {
                    return Err(self.nonsense("it sent more output than it was granted"));
                }
                self.sinks[channel.index()].push(&bytes);
                self.grant(channel);
            }
            (Message::Heard(n), _) => {
                self.on_the_way = self.on_the_way.saturating_sub(n as usize);
                self.send();
            }
            (Message::SignalTaken, _) => self.answer_by = None,
            (Message::InputTaken(n), Phase::Running) => {
                self.input.credit = self.input.credit.saturating_add(n as usize).min(WINDOW);
            }
            (Message::InputClosed, Phase::Running) => self.input.fd = None,
            (Message::Ended(outcome), Phase::Booting | Phase::Running) => {
                self.phase = Phase::Leaving(outcome);
                self.answer_by = None;
                self.deadline = Instant::now().checked_add(LEAVING);
                self.say(&Message::Goodbye);
            }
            (Message::Failed(said), Phase::Booting | Phase::Running) => {
                let (domain, console) = (self.domain.clone(), self.console.tail());
                return Err(RunError::Prepare {
                    domain,
                    said,
                    console,
                });
            }
            (Message::Note(said), _) => {
                let clean: String = said.chars().filter(|c| !c.is_control()).take(500).collect();
                tracing::warn!("guest {}: {clean}", self.domain);
            }
            (Message::InputTaken(_) | Message::InputClosed, Phase::Leaving(_)) => {}
            (other, phase) => {
                let kind = format!("{other:?}");
                let kind = kind.split('(').next().unwrap_or_default();
                return Err(self.nonsense(&format!("it said {kind} while {phase:?}")));
            }
        }
        Ok(())
    }

    fn nonsense(&mut self, said: &str) -> RunError {
        RunError::Nonsense {
            domain: self.domain.clone(),
            said: said.to_owned(),
            console: self.console.tail(),
        }
    }

    /// Queues a message and sends what the stream takes now.
    fn say(&mut self, message: &Message) {
        message.encode(&mut self.queue);
        self.send();
    }

    /// Bytes that the stream may take now.
    fn burst(&self) -> usize {
        self.machine
            .burst()
            .saturating_sub(self.on_the_way)
            .min(self.queue.len())
    }

    fn send(&mut self) {
        let burst = self.burst();
        let Some(stream) = &self.stream else {
            self.queue.clear();
            return;
        };
        match rustix::net::send(
            stream,
            &self.queue[..burst],
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
        ) {
            Ok(n) => {
                self.queue.drain(..n);
                self.on_the_way += n;
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            // The machine is going; what it said last is still to be read.
            Err(_) => self.queue.clear(),
        }
    }

    fn read_input(&mut self) {
        let Some(fd) = &self.input.fd else { return };
        let mut piece = vec![0_u8; PIECE.min(self.input.credit)];
        match rustix::io::read(fd, &mut piece) {
            Ok(n @ 1..) => {
                piece.truncate(n);
                self.input.credit -= n;
                self.say(&Message::Input(piece));
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Ok(_) | Err(_) => {
                self.input.fd = None;
                self.say(&Message::InputEnd);
            }
        }
    }

    fn write_output(&mut self, channel: Channel) {
        if self.sinks[channel.index()].flush() {
            self.say(&Message::OutputClosed(channel));
        }
        self.grant(channel);
    }

    fn grant(&mut self, channel: Channel) {
        if let Some(credit) = self.sinks[channel.index()].credit() {
            self.say(&Message::OutputTaken(channel, credit));
        }
    }

    fn forward_signals(&mut self) -> Result<(), RunError> {
        for signal in self.signals.take() {
            let ends = signal != 1;
            self.interrupts += u32::from(ends);
            // Also while it leaves: somebody may have to be told twice that nobody reads the rest of the output.
            if self.phase == Phase::Booting || (ends && self.interrupts > 1) {
                return Err(RunError::Interrupted {
                    domain: self.domain.clone(),
                    signal,
                });
            }
            if let Phase::Leaving(_) = self.phase {
                continue;
            }
            self.say(&Message::Signal(signal));
            self.answer_by = self.answer_by.or_else(|| Instant::now().checked_add(ANSWER));
        }
        Ok(())
    }
}
