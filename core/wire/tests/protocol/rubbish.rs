//! Bytes that nobody honest sent: decoding gives errors, allocates no more than it received, and finds its place again.

use crate::dice::{Dice, throw};
use proptest::prelude::*;
use std::time::{Duration, Instant};
use vshmem_wire::{
    Answer, Deframer, Down, Envelope, MAX_MESSAGE, Reply, Request, Up, WireError, decode, encode, frame,
};

/// Everything that is to be had from a deframer, errors dropped. Ends, since each call takes a frame or gives None.
fn drain<T: serde::de::DeserializeOwned>(deframer: &mut Deframer) -> Vec<T> {
    let mut all = Vec::new();
    loop {
        match deframer.take::<T>() {
            Ok(Some(message)) => all.push(message),
            Ok(None) => return all,
            Err(_) => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = decode::<Envelope>(&bytes);
        let _ = decode::<Answer>(&bytes);
        let _ = decode::<Up>(&bytes);
        let _ = decode::<Down>(&bytes);
        let mut deframer = Deframer::default();
        deframer.push(&bytes);
        let _ = drain::<Up>(&mut deframer);
    }

    #[test]
    fn mutated_messages_never_panic(seed: u64, flips in 1..8usize) {
        let mut dice = Dice::new(seed);
        let mut up = encode(&throw::<Up>(seed));
        let mut answer = encode(&throw::<Answer>(seed));
        for bytes in [&mut up, &mut answer] {
            for _ in 0..flips {
                let at = dice.below(bytes.len() as u64) as usize;
                bytes[at] = dice.next() as u8;
            }
            if dice.below(3) == 0 {
                bytes.truncate(dice.below(bytes.len() as u64) as usize);
            }
        }
        // Whatever still decodes is a message like any other: it survives a round trip.
        if let Ok(message) = decode::<Up>(&up) {
            prop_assert_eq!(decode::<Up>(&encode(&message)).unwrap(), message);
        }
        if let Ok(message) = decode::<Answer>(&answer) {
            prop_assert_eq!(decode::<Answer>(&encode(&message)).unwrap(), message);
        }
    }

    #[test]
    fn a_broken_frame_takes_no_other_with_it(seed: u64, count in 2..8usize, hits in 1..4usize) {
        let mut dice = Dice::new(seed);
        let sent: Vec<Down> = (0..count).map(|_| throw(dice.next())).collect();
        let broken = dice.below(count as u64) as usize;
        let mut bytes = Vec::new();
        for (i, message) in sent.iter().enumerate() {
            let mut framed = frame(message);
            if i == broken {
                for _ in 0..hits {
                    // Anything but the delimiters at both ends.
                    let at = 1 + dice.below(framed.len() as u64 - 2) as usize;
                    framed[at] ^= 1 + dice.below(255) as u8;
                }
            }
            bytes.extend(framed);
        }
        let mut deframer = Deframer::default();
        deframer.push(&bytes);
        let mut expected = sent.clone();
        let got = drain::<Down>(&mut deframer);
        if got.len() != expected.len() {
            expected.remove(broken);
        }
        prop_assert!(got == expected);
    }

    #[test]
    fn reading_may_begin_anywhere(seed: u64) {
        let (first, second) = (throw::<Up>(seed), throw::<Up>(seed ^ 1));
        let mut bytes = frame(&first);
        let cut = 1 + Dice::new(seed).below(bytes.len() as u64 - 1) as usize;
        bytes.extend(frame(&second));
        let mut deframer = Deframer::default();
        deframer.push(&bytes[cut..]);
        let got = drain::<Up>(&mut deframer);
        if cut > 1 {
            prop_assert!(got == [second]);
        } else {
            prop_assert!(got == [first, second]);
        }
    }

    #[test]
    fn a_torn_frame_delays_nothing(seed: u64) {
        let (torn, next) = (throw::<Up>(seed), throw::<Up>(seed ^ 1));
        let bytes = frame(&torn);
        let kept = Dice::new(seed).below(bytes.len() as u64 - 1) as usize;
        let mut deframer = Deframer::default();
        deframer.push(&bytes[..kept]);
        prop_assert!(drain::<Up>(&mut deframer) == Vec::<Up>::new());
        deframer.push(&frame(&next));
        prop_assert!(drain::<Up>(&mut deframer) == [next]);
    }
}

#[test]
fn bytes_of_a_users_message_are_never_taken_for_a_frame() {
    // A user sends a message whose text is a frame; a front-end begins to read at every place within the frame that carries it.
    let forged = frame(&Up::Gone {
        client: 7,
        exec: false,
    });
    let carrier = frame(&Up::Request {
        client: 9,
        seq: 1,
        body: Request::OnBehalf {
            id: 1 << 30,
            operation: vshmem_wire::request::Behalf::Send {
                mtype: 1,
                text: forged.repeat(3),
            },
        },
    });
    for cut in 2..carrier.len() {
        let mut deframer = Deframer::default();
        deframer.push(&carrier[cut..]);
        assert_eq!(drain::<Up>(&mut deframer), [], "cut at {cut}");
    }
}

#[test]
fn a_frame_of_another_version_is_an_error_and_the_stream_goes_on() {
    let mut deframer = Deframer::default();
    deframer.push(&frame(&(250u8, [0u8; 32])));
    deframer.push(&frame(&Up::Heartbeat));
    assert!(matches!(deframer.take::<Up>(), Err(WireError::Malformed { .. })));
    assert_eq!(deframer.take::<Up>().unwrap(), Some(Up::Heartbeat));
}

#[test]
fn a_length_that_lies_allocates_nothing() {
    // A list said to hold 2^60 names, in five bytes.
    let mut bytes = encode(&Reply::Tickets(vec![]));
    bytes.pop();
    bytes.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f]);
    assert!(decode::<Reply>(&bytes).is_err());
}

#[test]
fn megabytes_of_rubbish_are_skipped_quickly_and_keep_no_memory() {
    let started = Instant::now();
    for filler in [b'V', 0, 1, 255] {
        let mut deframer = Deframer::default();
        for _ in 0..64 {
            deframer.push(&vec![filler; 64 * 1024]);
            assert_eq!(drain::<Up>(&mut deframer), []);
        }
        deframer.push(&frame(&Up::Heartbeat));
        assert_eq!(drain::<Up>(&mut deframer), [Up::Heartbeat]);
        assert!(deframer.skipped() <= 64 * 64 * 1024);
    }
    // Frames of the largest size whose checksum is wrong: the dearest rubbish there is.
    let mut wrong = frame(&vec![1u8; MAX_MESSAGE - 10]);
    let at = wrong.len() / 2;
    wrong[at] ^= 2;
    let mut deframer = Deframer::default();
    for _ in 0..32 {
        deframer.push(&wrong);
        assert_eq!(drain::<Up>(&mut deframer), []);
    }
    assert!(
        started.elapsed() < Duration::from_secs(30),
        "{:?}",
        started.elapsed()
    );
}
