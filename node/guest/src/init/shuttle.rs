//! Carries the program's streams, signals and end between its pipes and the stream to the host, until it ended.
//!
//! Output is read from the pipes only as far as the host has granted, so a host that reads slowly stops the program in
//! its `write`, as a pipe would. Input beyond what the program's pipe takes is held here, one window at most. After the
//! program ended, what its pipes hold at that moment still goes out; descendants that keep them open are not waited for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::line::Line;
use super::program::Program;
use super::reaper::Reaper;
use super::services::{self, Running};
use crate::frame::{Channel, Message, Outcome, WINDOW};

/// Output travels in pieces of this size.
const PIECE: usize = 16 << 10;
/// What a pipe holds at most, unless somebody made it larger.
const PIPE: usize = 64 << 10;

#[derive(Debug)]
struct Output {
    pipe: Option<OwnedFd>,
    credit: usize,
    /// What may still be read after the program ended.
    rest: usize,
}

#[derive(Debug, Default)]
struct Input {
    pipe: Option<OwnedFd>,
    held: Vec<u8>,
    ended: bool,
    taken: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Line,
    Dead,
    Input,
    Output(Channel),
}

pub(super) struct Shuttle<'a> {
    line: &'a mut Line,
    reaper: Reaper,
    services: Vec<Running>,
    program: Option<Pid>,
    outcome: Option<Outcome>,
    input: Input,
    outputs: [Output; 2],
    host_gone: bool,
}

impl<'a> Shuttle<'a> {
    pub(super) fn new(
        line: &'a mut Line,
        reaper: Reaper,
        program: Program,
        services: Vec<Running>,
    ) -> anyhow::Result<Self> {
        let output = |pipe| Output {
            pipe,
            credit: WINDOW,
            rest: PIPE,
        };
        let (program, outcome, stdin, [stdout, stderr]) = match program {
            Program::Running { pid, stdin, outputs } => (Some(pid), None, Some(stdin), outputs.map(Some)),
            Program::Missing(outcome) => (None, Some(outcome), None, [None, None]),
        };
        if let Some(stdin) = &stdin {
            rustix::io::ioctl_fionbio(stdin, true).context("the program's standard input")?;
        }
        let input = Input {
            pipe: stdin,
            ..Input::default()
        };
        let outputs = [output(stdout), output(stderr)];
        Ok(Self {
            line,
            reaper,
            services,
            program,
            outcome,
            input,
            outputs,
            host_gone: false,
        })
    }

