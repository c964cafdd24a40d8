//! Rules about blocked senders and receivers. Sleeps are scripted: what happens while a process sleeps runs inside its `sleep`, so every
//! interleaving here is the one that is written down.

use crate::player::{
    CONTROL, NOWAIT, Player, audit, grow, next, queue_memory, receive, send, stat, try_send,
};
use std::cell::{Cell, RefCell};
use vshmem_ipc::msgq::{MsgError, Queue, ReceiveFlags};
use vshmem_ipc::{Control, State, Sweep};
use vshmem_words::Heap;

const WAIT: ReceiveFlags = ReceiveFlags {
    nowait: false,
    noerror: false,
    except: false,
    copy: false,
};

#[test]
fn a_message_goes_to_the_first_waiting_receiver_that_matches() {
    let heap = queue_memory(1000);
    let (three, four) = (RefCell::new(None), RefCell::new(None));
    let sender = Player::new(9);
    let last = Player::new(4).then(|| {
        audit(&heap);
        send(&heap, &sender, 7, b"for three").unwrap();
        assert_eq!(stat(&heap).qnum, 0, "handed over, not queued");
        assert_eq!(stat(&heap).lrpid, (3, 103));
        send(&heap, &sender, 7, b"for four").unwrap();
        send(&heap, &sender, 8, b"left over").unwrap();
    });
    let middle = Player::new(3).then(|| *four.borrow_mut() = receive(&heap, &last, 99, 7, WAIT).ok());
    let first = Player::new(2).then(|| *three.borrow_mut() = receive(&heap, &middle, 99, -7, WAIT).ok());
    // The first waits for another type and is passed over until a signal comes.
    assert_eq!(receive(&heap, &first, 99, 5, WAIT), Err(MsgError::Interrupted));
    assert_eq!(three.take(), Some((7, b"for three".to_vec())));
    assert_eq!(four.take(), Some((7, b"for four".to_vec())));
    assert_eq!(next(&heap), Some((8, b"left over".to_vec())));
    assert_eq!(sender.wakes.borrow().len(), 2);
    audit(&heap);
}

#[test]
fn except_and_any_wait_for_what_they_say() {
    let heap = queue_memory(1000);
    let sender = Player::new(9);
    let except = ReceiveFlags { except: true, ..WAIT };
    let one = Player::new(2)
        .then(|| send(&heap, &sender, 5, b"five").unwrap())
        .then(|| send(&heap, &sender, 6, b"six").unwrap());
    assert_eq!(receive(&heap, &one, 99, 5, except), Ok((6, b"six".to_vec())));
    assert_eq!(next(&heap), Some((5, b"five".to_vec())));
    let one = Player::new(2).then(|| send(&heap, &sender, 5, b"any").unwrap());
    assert_eq!(receive(&heap, &one, 99, 0, WAIT), Ok((5, b"any".to_vec())));
    audit(&heap);
}

#[test]
fn a_waiting_receiver_whose_buffer_is_too_small_gets_too_big_and_the_message_goes_on() {
    for len in [10, 5000] {
        let heap = queue_memory(10000);
        grow(&heap, 10000);
        let sender = Player::new(9);
        let got = RefCell::new(None);
        let text = vec![3; len];
        let two = Player::new(3).then(|| send(&heap, &sender, 1, &text).unwrap());
        let cut = ReceiveFlags {
            noerror: true,
            ..WAIT
        };
        let one = Player::new(2).then(|| *got.borrow_mut() = Some(receive(&heap, &two, 4, 0, cut)));
        assert_eq!(receive(&heap, &one, 9, 0, WAIT), Err(MsgError::TooBig));
        assert_eq!(got.take(), Some(Ok((1, vec![3; 4]))));
        assert_eq!(stat(&heap).qnum, 0);
        audit(&heap);
    }
}

#[test]
fn blocked_senders_go_on_in_order() {
    for len in [40usize, 4000] {
        let heap = queue_memory(len as u64);
        grow(&heap, 100_000);
        let main = Player::new(9);
        send(&heap, &main, 1, &vec![0; len]).unwrap();
        let texts: Vec<Vec<u8>> = (1..=3).map(|i| vec![i; len]).collect();
        let three = Player::new(4).then(|| {
            audit(&heap);
            for i in 0..4 {
                assert_eq!(next(&heap), Some((1, vec![i; len])));
                audit(&heap);
            }
        });
        let two = Player::new(3).then(|| send(&heap, &three, 1, &texts[2]).unwrap());
        let one = Player::new(2).then(|| send(&heap, &two, 1, &texts[1]).unwrap());
        send(&heap, &one, 1, &texts[0]).unwrap();
        assert_eq!(next(&heap), None);
        assert_eq!(stat(&heap).lspid, (4, 104), "the last to go on");
        audit(&heap);
    }
}

