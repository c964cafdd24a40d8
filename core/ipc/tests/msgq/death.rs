//! Death at every store: the memory stops changing at the n-th store of an operation, the back-end sweeps, and the queue must be usable with every
//! message there once or, where the dead one was about to take or send it, not at all.

use crate::player::{CONTROL, NOWAIT, Player, audit, next, queue_memory, receive, send, stat};
use std::cell::{Cell, RefCell};
use vshmem_ipc::Sweep;
use vshmem_ipc::msgq::{Queue, ReceiveFlags};
use vshmem_words::{Heap, Ordering, Words};

/// Memory whose user dies after a number of stores. From then on nothing it does has any effect.
struct Dying<'a> {
    inner: &'a Heap,
    left: Cell<u32>,
}

impl<'a> Dying<'a> {
    fn after(inner: &'a Heap, stores: u32) -> Self {
        Dying {
            inner,
            left: Cell::new(stores),
        }
    }
    fn died(&self) -> bool {
        self.left.get() == 0
    }
    /// Whether the next store still happens.
    fn alive(&self) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left > 0
    }
}

impl Words for Dying<'_> {
    fn len(&self) -> usize {
        self.inner.len()
    }
    fn load32(&self, at: usize, o: Ordering) -> u32 {
        self.inner.load32(at, o)
    }
    fn store32(&self, at: usize, value: u32, o: Ordering) {
        if self.alive() {
            self.inner.store32(at, value, o);
        }
    }
    fn compare_exchange32(&self, at: usize, c: u32, n: u32, s: Ordering, f: Ordering) -> Result<u32, u32> {
        if self.alive() {
            return self.inner.compare_exchange32(at, c, n, s, f);
        }
        let found = self.inner.load32(at, f);
        if found == c { Ok(c) } else { Err(found) }
    }
    fn load64(&self, at: usize, o: Ordering) -> u64 {
        self.inner.load64(at, o)
    }
    fn store64(&self, at: usize, value: u64, o: Ordering) {
        if self.alive() {
            self.inner.store64(at, value, o);
        }
    }
    fn compare_exchange64(&self, at: usize, c: u64, n: u64, s: Ordering, f: Ordering) -> Result<u64, u64> {
        if self.alive() {
            return self.inner.compare_exchange64(at, c, n, s, f);
        }
        let found = self.inner.load64(at, f);
        if found == c { Ok(c) } else { Err(found) }
    }
    fn copy_out(&self, at: usize, into: &mut [u8]) -> bool {
        self.inner.copy_out(at, into)
    }
    fn copy_in(&self, at: usize, from: &[u8]) -> bool {
        let from = if self.alive() {
            from
        } else {
            &from[..from.len() / 2]
        };
        self.died() || self.inner.copy_in(at, from)
    }
    fn zero(&self, at: usize, bytes: usize) -> bool {
        !self.alive() || self.inner.zero(at, bytes)
    }
}

const WAIT: ReceiveFlags = ReceiveFlags {
    nowait: false,
    ..NOWAIT
};
const DEAD: u32 = 5;

/// Type and text.
type Message = (i64, Vec<u8>);

/// Runs `dying` in a queue that `prepare` made, once for every store at which it may die; `check` sees the messages left after the sweep.
fn at_every_store(
    qbytes: u64,
    prepare: &dyn Fn(&Heap),
    dying: &dyn Fn(&Dying, &Player),
    check: &dyn Fn(&[Message]),
) {
    for stores in 0.. {
        assert!(stores < 2000, "the operation ends");
        let heap = queue_memory(qbytes);
        heap.grow(65536);
        prepare(&heap);
        let words = Dying::after(&heap, stores);
        dying(&words, &Player::new(DEAD));
        let died = words.died();
        sweep_and_check(&heap, stores);
        let mut left = vec![];
        while let Some(message) = next(&heap) {
            left.push(message);
            audit(&heap);
        }
        check(&left);
        assert_eq!((stat(&heap).qnum, stat(&heap).cbytes), (0, 0));
        nothing_leaked(&heap);
        if !died {
            return;
        }
    }
}

/// The back-end dies as well, at some store of its sweep, again and again; in each next life it sweeps for itself first and then for the client.
fn sweep_and_check(heap: &Heap, stores: u32) {
    let back_end = Player::new(1);
    for again in 0..3 {
        let clumsy = Dying::after(heap, (stores * 5 + again * 97) % 400);
        let _ = Queue::at(&clumsy).sweep(&back_end, DEAD);
        // Busy: it died before it had the dead one's lock.
        match Queue::at(heap).sweep(&back_end, 1) {
            Ok(Sweep::Done) => audit(heap),
            other => assert_eq!(other, Ok(Sweep::Busy)),
        }
    }
    assert_eq!(Queue::at(heap).sweep(&back_end, DEAD), Ok(Sweep::Done));
    audit(heap);
}

