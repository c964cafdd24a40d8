//! Machines that somebody else starts: the sockets that their hypervisors connect to, two for each domain.
//!
//! | socket, `machines/NAME/…` in the runtime directory | what is behind it |
//! |---|---|
//! | `control.sock` | the byte stream between the guest's front-end and this daemon |
//! | `device.sock` | the port's device server, with the first group's pool |
//! | `device-GROUP.sock` | the same with the pool of another group |
//!
//! Streams that machines open themselves are `streams`'.
//!
//! A domain's name is that of the folder its hypervisor connects in, never what a guest says. Who may connect reaches the whole pool: the sockets' modes are the
//! border. A hypervisor may come, go and come back; while one is there, a second one's stream is refused.
//!
//! Listening sockets and what the servers hold are the keeper's, so that hypervisors notice nothing of a killed daemon.

use super::requests::is_domain_name;
use super::streams::Streams;
use super::{Backend, start};
use crate::keeper::Keeper;
use crate::process::reactor::Token;
use crate::sockets;
use anyhow::{Context, anyhow};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use std::collections::BTreeMap;
use vshmem_port::device::{DeviceServer, Hold};
use vshmem_port::store::Serial;
use vshmem_registry::GroupConfig;
use vshmem_wire::pool::GroupPool;
use vshmem_wire::{Doors, Failure, PoolDoor, Reply, ShownPool, Verdict};

/// Connections that one socket may have accepted in a second: enough for whoever means well.
const MOST_A_SECOND: u32 = 20;

/// What is behind a listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behind {
    Control,
    /// Streams that the machine of this CID opens itself.
    Stream(u32),
    /// With the pool of this group.
    Device(u16),
}

/// What stands at the end of the names of what is a group's; nothing for the first one.
fn suffix(config: &GroupConfig, group: u16) -> String {
    match group {
        0 => String::new(),
        group => format!("-{}", config.name_of(group)),
    }
}

impl Behind {
    pub(super) fn word(self, config: &GroupConfig) -> String {
        match self {
            Behind::Stream(cid) => format!("{}{cid}", start::VSOCK),
            Behind::Control => "control".to_owned(),
            Behind::Device(group) => format!("device{}", suffix(config, group)),
        }
    }
}

/// A server of a port's devices.
struct Server {
    port: String,
    group: u16,
    devices: Box<dyn DeviceServer>,
    /// The pool, for those who open it by its name.
    _pool: OwnedFd,
}

/// A listening socket.
struct MachineDoor {
    domain: String,
    port: String,
    behind: Behind,
    listener: OwnedFd,
    /// Accepted within this second.
    accepted: u32,
}

/// All of them, and the servers by port and group.
#[derive(Default)]
pub(super) struct Machines {
    doors: Vec<MachineDoor>,
    servers: Vec<Server>,
    /// For machines that open their streams themselves.
    pub(super) streams: Option<Streams>,
}

/// What a port's server has held, in the keeper's hands.
struct Held<'a> {
    keeper: &'a Keeper,
    of: String,
}

impl<'a> Held<'a> {
    fn of(keeper: &'a Keeper, port: &str, group: u16) -> Self {
        let of = format!("{}{}", start::DEVICE, held_name(port, group));
        Held { keeper, of }
    }
}

impl Hold for Held<'_> {
    fn hold(&mut self, name: &str, descriptor: BorrowedFd<'_>) {
        self.keeper.keep(format!("{}{name}", self.of), descriptor);
    }

    fn let_go(&mut self, name: &str) {
        self.keeper.drop_kept(format!("{}{name}", self.of));
    }
}

/// Before the names of what the server of a port's devices has held, for a group.
fn held_name(port: &str, group: u16) -> String {
    format!("{port}/{group}/")
}

/// Takes out of `kept` what is held under names with this prefix.
pub(super) fn take_out(kept: &mut BTreeMap<String, OwnedFd>, prefix: &str) -> BTreeMap<String, OwnedFd> {
    let names: Vec<String> = kept.keys().filter(|n| n.starts_with(prefix)).cloned().collect();
    let taken = names.into_iter().filter_map(|name| {
        let descriptor = kept.remove(&name)?;
        Some((name[prefix.len()..].to_owned(), descriptor))
    });
    taken.collect()
}

