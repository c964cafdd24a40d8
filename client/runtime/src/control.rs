//! The process's state behind the control lock: connections, what is attached, what threads gave back; and requests over it all.
//!
//! Not for the data path, which takes no lock and looks nothing up here.

use crate::attach::Attachments;
use crate::bell;
use crate::connection::{Connection, Identity, Trouble, User};
use crate::errno::{Errno, Result};
use crate::inherit::Anew;
use crate::pieces::Pieces;
use crate::thread::{self, Thread};
use crate::ward::Ward;
use crate::{config, place, process, socket};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use vshmem_wire::{Envelope, Failure, Reply, Request};

/// Most tickets asked for at once.
const TICKETS: u32 = 16;

/// An answer, and the descriptors that came with it.
pub(crate) type Outcome = core::result::Result<(Reply, Vec<OwnedFd>), Failure>;

/// What the environment said when the process first used Vshmem.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) socket: PathBuf,
    pub(crate) domain: Option<String>,
    pub(crate) timeout: Duration,
    pub(crate) ward: Ward,
}

/// Everything that the control lock guards.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) settings: Option<Settings>,
    connection: Option<Connection>,
    /// A digest of the process's supplementary groups and capabilities, as they last were.
    privileges: u64,
    pub(crate) attachments: Attachments,
    pub(crate) segments: Pieces,
    numbers: Vec<u16>,
    tickets: Vec<u32>,
    /// Bells that threads gave back.
    pub(crate) bells: Vec<bell::Spare>,
    /// The child's end of the socket of a fork that is under way.
    childs_end: Option<OwnedFd>,
    /// Something was mapped that children do not inherit, and what a fork under way has for its child.
    pub(crate) not_inherited: bool,
    pub(crate) childs_mappings: Vec<Anew>,
    said_no_daemon: bool,
    /// A connection was given up: the daemon found next may be another one, with other constructs under the same ids.
    gave_up: bool,
    /// How many clients this process and those it was forked from have been: what was given to an earlier one is not this one's.
    pub(crate) clients: u64,
    /// How often that was so: memory mapped before is not taken for what the daemon gives now.
    pub(crate) connections_lost: u32,
}

/// Settings and whatever else is made once in a program's life.
pub(crate) fn prepare_program(state: &mut State) {
    crate::signal::begin();
    place::prepare();
    crate::clock::prepare();
    crate::world::set_spin(config::spin_micros());
    state.privileges = User::privileges();
    state.settings = Some(Settings {
        socket: config::socket_path(),
        domain: config::domain(),
        timeout: config::timeout(),
        ward: Ward::default(),
    });
}

impl State {
    pub(crate) const fn new() -> State {
        State {
            settings: None,
            connection: None,
            privileges: 0,
            attachments: Attachments::new(),
            segments: Pieces::new(),
            numbers: Vec::new(),
            tickets: Vec::new(),
            bells: Vec::new(),
            childs_end: None,
            not_inherited: false,
            childs_mappings: Vec::new(),
            said_no_daemon: false,
            gave_up: false,
            clients: 1,
            connections_lost: 0,
        }
    }

    /// Gives the calling thread its number and, where sleepers need one, its wait page entry.
    pub(crate) fn set_up_thread(&mut self, thread: &Thread) {
        thread.set_up(&mut self.numbers, self.clients);
        crate::ending::watch();
    }

    /// A thread has ended.
    pub(crate) fn thread_ended(&mut self, number: u16, ticket: u32, bell: Option<bell::Spare>) {
        self.bells.extend(bell);
        if number != 0 {
            self.numbers.push(number);
        }
        if ticket != 0 {
            self.tickets.push(ticket);
        }
    }

    /// A wait page entry for a thread.
    pub(crate) fn ticket(&mut self) -> Result<u32> {
        if self.tickets.is_empty() {
            match self.ask(&Request::Tickets { count: TICKETS })? {
                Reply::Tickets(tickets) => self.tickets = tickets,
                _ => return Err(Errno::EPROTO),
            }
        }
        self.tickets.pop().ok_or(Errno::ENOSPC)
    }

