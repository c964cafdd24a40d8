//! The stream to the back-end: hello, what is under way on it, answers.
//!
//! Whatever was not answered is kept, and sent again after the back-end was restarted; the registry carries nothing out twice.

use super::{Connecting, Domain, Entry, Frontend, Windows};
use crate::backend::{memory_of, set_window};
use crate::clients::Event;
use crate::process::reactor::{Ready, Token};
use crate::process::stream::StreamError;
use anyhow::Context;
use rustix::fd::OwnedFd;
use std::collections::BTreeMap;
use vshmem_wire::pool::{GroupPool, PoolHeader};
use vshmem_wire::request::Welcome;
use vshmem_wire::stream::Connected;
use vshmem_wire::{Down, Failure, Reply, Up, VERSION, Verdict, Window};

/// Seconds of silence that are worth a line in the log.
const SILENCE: u32 = 10;

impl Frontend {
    /// Tells the back-end something.
    pub(super) fn tell(&mut self, up: &Up) {
        if let Err(e) = self.stream.send(up) {
            self.lost(&e);
        }
    }

    fn lost(&mut self, why: &StreamError) {
        if self.end.is_none() {
            tracing::error!("the back-end is gone ({why}): ending");
            self.end = Some(Ok(()));
        }
    }

    /// Says hello, with the clients that live here.
    pub(super) fn greet(&mut self) {
        self.greeting = true;
        let up = Up::Hello {
            version: VERSION,
            layout: vshmem_ipc::header::LAYOUT,
            domain: self.setup.domain.clone(),
            clients: self.clients.known(),
            session: self.session,
        };
        self.tell(&up);
    }

    /// Once a second: a heartbeat, or the hello again that was not answered.
    pub(super) fn sign_of_life(&mut self) {
        if self.greeting {
            self.greet();
        } else if !self.stream.is_behind() {
            self.tell(&Up::Heartbeat);
        }
        self.silent = if self.heard {
            0
        } else {
            self.silent.saturating_add(1)
        };
        self.heard = false;
        if self.silent == SILENCE {
            tracing::warn!("the back-end has been silent for {SILENCE} seconds");
        }
    }

    pub(super) fn settle_stream(&mut self) {
        let behind = self.stream.wants_to_write();
        if behind != self.stream_watched_for_writing {
            self.stream_watched_for_writing = behind;
            let _ = self
                .reactor
                .interest(self.stream.fd(), Token::Stream(0), true, behind);
        }
    }

    pub(super) fn stream_ready(&mut self, ready: Ready, events: &mut Vec<Event>) {
        if let Err(e) = self.listen(ready, events) {
            self.lost(&e);
        }
    }

    fn listen(&mut self, ready: Ready, events: &mut Vec<Event>) -> Result<(), StreamError> {
        if ready.writable {
            self.stream.flush()?;
        }
        if !ready.readable {
            return Ok(());
        }
        self.stream.fill()?;
        self.heard = true;
        loop {
            match self.stream.take::<Down>() {
                Ok(Some(down)) => self.on_down(down, events),
                Ok(None) => return Ok(()),
                Err(StreamError::Wire(e)) => {
                    let why =
                        format!("the back-end says what cannot be read ({e}): another version of Vshmem?");
                    self.end = Some(Err(why));
                    return Ok(());
                }
                Err(e) => return Err(e),
            }
        }
    }

