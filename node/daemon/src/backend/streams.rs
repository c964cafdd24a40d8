//! Streams that machines open themselves, over vsock: whose they are and that a privileged program opened them the port finds out; here they become guests.
//!
//! | path, `machines/NAME/vsock/…` in the runtime directory | whose it is |
//! |---|---|
//! | `host` | the hypervisor's, where it turns vsock into unix sockets: it listens there |
//! | `host_PORT` | the back-end's: the hypervisor connects to it for programs of the machine |
//!
//! The folder is of the hypervisor's user, who makes sockets in it; the back-end makes its own there before it gives the folder away, and nothing afterwards.
//! Its listening socket is the keeper's, as those of the other machines' doors are; connections that are not proven yet end with a killed daemon, and guests
//! open them anew.

use super::machines::Behind;
use super::{Backend, guests, start};
use crate::process::reactor::Token;
use crate::sockets;
use anyhow::{Context, ensure};
use rustix::fd::{AsFd, OwnedFd};
use std::collections::BTreeMap;
use vshmem_port::arrivals::{Arrival, Line, StreamServer};
use vshmem_wire::VsockDoor;

/// CIDs that the back-end chooses begin here: those below are what others give out by themselves.
const FIRST_CHOSEN: u32 = 1000;

/// A port's server, and which machines it knows.
pub(super) struct Streams {
    port: String,
    server: Box<dyn StreamServer>,
    cids: BTreeMap<String, u32>,
}

impl Backend {
    /// The CID of a domain's machine: the configuration's, or the one that it was given.
    pub(super) fn cid_of(&self, domain: &str) -> Option<u32> {
        let configured = self.config.domains.get(domain).and_then(|found| found.cid);
        let given = self
            .machines
            .streams
            .iter()
            .find_map(|streams| streams.cids.get(domain));
        configured.or(given.copied())
    }

    /// What a wish for a CID comes to: 0 is for any.
    pub(super) fn choose_cid(&self, domain: &str, wish: u32) -> anyhow::Result<u32> {
        let taken = |cid: u32| {
            let configured = self.config.domains.iter();
            let mut configured = configured.filter_map(|(name, found)| Some((name, found.cid?)));
            let mut given = self.machines.streams.iter().flat_map(|streams| &streams.cids);
            configured
                .find(|(_, of)| *of == cid)
                .map(|(name, _)| name)
                .or(given.find(|(_, of)| **of == cid).map(|(name, _)| name))
                .cloned()
        };
        match (self.cid_of(domain), wish) {
            (Some(cid), 0) => Ok(cid),
            (Some(cid), wish) => {
                ensure!(cid == wish, "its machine has CID {cid}, not {wish}");
                Ok(cid)
            }
            (None, 0) => (FIRST_CHOSEN..)
                .find(|cid| taken(*cid).is_none())
                .context("no CID is left"),
            (None, wish) => {
                crate::config::check_cid(wish)?;
                match taken(wish) {
                    Some(other) => anyhow::bail!("CID {wish} is that of domain {other:?}"),
                    None => Ok(wish),
                }
            }
        }
    }

    /// Has a machine's streams taken, by a listening socket that a former life had or that is made.
    pub(super) fn open_stream_door(
        &mut self,
        domain: &str,
        port: &str,
        cid: u32,
        listeners: &mut BTreeMap<String, OwnedFd>,
    ) -> anyhow::Result<()> {
        if self.cid_of_door(domain).is_some() {
            return Ok(());
        }
        if self.machines.streams.is_none() {
            let server = vshmem_port_select::stream_server(port).context("streams over vsock")?;
            self.reactor.watch(server.ready(), Token::Streams)?;
            self.machines.streams = Some(Streams {
                port: port.to_owned(),
                server,
                cids: BTreeMap::new(),
            });
        }
        let name = format!(
            "{port}/{domain}/{}",
            Behind::Stream(cid).word(self.registry.group())
        );
        let dir = &self.config.runtime_dir;
        let listener = match listeners.remove(&name) {
            Some(listener) => listener,
            None => sockets::listen_for_streams(
                dir,
                domain,
                vshmem_port_select::STREAM_PORT,
                &self.config.machines.socket,
            )?,
        };
        let place = sockets::stream_place(dir, domain);
        self.add_machine_door(domain, port, Behind::Stream(cid), &name, listener)?;
        if let Some(streams) = &mut self.machines.streams {
            streams.cids.insert(domain.to_owned(), cid);
            streams.server.expect(domain, cid, &place);
        }
        Ok(())
    }

    fn cid_of_door(&self, domain: &str) -> Option<u32> {
        self.machines.streams.as_ref()?.cids.get(domain).copied()
    }

    /// What people are told of it.
    pub(super) fn stream_door(&self, domain: &str) -> Option<VsockDoor> {
        let cid = self.cid_of_door(domain)?;
        let place = sockets::stream_place(&self.config.runtime_dir, domain);
        Some(VsockDoor {
            cid,
            place: place.display().to_string(),
        })
    }

    /// A hypervisor has connected for a program of a machine.
    pub(super) fn stream_connects(&mut self, domain: &str, socket: OwnedFd) {
        if let Some(streams) = &mut self.machines.streams {
            streams.server.connected(domain, socket);
        }
    }

    /// The server has something to do.
    pub(super) fn serve_streams(&mut self) {
        if let Some(streams) = &mut self.machines.streams {
            let arrived = streams.server.serve();
            self.arrive(arrived);
        }
    }

    /// A second has passed.
    pub(super) fn streams_second(&mut self) {
        if let Some(streams) = &mut self.machines.streams {
            let arrived = streams.server.second();
            self.arrive(arrived);
        }
    }

    fn arrive(&mut self, arrived: Vec<Arrival>) {
        for arrival in arrived {
            let (who, why) = match arrival {
                Arrival::Refused { who, why } => (who, why),
                Arrival::Stream { domain, stream } => match self.stream_arrives(&domain, stream) {
                    Ok(()) => continue,
                    Err(why) => (format!("domain {domain}"), why),
                },
            };
            if self.lines.allows() {
                tracing::warn!("a stream of {who} is refused: {why}");
            }
        }
    }

    /// A machine's privileged program has opened a stream: it is the domain's, unless that has one.
    fn stream_arrives(&mut self, domain: &str, stream: OwnedFd) -> Result<(), String> {
        let port = self.machines.streams.as_ref().map(|streams| streams.port.clone());
        let port = port.ok_or("no port takes streams")?;
        let answer = rustix::io::fcntl_dupfd_cloexec(&stream, 0).map_err(|e| e.to_string())?;
        // What is left of one whose end nobody was told: its machine was started anew, say. A machine that is paused opens no other.
        let silent = |guest: &guests::Guest| guest.name == domain && guest.is_silent();
        let silent = self
            .guests
            .iter()
            .find(|(_, guest)| silent(guest))
            .map(|(n, _)| *n);
        if let Some(number) = silent {
            self.lose_guest(number, "it was silent, and its machine has opened another stream");
        }
        match self.bring_in(domain.to_owned(), port, stream, Vec::new()) {
            Ok(_) => {
                // If it cannot be told it is gone, which its stream's end says.
                let _ = Line::Open.say(answer.as_fd());
                Ok(())
            }
            Err(failure) => {
                let _ = Line::Refused(failure.why.clone()).say(answer.as_fd());
                Err(failure.why)
            }
        }
    }

    /// The CID that stands in the name of a kept listening socket.
    pub(super) fn kept_cid(word: &str) -> Option<u32> {
        word.strip_prefix(start::VSOCK)?.parse().ok()
    }
}
