//! `vshmem vm attach`: brings in a machine that somebody else started, by a line that this command serves as long as it runs.
//!
//! Not for machines whose hypervisor connects to the back-end's sockets by itself: `vshmem vm flags`.

use crate::commands::vm::domain_name;
use crate::connection::Connection;
use crate::place::Place;
use crate::trouble::{Outcome, Trouble, reason};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use vshmem_wire::{Reply, Request};

/// A former line's end may not have been heard of yet.
const LEAVING: Duration = Duration::from_secs(5);

/// Brings in a guest that somebody else started, and serves its line until it ends.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
The domain is called as the machine is (`xl list`). In the guest, `vshmem join` takes the line, before or after this command begins. The command ends, with status 0,
when the machine ends or the line is given up; if it is ended first (Ctrl-C, SIGTERM), the domain is gone from the group, the guest's front-end ends, and both can begin anew. It must be root's.

Examples:
  vshmem vm attach --port xen --domain db &
  ssh db vshmem join --port xen")]
pub(crate) struct Attach {
    /// Port of the machine
    #[arg(long, value_name = "PORT", default_value = "xen", value_parser = clap::builder::PossibleValuesParser::new(vshmem_port_select::LINED))]
    port: String,
    /// Name of the machine, and of the domain
    #[arg(long, value_name = "NAME", value_parser = domain_name)]
    domain: String,
    /// Folder of the back-end's socket [default: $VSHMEM_RUNTIME_DIR, else /run/vshmem, else $XDG_RUNTIME_DIR/vshmem]
    #[arg(long, value_name = "DIR")]
    runtime_dir: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(options: &Attach) -> Outcome {
    let what = format!("domain {}", options.domain);
    let place = Place {
        runtime_dir: options.runtime_dir.clone(),
        domain: None,
    };
    let mut connection = Connection::open_as(&place, None)?;
    let told = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&told)).map_err(|why| Trouble::new("signals", why))?;
    }
    let trouble = |why: anyhow::Error| Trouble::new(&*what, format!("{why:#}"));
    let line = vshmem_port_select::line(&options.port, &options.domain).map_err(trouble)?;
    let request = Request::AttachDomain {
        name: options.domain.clone(),
        port: options.port.clone(),
    };
    let until = Instant::now() + LEAVING;
    loop {
        match connection.exchange(&request, &[line.stream()]) {
            Ok((Reply::DomainReady { .. }, _)) => break,
            Ok((other, _)) => return Err(Trouble::new(what, format!("unexpected answer {other:?}"))),
            Err(failure) if failure.errno == libc::EEXIST && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(100));
            }
            Err(failure) => return Err(Trouble::new(what, reason(&failure))),
        }
    }
    // Only now: a guest that is in the group already, by another line, keeps that one.
    let served = line.offer(&told).map_err(trouble)?;
    drop(connection);
    eprintln!(
        "{what} has a line: `vshmem join --port {}` in the guest takes it",
        options.port
    );
    served
        .join()
        .map_err(|_| Trouble::new(&*what, "the thread that serves the line panicked"))?;
    eprintln!("{what} has no line any more");
    Ok(0)
}
