//! msgop(2) and msgctl(2) without waiting, one test per rule.

use crate::partly::Partly;
use crate::player::{
    CONTROL, NOWAIT, Player, audit, grow, next, queue_memory, receive, send, send_growing, stat, try_send,
};
use std::cell::Cell;
use vshmem_ipc::msgq::{MsgError, Queue, ReceiveFlags};
use vshmem_ipc::{Control, State};
use vshmem_words::{Heap, Words};

fn filled(types: &[i64]) -> Heap {
    let heap = queue_memory(16384);
    let one = Player::new(2);
    for (i, &mtype) in types.iter().enumerate() {
        send_growing(&heap, &one, mtype, &[i as u8]).unwrap();
    }
    audit(&heap);
    heap
}

/// Receives everything, each time with these arguments, and gives the positions at which the messages were sent.
fn order(heap: &Heap, msgtyp: i64, flags: ReceiveFlags) -> Vec<u8> {
    let one = Player::new(3);
    let mut got = vec![];
    while let Ok((_, text)) = receive(heap, &one, 8, msgtyp, flags) {
        got.push(text[0]);
        audit(heap);
    }
    got
}

#[test]
fn type_zero_is_first_in_first_out() {
    assert_eq!(order(&filled(&[5, 1, 5, 2]), 0, NOWAIT), [0, 1, 2, 3]);
}

#[test]
fn positive_type_is_the_first_of_that_type() {
    let heap = filled(&[5, 1, 5, 2, 5]);
    assert_eq!(order(&heap, 5, NOWAIT), [0, 2, 4]);
    assert_eq!(order(&heap, 0, NOWAIT), [1, 3]);
}

#[test]
fn negative_type_is_the_lowest_type_then_first_in() {
    let heap = filled(&[5, 3, 9, 3, 1, 5]);
    assert_eq!(order(&heap, -5, NOWAIT), [4, 1, 3, 0, 5]);
    assert_eq!(order(&heap, i64::MIN, NOWAIT), [2]);
    assert_eq!(
        receive(&heap, &Player::new(2), 8, -1, NOWAIT),
        Err(MsgError::NoMessage)
    );
}

#[test]
fn except_is_the_first_of_another_type_and_only_for_positive_types() {
    let except = ReceiveFlags {
        except: true,
        ..NOWAIT
    };
    let heap = filled(&[5, 5, 3, 5, 9]);
    assert_eq!(order(&heap, 5, except), [2, 4]);
    assert_eq!(order(&heap, 0, except), [0, 1, 3]);
    let heap = filled(&[7, 4]);
    assert_eq!(order(&heap, -7, except), [1, 0]);
}

#[test]
fn the_block_kept_for_the_next_message_is_given_up_when_room_is_lacking() {
    let heap = queue_memory(16384);
    let one = Player::new(2);
    // All of the arena but the header of the one block that it then is.
    let all = Queue::<Heap>::BYTES - 1664 - 64;
    for len in [64, 100, 64, all, 1000, all] {
        for _ in 0..3 {
            let text = vec![len as u8; len];
            try_send(&heap, &one, 1, &text).unwrap();
            audit(&heap);
            assert_eq!(next(&heap), Some((1, text)));
            audit(&heap);
        }
    }
}

#[test]
fn zero_length_is_fine_and_counts_as_a_message() {
    let heap = queue_memory(16384);
    send(&heap, &Player::new(2), 1, &[]).unwrap();
    assert_eq!((stat(&heap).qnum, stat(&heap).cbytes), (1, 0));
    assert_eq!(next(&heap), Some((1, vec![])));
}

#[test]
fn too_long_a_message_stays_where_it_is_and_noerror_cuts_it() {
    let one = Player::new(2);
    for len in [64, 5000] {
        let heap = queue_memory(16384);
        let text: Vec<u8> = (0..len).map(|i| i as u8).collect();
        send_growing(&heap, &one, 1, &text).unwrap();
        assert_eq!(receive(&heap, &one, len - 1, 0, NOWAIT), Err(MsgError::TooBig));
        assert_eq!(stat(&heap).qnum, 1);
        let cut = ReceiveFlags {
            noerror: true,
            ..NOWAIT
        };
        assert_eq!(
            receive(&heap, &one, len / 2, 0, cut),
            Ok((1, text[..len / 2].to_vec()))
        );
        assert_eq!(stat(&heap).qnum, 0);
        audit(&heap);
    }
}