impl Backend {
    /// The sockets of the configuration's guests, and those that a former life had made.
    pub(super) fn open_machines(&mut self, kept: &mut BTreeMap<String, OwnedFd>) -> anyhow::Result<()> {
        let mut listeners = take_out(kept, start::MACHINE);
        let mut held = take_out(kept, start::DEVICE);
        let mut wanted: Vec<(String, String)> = Vec::new();
        let mut cids: BTreeMap<String, u32> = BTreeMap::new();
        for name in listeners.keys() {
            let mut words = name.splitn(3, '/');
            if let (Some(port), Some(domain)) = (words.next(), words.next()) {
                wanted.push((domain.to_owned(), port.to_owned()));
                let cid = words.next().and_then(Self::kept_cid);
                cids.extend(cid.map(|cid| (domain.to_owned(), cid)));
            }
        }
        for (domain, port) in self.config.guests() {
            if vshmem_port_select::SERVED.contains(&port) {
                wanted.push((domain.to_owned(), port.to_owned()));
            }
        }
        wanted.sort();
        wanted.dedup();
        for (domain, port) in wanted {
            let said = || format!("domain {domain:?}");
            self.open_machine(&domain, &port, &mut listeners, &mut held)
                .with_context(said)?;
            if let Some(cid) = self.cid_of(&domain).or(cids.get(&domain).copied()) {
                self.open_stream_door(&domain, &port, cid, &mut listeners)
                    .with_context(said)?;
            }
        }
        Ok(())
    }

    /// Makes a domain's sockets, or takes them over.
    fn open_machine(
        &mut self,
        domain: &str,
        port: &str,
        listeners: &mut BTreeMap<String, OwnedFd>,
        held: &mut BTreeMap<String, OwnedFd>,
    ) -> anyhow::Result<()> {
        if self.machines.doors.iter().any(|door| door.domain == domain) {
            return Ok(());
        }
        let pools = self
            .pools_of(domain, port)
            .map_err(|failure| anyhow!(failure.why))?;
        let mut all = vec![Behind::Control];
        for GroupPool { number, header } in pools {
            self.start_server(port, number, held)
                .with_context(|| format!("group {}", header.group))?;
            all.push(Behind::Device(number));
        }
        // All or none: a domain with some of its sockets would count as one that has them.
        let mut opened = Vec::new();
        for behind in all {
            let word = behind.word(self.registry.group());
            let path = sockets::machine_path(&self.config.runtime_dir, domain, &word);
            let name = format!("{port}/{domain}/{word}");
            let listener = match listeners.remove(&name) {
                Some(listener) => listener,
                None => sockets::listen_for_machine(&path, &self.config.machines.socket)?,
            };
            opened.push((behind, name, listener));
        }
        for (behind, name, listener) in opened {
            self.add_machine_door(domain, port, behind, &name, listener)?;
        }
        Ok(())
    }

    /// Watches a listening socket, and has the keeper hold it under this name.
    pub(super) fn add_machine_door(
        &mut self,
        domain: &str,
        port: &str,
        behind: Behind,
        name: &str,
        listener: OwnedFd,
    ) -> anyhow::Result<()> {
        self.keeper
            .keep(format!("{}{name}", start::MACHINE), listener.as_fd());
        let index = u32::try_from(self.machines.doors.len())?;
        self.reactor.watch(&listener, Token::Machine(index))?;
        self.machines.doors.push(MachineDoor {
            domain: domain.to_owned(),
            port: port.to_owned(),
            behind,
            listener,
            accepted: 0,
        });
        Ok(())
    }

    /// Starts the server of a port's devices that show a group's pool, with what a former life's had held, unless it is there.
    fn start_server(
        &mut self,
        port: &str,
        group: u16,
        held: &mut BTreeMap<String, OwnedFd>,
    ) -> anyhow::Result<()> {
        let servers = &self.machines.servers;
        if servers
            .iter()
            .any(|server| server.port == port && server.group == group)
        {
            return Ok(());
        }
        let bytes = self.registry.pool_bytes(group);
        let pool = || self.stores.of(group).descriptor(Serial(0), true);
        let (own, _) = pool().context("opening the pool")?;
        let (its, _) = pool().context("opening the pool")?;
        let vectors = self.config.machines.vectors;
        let mut server = vshmem_port_select::device_server(port, its, bytes, vectors)?;
        let index = u32::try_from(self.machines.servers.len())?;
        self.reactor.watch(server.ready(), Token::Device(index))?;
        sockets::link_pool(&self.config.runtime_dir, &self.pool_name(group), own.as_fd())?;
        let held = take_out(held, &held_name(port, group));
        server.resume(held, &mut Held::of(&self.keeper, port, group));
        self.machines.servers.push(Server {
            port: port.to_owned(),
            group,
            devices: server,
            _pool: own,
        });
        Ok(())
    }

    /// The name of a group's pool, as a file, in the runtime directory.
    fn pool_name(&self, group: u16) -> String {
        format!("{}{}", sockets::POOL, suffix(self.registry.group(), group))
    }

