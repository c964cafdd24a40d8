//! Bells: that each rings its own waiter once or more, in both directions, and that neither many rings nor rubbish makes a line deaf. And the agent's part in
//! it, which is what a front-end and its clients do. A port without bells has nothing to show.

use super::script::Ask;
use super::session::{PATIENCE, Peer, Session};
use crate::guest::{Bells, GuestPort};
use anyhow::{Context, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::fd::OwnedFd;
use std::time::{Duration, Instant};
use vshmem_wire::bell::{Ring, Rings};

/// What a bell's line must hold unread: the back-end writes no more.
const UNREAD: usize = 1024;

/// The agent's bells, and an epoll instance for each.
#[derive(Default)]
pub(super) struct Opened {
    bells: Option<Bells>,
    waits: Vec<OwnedFd>,
}

impl Opened {
    pub(super) fn open(&mut self, port: &dyn GuestPort) -> anyhow::Result<u64> {
        let Some(bells) = port.bells()? else { return Ok(0) };
        for (i, line) in bells.lines.iter().enumerate() {
            let waits = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
            epoll::add(&waits, line, epoll::EventData::new_u64(i as u64), flags)?;
            self.waits.push(waits);
        }
        self.bells = Some(bells);
        Ok(self.waits.len() as u64)
    }

    pub(super) fn rung(&self, bell: usize, within: u32) -> anyhow::Result<u64> {
        let waits = self.waits.get(bell).context("no such bell")?;
        let mut events: Vec<epoll::Event> = Vec::with_capacity(1);
        let room = rustix::buffer::spare_capacity(&mut events);
        epoll::wait(waits, room, Some(&time(Duration::from_millis(within.into()))))?;
        Ok(events.len() as u64)
    }

    pub(super) fn read(&self, bell: usize) -> anyhow::Result<u64> {
        let line = self.bells.as_ref().and_then(|bells| bells.lines.get(bell));
        let line = line.context("no such bell")?;
        let mut read = 0;
        loop {
            let there = usize::try_from(rustix::io::ioctl_fionread(line)?)?;
            let mut into = [0; 512];
            let most = there.saturating_sub(1).min(into.len());
            if most == 0 {
                return Ok(read);
            }
            read += rustix::io::read(line, &mut into[..most])? as u64;
        }
    }

    pub(super) fn write(&self, bytes: &[u8], times: u32) -> anyhow::Result<u64> {
        let line = &self.bells.as_ref().context("no bells")?.ring;
        let written = (0..times).map(|_| rustix::io::write(line, bytes).unwrap_or(0) as u64);
        Ok(written.sum())
    }
}

fn time(time: Duration) -> Timespec {
    Timespec {
        tv_sec: time.as_secs() as _,
        tv_nsec: time.subsec_nanos().into(),
    }
}

fn rung(domain: &mut Peer, bell: usize, within: u32) -> anyhow::Result<bool> {
    Ok(domain.value(Ask::Rung { bell, within })? > 0)
}

/// Waits until what is on its way has come.
fn quiet(domain: &mut Peer, bell: usize) -> anyhow::Result<()> {
    while rung(domain, bell, 100)? {}
    Ok(())
}

/// Each bell wakes its own waiter, again and again.
fn each_its_own(a: &mut Peer, bells: &[OwnedFd]) -> anyhow::Result<()> {
    for (bell, line) in bells.iter().enumerate() {
        for _ in 0..3 {
            rustix::io::write(line, &[1])?;
            ensure!(rung(a, bell, 20_000)?, "bell {bell} was not heard");
        }
    }
    rustix::io::write(&bells[0], &[1])?;
    ensure!(rung(a, 0, 20_000)?);
    for other in 1..bells.len() {
        ensure!(!rung(a, other, 0)?, "bell 0 rang {other} as well");
    }
    Ok(())
}

/// Many rings of which nobody reads anything, then all are read; and not one more is lost.
fn many(a: &mut Peer, bell: &OwnedFd) -> anyhow::Result<()> {
    for round in 0..8 {
        rustix::io::write(bell, &[1; UNREAD])?;
        ensure!(rung(a, 0, 20_000)?, "round {round}");
        quiet(a, 0)?;
        let read = a.value(Ask::ReadBell { bell: 0 })?;
        ensure!(
            read >= UNREAD as u64 - 1,
            "round {round}: {read} of {UNREAD} to read"
        );
    }
    for ring in 0..100 {
        rustix::io::write(bell, &[1])?;
        ensure!(rung(a, 0, 20_000)?, "the bell has gone deaf, ring {ring}");
    }
    Ok(())
}

/// Rubbish on the ring line, more than it takes, while nobody reads; then it is read, and a ring is found.
fn rubbish(a: &mut Peer, line: &OwnedFd) -> anyhow::Result<()> {
    let wanted = Ring {
        space: 3,
        bell: 2,
        at: 64,
    };
    let rubbish = (0..1000u32).map(|i| (i * 31 % 251) as u8).collect();
    let bytes = a.value(Ask::WriteRings {
        bytes: rubbish,
        times: 2000,
    })?;
    ensure!(bytes > 1000, "the ring line takes no bytes");
    let until = Instant::now() + PATIENCE;
    let (mut rings, mut found) = (Rings::default(), Vec::new());
    while !found.contains(&wanted) {
        ensure!(Instant::now() < until, "no ring is found behind rubbish");
        a.value(Ask::WriteRings {
            bytes: wanted.write().to_vec(),
            times: 1,
        })?;
        while poll(
            &mut [PollFd::new(line, PollFlags::IN)],
            Some(&time(Duration::from_millis(20))),
        )? == 1
        {
            let mut piece = [0; 4096];
            let bytes = rustix::io::read(line, &mut piece)?;
            ensure!(bytes > 0, "the ring line has ended");
            rings.push(&piece[..bytes], &mut found);
        }
    }
    Ok(())
}

pub(super) fn bells(session: &mut Session<'_>) -> anyhow::Result<()> {
    let mut a = session.domain()?;
    let count = usize::try_from(a.value(Ask::Bells)?)?;
    let lines = a.domain.bells().iter().map(OwnedFd::try_clone);
    let lines: Vec<OwnedFd> = lines.collect::<Result<_, _>>()?;
    ensure!(
        count == lines.len().saturating_sub(1),
        "{count} bells and {} lines",
        lines.len()
    );
    let Some((ring_line, bells)) = lines.split_first() else {
        return Ok(());
    };
    each_its_own(&mut a, bells)?;
    many(&mut a, &bells[0])?;
    rubbish(&mut a, ring_line)?;
    each_its_own(&mut a, bells)
}
