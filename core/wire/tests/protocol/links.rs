//! Both ends of a paced stream, simulated: nothing is lost or out of order, no more is unread than promised, and either end may die at any byte.

use crate::dice::{Dice, throw};
use proptest::prelude::*;
use std::collections::VecDeque;
use vshmem_wire::{Down, Link, Up};

/// A stream with the back-end at one end and a front-end at the other.
struct World {
    dice: Dice,
    back: Link,
    front: Link,
    down: VecDeque<u8>,
    up: VecDeque<u8>,
    most_unread: usize,
    got_down: Vec<Down>,
    got_up: Vec<Up>,
}

impl World {
    fn new(seed: u64) -> Self {
        World {
            dice: Dice::new(seed),
            back: Link::paced(seed as u32),
            front: Link::new(),
            down: VecDeque::new(),
            up: VecDeque::new(),
            most_unread: 0,
            got_down: Vec::new(),
            got_up: Vec::new(),
        }
    }

    fn write(link: &mut Link, stream: &mut VecDeque<u8>, most: usize) -> bool {
        let bytes = link.out();
        let bytes = bytes[..bytes.len().min(most)].to_vec();
        stream.extend(&bytes);
        link.wrote(bytes.len());
        !bytes.is_empty()
    }

    /// One step of the one or the other, of a random size; false if it could do nothing.
    fn step(&mut self, which: u64) -> bool {
        let most = 1 + self.dice.below(900) as usize;
        match which {
            0 => {
                let wrote = Self::write(&mut self.back, &mut self.down, most);
                self.most_unread = self.most_unread.max(self.down.len());
                wrote
            }
            1 => Self::write(&mut self.front, &mut self.up, most),
            2 => {
                let n = most.min(self.down.len());
                let bytes: Vec<u8> = self.down.drain(..n).collect();
                self.front.push(&bytes);
                while let Some(message) = self.front.take().unwrap() {
                    self.got_down.push(message);
                }
                n > 0
            }
            _ => {
                let n = most.min(self.up.len());
                let bytes: Vec<u8> = self.up.drain(..n).collect();
                self.back.push(&bytes);
                while let Some(message) = self.back.take().unwrap() {
                    self.got_up.push(message);
                }
                n > 0
            }
        }
    }

    fn stir(&mut self, steps: usize) {
        for _ in 0..steps {
            let which = self.dice.below(4);
            self.step(which);
        }
    }

    /// Steps until nobody can do anything any more.
    fn settle(&mut self) {
        while (0..4).fold(false, |any, which| self.step(which) | any) {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nothing_is_lost_and_no_more_is_unread_than_promised(seed: u64, count in 1..40usize) {
        let mut world = World::new(seed);
        let (mut downs, mut ups) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let (down, up) = (throw::<Down>(world.dice.next()), throw::<Up>(world.dice.next()));
            world.back.send(&down);
            world.front.send(&up);
            downs.push(down);
            ups.push(up);
            let steps = world.dice.below(30) as usize;
            world.stir(steps);
        }
        world.settle();
        prop_assert!(world.got_down == downs);
        prop_assert!(world.got_up == ups);
        prop_assert!(world.most_unread <= Link::UNREAD, "{} unread", world.most_unread);
        prop_assert!(!world.back.wants_to_write() && !world.front.wants_to_write());
        prop_assert_eq!(world.back.queued() + world.front.queued(), 0);
        prop_assert_eq!(world.back.skipped() + world.front.skipped(), 0);
    }

    #[test]
    fn either_end_may_die_at_any_byte(seed: u64, deaths in 1..6usize) {
        let mut world = World::new(seed);
        for _ in 0..deaths {
            for _ in 0..world.dice.below(12) {
                let (down, up) = (throw::<Down>(world.dice.next()), throw::<Up>(world.dice.next()));
                world.back.send(&down);
                world.front.send(&up);
            }
            let steps = world.dice.below(80) as usize;
            world.stir(steps);
            // What is in the stream stays there; what the dead one had read or queued is gone.
            if world.dice.below(2) == 0 {
                world.back = Link::paced_again(world.dice.next() as u32);
            } else {
                world.front = Link::new();
            }
        }
        world.got_down.clear();
        // A front-end that is alive says so again and again. Each of its deaths may have taken an answer to a mark with it, after which the mark is sent
        // again only when twice as many messages have come.
        for _ in 0..4 << deaths {
            world.front.send(&Up::Heartbeat);
            world.settle();
        }
        let last = Down::Heartbeat {
            seconds: seed,
            msgmax: 8192,
            semopm: 500,
            low_ids: false,
        };
        world.back.send(&last);
        world.settle();
        prop_assert!(world.got_down.last() == Some(&last), "the stream is stuck");
        prop_assert!(world.most_unread <= 2 * Link::UNREAD, "{} unread", world.most_unread);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn a_reader_that_only_talks_is_not_flooded(seed: u64) {
        let mut world = World::new(seed);
        world.settle();
        for _ in 0..1000 {
            world.front.send(&Up::Heartbeat);
            world.back.send(&Down::Ring);
            world.step(1);
            world.step(3);
            world.step(0);
        }
        prop_assert!(world.most_unread <= Link::UNREAD, "{} unread", world.most_unread);
        world.settle();
        prop_assert_eq!(world.got_down.len(), 1000);
    }
}

#[test]
fn what_a_serial_line_can_hold_is_not_exceeded_even_across_a_restart() {
    // Measured: 3,900 bytes. A writer that dies leaves at most UNREAD; its successor adds one mark until it is said back.
    const { assert!(Link::UNREAD + 32 < 3900) };
    let mut first = Link::paced(1);
    let mut reader = Link::new();
    let mut unread = 0;
    let mut pass = |link: &mut Link, read: bool| {
        loop {
            let bytes = link.out().to_vec();
            if bytes.is_empty() {
                return;
            }
            link.wrote(bytes.len());
            if read {
                reader.push(&bytes);
                assert_eq!(reader.take::<Down>().unwrap(), None);
                let back = reader.out().to_vec();
                reader.wrote(back.len());
                link.push(&back);
                assert_eq!(link.take::<Up>().unwrap(), None);
            } else {
                unread += bytes.len();
            }
        }
    };
    let greet = |link: &mut Link| {
        assert!(link.out().is_empty(), "it speaks before it is spoken to");
        link.push(&vshmem_wire::frame(&Up::Heartbeat));
        assert_eq!(link.take::<Up>().unwrap(), Some(Up::Heartbeat));
    };
    greet(&mut first);
    pass(&mut first, true);
    for _ in 0..1000 {
        first.send(&Down::Refused { why: "x".repeat(200) });
    }
    pass(&mut first, false);
    let mut second = Link::paced_again(100);
    second.send(&Down::Restarted);
    pass(&mut second, false);
    assert!((1000..3900).contains(&unread), "{unread}");
}