/// Almost everything can be had in one piece again.
fn nothing_leaked(heap: &Heap) {
    Queue::at(heap).set_qbytes(&Player::new(1), 1 << 20).unwrap();
    send(heap, &Player::new(6), 1, &vec![1; 65536 - 1664 - 64 - 9 * 64]).expect("no block leaked");
}

fn four(heap: &Heap) {
    let other = Player::new(6);
    for (mtype, text) in [(3, "three"), (1, "one"), (3, "three again"), (2, "two")] {
        send(heap, &other, mtype, text.as_bytes()).unwrap();
    }
}

fn types(left: &[Message]) -> Vec<i64> {
    left.iter().map(|m| m.0).collect()
}

#[test]
fn a_sender_dies_at_every_store() {
    for len in [0usize, 30, 1500] {
        at_every_store(
            16384,
            &four,
            &|words, player| {
                let _ = send(words, player, 9, &vec![9; len]);
            },
            &|left| {
                assert!(
                    matches!(types(left)[..], [3, 1, 3, 2] | [3, 1, 3, 2, 9]),
                    "{left:?}"
                );
                assert_eq!(left[2].1, b"three again");
                assert!(
                    left.len() == 4 || left[4].1 == vec![9; len],
                    "a text is whole or not there"
                );
            },
        );
    }
}

/// A sender that uses the block of the last handed-over message again, of the same size or not.
#[test]
fn a_sender_after_a_hand_over_dies_at_every_store() {
    let prepare = |heap: &Heap| {
        let other = Player::new(7).then(|| send(heap, &Player::new(6), 4, &[4; 100]).unwrap());
        receive(heap, &other, 100, 4, WAIT).unwrap();
        four(heap);
        let other = Player::new(7).then(|| send(heap, &Player::new(6), 4, &[4; 100]).unwrap());
        receive(heap, &other, 100, 4, WAIT).unwrap();
    };
    for len in [100, 20] {
        at_every_store(
            16384,
            &prepare,
            &|words, player| {
                let _ = send(words, player, 9, &vec![9; len]);
            },
            &|left| {
                assert!(
                    matches!(types(left)[..], [3, 1, 3, 2] | [3, 1, 3, 2, 9]),
                    "{left:?}"
                )
            },
        );
    }
}

#[test]
fn a_receiver_dies_at_every_store() {
    for (msgtyp, without) in [(0, [1, 3, 2]), (1, [3, 3, 2]), (-9, [3, 3, 2]), (2, [3, 1, 3])] {
        at_every_store(
            16384,
            &four,
            &|words, player| drop(receive(words, player, 99, msgtyp, NOWAIT)),
            &|left| assert!(types(left) == [3, 1, 3, 2] || types(left) == without, "{left:?}"),
        );
    }
}

#[test]
fn a_receiver_of_a_long_text_dies_at_every_store() {
    let prepare = |heap: &Heap| {
        four(heap);
        send(heap, &Player::new(6), 7, &[7; 3000]).unwrap();
    };
    at_every_store(
        16384,
        &prepare,
        &|words, player| drop(receive(words, player, 3000, 7, NOWAIT)),
        &|left| {
            assert!(matches!(types(left)[..], [3, 1, 3, 2] | [3, 1, 3, 2, 7]));
        },
    );
}

#[test]
fn a_waiting_receiver_dies_at_every_store() {
    for len in [5usize, 2000] {
        let dying = |words: &Dying, player: &Player| {
            let heap = words.inner;
            let me = Player::new(player.me.client).then(|| {
                // Only if it is asleep: with the lock in dead hands nobody else gets on.
                let _ = Queue::at(heap).send(&Player::new(6), CONTROL, 8, &vec![8; len], true);
            });
            let _ = receive(words, &me, 3000, 8, WAIT);
        };
        at_every_store(16384, &four, &dying, &|left| {
            assert!(
                matches!(types(left)[..], [3, 1, 3, 2] | [3, 1, 3, 2, 8]),
                "{left:?}"
            );
        });
    }
}

#[test]
fn a_waiting_sender_dies_at_every_store() {
    for len in [12usize, 2000] {
        let dying = |words: &Dying, player: &Player| {
            let heap = words.inner;
            let me = Player::new(player.me.client).then(|| {
                let mut into = [0; 99];
                let _ = Queue::at(heap).receive(&Player::new(6), CONTROL, &mut into, 1, NOWAIT);
            });
            let _ = send(words, &me, 8, &vec![8; len]);
        };
        at_every_store(len as u64 + 19, &|heap| four(heap), &dying, &|left| {
            assert!(
                matches!(types(left)[..], [3, 1, 3, 2] | [3, 3, 2] | [3, 3, 2, 8]),
                "{left:?}"
            );
        });
    }
}

