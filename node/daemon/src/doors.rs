//! Bells by which this domain and others ring each other with nobody in between: both daemons' part, the back-end's for the host and a front-end's for its guest.
//!
//! | who | what it does |
//! |---|---|
//! | back-end | says which domains are neighbours, and passes on what they offer each other |
//! | each daemon | offers doors to a neighbour, binds to the neighbour's, and writes in the time page by which number whose bell is rung |
//! | client that wakes | looks there, and rings by the ring line |
//! | client that sleeps | waits on the bell that it was given, reads it and writes back what it read |
//!
//! Offers are made once and said again as often as anybody asks, so that a killed daemon changes nothing: what was exchanged is in a file that the keeper holds,
//! beside the descriptors.

use crate::keeper::{Journal, Keeper};
use crate::process::pages::TimePage;
use anyhow::Context;
use rustix::event::epoll;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use vshmem_port::direct::{self, DirectBells};
use vshmem_wire::{Failure, Reply, Verdict};

/// Names of what the keeper holds: the descriptors by number, and the state.
const LINES: &str = "direct/";
const STATE: &str = "direct/state";
/// A client may have one bell in so many.
const SHARE: usize = 2;

/// What a neighbour was offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Offered {
    machine: u32,
    doors: Vec<u32>,
}

/// What a neighbour offered, and the numbers by which it is rung.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Bound {
    machine: u32,
    doors: Vec<u32>,
    numbers: Vec<u32>,
}

/// What outlives the daemon. Neighbours are named by their spaces.
#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    offered: BTreeMap<u16, Offered>,
    bound: BTreeMap<u16, Bound>,
    owned: BTreeMap<u32, Vec<u16>>,
}

/// This domain's doors and whom it can ring.
pub(crate) struct Doors {
    bells: Box<dyn DirectBells>,
    state: State,
}

/// What a former life had: the descriptors, and the state.
pub(crate) type Former = (Vec<OwnedFd>, Option<OwnedFd>);

/// Takes that out of `kept`.
pub(crate) fn former(kept: &mut BTreeMap<String, OwnedFd>) -> Former {
    let lines = (0..).map_while(|number| kept.remove(&format!("{LINES}{number}")));
    (lines.collect(), kept.remove(STATE))
}

impl Doors {
    /// From the port's bells, with what a former life exchanged.
    pub(crate) fn new(
        bells: Box<dyn DirectBells>,
        former: Option<OwnedFd>,
        keeper: &Keeper,
    ) -> anyhow::Result<Self> {
        let mut state = State::default();
        if let Some(file) = former {
            let (_, entries) = Journal::adopt(file)?;
            if let Some(entry) = entries.last() {
                state = postcard::from_bytes(entry).context("what was exchanged with neighbours")?;
            }
        }
        for (number, descriptor) in bells.descriptors().into_iter().enumerate() {
            keeper.keep(format!("{LINES}{number}"), descriptor);
        }
        Ok(Doors { bells, state })
    }

    /// Has the keeper hold what is so now.
    fn save(&self, keeper: &Keeper) {
        let saved = Journal::new().map_err(anyhow::Error::from).and_then(|mut file| {
            file.append(&postcard::to_allocvec(&self.state)?)?;
            Ok(file)
        });
        match saved {
            Ok(file) => keeper.keep(STATE.to_owned(), file.file()),
            Err(e) => tracing::error!("what was exchanged with neighbours cannot be kept: {e:#}"),
        }
    }

    /// What a neighbour binds to.
    pub(crate) fn offer(&mut self, space: u16, machine: u32, keeper: &Keeper) -> Option<Vec<u32>> {
        match self.state.offered.get(&space) {
            Some(offered) if offered.machine == machine => return Some(offered.doors.clone()),
            Some(other) => self.bells.withdraw(&other.doors),
            None => {}
        }
        match self.bells.offer(machine) {
            Ok(doors) => {
                let offered = Offered {
                    machine,
                    doors: doors.clone(),
                };
                self.state.offered.insert(space, offered);
                self.save(keeper);
                Some(doors)
            }
            Err(e) => {
                tracing::warn!("machine {machine} cannot ring this one but by the daemons: {e}");
                self.state.offered.remove(&space);
                None
            }
        }
    }