#[test]
fn full_when_the_bytes_reach_the_limit() {
    let heap = queue_memory(100);
    let one = Player::new(2);
    send(&heap, &one, 1, &[0; 60]).unwrap();
    assert_eq!(try_send(&heap, &one, 1, &[0; 41]), Err(MsgError::Again));
    try_send(&heap, &one, 1, &[0; 40]).unwrap();
    assert_eq!(try_send(&heap, &one, 1, &[0; 1]), Err(MsgError::Again));
    try_send(&heap, &one, 1, &[]).unwrap();
    assert_eq!(stat(&heap).cbytes, 100);
}

#[test]
fn full_when_the_count_reaches_the_limit() {
    let heap = queue_memory(3);
    let one = Player::new(2);
    for _ in 0..3 {
        try_send(&heap, &one, 1, &[]).unwrap();
    }
    assert_eq!(try_send(&heap, &one, 1, &[]), Err(MsgError::Again));
}

#[test]
fn an_empty_queue_gives_no_message() {
    let heap = queue_memory(100);
    for msgtyp in [0, 1, -1, i64::MIN, i64::MAX] {
        assert_eq!(
            receive(&heap, &Player::new(2), 8, msgtyp, NOWAIT),
            Err(MsgError::NoMessage)
        );
    }
}

#[test]
fn copy_gives_the_message_at_a_position_and_leaves_it() {
    let heap = filled(&[5, 1, 5]);
    let copy = ReceiveFlags { copy: true, ..NOWAIT };
    let one = Player::new(2);
    let before = stat(&heap);
    for i in 0..3 {
        assert_eq!(receive(&heap, &one, 8, i, copy).unwrap().1, [i as u8]);
    }
    for i in [3, -1, i64::MIN, i64::MAX] {
        assert_eq!(receive(&heap, &one, 8, i, copy), Err(MsgError::NoMessage));
    }
    assert_eq!(receive(&heap, &one, 0, 0, copy), Err(MsgError::TooBig));
    assert_eq!(stat(&heap), before);
    assert_eq!(order(&heap, 0, NOWAIT), [0, 1, 2]);
}

#[test]
fn pids_and_times_are_those_of_the_last_operation() {
    let heap = queue_memory(16384);
    assert_eq!(stat(&heap).lspid, (0, 0));
    send(&heap, &Player::new(2), 1, &[1]).unwrap();
    let after = stat(&heap);
    assert_eq!(
        (after.lspid, after.stime, after.lrpid, after.rtime),
        ((2, 102), 2000, (0, 0), 0)
    );
    receive(&heap, &Player::new(3), 8, 0, NOWAIT).unwrap();
    let after = stat(&heap);
    assert_eq!(
        (after.lspid, after.stime, after.lrpid, after.rtime),
        ((2, 102), 2000, (3, 103), 3000)
    );
    Queue::at(&heap).set_ctime(77);
    assert_eq!(stat(&heap).ctime, 77);
}

#[test]
fn long_and_short_texts_arrive_whole() {
    let heap = queue_memory(1 << 19);
    let one = Player::new(2);
    for len in [0, 1, 63, 64, 65, 1023, 1024, 1025, 8192, 65536] {
        let text: Vec<u8> = (0..len).map(|i| (i * 31 + len) as u8).collect();
        send_growing(&heap, &one, len as i64 + 1, &text).unwrap();
        audit(&heap);
        assert_eq!(
            receive(&heap, &one, 65536, len as i64 + 1, NOWAIT),
            Ok((len as i64 + 1, text))
        );
        audit(&heap);
    }
}