/// The dying one hands over to living receivers that wait: each gets the message or goes on waiting, and one that was told so has it.
#[test]
fn a_sender_to_waiting_receivers_dies_at_every_store() {
    for len in [9usize, 2000] {
        let died = Cell::new(true);
        for stores in (0..2000).take_while(|_| died.get()) {
            let heap = queue_memory(16384);
            heap.grow(65536);
            let outcome = RefCell::new(None);
            let second = Player::new(7)
                .then(|| {
                    let words = Dying::after(&heap, stores);
                    let _ = send(&words, &Player::new(DEAD), 4, &vec![4; len]);
                    died.set(words.died());
                    sweep_and_check(&heap, stores);
                })
                .then(|| {
                    send(&heap, &Player::new(6), 4, &vec![5; len]).unwrap();
                });
            let first =
                Player::new(6).then(|| *outcome.borrow_mut() = Some(receive(&heap, &second, 3000, 0, WAIT)));
            let got = receive(&heap, &first, len - 1, 4, WAIT);
            // The first has too little room and is told so by whichever message comes first.
            assert!(got.is_err());
            let text = outcome.take().unwrap().expect("a message of the two").1;
            assert!(text == vec![4; len] || text == vec![5; len]);
            audit(&heap);
            let left = next(&heap);
            let expected = (text[0] == 4).then(|| (4, vec![5; len]));
            assert!(left.is_none() || left == expected, "{left:?}");
            assert_eq!(next(&heap), None);
            nothing_leaked(&heap);
        }
    }
}

/// The dying receiver makes room for living senders that wait: each message arrives once, and the sender is told so.
#[test]
fn a_receiver_before_waiting_senders_dies_at_every_store() {
    for len in [10usize, 2000] {
        let died = Cell::new(true);
        for stores in (0..2000).take_while(|_| died.get()) {
            let heap = queue_memory(len as u64);
            heap.grow(65536);
            send(&heap, &Player::new(6), 1, &vec![1; len]).unwrap();
            let told = RefCell::new(None);
            let second = Player::new(8).then(|| {
                let words = Dying::after(&heap, stores);
                let _ = receive(&words, &Player::new(DEAD), 3000, 0, NOWAIT);
                died.set(words.died());
                sweep_and_check(&heap, stores);
            });
            let first =
                Player::new(7).then(|| *told.borrow_mut() = Some(send(&heap, &second, 3, &vec![3; len])));
            let one = send(&heap, &first, 2, &vec![2; len]);
            let two = told.take().unwrap();
            assert!(two.is_err(), "room for one only");
            let expected = if one.is_ok() { 2 } else { 1 };
            assert_eq!(next(&heap), Some((expected, vec![expected as u8; len])));
            assert_eq!(next(&heap), None);
            nothing_leaked(&heap);
        }
    }
}

/// The dying receiver makes room for a living sender's message, for which a living receiver waits: it arrives once, and never goes missing between
/// the two.
#[test]
fn a_receiver_between_a_waiting_sender_and_a_waiting_receiver_dies_at_every_store() {
    for len in [10usize, 2000] {
        let died = Cell::new(true);
        for stores in (0..2000).take_while(|_| died.get()) {
            let heap = queue_memory(len as u64);
            heap.grow(65536);
            send(&heap, &Player::new(6), 1, &vec![1; len]).unwrap();
            let sent = RefCell::new(None);
            let sender = Player::new(8).then(|| {
                let words = Dying::after(&heap, stores);
                let _ = receive(&words, &Player::new(DEAD), 3000, 1, NOWAIT);
                died.set(words.died());
                sweep_and_check(&heap, stores);
            });
            let receiver =
                Player::new(7).then(|| *sent.borrow_mut() = Some(send(&heap, &sender, 2, &vec![2; len])));
            let got = receive(&heap, &receiver, 3000, 2, WAIT);
            assert_eq!(got.is_ok(), sent.take().unwrap().is_ok(), "after {stores} stores");
            assert_eq!(next(&heap).is_none(), got.is_ok(), "after {stores} stores");
            assert_eq!(next(&heap), None);
            nothing_leaked(&heap);
        }
    }
}

#[test]
fn a_client_dies_while_it_takes_in_an_extent_or_makes_slots() {
    fn nested(words: &Dying, left: u32) {
        let one = Player::new(DEAD).then(|| {
            if left > 0 {
                nested(words, left - 1);
            }
        });
        let _ = receive(words, &one, 9, 77, WAIT);
    }
    let died = Cell::new(true);
    for stores in (0..2000).step_by(4).take_while(|_| died.get()) {
        let heap = queue_memory(16384);
        four(&heap);
        heap.grow(65536);
        let words = Dying::after(&heap, stores);
        nested(&words, 17);
        let _ = send(&words, &Player::new(DEAD), 5, &[5; 7000]);
        died.set(words.died());
        sweep_and_check(&heap, stores);
        let left = std::iter::from_fn(|| next(&heap))
            .map(|m| m.0)
            .collect::<Vec<_>>();
        assert!(matches!(left[..], [3, 1, 3, 2] | [3, 1, 3, 2, 5]), "{left:?}");
        audit(&heap);
    }
}