    /// A neighbour offers doors to this domain.
    pub(crate) fn bind(
        &mut self,
        space: u16,
        machine: u32,
        doors: Vec<u32>,
        time: &TimePage,
        keeper: &Keeper,
    ) {
        if let Some(bound) = self.state.bound.get(&space) {
            if (bound.machine, &bound.doors) == (machine, &doors) {
                return time.set_doors(&self.rows());
            }
            self.bells.unbind(&bound.numbers);
            self.state.bound.remove(&space);
        }
        match self.bells.bind(machine, &doors) {
            Ok(numbers) => {
                let bound = Bound {
                    machine,
                    doors,
                    numbers,
                };
                self.state.bound.insert(space, bound);
            }
            Err(e) => tracing::warn!("machine {machine} can be rung by the daemons alone: {e}"),
        }
        time.set_doors(&self.rows());
        self.save(keeper);
    }

    /// A neighbour is gone.
    pub(crate) fn forget(&mut self, space: u16, time: &TimePage, keeper: &Keeper) {
        let (offered, bound) = (self.state.offered.remove(&space), self.state.bound.remove(&space));
        if let Some(offered) = &offered {
            self.bells.withdraw(&offered.doors);
        }
        if let Some(bound) = &bound {
            // Nobody finds the numbers any more before others may get them.
            time.set_doors(&self.rows());
            self.bells.unbind(&bound.numbers);
        }
        if offered.is_some() || bound.is_some() {
            self.save(keeper);
        }
    }

    /// Space, bell and number of all that can be rung.
    fn rows(&self) -> Vec<(u16, u16, u32)> {
        let rows = self.state.bound.iter().flat_map(|(&space, bound)| {
            (0..)
                .zip(&bound.numbers)
                .map(move |(bell, &number)| (space, bell, number))
        });
        rows.collect()
    }

    /// Rings a bell, or with 0 a front-end. `false`: it has to be rung otherwise.
    pub(crate) fn ring(&self, space: u16, bell: u16) -> bool {
        let bound = self.state.bound.get(&space);
        let number = bound.and_then(|bound| bound.numbers.get(usize::from(bell)));
        number.is_some_and(|&number| self.bells.ring(number).is_ok())
    }