    /// The connection, made if need be, and made anew if the process has become another user.
    pub(crate) fn connected(&mut self) -> Result<&mut Connection> {
        let settings = self.settings.as_ref().ok_or(Errno::ENOSYS)?;
        let user = User::now(self.privileges);
        let old = self.connection.take();
        let gone_on = match old {
            Some(connection) if connection.user == user => Some(Ok(connection)),
            Some(mut connection) => {
                // What was checked for the former user counts no more.
                process::next_epoch();
                let until = Instant::now() + settings.timeout;
                match connection.again(settings, user, until) {
                    Err(trouble) if trouble.is_stale() => {
                        self.gave_up = true;
                        None
                    }
                    other => Some(other.map(|()| connection)),
                }
            }
            None => None,
        };
        let made = gone_on.unwrap_or_else(|| {
            if std::mem::take(&mut self.gave_up) {
                self.connections_lost += 1;
                lapse(&mut self.clients, &mut self.tickets, &mut self.bells);
                process::next_epoch();
            }
            Connection::open(settings, user)
        });
        match made {
            Ok(connection) => Ok(self.connection.insert(connection)),
            Err(trouble) => Err(self.no_daemon(&trouble)),
        }
    }

    /// Who this client is.
    pub(crate) fn identity(&mut self) -> Result<&'static Identity> {
        if let Ok((_, identity)) = self.connected()?.welcome() {
            return Ok(identity);
        }
        // The daemon went away before it answered the hello.
        self.again(None)?;
        let connection = self.connected()?;
        connection
            .welcome()
            .map(|(_, identity)| identity)
            .map_err(|_| Errno::ENOSYS)
    }

    fn again(&mut self, until: Option<Instant>) -> Result<()> {
        let settings = self.settings.as_ref().ok_or(Errno::ENOSYS)?;
        let until = until.unwrap_or_else(|| Instant::now() + settings.timeout);
        let user = User::now(self.privileges);
        let mut connection = self.connection.take().ok_or(Errno::ENOSYS)?;
        match connection.again(settings, user, until) {
            Ok(()) => {
                self.connection = Some(connection);
                Ok(())
            }
            // A daemon without memory of us: what comes next is a new client.
            Err(trouble) if trouble.is_stale() => {
                self.gave_up = true;
                Ok(())
            }
            Err(trouble) => Err(self.no_daemon(&trouble)),
        }
    }

    fn no_daemon(&mut self, trouble: &Trouble) -> Errno {
        self.gave_up = true;
        if self.settings.as_ref().is_some_and(|s| s.ward.ended()) {
            return Errno::ENOSYS;
        }
        if trouble.is_full() {
            crate::error!(
                "a connection to the daemon needs a file, and this process can open none (ulimit -n)"
            );
            return Errno::ENOMEM;
        }
        if !std::mem::replace(&mut self.said_no_daemon, true) {
            let path = self
                .settings
                .as_ref()
                .map_or(PathBuf::new(), |s| s.socket.clone());
            crate::error!(
                "{trouble} at {} (is `vshmem serve` or `vshmem join` running?)",
                path.display()
            );
        }
        Errno::ENOSYS
    }

    /// Asks the daemon.
    pub(crate) fn request(&mut self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Outcome {
        self.request_for(request, descriptors, None)
    }

    /// Asks the daemon, going on with a restarted one for at most `patience` (what the environment says if None).
    pub(crate) fn request_for(
        &mut self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
        patience: Option<Duration>,
    ) -> Outcome {
        let patience = patience
            .or(self.settings.as_ref().map(|s| s.timeout))
            .unwrap_or_default();
        let until = Instant::now() + patience;
        let mut message: Option<(&Identity, u64, Vec<u8>)> = None;
        loop {
            let connection = self.connected()?;
            let trouble = match connection.welcome().map(|(_, identity)| identity) {
                Ok(client) => {
                    // A client that is still the same repeats its message with the number that it had.
                    let (_, seq, bytes) = match message.take().filter(|m| std::ptr::eq(m.0, client)) {
                        Some(same) => message.insert(same),
                        None => {
                            let seq = connection.next_seq();
                            let body = request.clone();
                            message.insert((client, seq, vshmem_wire::encode(&Envelope { seq, body })))
                        }
                    };
                    match connection.exchange(*seq, bytes, descriptors) {
                        Ok(answer) => return answer,
                        Err(trouble) => trouble,
                    }
                }
                Err(trouble) => trouble,
            };
            crate::debug!("{trouble}; connecting again");
            self.again(Some(until))?;
        }
    }

    pub(crate) fn ask(&mut self, request: &Request) -> Result<Reply> {
        match self.request(request, &[]) {
            Ok((reply, _)) => Ok(reply),
            Err(failure) => Err(Errno(failure.errno)),
        }
    }

    /// The connection, if there is one.
    pub(crate) fn existing(&mut self) -> Option<&mut Connection> {
        self.connection.as_mut()
    }

    /// The user, the groups or the capabilities have changed.
    pub(crate) fn identity_changed(&mut self) {
        self.privileges = User::privileges();
        process::next_epoch();
        let thread = thread::current();
        self.set_up_thread(thread);
    }

    // Fork.

    /// The calling thread uses its undo list no more; with `begin` it gets a new one.
    pub(crate) fn leave_undo(&mut self, begin: bool) -> Result<()> {
        let alone = thread::current().undo.get() != 0 || threads() < 2;
        self.leave_undo_as(begin, alone)
    }

    /// The same for one of several threads, or one that is `alone`.
    pub(crate) fn leave_undo_as(&mut self, begin: bool, alone: bool) -> Result<()> {
        let thread = thread::current();
        let identity = self.identity()?;
        let list = thread.list(&identity.undo);
        let whole = thread.undo.get() == 0;
        let alone = !whole || alone;
        match self.ask(&Request::LeaveUndo { list, alone, begin })? {
            Reply::Undo(new) if whole && alone => identity.undo.store(new, Ordering::Relaxed),
            Reply::Undo(new) => thread.undo.set(new),
            _ => return Err(Errno::EPROTO),
        }
        Ok(())
    }

    /// What a daemon gave to the client that this process was is not its any more.
    fn is_another_client(&mut self) {
        lapse(&mut self.clients, &mut self.tickets, &mut self.bells);
    }

    /// The process was forked without our knowledge (`_Fork`, clone).
    pub(crate) fn forked(&mut self) {
        thread::current().undo.set(0);
        crate::debug!("forked without handlers: connecting anew");
        self.connection = None;
        self.is_another_client();
        self.segments.forked();
        self.leave_to_parent();
        thread::forget_others(thread::current().number());
    }

    /// Before fork(), with the control lock held until after it: lets the daemon count the attachments for the child, which shares the undo list
    /// if that is wanted.
    pub(crate) fn before_fork(&mut self, shares: bool) {
        self.childs_end = None;
        self.childs_mappings.clear();
        if self.segments.is_empty() && !shares {
            return;
        }
        if shares && let Err(errno) = self.ask(&Request::ShareUndo) {
            crate::error!("a child will not share what is to undo: {errno}");
        }
        let Ok((ours, childs)) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        ) else {
            return;
        };
        let _ = sockopt::set_socket_passcred(&ours, true);
        let patience = Some(Duration::from_secs(1));
        match self.request_for(&Request::ForkPrepare, &[ours.as_fd()], patience) {
            Ok(_) => self.childs_end = Some(socket::high(childs)),
            Err(failure) => crate::debug!("fork not prepared: errno {} {}", failure.errno, failure.why),
        }
        self.prepare_mappings();
    }

    pub(crate) fn after_fork_in_parent(&mut self) {
        self.childs_end = None;
        self.childs_mappings.clear();
    }

    /// In the child: says who it is on the socket the daemon already knows, without waiting.
    pub(crate) fn after_fork_in_child(&mut self) {
        self.map_anew();
        self.leave_to_parent();
        thread::current().undo.set(0);
        let own = thread::current().number();
        thread::forget_others(own);
        let parents = self.connection.take();
        self.is_another_client();
        if let Some(settings) = &mut self.settings {
            settings.ward.forked();
        }
        if let (Some(end), Some(settings)) = (self.childs_end.take(), &self.settings)
            && let Ok(connection) = Connection::of_child(end, settings, User::now(self.privileges))
        {
            self.connection = Some(connection);
        }
        drop(parents);
    }
}

/// The process is another client from now on, to which nothing was given yet.
fn lapse(clients: &mut u64, tickets: &mut Vec<u32>, bells: &mut Vec<bell::Spare>) {
    *clients += 1;
    tickets.clear();
    bells.clear();
}

/// How many threads the process has, as far as it matters.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(1, |tasks| tasks.take(2).count())
}

/// Takes the control lock and asks, for a reply without descriptors.
pub(crate) fn ask(request: &Request) -> Result<Reply> {
    process::lock().ask(request)
}
