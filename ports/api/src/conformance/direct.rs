//! Bells with nobody in between: that each domain rings each other one, itself and the host among them, by every door, once or more and never in vain; that nobody else
//! hears it; and that neither many rings nor a careless reader nor a killed peer makes a door deaf. A port without such bells has nothing to show.

use super::script::{Ask, Told};
use super::session::{PATIENCE, Peer, Session};
use crate::direct::DirectBells;
use crate::guest::GuestPort;
use anyhow::{Context, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::time::Duration;

/// The host's machine.
const HOST: u32 = 0;
/// Rings in a row that nobody hears.
const MANY: u32 = 1000;

/// An agent's bells.
#[derive(Default)]
pub(super) struct Direct(Option<Box<dyn DirectBells>>);

impl Direct {
    fn get(&mut self) -> anyhow::Result<&mut dyn DirectBells> {
        Ok(&mut **self.0.as_mut().context("no bells with nobody in between")?)
    }

    pub(super) fn perform(&mut self, port: &dyn GuestPort, ask: Ask) -> anyhow::Result<Told> {
        Ok(match ask {
            Ask::OpenDoors => {
                self.0 = port.direct_bells(Vec::new())?;
                Told::Value(doors(self.get()?) as u64)
            }
            Ask::OfferDoors { machine } => Told::Numbers(self.get()?.offer(machine)?),
            Ask::BindDoors { machine, doors } => Told::Numbers(self.get()?.bind(machine, &doors)?),
            Ask::RingDoor { number, times } => {
                let bells = self.get()?;
                Told::Value((0..times).filter(|_| bells.ring(number).is_ok()).count() as u64)
            }
            Ask::DoorRung { door, within } => Told::Value(rung(self.get()?, door, within)?.into()),
            other => bail!("{other:?} is not about doors"),
        })
    }
}

fn doors(bells: &dyn DirectBells) -> usize {
    bells.descriptors().len() - 1
}

/// Waits for a door to be readable, then takes what came.
fn rung(bells: &dyn DirectBells, door: u16, within: u32) -> anyhow::Result<bool> {
    let all = bells.descriptors();
    let device = all.get(usize::from(door) + 1).context("no such door")?;
    let time = Duration::from_millis(within.into());
    let time = Timespec {
        tv_sec: time.as_secs() as _,
        tv_nsec: time.subsec_nanos().into(),
    };
    poll(&mut [PollFd::new(device, PollFlags::IN)], Some(&time))?;
    Ok(bells.take(door))
}

/// The host, or a domain with an agent.
enum Party<'a> {
    Host(&'a mut dyn DirectBells),
    Domain(&'a mut Peer, u32),
}

impl Party<'_> {
    fn machine(&self) -> u32 {
        match self {
            Party::Host(_) => HOST,
            Party::Domain(_, machine) => *machine,
        }
    }

    fn numbers(&mut self, ask: Ask) -> anyhow::Result<Vec<u32>> {
        match (self, ask) {
            (Party::Host(bells), Ask::OfferDoors { machine }) => Ok(bells.offer(machine)?),
            (Party::Host(bells), Ask::BindDoors { machine, doors }) => Ok(bells.bind(machine, &doors)?),
            (Party::Host(_), other) => bail!("{other:?} gives no numbers"),
            (Party::Domain(peer, _), ask) => match peer.ask(ask)? {
                Told::Numbers(numbers) => Ok(numbers),
                other => bail!("expected numbers, got {other:?}"),
            },
        }
    }

    fn ring(&mut self, number: u32, times: u32) -> anyhow::Result<u64> {
        match self {
            Party::Host(bells) => Ok((0..times).filter(|_| bells.ring(number).is_ok()).count() as u64),
            Party::Domain(peer, _) => peer.value(Ask::RingDoor { number, times }),
        }
    }

    fn rung(&mut self, door: u16, within: u32) -> anyhow::Result<bool> {
        match self {
            Party::Host(bells) => rung(&**bells, door, within),
            Party::Domain(peer, _) => Ok(peer.value(Ask::DoorRung { door, within })? > 0),
        }
    }
}

/// Rings by a door, and waits until it is heard.
fn heard(parties: &mut [Party<'_>], (by, at): (usize, usize), number: u32, door: u16) -> anyhow::Result<()> {
    let rung = parties[by].ring(number, 1)?;
    ensure!(rung == 1, "party {by} cannot ring door {door} of party {at}");
    let within = PATIENCE.as_millis() as u32 / 2;
    ensure!(
        parties[at].rung(door, within)?,
        "party {at} did not hear party {by} at door {door}"
    );
    Ok(())
}

/// What was exchanged by two parties: the doors that one offers, and the numbers by which the other rings them.
struct Exchanged {
    doors: Vec<u32>,
    numbers: Vec<u32>,
}

/// Lets `by` ring at `at`.
fn exchange(parties: &mut [Party<'_>], by: usize, at: usize) -> anyhow::Result<Exchanged> {
    let machine = parties[by].machine();
    let doors = parties[at].numbers(Ask::OfferDoors { machine })?;
    let machine = parties[at].machine();
    let ask = Ask::BindDoors {
        machine,
        doors: doors.clone(),
    };
    let numbers = parties[by].numbers(ask)?;
    ensure!(
        numbers.len() == doors.len(),
        "{} doors, {} numbers",
        doors.len(),
        numbers.len()
    );
    Ok(Exchanged { doors, numbers })
}

pub(super) fn direct(session: &mut Session<'_>) -> anyhow::Result<()> {
    let Some(mut host) = session.direct_bells()? else {
        return Ok(());
    };
    let count = doors(&*host) as u16;
    let (mut a, mut b) = (session.domain()?, session.domain()?);
    for peer in [&mut a, &mut b] {
        ensure!(peer.value(Ask::OpenDoors)? == u64::from(count));
    }
    let (in_a, in_b) = (session.machine(&a)?, session.machine(&b)?);
    let mut parties = [
        Party::Host(&mut *host),
        Party::Domain(&mut a, in_a),
        Party::Domain(&mut b, in_b),
    ];
    let pairs: Vec<(usize, usize)> = (0..9).map(|pair| (pair / 3, pair % 3)).collect();
    let mut all = Vec::new();
    for &(by, at) in &pairs {
        all.push(exchange(&mut parties, by, at).with_context(|| format!("{by} and {at}"))?);
    }
    for (&pair, exchanged) in pairs.iter().zip(&all) {
        each(&mut parties, pair, &exchanged.numbers)?;
    }
    careless(&mut parties, &all[3])?;
    b.domain.kill();
    let mut left = [Party::Host(&mut *host), Party::Domain(&mut a, in_a)];
    without_one(&mut left, &all)
}

/// Every door hears its rings, and no other does; many rings are one, and there is a next one.
fn each(parties: &mut [Party<'_>], (by, at): (usize, usize), numbers: &[u32]) -> anyhow::Result<()> {
    let last = numbers.len() as u16 - 1;
    for door in [0, 1, last] {
        for _ in 0..3 {
            heard(parties, (by, at), numbers[usize::from(door)], door)?;
        }
    }
    for other in 0..last {
        ensure!(!parties[at].rung(other, 0)?, "door {other} rang as well");
    }
    let rung = parties[by].ring(numbers[1], MANY)?;
    ensure!(rung == u64::from(MANY), "{rung} of {MANY} rings");
    heard(parties, (by, at), numbers[1], 1)?;
    while parties[at].rung(1, 100)? {}
    heard(parties, (by, at), numbers[1], 1)
}

/// A reader at the host that writes nothing back makes its door deaf for others; made fit for a new owner, it hears again.
fn careless(parties: &mut [Party<'_>], exchanged: &Exchanged) -> anyhow::Result<()> {
    parties[1].ring(exchanged.numbers[2], 1)?;
    let Party::Host(host) = &mut parties[0] else {
        bail!("party 0 is not the host");
    };
    let all = host.descriptors();
    let time = Timespec {
        tv_sec: 20,
        tv_nsec: 0,
    };
    poll(&mut [PollFd::new(&all[3], PollFlags::IN)], Some(&time))?;
    rustix::io::read(all[3], &mut [0; 64])?;
    host.refresh(2, &exchanged.doors[2..3]);
    heard(parties, (1, 0), exchanged.numbers[2], 2)
}

/// A domain that was killed, the third, takes nobody's hearing with it; who rings it rings nobody.
fn without_one(parties: &mut [Party<'_>], all: &[Exchanged]) -> anyhow::Result<()> {
    let number = |by: usize, at: usize| all[by * 3 + at].numbers[1];
    for (by, at) in [(0, 1), (1, 0), (0, 0), (1, 1)] {
        heard(parties, (by, at), number(by, at), 1)?;
        parties[by].ring(number(by, 2), 3)?;
    }
    heard(parties, (1, 0), number(1, 0), 1)
}