    fn on_down(&mut self, down: Down, events: &mut Vec<Event>) {
        match down {
            Down::Welcome {
                domain,
                name,
                space,
                seconds,
                pools,
                session,
                keys,
            } => {
                self.time.tick(seconds);
                if !self.greeting {
                    // A hello was said twice. All that waits was told after the first answer, and a Connect must not be told twice.
                    return;
                }
                let domain = Domain {
                    number: domain,
                    name,
                    space,
                    keys,
                };
                if self.session != Some(session) {
                    self.session = Some(session);
                    self.note(&Entry::Session { session });
                }
                self.welcomed(domain, &pools);
            }
            Down::Refused { why } => self.refused(&why),
            Down::Connected { tag, outcome } => {
                // While a hello is under way this is the answer to a Connect before it, and that hello, which does not name the client, ends it: asked
                // again after the welcome.
                if !self.greeting
                    && let Some(connecting) = self.connecting.remove(&tag)
                {
                    self.connected(connecting, outcome, events);
                }
            }
            Down::Answer { client, seq, body } => {
                if self.requests.remove(&(client, seq)).is_some() {
                    let (verdict, fds) = self.with_descriptor(body);
                    self.clients
                        .answer(&self.reactor, client, seq, verdict, fds, events);
                }
            }
            Down::Ring => self.sleepers.look(),
            Down::ReadBell { bell } => {
                let bytes = self.bells.as_ref().map_or(0, |bells| bells.read(bell));
                self.tell(&Up::BellRead { bell, bytes });
            }
            Down::Restarted => {
                tracing::warn!("the back-end was restarted");
                self.greet();
            }
            Down::Heartbeat {
                seconds,
                msgmax,
                semopm,
                low_ids,
            } => self.time.beat(seconds, msgmax, semopm, low_ids),
            Down::Goodbye => {
                tracing::warn!("the back-end has stopped: ending");
                self.end = Some(Ok(()));
            }
            of_neighbours => self.on_neighbour(of_neighbours),
        }
    }

    /// The end. After a welcome, what clients have mapped is others' by now.
    fn refused(&mut self, why: &str) {
        let killed = match self.session.map_or(0, |_| self.kill_clients()) {
            0 => String::new(),
            some => format!(
                "; {some} processes here had its memory mapped, which is others' by now, and were killed"
            ),
        };
        self.end = Some(Err(format!("the back-end refuses: {why}{killed}")));
    }

    /// What the back-end says of neighbours.
    fn on_neighbour(&mut self, down: Down) {
        let Some(direct) = &mut self.direct else { return };
        match down {
            Down::Neighbour { space, machine } => {
                if let Some(doors) = direct.offer(space, machine, &self.keeper) {
                    self.tell(&Up::Doors { space, doors });
                }
            }
            Down::Doors {
                space,
                machine,
                doors,
            } => direct.bind(space, machine, doors, &self.time, &self.keeper),
            Down::NeighbourGone { space } => direct.forget(space, &self.time, &self.keeper),
            _ => {}
        }
    }

    /// The back-end knows this domain (again): now everything unanswered is asked (again).
    fn welcomed(&mut self, domain: Domain, pools: &[GroupPool]) {
        self.greeting = false;
        if self.domain.is_none() {
            tracing::info!(domain = %domain.name, number = domain.number, space = domain.space, port = self.port.name(), "joined");
        }
        self.domain = Some(domain);
        if !self.sleepers.can_look() {
            if let Err(e) = self.open_windows(pools) {
                self.end = Some(Err(format!("the shared memory cannot be used: {e:#}")));
                return;
            }
            self.keeper.ready();
        }
        if let Some(bells) = &self.bells {
            let count = bells.count();
            (1..=count).for_each(|bell| {
                bells.read(bell);
            });
            self.tell(&Up::Bells { count });
        }
        self.held.clear();
        let again: Vec<Up> = self
            .forks
            .iter()
            .map(|(&fork, &client)| Up::ForkPrepare { client, fork })
            .chain(self.connecting.iter().map(|(&tag, c)| connect(tag, c)))
            .chain(self.requests.iter().map(|(&(client, seq), body)| Up::Request {
                client,
                seq,
                body: body.clone(),
            }))
            .collect();
        for up in again {
            self.tell(&up);
        }
        self.sleepers.look();
    }

    fn open_windows(&mut self, pools: &[GroupPool]) -> anyhow::Result<()> {
        let headers: Vec<PoolHeader> = pools.iter().map(|pool| pool.header.clone()).collect();
        self.port.choose(&headers)?;
        if !self.port.has_window() {
            self.sleepers.go_without();
            return Ok(());
        }
        let mut windows = BTreeMap::new();
        for (place, pool) in pools.iter().enumerate() {
            let of_group = || format!("the pool of group {}", pool.header.group);
            let (file, window) = self.port.window(place, true).with_context(of_group)?;
            let bytes = match window {
                Window::Direct | Window::InOrder => pool.header.bytes,
                Window::Whole { bytes } => bytes,
            };
            self.sleepers
                .map(pool.number, &file, bytes)
                .with_context(of_group)?;
            let of_both = Windows {
                both: (file, window),
                reading: self.port.window(place, false).with_context(of_group)?,
            };
            windows.insert(pool.number, of_both);
        }
        self.windows = windows;
        Ok(())
    }

