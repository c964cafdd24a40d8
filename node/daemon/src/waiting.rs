//! `vshmem join --wait`: for machines into which the device and the stream are plugged while they run, and out of which they are pulled.

use crate::frontend::Setup;
use crate::join_once;
use crate::keeper::Ended;
use crate::process::signals;
use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;

/// Seconds between two looks.
const PAUSE: i64 = 1;

/// Joins as often as it can, until it is told to stop.
pub(crate) fn join(setup: &Setup) -> anyhow::Result<()> {
    let signals = signals::stop_signals().context("preparing for signals")?;
    loop {
        if !is_guest(setup, &signals)? {
            return Ok(());
        }
        match join_once(setup.clone(), None) {
            Ok(Ended::Told) => return Ok(()),
            Ok(Ended::Itself) => {}
            Err(why) => tracing::error!("{why:#}"),
        }
        if stopped_within_a_pause(&signals)? {
            return Ok(());
        }
    }
}

/// Waits until this machine can join; `false` if it was told to stop first.
fn is_guest(setup: &Setup, signals: &OwnedFd) -> anyhow::Result<bool> {
    let mut told = false;
    while let Err(why) = vshmem_port_select::guest(&setup.port, &setup.stream) {
        if !told {
            tracing::warn!("waiting until this machine can join: {why:#}");
            told = true;
        }
        if stopped_within_a_pause(signals)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn stopped_within_a_pause(signals: &OwnedFd) -> anyhow::Result<bool> {
    let pause = Timespec {
        tv_sec: PAUSE,
        tv_nsec: 0,
    };
    match poll(&mut [PollFd::new(signals, PollFlags::IN)], Some(&pause)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(signals::came(signals)),
        Err(e) => Err(e).context("waiting"),
    }
}
