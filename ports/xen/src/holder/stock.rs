//! Pages asked for ahead of time: populated, zeroed, and granted to nobody, so that making a construct is a matter of lists.
//!
//! | frame | how it gets there | how it leaves |
//! |---|---|---|
//! | away | the helper populates or zeroes it | the helper is done: clean |
//! | clean | from the helper | a construct takes it |
//! | dirty | a construct gave it back, nobody maps it | to the helper, within a second; or taken and zeroed by whoever needs more than there is |
//!
//! The helper is a thread with the libraries' handles of its own; it has at most a few orders of [`BATCH`] pages, so that waiting for one is short. Not for frames
//! that constructs have or that somebody still maps: see [`super::store`].

use super::libraries::{BATCH, Libraries};
use super::runs::Runs;
use crate::devices::DomId;
use anyhow::Context;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

enum Order {
    Populate { first: u64, pages: usize },
    Zero(Vec<u32>),
}

enum Report {
    /// New frames, of so many that were asked for: zeroed, or not.
    Populated {
        frames: Vec<u32>,
        asked: usize,
        zeroed: bool,
    },
    Zeroed {
        frames: Vec<u32>,
        done: bool,
    },
}

/// Frames that a holder has got, to be entered in its ledger.
pub(super) type Fresh = Vec<u32>;

/// The stock.
#[derive(Debug)]
pub(super) struct Stock {
    clean: Runs,
    dirty: Runs,
    /// Clean frames that are wanted.
    wanted: usize,
    /// Asked of the helper, and not there yet: new ones, old ones.
    coming: usize,
    away: Runs,
    /// The hypervisor gave less than it was asked for: not asked again before something else changes.
    dry: bool,
    helper: Option<(Sender<Order>, Receiver<Report>)>,
}

impl Stock {
    /// An empty one that the helper fills up to `wanted` frames; with none wanted there is no helper.
    pub(super) fn new(wanted: usize, holder: DomId) -> anyhow::Result<Self> {
        let mut stock = Stock::without_helper(wanted);
        if wanted > 0 {
            let libraries = Libraries::load()?;
            let (orders, taken) = channel();
            let (told, reports) = channel();
            let thread = std::thread::Builder::new().name("vshmem-stock".into());
            thread
                .spawn(move || help(&libraries, holder, &taken, &told))
                .context("a thread that asks for memory ahead of time")?;
            stock.helper = Some((orders, reports));
        }
        Ok(stock)
    }

    fn without_helper(wanted: usize) -> Self {
        Stock {
            clean: Runs::default(),
            dirty: Runs::default(),
            wanted,
            coming: 0,
            away: Runs::default(),
            dry: false,
            helper: None,
        }
    }

    /// Whether less than half of what is wanted is clean.
    pub(super) fn is_low(&self) -> bool {
        self.clean.len() < self.wanted / 2
    }

    /// Frames that can be had now.
    pub(super) fn len(&self) -> usize {
        self.clean.len() + self.dirty.len()
    }

    /// Frames that the helper is about to bring, those not populated yet included.
    pub(super) fn under_way(&self) -> usize {
        self.coming + self.away.len()
    }

    /// Not populated yet, and asked for.
    pub(super) fn coming(&self) -> usize {
        self.coming
    }

    /// Whether a frame is no construct's and in nobody's use.
    pub(super) fn has(&self, frame: u32) -> bool {
        self.clean.contains(frame) || self.dirty.contains(frame) || self.away.contains(frame)
    }

    /// Frames that nobody uses any more.
    pub(super) fn put(&mut self, frames: &[u32]) {
        self.dry = false;
        self.dirty.add(frames);
    }

    /// A frame is somebody's after all.
    pub(super) fn forget(&mut self, frame: u32) -> bool {
        self.clean.remove(frame) | self.dirty.remove(frame)
    }

    /// That many frames: those that are zeroed, and those that are not. There must be as many.
    pub(super) fn take(&mut self, pages: usize) -> (Vec<u32>, Vec<u32>) {
        let clean = self.clean.take(pages);
        let dirty = self.dirty.take(pages - clean.len());
        (clean, dirty)
    }

    /// Has the helper, which may take this processor for it, zero what is dirty, and populate what is missing, as far as there is room for `room` frames more, the first of which has number `next`.
    pub(super) fn order(&mut self, next: u64, room: usize) {
        let Some((orders, _)) = &self.helper else { return };
        let dirty = self.dirty.take(self.dirty.len());
        for frames in dirty.chunks(BATCH) {
            if orders.send(Order::Zero(frames.to_vec())).is_err() {
                self.dirty.add(frames);
            } else {
                self.away.add(frames);
            }
        }
        let have = self.len() + self.under_way();
        let mut missing = self.wanted.saturating_sub(have).min(room);
        // A few at a time: an order in hand is not taken back.
        if self.dry || self.coming > 0 {
            return;
        }
        let mut first = next;
        while missing > 0 && self.coming < 4 * BATCH {
            let pages = missing.min(BATCH);
            if orders.send(Order::Populate { first, pages }).is_err() {
                return;
            }
            self.coming += pages;
            first += pages as u64;
            missing -= pages;
        }
    }