#[test]
fn a_sender_that_fits_overtakes_those_that_do_not() {
    let heap = queue_memory(100);
    let main = Player::new(9);
    send(&heap, &main, 1, &[0; 60]).unwrap();
    let one = Player::new(2).then(|| {
        try_send(&heap, &main, 2, &[2; 40]).unwrap();
        assert_eq!(next(&heap).unwrap().0, 1);
        assert_eq!(next(&heap).unwrap().0, 2, "one still waits: 40 of 100 are used");
        assert_eq!(next(&heap).unwrap().0, 3);
    });
    send(&heap, &one, 3, &[3; 70]).unwrap();
    assert_eq!(next(&heap), None);
    // A blocked one that fits is not held up by a larger one before it.
    send(&heap, &main, 1, &[0; 50]).unwrap();
    send(&heap, &main, 1, &[0; 50]).unwrap();
    let small = Player::new(3).then(|| assert_eq!(next(&heap).unwrap().0, 1));
    let large = Player::new(2).then(|| send(&heap, &small, 4, &[4; 20]).unwrap());
    assert_eq!(send(&heap, &large, 5, &[5; 90]), Err(MsgError::Interrupted));
    audit(&heap);
    assert_eq!(stat(&heap).cbytes, 70);
}

#[test]
fn a_blocked_sender_meets_a_waiting_receiver() {
    let heap = queue_memory(1);
    let main = Player::new(9);
    send(&heap, &main, 1, b"x").unwrap();
    let got = RefCell::new(None);
    let receiver = Player::new(3).then(|| assert_eq!(next(&heap), Some((1, b"x".to_vec()))));
    let sender = Player::new(2).then(|| *got.borrow_mut() = receive(&heap, &receiver, 9, 2, WAIT).ok());
    send(&heap, &sender, 2, b"y").unwrap();
    assert_eq!(got.take(), Some((2, b"y".to_vec())));
    assert_eq!(stat(&heap).qnum, 0);
    audit(&heap);
}

#[test]
fn a_raised_limit_lets_blocked_senders_go_on() {
    let heap = queue_memory(1);
    let back_end = Player::new(1);
    let one = Player::new(2).then(|| {
        assert_eq!(next(&heap), None);
        Queue::at(&heap).set_qbytes(&back_end, 100).unwrap();
    });
    send(&heap, &one, 1, &[1; 50]).unwrap();
    assert_eq!((stat(&heap).qbytes, stat(&heap).qnum), (100, 1));
}

#[test]
fn a_signal_ends_a_wait_and_leaves_nothing() {
    let heap = queue_memory(1);
    for text in [&[1; 10][..], &[1; 2000]] {
        assert_eq!(send(&heap, &Player::new(2), 1, text), Err(MsgError::Interrupted));
        assert_eq!(
            receive(&heap, &Player::new(2), 9, 0, WAIT),
            Err(MsgError::Interrupted)
        );
        audit(&heap);
        assert_eq!(stat(&heap).qnum, 0);
    }
    assert_eq!(try_send(&heap, &Player::new(2), 1, &[1]), Ok(()));
}

#[test]
fn removal_wakes_both_sides() {
    let heap = queue_memory(1);
    let back_end = Player::new(1);
    let outcome = RefCell::new(None);
    let sender = Player::new(3).then(|| {
        CONTROL.with_state(State::Removed).store(&heap);
        Queue::at(&heap).remove(&back_end);
    });
    let receiver = Player::new(2).then(|| *outcome.borrow_mut() = Some(send(&heap, &sender, 1, &[0; 2])));
    assert_eq!(receive(&heap, &receiver, 9, 0, WAIT), Err(MsgError::Removed));
    assert_eq!(outcome.take(), Some(Err(MsgError::Removed)));
    assert_eq!(back_end.wakes.borrow().len(), 2);
}

#[test]
fn a_changed_permission_sends_waiters_back_and_growth_does_not() {
    let heap = queue_memory(1);
    let back_end = Player::new(1);
    let one = Player::new(2)
        .then(|| {
            Control::new(State::Live, 1, 2, 1).store(&heap);
            Queue::at(&heap).recheck(&back_end);
        })
        .then(|| {
            Control::new(State::Live, 2, 2, 1).store(&heap);
            Queue::at(&heap).recheck(&back_end);
        });
    assert_eq!(receive(&heap, &one, 9, 0, WAIT), Err(MsgError::Stale));
    assert_eq!(back_end.wakes.borrow().len(), 2);
    audit(&heap);
}

