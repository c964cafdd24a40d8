//! Local clients of a front-end: their hellos, requests, forks and deaths, passed on.

use super::link::connect;
use super::{Connecting, Entry, Frontend};
use crate::backend::check_version;
use crate::clients::{Event, Hello};
use rustix::fd::{AsFd, OwnedFd};
use vshmem_wire::{Credentials, Failure, Reply, Request, Up, Verdict};

/// Most requests of one guest that may be under way.
const MOST_UNDER_WAY: usize = 16 * 1024;

/// The name under which a fork's socket is kept.
pub(super) fn fork_name(fork: u64, parent: u32) -> String {
    format!("{}{fork}/{parent}", super::start::FORK)
}

impl Frontend {
    pub(super) fn on_event(&mut self, event: Event, events: &mut Vec<Event>) {
        match event {
            Event::Hello {
                link,
                seq,
                who,
                hello,
                fork,
                ..
            } => {
                if let Err(failure) = self.hello(link, seq, who, hello, fork) {
                    self.clients.refuse(&self.reactor, link, seq, failure, events);
                }
            }
            Event::Request {
                client,
                seq,
                body,
                descriptors,
            } => self.request(client, seq, body, descriptors, events),
            Event::Gone { client, exec } => self.gone(client, exec),
            Event::ForkAbandoned { fork } => self.fork_abandoned(fork),
        }
    }

    fn hello(
        &mut self,
        link: u32,
        seq: u64,
        who: Credentials,
        hello: Hello,
        fork: Option<u64>,
    ) -> Result<(), Failure> {
        if let Err(failure) = check_version(hello.version, hello.layout) {
            fork.into_iter().for_each(|f| self.fork_abandoned(f));
            return Err(failure);
        }
        let here = self.domain.as_ref().map(|d| d.name.as_str());
        if let (Some(wanted), Some(here)) = (&hello.domain, here)
            && wanted != here
        {
            let why = format!("processes of this machine are in domain {here:?}, not {wanted:?}");
            return Err(Failure::because(libc::EPERM, why));
        }
        let connecting = Connecting {
            link,
            seq,
            who,
            resume: hello.resume.or(hello.same.first().copied()),
            fork,
        };
        let tag = self.next_tag;
        self.next_tag += 1;
        let up = connect(tag, &connecting);
        self.connecting.insert(tag, connecting);
        // Before the back-end's welcome nothing is said; then everything that waits is.
        if self.domain.is_some() && !self.greeting {
            self.tell(&up);
        }
        Ok(())
    }

    fn request(
        &mut self,
        client: u32,
        seq: u64,
        body: Request,
        mut descriptors: Vec<OwnedFd>,
        events: &mut Vec<Event>,
    ) {
        let verdict = match body {
            Request::Ring { space, at, bell } => {
                // A bell is the back-end's to ring.
                if bell == 0 && self.domain.as_ref().is_some_and(|d| d.space == space) {
                    self.sleepers.look();
                } else {
                    self.tell(&Up::Ring { space, at, bell });
                }
                return;
            }
            Request::Bell { wait } => {
                let (verdict, descriptors) = self.give_bell(client, wait);
                self.clients
                    .answer(&self.reactor, client, seq, verdict, descriptors, events);
                return;
            }
            Request::Tickets { count } => {
                let tickets = self.sleepers.lease(client, count);
                self.note(&Entry::Tickets {
                    client,
                    tickets: tickets.clone(),
                });
                Ok(Reply::Tickets(tickets))
            }
            Request::ForkPrepare => self.fork_prepare(client, descriptors.pop()),
            Request::AttachDomain { .. } | Request::OpenDomain { .. } | Request::UseHugePages { .. } => {
                Err(Failure::because(libc::EPERM, "guests are brought in on the host"))
            }
            _ if self.requests.len() >= MOST_UNDER_WAY => Err(Failure::because(
                libc::EAGAIN,
                "too many requests wait for the back-end",
            )),
            body => {
                self.requests.insert((client, seq), body.clone());
                if self.greeting {
                    return;
                }
                // A child's death is told by its client number, which comes with the welcome; who asks now may have waited for that child.
                if !self.held.is_empty() || self.a_death_is_untold() {
                    self.held.push((client, seq));
                } else {
                    self.tell(&Up::Request { client, seq, body });
                }
                return;
            }
        };
        self.clients
            .answer(&self.reactor, client, seq, verdict, Vec::new(), events);
    }

