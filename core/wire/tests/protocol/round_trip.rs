//! Every message, generated, comes back as it was: as a datagram and through a stream cut anywhere.

use crate::dice::{Dice, throw, throw_variant};
use proptest::prelude::*;
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;
use vshmem_wire::{
    Answer, Deframer, Down, Envelope, Info, Memory, Reply, Request, Stat, Status, Up, decode, encode, frame,
};

fn round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug>(message: &T) -> Result<(), TestCaseError> {
    let bytes = encode(message);
    prop_assert!(
        !bytes.is_empty(),
        "an empty encoding means that postcard refused the type"
    );
    prop_assert_eq!(&decode::<T>(&bytes).unwrap(), message);

    let mut deframer = Deframer::default();
    deframer.push(&frame(message));
    let got = deframer.take::<T>().unwrap();
    prop_assert_eq!(got.as_ref(), Some(message));
    prop_assert_eq!(deframer.take::<T>().unwrap(), None);
    prop_assert_eq!(deframer.skipped(), 0);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_message_round_trips(seed: u64, variant in 0..64u32) {
        round_trip(&Envelope { seq: seed, body: throw_variant::<Request>(seed, variant) })?;
        round_trip(&Answer { seq: seed, body: Ok(throw_variant::<Reply>(seed, variant)) })?;
        round_trip(&throw::<Answer>(seed))?;
        round_trip(&throw_variant::<Up>(seed, variant))?;
        round_trip(&throw_variant::<Down>(seed, variant))?;
        round_trip(&throw::<Stat>(seed))?;
        round_trip(&throw::<Info>(seed))?;
        round_trip(&throw::<Memory>(seed))?;
        round_trip(&throw::<Status>(seed))?;
    }

    #[test]
    fn a_stream_gives_the_same_messages_wherever_it_is_cut(seed: u64, count in 1..12usize) {
        let mut dice = Dice::new(seed);
        let sent: Vec<Up> = (0..count).map(|_| throw(dice.next())).collect();
        let bytes: Vec<u8> = sent.iter().flat_map(frame).collect();
        let mut deframer = Deframer::default();
        let mut got = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let piece = 1 + dice.below(rest.len().min(64) as u64) as usize;
            deframer.push(&rest[..piece]);
            rest = &rest[piece..];
            while let Some(message) = deframer.take::<Up>().unwrap() {
                got.push(message);
            }
        }
        prop_assert!(got == sent);
    }
}

#[test]
fn the_largest_message_passes_and_a_larger_one_is_refused() {
    let message = |bytes: usize| Reply::Message {
        mtype: 1,
        text: vec![0; bytes],
    };
    let overhead = encode(&message(100_000)).len() - 100_000;
    let largest = message(vshmem_wire::MAX_MESSAGE - overhead);
    assert_eq!(encode(&largest).len(), vshmem_wire::MAX_MESSAGE);
    let mut deframer = Deframer::default();
    for text in [0u8, 1, 255] {
        let Reply::Message { text: mut bytes, .. } = largest.clone() else {
            unreachable!()
        };
        bytes.fill(text);
        let message = Reply::Message {
            mtype: 1,
            text: bytes,
        };
        deframer.push(&frame(&message));
        assert_eq!(deframer.take().unwrap(), Some(message));
    }
    let larger = message(vshmem_wire::MAX_MESSAGE);
    assert!(decode::<Reply>(&encode(&larger)).is_err());
    deframer.push(&frame(&larger));
    deframer.push(&frame(&Reply::Done));
    let mut seen = Vec::new();
    for _ in 0..3 {
        if let Ok(Some(message)) = deframer.take::<Reply>() {
            seen.push(message);
        }
    }
    assert_eq!(seen, [Reply::Done]);
}