#[test]
fn a_queue_asks_for_extents_and_uses_them() {
    let heap = queue_memory(1 << 19);
    let one = Player::new(2);
    let mut asked = 0;
    for i in 0..1000 {
        match send(&heap, &one, i + 1, &[1; 200]) {
            Ok(()) => {}
            Err(MsgError::NeedExtent(wanted)) => {
                assert_eq!(wanted, 200);
                asked += 1;
                grow(&heap, wanted);
                send(&heap, &one, i + 1, &[1; 200]).unwrap();
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!((1..=6).contains(&asked), "asked {asked} times");
    audit(&heap);
    for i in 0..1000 {
        assert_eq!(next(&heap).unwrap().0, i + 1);
    }
    audit(&heap);
    // Everything free is one block again.
    send(&heap, &one, 1, &vec![7; heap.len() - 8192]).unwrap();
}

#[test]
fn an_extent_holds_what_it_was_asked_for() {
    for wanted in [0, 1, 4000, 4096, 8192, 65536, 1 << 20] {
        let extent = Queue::<Heap>::extent_bytes(wanted);
        assert!(extent >= wanted + 128 && extent.is_multiple_of(4096));
    }
    assert!(Queue::<Heap>::extent_bytes(usize::MAX) > 0);
}

#[test]
fn an_operation_ends_when_the_control_word_is_another() {
    let heap = queue_memory(100);
    let one = Player::new(2);
    let queue = Queue::at(&heap);
    let outcomes = |expected| {
        assert_eq!(queue.send(&one, CONTROL, 1, &[1], true), Err(expected));
        assert_eq!(
            queue.receive(&one, CONTROL, &mut [0; 8], 0, NOWAIT),
            Err(expected)
        );
    };
    Control::new(State::Live, 2, 1, 1).store(&heap);
    outcomes(MsgError::Stale);
    CONTROL.with_state(State::Removed).store(&heap);
    outcomes(MsgError::Removed);
    CONTROL.with_state(State::Corrupt).store(&heap);
    outcomes(MsgError::Removed);
}

fn partly(inner: &Heap) -> Partly<'_> {
    Partly {
        inner,
        mapped: Cell::new(8192),
        later: None,
    }
}

#[test]
fn whoever_has_mapped_too_little_is_told_so() {
    let heap = queue_memory(1 << 17);
    let (one, two) = (Player::new(2), Player::new(3));
    send_growing(&heap, &one, 1, &[1; 20000]).unwrap();
    let old = partly(&heap);
    assert_eq!(receive(&old, &two, 100, 0, NOWAIT), Err(MsgError::Stale));
    assert_eq!(try_send(&old, &two, 1, &[1]), Err(MsgError::Stale));
    assert_eq!(receive(&heap, &two, 20000, 0, NOWAIT).unwrap().1.len(), 20000);
}

#[test]
fn a_waiter_with_too_little_mapped_is_told_and_the_message_goes_on() {
    let heap = queue_memory(1 << 17);
    let other = Player::new(3);
    let small = partly(&heap);
    let one = Player::new(2).then(|| send_growing(&heap, &other, 1, &[1; 20000]).unwrap());
    let flags = ReceiveFlags::default();
    assert_eq!(receive(&small, &one, 20000, 0, flags), Err(MsgError::Stale));
    assert_eq!(other.wakes.borrow().len(), 1);
    assert_eq!(next(&heap).unwrap().1.len(), 20000);
    // One that gives up leaves its slot to whoever meets it.
    let one = Player::new(2).then(|| {
        let two = Player::new(4).then(|| send(&heap, &other, 1, &[2]).unwrap());
        assert_eq!(receive(&small, &two, 9, 5, flags), Err(MsgError::Stale));
        assert_eq!(receive(&small, &two, 9, 5, flags), Err(MsgError::Stale));
    });
    assert_eq!(receive(&heap, &one, 9, 5, flags), Err(MsgError::Interrupted));
    audit(&heap);
}

#[test]
fn a_long_send_whose_queue_grew_meanwhile_leaves_an_orphan_that_is_collected() {
    let heap = queue_memory(1 << 19);
    let (one, two) = (Player::new(2), Player::new(3));
    grow(&heap, 40000);
    send_growing(&heap, &one, 1, &[1; 7000]).unwrap();
    let shrinking = Partly {
        inner: &heap,
        mapped: Cell::new(heap.len()),
        later: Some(8192),
    };
    assert_eq!(send(&shrinking, &two, 1, &[1; 20000]), Err(MsgError::Stale));
    audit(&heap);
    assert_eq!(stat(&heap).qnum, 1);
    let most = heap.len() - 16384;
    send(&heap, &one, 1, &vec![1; most]).expect("the orphan's room is found again");
    audit(&heap);
}