    /// Takes what the helper has done; waits for one thing at least, if `patiently`. Frames that are new.
    pub(super) fn collect(&mut self, mut patiently: bool) -> Fresh {
        let mut fresh = Vec::new();
        while let Some((_, reports)) = &self.helper {
            let report = if patiently {
                reports.recv().map_err(|_| TryRecvError::Disconnected)
            } else {
                reports.try_recv()
            };
            patiently = false;
            match report {
                Ok(report) => self.note(report, &mut fresh),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    self.helper_is_gone();
                    break;
                }
            }
        }
        fresh
    }

    fn helper_is_gone(&mut self) {
        tracing::error!(
            "the thread that asks for memory ahead of time has ended: constructs wait for theirs"
        );
        self.helper = None;
        self.coming = 0;
        let away = self.away.take(self.away.len());
        self.dirty.add(&away);
    }

    fn note(&mut self, report: Report, fresh: &mut Fresh) {
        let (frames, zeroed) = match report {
            Report::Populated {
                frames,
                asked,
                zeroed,
            } => {
                self.coming -= asked;
                self.dry |= frames.len() < asked;
                fresh.extend(&frames);
                (frames, zeroed)
            }
            Report::Zeroed { frames, done } => {
                self.away.remove_all(&frames);
                (frames, done)
            }
        };
        if zeroed {
            self.clean.add(&frames);
        } else {
            self.dirty.add(&frames);
        }
    }
}

/// The helper's life.
fn help(libraries: &Libraries, holder: DomId, orders: &Receiver<Order>, reports: &Sender<Report>) {
    while let Ok(order) = orders.recv() {
        let report = match order {
            Order::Zero(frames) => {
                let done = zeroed(libraries, holder, &frames);
                Report::Zeroed { frames, done }
            }
            Order::Populate { first, pages } => {
                let frames = libraries.populate(holder, first, pages).unwrap_or_else(|why| {
                    tracing::debug!("memory cannot be had ahead of time: {why}");
                    Vec::new()
                });
                let zeroed = zeroed(libraries, holder, &frames);
                Report::Populated {
                    frames,
                    asked: pages,
                    zeroed,
                }
            }
        };
        if reports.send(report).is_err() {
            return;
        }
    }
}

fn zeroed(libraries: &Libraries, holder: DomId, frames: &[u32]) -> bool {
    let done = libraries.zero(holder, frames);
    if let Err(why) = &done {
        tracing::warn!("pages cannot be zeroed ahead of time: {why}");
    }
    done.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// A stock whose helper is the test.
    fn stock(wanted: usize) -> (Stock, Receiver<Order>, Sender<Report>) {
        let (orders, taken) = channel();
        let (told, reports) = channel();
        let mut stock = Stock::without_helper(wanted);
        stock.helper = Some((orders, reports));
        (stock, taken, told)
    }

    fn populate(order: Order, told: &Sender<Report>, give: usize) -> usize {
        let Order::Populate { first, pages } = order else {
            panic!("an order to zero");
        };
        let frames = (first as u32..).take(pages.min(give)).collect();
        let report = Report::Populated {
            frames,
            asked: pages,
            zeroed: true,
        };
        told.send(report).unwrap();
        pages
    }

    #[test]
    fn the_stock_is_filled_to_what_is_wanted_and_no_further() {
        let (mut stock, orders, told) = stock(300);
        stock.order(1000, 10_000);
        stock.order(1000, 10_000);
        let asked: usize = orders.try_iter().map(|order| populate(order, &told, 999)).sum();
        assert_eq!((asked, stock.under_way()), (300, 300));
        let fresh = stock.collect(false);
        assert_eq!((fresh.len(), stock.len(), stock.under_way()), (300, 300, 0));
        assert_eq!(fresh.iter().collect::<BTreeSet<_>>().len(), 300);
        stock.order(1300, 10_000);
        assert_eq!(orders.try_iter().count(), 0);
        let (clean, dirty) = stock.take(100);
        assert_eq!((clean.len(), dirty.len()), (100, 0));
        // No more than there is room for.
        stock.order(1300, 7);
        let asked: usize = orders.try_iter().map(|order| populate(order, &told, 999)).sum();
        assert_eq!(asked, 7);
    }

    #[test]
    fn a_frame_that_comes_back_is_zeroed_before_it_is_clean() {
        let (mut stock, orders, told) = stock(4);
        stock.put(&[70, 71]);
        // Whoever needs more than is clean gets them, to be zeroed by itself.
        assert_eq!(stock.take(1), (vec![], vec![70]));
        stock.order(0, 0);
        assert!(stock.has(71) && stock.len() == 0 && stock.under_way() == 1);
        let Ok(Order::Zero(frames)) = orders.try_recv() else {
            panic!("no order to zero");
        };
        told.send(Report::Zeroed { frames, done: true }).unwrap();
        assert!(stock.collect(true).is_empty());
        assert_eq!(stock.take(1), (vec![71], vec![]));
    }

    #[test]
    fn a_machine_without_memory_is_not_asked_again_and_again() {
        let (mut stock, orders, told) = stock(600);
        stock.order(0, 10_000);
        let asked: Vec<usize> = orders
            .try_iter()
            .map(|order| populate(order, &told, 10))
            .collect();
        assert_eq!(asked, [256, 256, 88]);
        assert_eq!(stock.collect(false).len(), 30);
        stock.order(30, 10_000);
        assert_eq!(orders.try_iter().count(), 0);
        // Something came back: so there may be more.
        stock.put(&[5000]);
        stock.order(30, 10_000);
        assert_eq!(orders.try_iter().count(), 4);
    }

    #[test]
    fn a_helper_that_is_gone_leaves_nothing_behind() {
        let (mut stock, orders, told) = stock(4);
        stock.put(&[9]);
        stock.order(0, 4);
        drop((orders, told));
        assert!(stock.collect(true).is_empty());
        assert_eq!((stock.len(), stock.under_way()), (1, 0));
        assert_eq!(stock.take(1), (vec![], vec![9]));
    }
}