    fn connected(
        &mut self,
        connecting: Connecting,
        outcome: Result<Connected, Failure>,
        events: &mut Vec<Event>,
    ) {
        let Connecting {
            link, seq, who, fork, ..
        } = connecting;
        if let Some(fork) = fork {
            self.end_fork(fork);
        }
        let connected = match outcome {
            Ok(connected) => connected,
            Err(failure) => return self.clients.refuse(&self.reactor, link, seq, failure, events),
        };
        let (client, pid, start) = (connected.client, who.pid, who.start);
        self.note(&Entry::Client { client, pid, start });
        // It is a client now, and watched, even if it cannot be told so for want of descriptors: it may hold what its parent had.
        let reply = match self.welcome_of(connected, who.shown_pid()) {
            Ok((welcome, fds)) => (Ok(Reply::Welcome(welcome)), fds),
            Err(failure) => (Err(failure), Vec::new()),
        };
        self.clients
            .welcome(&self.reactor, link, client, (pid, start), reply, events);
    }

    fn welcome_of(&self, connected: Connected, pid: u32) -> Result<(Welcome, Vec<OwnedFd>), Failure> {
        let domain = self.domain.as_ref().ok_or(Failure::errno(libc::EAGAIN))?;
        let opened =
            |e: std::io::Error| Failure::because(libc::ENOMEM, format!("no page for the client: {e}"));
        let fds = vec![
            self.time.reader().map_err(opened)?,
            rustix::io::fcntl_dupfd_cloexec(self.sleepers.file(), 0).map_err(|e| opened(e.into()))?,
        ];
        let welcome = Welcome {
            version: VERSION,
            client: connected.client,
            domain: domain.number,
            name: domain.name.clone(),
            space: domain.space,
            undo: connected.undo,
            pid,
            next_seq: connected.next_seq,
            limits: connected.limits,
            keys: domain.keys.clone(),
        };
        Ok((welcome, fds))
    }

    /// Adds the descriptor of the shared memory to an answer that grants some. Where there is none, it goes without: the client gives back what it
    /// cannot map, or has its operations done for it.
    fn with_descriptor(&mut self, mut verdict: Verdict) -> (Verdict, Vec<OwnedFd>) {
        if !self.port.has_window() {
            let opened = verdict
                .as_mut()
                .ok()
                .and_then(memory_of)
                .map(|m| self.port.open(m));
            return match opened {
                None => (verdict, Vec::new()),
                Some(Ok(file)) => (verdict, vec![file]),
                Some(Err(why)) => {
                    self.not_handed_out(&format!("{why:#}"));
                    (verdict, Vec::new())
                }
            };
        }
        let memory = match &verdict {
            Ok(Reply::Attached { memory, .. }) => Some(memory),
            Ok(Reply::Opened { memory, .. }) => memory.as_ref(),
            _ => None,
        };
        let Some((group, writable)) = memory.map(|m| (m.group, m.writable)) else {
            return (verdict, Vec::new());
        };
        let window = self
            .windows
            .get(&group)
            .map(|of| if writable { &of.both } else { &of.reading });
        let file = window.ok_or(std::io::Error::from(std::io::ErrorKind::NotFound));
        let file = file.and_then(|(file, window)| Ok((rustix::io::fcntl_dupfd_cloexec(file, 0)?, *window)));
        match (&mut verdict, file) {
            (Ok(reply), Ok((file, window))) => {
                set_window(reply, window);
                (verdict, vec![file])
            }
            (_, Ok(_)) => (verdict, Vec::new()),
            (_, Err(why)) => {
                self.not_handed_out(&why.to_string());
                (verdict, Vec::new())
            }
        }
    }

    fn not_handed_out(&mut self, why: &str) {
        if self.lines.allows() {
            tracing::warn!("the shared memory cannot be handed out: {why}");
        }
    }
}

/// The message that asks for a client number.
pub(super) fn connect(tag: u64, connecting: &Connecting) -> Up {
    Up::Connect {
        tag,
        who: connecting.who.clone(),
        resume: connecting.resume,
        fork: connecting.fork,
    }
}
