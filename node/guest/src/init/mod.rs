//! The guest's first process: prepares the guest, runs the program, and powers the machine off.
//!
//! In order: devices and `/proc`; hello to the host and its answer, what to do; a root of the host's tree with writes
//! going to memory; name and loopback; services; the program; power-off. It ends by powering off whatever happens: when
//! the program ended, when something failed (said to the host), and when the host's side is gone (end of the stream).
//!
//! Not for anything that only one hypervisor has: that is the port's [`vshmem_port::boot::Inside`].

mod line;
mod mounts;
mod program;
mod reaper;
mod services;
mod shuttle;
mod sys;

use std::process::ExitCode;

use anyhow::Context as _;
use rustix::system::RebootCommand;
use vshmem_port::boot::Inside;

use crate::frame::{Message, Start, VERSION};
use crate::host::INIT_WORD;
use line::Line;

/// Whether this process was started as a guest's first process and must call [`main`] before anything else.
#[must_use]
pub fn is_init() -> bool {
    rustix::process::getpid().is_init() && std::env::args_os().nth(1).is_some_and(|word| word == INIT_WORD)
}

/// The whole life of a guest's first process. Returns only where it is not one.
#[must_use]
pub fn main() -> ExitCode {
    if !is_init() {
        eprintln!("{INIT_WORD} is for the first process of a guest only");
        return ExitCode::from(2);
    }
    let port = std::env::args().nth(2).unwrap_or_default();
    match vshmem_port_select::inside(&port) {
        Ok(inside) => live(inside.as_ref()),
        Err(error) => eprintln!("{error}"),
    }
    rustix::fs::sync();
    // A refusal leaves nothing to do but to end, which the kernel answers by a panic that the host sees.
    let _ = rustix::system::reboot(RebootCommand::PowerOff);
    ExitCode::FAILURE
}

fn live(inside: &dyn Inside) {
    if let Err(error) = inside.arrive() {
        eprintln!("the guest's root: {error:#}");
        return;
    }
    if let Err(error) = mounts::devices() {
        eprintln!("the guest's devices: {error:#}");
        return;
    }
    let mut line = match inside.stdio().and_then(|stream| Ok(Line::over(stream)?)) {
        Ok(line) => line,
        Err(error) => {
            eprintln!("the stream to the host: {error:#}");
            return;
        }
    };
    if let Err(error) = serve(inside, &mut line) {
        let _ = line.say(&Message::Failed(format!("{error:#}")));
        line.drain();
        // The host ends the machine when it has read this; do not power off under its eyes.
        while let Ok(Some(_)) = line.hear() {}
    }
}

fn serve(inside: &dyn Inside, line: &mut Line) -> anyhow::Result<()> {
    line.say(&Message::Hello(VERSION))?;
    let Some(start) = wait_for_start(line)? else {
        return Ok(());
    };
    if start.pools > 0 {
        let pools = usize::from(start.pools);
        inside.check_pools(pools).map_err(anyhow::Error::msg)?;
    }
    let reaper = reaper::Reaper::new().context("listening to SIGCHLD")?;
    for note in mounts::root(inside, &start)? {
        line.say(&Message::Note(note))?;
    }
    rustix::system::sethostname(start.domain.as_bytes()).context("setting the host name")?;
    sys::interface_up("lo", None).context("bringing up the loopback interface")?;
    if let Some(address) = start.address {
        let card = inside.network_card();
        sys::interface_up(card, Some(address)).with_context(|| format!("bringing up network card {card}"))?;
    }
    let services = services::start_all(&start)?;
    let program = program::spawn(&start, line)?;
    shuttle::Shuttle::new(line, reaper, program, services)?.run()
}

fn wait_for_start(line: &mut Line) -> anyhow::Result<Option<Box<Start>>> {
    match line.hear()? {
        None => Ok(None),
        Some(Message::Start(start)) => Ok(Some(start)),
        Some(_) => anyhow::bail!("the host did not begin with what to do"),
    }
}