    /// This daemon's own door.
    pub(crate) fn own(&self) -> Option<BorrowedFd<'_>> {
        self.bells.descriptors().get(1).copied()
    }

    /// Takes the rings at this daemon's own door.
    pub(crate) fn came(&self) -> bool {
        self.bells.take(0)
    }

    /// How many bells there are.
    fn count(&self) -> u16 {
        self.bells.descriptors().len().saturating_sub(2) as u16
    }

    /// Gives a client a bell, if one is left for it: its number, an epoll instance that holds it, by which it is known, and itself.
    fn lease(&mut self, client: u32, keeper: &Keeper) -> io::Result<Option<(u16, [OwnedFd; 2])>> {
        let most = (usize::from(self.count()) / SHARE).max(1);
        let owned = &self.state.owned;
        if owned.get(&client).is_some_and(|own| own.len() >= most) {
            return Ok(None);
        }
        let is_free = |bell: &u16| !owned.values().flatten().any(|taken| taken == bell);
        let Some(bell) = (1..=self.count()).find(is_free) else {
            return Ok(None);
        };
        let device = direct::copy(&*self.bells, usize::from(bell) + 1)?;
        let waits = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64(bell.into());
        epoll::add(&waits, device.as_fd(), data, epoll::EventFlags::IN)?;
        let numbers: Vec<u32> = self
            .state
            .offered
            .values()
            .filter_map(|offered| offered.doors.get(usize::from(bell)).copied())
            .collect();
        self.bells.refresh(bell, &numbers);
        self.state.owned.entry(client).or_default().push(bell);
        self.save(keeper);
        Ok(Some((bell, [waits, device])))
    }

    /// The answer to a client's request for the ring line, and for `wait` for a bell.
    pub(crate) fn give(&mut self, client: u32, wait: bool, keeper: &Keeper) -> (Verdict, Vec<OwnedFd>) {
        let call = self.bells.call();
        let line = direct::copy(&*self.bells, 0);
        let given = line.and_then(|line| match wait {
            true => Ok((line, Some(self.lease(client, keeper)?))),
            false => Ok((line, None)),
        });
        match given {
            Ok((line, None)) => (Ok(Reply::Bell { bell: 0, call }), vec![line]),
            Ok((_, Some(None))) => (Err(Failure::errno(libc::ENOSPC)), Vec::new()),
            Ok((line, Some(Some((bell, [waits, device]))))) => {
                (Ok(Reply::Bell { bell, call }), vec![line, waits, device])
            }
            Err(e) => {
                let why = format!("no descriptor for a bell: {e}");
                (Err(Failure::because(libc::ENOSPC, why)), Vec::new())
            }
        }
    }

    /// A client is gone: its bells are free again.
    pub(crate) fn take_back(&mut self, client: u32, keeper: &Keeper) {
        if self.state.owned.remove(&client).is_some() {
            self.save(keeper);
        }
    }

    /// After a restart: those who are not there any more have no bells.
    pub(crate) fn keep_those(&mut self, is_there: impl Fn(u32) -> bool) {
        self.state.owned.retain(|&client, _| is_there(client));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// Event channels of several machines in one process: what is offered to whom, what is bound, and what was rung.
    #[derive(Default)]
    struct Switchboard {
        next: u32,
        offered: BTreeMap<u32, (u32, u32)>,
        bound: BTreeMap<u32, u32>,
        rung: Vec<u32>,
    }

    /// Doors that were made fit for a new owner, and by which numbers.
    type Refreshed = Arc<Mutex<Vec<(u16, Vec<u32>)>>>;

    struct Fake {
        machine: u32,
        board: Arc<Mutex<Switchboard>>,
        files: Vec<OwnedFd>,
        refreshed: Refreshed,
    }

    impl DirectBells for Fake {
        fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
            self.files.iter().map(AsFd::as_fd).collect()
        }
        fn call(&self) -> u32 {
            77
        }
        fn offer(&mut self, peer: u32) -> io::Result<Vec<u32>> {
            let mut board = self.board.lock().unwrap();
            let doors = (1..self.files.len()).map(|_| {
                board.next += 1;
                let port = board.next;
                board.offered.insert(port, (self.machine, peer));
                port
            });
            Ok(doors.collect())
        }
        fn withdraw(&mut self, doors: &[u32]) {
            let mut board = self.board.lock().unwrap();
            for port in doors {
                board.offered.remove(port);
            }
        }
        fn bind(&mut self, peer: u32, doors: &[u32]) -> io::Result<Vec<u32>> {
            let mut board = self.board.lock().unwrap();
            let mut numbers = Vec::new();
            for port in doors {
                if board.offered.get(port) != Some(&(peer, self.machine)) {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
                board.next += 1;
                let number = board.next;
                board.bound.insert(number, *port);
                numbers.push(number);
            }
            Ok(numbers)
        }
        fn unbind(&mut self, numbers: &[u32]) {
            let mut board = self.board.lock().unwrap();
            for number in numbers {
                board.bound.remove(number);
            }
        }
        fn ring(&self, number: u32) -> io::Result<()> {
            let mut board = self.board.lock().unwrap();
            let port = board.bound.get(&number).copied();
            let port = port.filter(|port| board.offered.contains_key(port));
            board.rung.push(port.ok_or(io::ErrorKind::NotConnected)?);
            Ok(())
        }
        fn take(&self, _: u16) -> bool {
            true
        }
        fn refresh(&self, door: u16, numbers: &[u32]) {
            self.refreshed.lock().unwrap().push((door, numbers.to_vec()));
        }
    }

    struct Domain {
        doors: Doors,
        time: TimePage,
        refreshed: Refreshed,
    }

    const ALONE: Keeper = Keeper::none();

    fn domain(machine: u32, board: &Arc<Mutex<Switchboard>>, state: Option<OwnedFd>) -> Domain {
        let file = || rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
        let refreshed = Arc::default();
        let bells = Fake {
            machine,
            board: Arc::clone(board),
            files: (0..6).map(|_| file()).collect(),
            refreshed: Arc::clone(&refreshed),
        };
        Domain {
            doors: Doors::new(Box::new(bells), state, &ALONE).unwrap(),
            time: TimePage::new().unwrap(),
            refreshed,
        }
    }

    /// `by` may ring at `at` from then on.
    fn exchange(
        (by, by_space, by_machine): (&mut Domain, u16, u32),
        (at, space, machine): (&mut Domain, u16, u32),
    ) {
        let doors = at.doors.offer(by_space, by_machine, &ALONE).unwrap();
        by.doors.bind(space, machine, doors, &by.time, &ALONE);
    }

    #[test]
    fn what_was_exchanged_rings_and_saying_it_again_changes_nothing() {
        let board = Arc::default();
        let (mut a, mut b) = (domain(7, &board, None), domain(9, &board, None));
        assert!(!a.doors.ring(2, 1));
        exchange((&mut a, 1, 7), (&mut b, 2, 9));
        let doors = b.doors.offer(1, 7, &ALONE).unwrap();
        assert_eq!(doors.len(), 5, "the daemon's and four bells");
        for bell in 0..5u16 {
            assert!(a.doors.ring(2, bell));
            assert_eq!(board.lock().unwrap().rung.last(), Some(&doors[usize::from(bell)]));
        }
        assert!(!a.doors.ring(2, 5) && !a.doors.ring(1, 1));
        let rows = a.doors.rows();
        assert_eq!(rows.len(), 5);
        exchange((&mut a, 1, 7), (&mut b, 2, 9));
        assert_eq!(a.doors.rows(), rows);
        // What cannot be bound leaves no number to ring by.
        a.doors.bind(3, 11, vec![doors[0]], &a.time, &ALONE);
        assert!(!a.doors.ring(3, 0));
    }

    #[test]
    fn who_is_gone_leaves_nothing_and_another_machine_takes_its_space() {
        let board: Arc<Mutex<Switchboard>> = Arc::default();
        let (mut a, mut b) = (domain(7, &board, None), domain(9, &board, None));
        exchange((&mut a, 1, 7), (&mut b, 2, 9));
        exchange((&mut b, 2, 9), (&mut a, 1, 7));
        let mut c = domain(10, &board, None);
        exchange((&mut a, 1, 7), (&mut c, 2, 10));
        exchange((&mut c, 2, 10), (&mut a, 1, 7));
        assert!(a.doors.ring(2, 3) && c.doors.ring(1, 3));
        assert!(!b.doors.ring(1, 3), "what was offered to b was withdrawn");
        a.doors.forget(2, &a.time, &ALONE);
        assert!(!a.doors.ring(2, 3) && !c.doors.ring(1, 3) && a.doors.rows().is_empty());
        c.doors.forget(1, &c.time, &ALONE);
        b.doors.forget(1, &b.time, &ALONE);
        let board = board.lock().unwrap();
        assert!(board.offered.is_empty() && board.bound.is_empty());
    }

    #[test]
    fn a_bell_is_one_clients_and_fit_for_its_next_owner() {
        let board = Arc::default();
        let (mut a, mut b) = (domain(7, &board, None), domain(9, &board, None));
        exchange((&mut a, 1, 7), (&mut b, 2, 9));
        let doors = b.doors.offer(1, 7, &ALONE).unwrap();
        let (verdict, files) = b.doors.give(20, true, &ALONE);
        assert_eq!((verdict, files.len()), (Ok(Reply::Bell { bell: 1, call: 77 }), 3));
        let (verdict, _) = b.doors.give(20, true, &ALONE);
        assert_eq!(verdict, Ok(Reply::Bell { bell: 2, call: 77 }));
        assert!(b.doors.give(20, true, &ALONE).0.is_err(), "half of them");
        assert!(b.doors.give(21, true, &ALONE).0.is_ok() && b.doors.give(21, true, &ALONE).0.is_ok());
        assert!(b.doors.give(22, true, &ALONE).0.is_err(), "all are taken");
        let (verdict, files) = b.doors.give(22, false, &ALONE);
        assert_eq!((verdict, files.len()), (Ok(Reply::Bell { bell: 0, call: 77 }), 1));
        b.doors.take_back(20, &ALONE);
        assert_eq!(
            b.doors.give(22, true, &ALONE).0,
            Ok(Reply::Bell { bell: 1, call: 77 })
        );
        assert_eq!(b.refreshed.lock().unwrap().last(), Some(&(1, vec![doors[1]])));
    }

    #[test]
    fn a_later_life_goes_on_with_what_was_exchanged() {
        let board = Arc::default();
        let (mut a, mut b) = (domain(7, &board, None), domain(9, &board, None));
        exchange((&mut a, 1, 7), (&mut b, 2, 9));
        let rows = a.doors.rows();
        let _ = a.doors.give(20, true, &ALONE);
        let _ = a.doors.give(21, true, &ALONE);
        let mut file = Journal::new().unwrap();
        file.append(&postcard::to_allocvec(&a.doors.state).unwrap())
            .unwrap();
        let kept = rustix::io::dup(file.file()).unwrap();
        let mut later = domain(7, &board, Some(kept));
        later.doors.keep_those(|client| client == 21);
        assert_eq!(later.doors.rows(), rows);
        assert!(later.doors.ring(2, 4));
        let (verdict, _) = later.doors.give(30, true, &ALONE);
        assert_eq!(
            verdict,
            Ok(Reply::Bell { bell: 1, call: 77 }),
            "20 is not there any more"
        );
        exchange((&mut later, 1, 7), (&mut b, 2, 9));
        assert_eq!(later.doors.rows(), rows);
    }
}