    /// Until the program ended, its output and its status are with the host, and nothing else runs.
    pub(super) fn run(mut self) -> anyhow::Result<()> {
        if self.program.is_some() {
            self.line.say(&Message::Running)?;
        }
        while !self.is_done() {
            self.turn()?;
        }
        self.kill_all_but_services();
        services::end_all(self.services);
        rustix::fs::sync();
        if let (Some(outcome), false) = (self.outcome, self.host_gone) {
            self.line.say(&Message::Ended(outcome))?;
            self.line.drain();
            // The host has everything when it says goodbye; its end of the stream closing means the same.
            while !matches!(self.line.hear(), Ok(Some(Message::Goodbye) | None) | Err(_)) {}
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.host_gone || (self.outcome.is_some() && self.outputs.iter().all(|output| output.pipe.is_none()))
    }

    fn turn(&mut self) -> anyhow::Result<()> {
        for source in self.wait()? {
            match source {
                Source::Line => self.listen()?,
                Source::Dead => self.bury()?,
                Source::Input => self.feed()?,
                Source::Output(channel) => self.pass_on(channel)?,
            }
        }
        if self.outcome.is_some() {
            self.close_what_is_empty();
        }
        Ok(())
    }

    fn wait(&self) -> io::Result<Vec<Source>> {
        let mut watched: Vec<(Source, BorrowedFd<'_>, PollFlags)> = vec![
            (Source::Line, self.line.as_fd(), PollFlags::IN),
            (Source::Dead, self.reaper.as_fd(), PollFlags::IN),
        ];
        if let (Some(pipe), false) = (&self.input.pipe, self.input.held.is_empty()) {
            watched.push((Source::Input, pipe.as_fd(), PollFlags::OUT));
        }
        for channel in Channel::ALL {
            let output = &self.outputs[channel.index()];
            if let (Some(pipe), 1..) = (&output.pipe, output.credit) {
                watched.push((Source::Output(channel), pipe.as_fd(), PollFlags::IN));
            }
        }
        let mut polled: Vec<_> = watched
            .iter()
            .map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags))
            .collect();
        match poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let ready = polled
            .iter()
            .zip(&watched)
            .filter(|(polled, _)| !polled.revents().is_empty());
        Ok(ready.map(|(_, (source, _, _))| *source).collect())
    }

    fn listen(&mut self) -> anyhow::Result<()> {
        self.host_gone = !self.line.fill()?;
        while let Some(message) = self.line.next()? {
            match message {
                Message::Input(bytes) => self.take_input(&bytes)?,
                Message::InputEnd => {
                    self.input.ended = true;
                    self.feed()?;
                }
                Message::OutputTaken(channel, n) => {
                    let output = &mut self.outputs[channel.index()];
                    output.credit = output.credit.saturating_add(n as usize).min(WINDOW);
                }
                // The program's next write gets SIGPIPE, as it would without a guest in between.
                Message::OutputClosed(channel) => self.outputs[channel.index()].pipe = None,
                Message::Signal(number) => {
                    self.signal(number);
                    self.line.say(&Message::SignalTaken)?;
                }
                other => anyhow::bail!("the host said {other:?} while the program ran"),
            }
        }
        Ok(())
    }

    fn take_input(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        if self.input.pipe.is_some() {
            self.input.held.extend_from_slice(bytes);
            return self.feed();
        }
        Ok(())
    }

    /// Writes what the program's pipe takes, and gives credit for it.
    fn feed(&mut self) -> anyhow::Result<()> {
        let Some(pipe) = &self.input.pipe else {
            return Ok(());
        };
        if !self.input.held.is_empty() {
            match rustix::io::write(pipe, &self.input.held) {
                Ok(n) => {
                    self.input.held.drain(..n);
                    self.input.taken += n;
                }
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(_) => {
                    self.input = Input::default();
                    self.line.say(&Message::InputClosed)?;
                    return Ok(());
                }
            }
        }
        if self.input.held.is_empty() && self.input.ended {
            self.input.pipe = None;
        } else if self.input.taken >= WINDOW / 4 || (self.input.held.is_empty() && self.input.taken > 0) {
            let taken = u32::try_from(std::mem::take(&mut self.input.taken)).unwrap_or(u32::MAX);
            self.line.say(&Message::InputTaken(taken))?;
        }
        Ok(())
    }

    fn pass_on(&mut self, channel: Channel) -> anyhow::Result<()> {
        let output = &mut self.outputs[channel.index()];
        let Some(pipe) = &output.pipe else { return Ok(()) };
        let most = if self.outcome.is_some() {
            output.credit.min(output.rest)
        } else {
            output.credit
        };
        let mut piece = vec![0_u8; PIECE.min(most)];
        match rustix::io::read(pipe, &mut piece) {
            Ok(n @ 1..) => {
                output.credit -= n;
                if self.outcome.is_some() {
                    output.rest -= n;
                }
                piece.truncate(n);
                self.line.say(&Message::Output(channel, piece))?;
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Ok(_) | Err(_) => output.pipe = None,
        }
        Ok(())
    }

    /// After the program ended: an output that has nothing more to say, or has said as much as a pipe holds, is over.
    fn close_what_is_empty(&mut self) {
        for output in &mut self.outputs {
            let Some(pipe) = &output.pipe else { continue };
            let mut polled = [PollFd::new(pipe, PollFlags::IN)];
            let empty = poll(&mut polled, Some(&Timespec::default())).is_ok_and(|n| n == 0);
            if empty || output.rest == 0 {
                output.pipe = None;
            }
        }
    }

    fn bury(&mut self) -> anyhow::Result<()> {
        for (pid, outcome) in self.reaper.take() {
            if self.program == Some(pid) {
                self.program = None;
                self.outcome = Some(outcome);
                self.input = Input::default();
            } else if let Some(said) = services::obituary(&mut self.services, pid, outcome) {
                self.line.say(&Message::Note(said))?;
            }
        }
        Ok(())
    }

    /// SIGINT and SIGHUP reach the program's whole group, as from a terminal; others the program alone.
    fn signal(&self, number: u8) {
        let (Some(pid), Some(signal)) = (self.program, Signal::from_named_raw(i32::from(number))) else {
            return;
        };
        let _ = match signal {
            Signal::INT | Signal::HUP => kill_process_group(pid, signal),
            _ => kill_process(pid, signal),
        };
    }

    fn kill_all_but_services(&self) {
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some((pid, group)) = process(&entry.path()) else {
                continue;
            };
            if !pid.is_init() && !self.services.iter().any(|service| service.pid == group) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// A process's number and its group's, from its folder in `/proc`; `None` for threads of the kernel, which have no group.
fn process(folder: &std::path::Path) -> Option<(Pid, Pid)> {
    let pid: i32 = folder.file_name()?.to_str()?.parse().ok()?;
    let stat = std::fs::read_to_string(folder.join("stat")).ok()?;
    // pid (name) state ppid pgrp: the name may hold anything, so count from the last parenthesis.
    let group: i32 = stat.rsplit(')').next()?.split_whitespace().nth(2)?.parse().ok()?;
    Some((Pid::from_raw(pid)?, Pid::from_raw(group)?))
}