    /// Whether a forked child is known to the back-end, and its end not.
    fn a_death_is_untold(&self) -> bool {
        let mut children = self.connecting.values().filter(|c| c.fork.is_some());
        children.any(|child| self.clients.left_unwelcome(child.link))
    }

    /// Tells what was held, once no death waits to be told before it.
    pub(super) fn release_held(&mut self) {
        if self.held.is_empty() || self.a_death_is_untold() {
            return;
        }
        for (client, seq) in std::mem::take(&mut self.held) {
            if let Some(body) = self.requests.get(&(client, seq)).cloned() {
                self.tell(&Up::Request { client, seq, body });
            }
        }
    }

    /// Somebody rang this daemon itself.
    pub(super) fn own_door_rang(&mut self) {
        if self.direct.as_ref().is_some_and(crate::doors::Doors::came) {
            self.sleepers.look();
        }
    }

    fn give_bell(&mut self, client: u32, wait: bool) -> (Verdict, Vec<OwnedFd>) {
        if let Some(direct) = &mut self.direct {
            return direct.give(client, wait, &self.keeper);
        }
        let Some(bells) = &mut self.bells else {
            return (Err(Failure::errno(libc::ENOSYS)), Vec::new());
        };
        let given = bells.ring_line().and_then(|line| match wait {
            true => Ok((line, Some(bells.lease(client)?))),
            false => Ok((line, None)),
        });
        match given {
            Err(e) => {
                let why = format!("no descriptor for a bell: {e}");
                (Err(Failure::because(libc::ENOSPC, why)), Vec::new())
            }
            Ok((line, None)) => (Ok(Reply::Bell { bell: 0, call: 0 }), vec![line]),
            Ok((_, Some(None))) => (Err(Failure::errno(libc::ENOSPC)), Vec::new()),
            Ok((line, Some(Some((bell, waits))))) => {
                self.note(&Entry::Bell { client, bell });
                (Ok(Reply::Bell { bell, call: 0 }), vec![line, waits])
            }
        }
    }

    fn fork_prepare(&mut self, client: u32, socket: Option<OwnedFd>) -> Verdict {
        let socket =
            socket.ok_or_else(|| Failure::because(libc::EINVAL, "no socket came with the request"))?;
        if self.clients.knows_fork(&socket) {
            return Ok(Reply::Done);
        }
        let fork = self.next_fork;
        self.next_fork += 1;
        self.keeper.keep(fork_name(fork, client), socket.as_fd());
        if let Err(e) = self.clients.add_fork(&self.reactor, socket, client, fork) {
            self.keeper.drop_kept(fork_name(fork, client));
            return Err(Failure::because(
                libc::EINVAL,
                format!("the socket cannot be used: {e}"),
            ));
        }
        self.forks.insert(fork, client);
        if !self.greeting {
            // Not answered: the stream keeps the order, so it counts before anything that follows.
            self.tell(&Up::ForkPrepare { client, fork });
        }
        Ok(Reply::Done)
    }

    pub(super) fn end_fork(&mut self, fork: u64) {
        if let Some(parent) = self.forks.remove(&fork) {
            self.keeper.drop_kept(fork_name(fork, parent));
        }
    }

    pub(super) fn fork_abandoned(&mut self, fork: u64) {
        self.end_fork(fork);
        self.tell(&Up::ForkAbandoned { fork });
    }

    fn gone(&mut self, client: u32, exec: bool) {
        // Its threads are gone either way, and with them whoever slept.
        self.sleepers.take_back(client);
        if let Some(bells) = &mut self.bells {
            bells.take_back(client);
        }
        if let Some(direct) = &mut self.direct {
            direct.take_back(client, &self.keeper);
        }
        self.requests.retain(|(c, _), _| *c != client);
        self.note(&if exec {
            Entry::Execed { client }
        } else {
            Entry::Gone { client }
        });
        self.tell(&Up::Gone { client, exec });
    }
}
