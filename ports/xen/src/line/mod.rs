//! The byte stream between a guest and dom0: three pages that dom0 grants, and an event channel.
//!
//! | module | what it holds |
//! |---|---|
//! | `ring` | the bytes in the pages |
//! | `pages` | the pages of either end, mapped: the only unsafe code |
//! | `pump` | a thread that moves bytes between the pages and a socket, so that a daemon has a descriptor like any other |
//!
//! Dom0 [offers](offer) a line to a guest, whoever started it, by writing into the guest's part of Xenstore, which the guest may only read; the guest
//! [takes](take) it and says there that it is ready. Guests that the port starts have a second one for their program's streams. Not for construct memory.

mod pages;
mod pump;
mod ring;

use crate::devices::{self, DomId};
use crate::here::Here;
use crate::holder;
use crate::owner;
use crate::xenstore::Xenstore;
use anyhow::{Context, bail};
use pump::Pump;
use ring::{End, Ring};
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a line is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// The front-end talks to the back-end.
    BackEnd,
    /// The program's standard input and output.
    Program,
}

impl Use {
    /// Where a guest finds it, below its own part of Xenstore.
    fn place(self) -> &'static str {
        match self {
            Use::BackEnd => "vshmem/line",
            Use::Program => "vshmem/program",
        }
    }
}

/// Where it says that its front-end is there; it may write only below `data`.
const READY: &str = "data/vshmem/ready";
/// Behind a line's place: who serves it, for dom0's other processes.
const SERVED_BY: &str = "-by";
/// How long a line's former server may take to end.
const LEAVING: Duration = Duration::from_secs(5);
/// The version of what stands there and in the pages.
const VERSION: u32 = 1;
/// How long a guest waits for dom0 to offer a line.
const PATIENCE: Duration = Duration::from_secs(90);

/// How often dom0 looks whether the guest is there, and a guest whether its line is.
const DOM0_LOOKS: Duration = Duration::from_millis(500);
const GUEST_LOOKS: Duration = Duration::from_secs(3);

/// Dom0's end of a line to a guest: a stream socket. Its end is the guest's end.
///
/// # Errors
/// What is missing, or what the kernel or Xenstore refuse.
pub fn offer(guest: DomId) -> anyhow::Result<OwnedFd> {
    let (ours, theirs) = pair()?;
    serve_by(guest, Use::BackEnd, theirs, &Arc::default())?;
    Ok(ours)
}

/// A line to a running guest that is not offered yet: nothing that the guest sees has changed.
#[derive(Debug)]
pub struct Prepared {
    guest: DomId,
    /// Dom0's end, for the back-end.
    pub stream: OwnedFd,
    other: OwnedFd,
}

/// Prepares a line to the running guest of that name.
///
/// # Errors
/// As [`offer`]'s, and if there is no such guest, or it can take none.
pub fn prepare(machine: &str) -> anyhow::Result<Prepared> {
    let here = Here::default();
    here.is_dom0()?;
    let guest = Xenstore::open(&here)?.domain_named(machine)?;
    check_can_join(guest, machine)?;
    let (stream, other) = pair()?;
    Ok(Prepared { guest, stream, other })
}

impl Prepared {
    /// Offers it to the guest; gives the thread that serves it until either end is gone or `told` is set.
    ///
    /// # Errors
    /// As [`offer`]'s.
    pub fn offer(self, told: &Arc<AtomicBool>) -> anyhow::Result<JoinHandle<()>> {
        let Prepared { guest, stream, other } = self;
        // The back-end has its own of it: its end is the line's end.
        drop(stream);
        serve_by(guest, Use::BackEnd, other, told)
    }
}

/// Refuses those whose line nobody would ever take.
fn check_can_join(guest: DomId, name: &str) -> anyhow::Result<()> {
    if guest == 0 {
        bail!(
            "{name} is dom0 itself, whose programs the back-end serves without a line: `vshmem run -- PROGRAM`"
        );
    }
    if holder::is_holder(name) {
        bail!("{name} holds a back-end's construct memory and runs nothing: name a guest (`xl list`)");
    }
    Ok(())
}