    /// Somebody is about to start a machine.
    pub(super) fn open_domain(
        &mut self,
        client: u32,
        domain: &str,
        port: &str,
        vsock: Option<u32>,
    ) -> Verdict {
        self.check_may_bring_in(client)?;
        if !is_domain_name(domain) || domain == start::HOST || !vshmem_port_select::SERVED.contains(&port) {
            let why =
                format!("domain {domain:?} of port {port:?} cannot be a machine that somebody else starts");
            return Err(Failure::because(libc::EINVAL, why));
        }
        let configured = self.config.domains.get(domain);
        if configured.is_none() && self.config.group.closed {
            let why = format!(
                "the group is closed, and the configuration does not name {domain:?}: add [[domain]] with name = {domain:?} and port = {port:?}"
            );
            return Err(Failure::because(libc::EPERM, why));
        }
        if let Some(other) = configured.filter(|d| d.port != port) {
            let why = format!(
                "the configuration says that domain {domain:?} is of port {:?}",
                other.port
            );
            return Err(Failure::because(libc::EINVAL, why));
        }
        let configured = configured.is_some();
        let pools = self.pools_of(domain, port)?;
        let unusable = |e: anyhow::Error| Failure::because(libc::EINVAL, format!("{e:#}"));
        let cid = vsock.map(|wish| self.choose_cid(domain, wish)).transpose();
        let cid = cid.map_err(unusable)?;
        self.open_machine(domain, port, &mut BTreeMap::new(), &mut BTreeMap::new())
            .map_err(unusable)?;
        if let Some(cid) = cid {
            self.open_stream_door(domain, port, cid, &mut BTreeMap::new())
                .map_err(unusable)?;
        }
        let dir = &self.config.runtime_dir;
        let path = |behind: Behind| sockets::machine_path(dir, domain, &behind.word(self.registry.group()));
        let control = path(Behind::Control);
        let found = rustix::fs::stat(&control).map_err(|e| Failure::errno(e.raw_os_error()))?;
        let pools = pools.into_iter().map(|GroupPool { number, header }| PoolDoor {
            pool: ShownPool {
                group: header.group,
                bytes: header.bytes,
            },
            device: path(Behind::Device(number)).display().to_string(),
            file: dir.join(self.pool_name(number)).display().to_string(),
        });
        Ok(Reply::DomainOpen(Doors {
            pools: pools.collect(),
            vsock: self.stream_door(domain),
            control: control.display().to_string(),
            vectors: self.config.machines.vectors,
            configured,
            mode: found.st_mode & 0o777,
            uid: found.st_uid,
            gid: found.st_gid,
        }))
    }

    /// A hypervisor is at a socket.
    pub(super) fn machine_connects(&mut self, index: u32) {
        let Some(door) = self.machines.doors.get_mut(index as usize) else {
            return;
        };
        if door.accepted >= MOST_A_SECOND {
            // They wait until the second is over.
            let token = Token::Machine(index);
            let _ = self.reactor.interest(&door.listener, token, false, false);
            return;
        }
        door.accepted += 1;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match rustix::net::accept_with(&door.listener, flags) {
            Ok(socket) => socket,
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return,
            Err(e) => {
                if self.lines.allows() {
                    tracing::warn!(domain = %door.domain, "cannot accept a hypervisor's connection: {e}");
                }
                // Out of descriptors, most likely: do not spin on it.
                door.accepted = MOST_A_SECOND;
                return;
            }
        };
        let (domain, port, behind) = (door.domain.clone(), door.port.clone(), door.behind);
        let refused = match behind {
            Behind::Control => self
                .bring_in(domain.clone(), port, socket, Vec::new())
                .map(drop)
                .map_err(|failure| failure.why),
            Behind::Stream(_) => {
                self.stream_connects(&domain, socket);
                Ok(())
            }
            Behind::Device(group) => self.device_connects(&domain, (&port, group), socket),
        };
        if let Err(why) = refused
            && self.lines.allows()
        {
            tracing::warn!(%domain, "a hypervisor's connection is refused: {why}");
        }
    }

    fn device_connects(
        &mut self,
        domain: &str,
        (port, group): (&str, u16),
        socket: OwnedFd,
    ) -> Result<(), String> {
        let mut servers = self.machines.servers.iter_mut();
        let server = servers.find(|server| server.port == port && server.group == group);
        let server = server.ok_or_else(|| format!("port {port} has no server"))?;
        let mut held = Held::of(&self.keeper, port, group);
        server
            .devices
            .connected(domain, socket, &mut held)
            .map_err(|e| e.to_string())
    }

    /// A device server has something to do.
    pub(super) fn serve_devices(&mut self, index: u32) {
        if let Some(server) = self.machines.servers.get_mut(index as usize) {
            let mut held = Held::of(&self.keeper, &server.port, server.group);
            server.devices.serve(&mut held);
        }
    }

    /// A second has passed.
    pub(super) fn machines_second(&mut self) {
        for (index, door) in (0..).zip(&mut self.machines.doors) {
            if door.accepted >= MOST_A_SECOND {
                let token = Token::Machine(index);
                let _ = self.reactor.interest(&door.listener, token, true, false);
            }
            door.accepted = 0;
        }
        for server in &mut self.machines.servers {
            let mut held = Held::of(&self.keeper, &server.port, server.group);
            server.devices.second(&mut held);
        }
    }
}