/// `left` receivers wait at once, one within the sleep of the other; the innermost runs `inner`.
fn crowd(heap: &Heap, left: u32, inner: &dyn Fn()) {
    if left == 0 {
        return inner();
    }
    let one = Player::new(2).then(|| crowd(heap, left - 1, inner));
    assert_eq!(
        receive(heap, &one, 9, 0, WAIT).map(|got| got.0),
        Ok(i64::from(41 - left))
    );
}

#[test]
fn more_waiters_than_slots() {
    let heap = queue_memory(1000);
    grow(&heap, 10000);
    crowd(&heap, 40, &|| {
        audit(&heap);
        for mtype in 1..=40 {
            send(&heap, &Player::new(3), mtype, b"x").unwrap();
        }
    });
    audit(&heap);
}

/// Receivers wait, one within the sleep of the other, until there is no slot left; gives what the last one is told.
fn crowd_without_end(heap: &Heap) -> MsgError {
    let last = Cell::new(None);
    let one = Player::new(2).then(|| last.set(Some(crowd_without_end(heap))));
    let error = receive(heap, &one, 9, 2, WAIT).unwrap_err();
    last.get().unwrap_or(error)
}

#[test]
fn a_full_arena_asks_for_an_extent_for_slots_too() {
    let heap = queue_memory(8000);
    while try_send(&heap, &Player::new(2), 1, &[]).is_ok() {}
    assert!(matches!(crowd_without_end(&heap), MsgError::NeedExtent(_)));
    audit(&heap);
}

#[test]
fn the_dead_ones_slots_and_blocks_go_and_what_was_handed_to_them_counts_as_received() {
    let heap = queue_memory(1000);
    let back_end = Player::new(1);
    let sweep = |dead| Queue::at(&heap).sweep(&back_end, dead);
    let other = Player::new(3);
    let one = Player::new(2).then(|| {
        send(&heap, &other, 1, b"for the dead").unwrap();
        assert_eq!(sweep(2), Ok(Sweep::Done));
        audit(&heap);
        assert_eq!(stat(&heap).qnum, 0);
    });
    // The dead do not run on: whatever this gives, it does not count.
    let _ = receive(&heap, &one, 99, 0, WAIT);
    let heap = queue_memory(10);
    let one = Player::new(2).then(|| {
        assert_eq!(Queue::at(&heap).sweep(&back_end, 2), Ok(Sweep::Done));
        audit(&heap);
        send(&heap, &other, 1, &[0; 10]).unwrap();
        assert_eq!(next(&heap), Some((1, vec![0; 10])));
        assert_eq!(next(&heap), None, "a dead sender's message is not sent");
    });
    let _ = send(&heap, &one, 1, &[0; 11]);
}

#[test]
fn a_sweep_keeps_the_living_and_rings_the_settled_again() {
    let heap = queue_memory(100);
    let back_end = Player::new(1);
    let other = Player::new(3);
    let one = Player::new(2)
        .then(|| {
            assert_eq!(Queue::at(&heap).sweep(&back_end, 7), Ok(Sweep::Done));
            assert!(back_end.wakes.borrow().is_empty(), "nobody was granted anything");
        })
        .then(|| {
            send(&heap, &other, 4, b"x").unwrap();
            assert_eq!(Queue::at(&heap).sweep(&back_end, 3), Ok(Sweep::Done));
            assert_eq!(*back_end.wakes.borrow(), *other.wakes.borrow());
        });
    assert_eq!(receive(&heap, &one, 9, 4, WAIT), Ok((4, b"x".to_vec())));
    audit(&heap);
}

#[test]
fn a_sweep_does_not_wait_for_the_lock() {
    let heap = queue_memory(100);
    vshmem_words::Words::store64(
        &heap,
        vshmem_ipc::header::LOCK_AT,
        5,
        vshmem_words::Ordering::Relaxed,
    );
    assert_eq!(Queue::at(&heap).sweep(&Player::new(1), 7), Ok(Sweep::Busy));
    assert_eq!(try_send(&heap, &Player::new(2), 1, &[]), Err(MsgError::LockBusy));
    assert_eq!(Queue::at(&heap).sweep(&Player::new(1), 5), Ok(Sweep::Done));
    assert_eq!(
        receive(&heap, &Player::new(2), 9, 0, NOWAIT),
        Err(MsgError::NoMessage)
    );
}