/// A line that ends with whoever has this.
#[derive(Debug)]
pub(crate) struct Served {
    socket: OwnedFd,
    told: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    /// Offers a guest a line whose end here is this socket.
    pub(crate) fn start(guest: DomId, what: Use, socket: OwnedFd) -> anyhow::Result<Self> {
        let own = socket.try_clone().context("the line's socket")?;
        let told = Arc::new(AtomicBool::new(false));
        let thread = serve_by(guest, what, socket, &told)?;
        Ok(Served {
            socket: own,
            told,
            thread: Some(thread),
        })
    }
}

impl Drop for Served {
    /// What the guest has said goes out before.
    fn drop(&mut self) {
        self.told.store(true, Ordering::Relaxed);
        // So that it looks at once.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Read);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A stream socket whose ends never make anybody wait.
fn pair() -> anyhow::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    pair.context("the line's socket")
}

/// Makes sure that nobody else serves this line: who offers a guest another one takes the one that it has from it.
fn claim(xenstore: &mut Xenstore, path: &str, patience: Duration) -> anyhow::Result<()> {
    let mark = format!("{path}{SERVED_BY}");
    let own = owner::this();
    let until = Instant::now() + patience;
    loop {
        let said = xenstore.read(&mark)?.unwrap_or_default();
        let Some(other) = owner::alive(&said).filter(|_| said != own) else {
            return xenstore.write(&mark, &own);
        };
        if Instant::now() > until {
            bail!(
                "this guest has a line already, which process {other} serves: end that one first, if it is to have another one"
            );
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn serve_by(
    guest: DomId,
    what: Use,
    socket: OwnedFd,
    told: &Arc<AtomicBool>,
) -> anyhow::Result<JoinHandle<()>> {
    let here = Here::default();
    here.is_dom0()?;
    let mut xenstore = Xenstore::open(&here)?;
    let home = format!("/local/domain/{guest}");
    // Its identity: xl writes it in one go with the name, which may be changed while it runs, and long before most else.
    let identity = format!("{home}/vm");
    let Some(said) = xenstore.read(&identity)? else {
        bail!("there is no Xen domain {guest} (`xl list` shows them)");
    };
    let path = format!("{home}/{}", what.place());
    claim(&mut xenstore, &path, LEAVING)?;
    let gntalloc = here.device("gntalloc")?;
    let gntalloc =
        devices::open(&gntalloc, true).with_context(|| format!("opening {}", gntalloc.display()))?;
    let evtchn = here.device("evtchn")?;
    let evtchn = devices::open(&evtchn, true).with_context(|| format!("opening {}", evtchn.display()))?;
    let (at, references) = devices::grant_pages(&gntalloc, guest, ring::PAGES).with_context(|| {
        format!(
            "granting {} pages to domain {guest} (too many lines? the module xen-gntalloc has a limit)",
            ring::PAGES
        )
    })?;
    let words = pages::map(gntalloc, at, ring::PAGES)?;
    let port = devices::offer_events(&evtchn, guest).context("making an event channel")?;
    let references: Vec<String> = references.iter().map(u32::to_string).collect();
    let offer = format!("{VERSION} {port} {}", references.join(" "));
    xenstore.write(&path, &offer)?;
    xenstore.permit(&path, &["n0", &format!("r{guest}")])?;
    let watched = pump::Watched {
        xenstore: xenstore.within(pump::ANSWER),
        path: identity,
        said,
        every: DOM0_LOOKS,
        told: Arc::clone(told),
        entry: Some((path, offer)),
    };
    Pump::start(
        Ring::new(Box::new(words), End::Host),
        socket,
        evtchn,
        port,
        watched,
    )
}

/// Whether a guest's front-end has said that it is there.
///
/// # Errors
/// Xenstore's.
pub fn is_ready(xenstore: &mut Xenstore, guest: DomId) -> anyhow::Result<bool> {
    Ok(xenstore
        .read(&format!("/local/domain/{guest}/{READY}"))?
        .is_some())
}

/// Whether dom0 has offered this guest a line.
pub(crate) fn is_offered(here: &Here) -> anyhow::Result<bool> {
    Ok(Xenstore::open(here)?.read(Use::BackEnd.place())?.is_some())
}

/// A guest's end of the line that dom0 offers: a stream socket that never makes anybody wait.
///
/// # Errors
/// If there is none, or it is of another version of Vshmem.
pub(crate) fn take(here: &Here, what: Use) -> anyhow::Result<OwnedFd> {
    let mut xenstore = Xenstore::open(here)?;
    let place = what.place();
    let said = xenstore.wait(place, PATIENCE).context(
        "dom0 offers this guest no line: guests are brought in by `vshmem vm run --port xen` there, or, when they run already, by `vshmem vm attach --port xen`",
    )?;
    let numbers: Vec<u32> = said
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let [version, port, references @ ..] = &numbers[..] else {
        bail!("what dom0 offers as a line is {said:?}");
    };
    if *version != VERSION || references.len() != ring::PAGES as usize {
        bail!(
            "dom0 offers a line of version {version}, this is {VERSION}: install the same version of Vshmem on both sides"
        );
    }
    let gntdev = here.device("gntdev")?;
    let gntdev = devices::open(&gntdev, true).with_context(|| format!("opening {}", gntdev.display()))?;
    let evtchn = here.device("evtchn")?;
    let evtchn = devices::open(&evtchn, true).with_context(|| format!("opening {}", evtchn.display()))?;
    let at = devices::map_references(&gntdev, 0, references)?;
    let words = pages::map(gntdev, at, ring::PAGES).context("the line's pages: dom0 grants them no more")?;
    let port = devices::bind_events(&evtchn, 0, *port).context("binding to dom0's event channel")?;
    if what == Use::BackEnd {
        xenstore.write(READY, &VERSION.to_string())?;
    }
    // Another line is offered when whoever served this one is gone: this end ends, and may begin anew.
    let watched = pump::Watched {
        xenstore: xenstore.within(pump::ANSWER),
        path: place.to_owned(),
        said,
        every: GUEST_LOOKS,
        told: Arc::default(),
        entry: None,
    };
    let (ours, theirs) = pair()?;
    Pump::start(
        Ring::new(Box::new(words), End::Guest),
        theirs,
        evtchn,
        port,
        watched,
    )?;
    Ok(ours)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xenstore::imitation::{knowing, tree};

    #[test]
    fn lines_are_for_guests_alone() {
        check_can_join(3, "db").unwrap();
        let why = check_can_join(0, "Domain-0").unwrap_err().to_string();
        assert!(why.contains("dom0 itself"), "{why}");
        let why = check_can_join(1, "vshmem-holder-7-8-0").unwrap_err().to_string();
        assert!(why.contains("construct memory"), "{why}");
    }

    #[test]
    fn a_line_that_somebody_serves_is_not_taken_from_him() {
        let path = "/local/domain/5/vshmem/line";
        let mark = format!("{path}-by");
        let claimed = |said: &str| {
            let known = tree(&[(&mark, said)]);
            claim(&mut knowing(&known), path, Duration::from_millis(1))
                .map(|()| known.lock().unwrap()[&mark].clone())
        };
        let mut other = std::process::Command::new("/bin/sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        let others = owner::of(other.id() as i32).unwrap();
        let why = claimed(&others).unwrap_err().to_string();
        assert!(why.contains(&format!("process {} serves", other.id())), "{why}");
        other.kill().unwrap();
        other.wait().unwrap();
        // Nobody's, somebody's who is gone, one's own.
        for said in ["", &others, &owner::this()] {
            assert_eq!(claimed(said).unwrap(), owner::this());
        }
    }
}
