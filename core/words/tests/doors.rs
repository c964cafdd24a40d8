//! Every door to construct memory keeps the same rules: the real mapping and the plain heap do the same, step by step, whatever is asked of them.
#![allow(unsafe_code)] // `Mapping` wraps memory by its address: here, a vector's.

use proptest::prelude::*;
use vshmem_words::{Heap, Mapping, Ordering, Scribbled, Words};

const RELAXED: Ordering = Ordering::Relaxed;

/// A mapping of the first `bytes` of memory of this test, and the memory, with `room` bytes behind.
fn mapping(bytes: usize, room: usize) -> (Mapping, Vec<u64>) {
    let mut memory = vec![0u64; (bytes + room).div_ceil(8)];
    // SAFETY: a vector of u64 is aligned to 8 bytes; it is kept beside the mapping, and read only between accesses through it.
    let mapping = unsafe { Mapping::new(memory.as_mut_ptr().cast(), bytes) };
    (mapping, memory)
}

#[derive(Debug, Clone)]
enum Step {
    Load32(usize),
    Store32(usize, u32),
    Exchange32(usize, u32, u32),
    Load64(usize),
    Store64(usize, u64),
    Exchange64(usize, u64, u64),
    Out(usize, usize),
    In(usize, Vec<u8>),
    Zero(usize, usize),
}

/// What a step gave, and the bytes it copied out.
fn perform(words: &impl Words, step: &Step) -> (u64, Vec<u8>) {
    let number = |result: Result<u64, u64>| result.unwrap_or_else(|found| found ^ (1 << 63));
    let mut out = Vec::new();
    let result = match step {
        Step::Load32(at) => words.load32(*at, RELAXED).into(),
        Step::Store32(at, value) => {
            words.store32(*at, *value, RELAXED);
            0
        }
        Step::Exchange32(at, current, new) => {
            let result = words.compare_exchange32(*at, *current, *new, Ordering::AcqRel, RELAXED);
            number(result.map(u64::from).map_err(u64::from))
        }
        Step::Load64(at) => words.load64(*at, RELAXED),
        Step::Store64(at, value) => {
            words.store64(*at, *value, RELAXED);
            0
        }
        Step::Exchange64(at, current, new) => {
            number(words.compare_exchange64(*at, *current, *new, Ordering::AcqRel, RELAXED))
        }
        Step::Out(at, bytes) => {
            out = vec![0xee; *bytes];
            words.copy_out(*at, &mut out).into()
        }
        Step::In(at, bytes) => words.copy_in(*at, bytes).into(),
        Step::Zero(at, bytes) => words.zero(*at, *bytes).into(),
    };
    (result, out)
}

/// Offsets within, at the edge of, and far beyond some hundred bytes.
fn offset() -> impl Strategy<Value = usize> {
    prop_oneof![
        8 => 0..560usize,
        4 => (0..70usize).prop_map(|w| w * 8),
        1 => (0..16usize).prop_map(|back| usize::MAX - back),
        1 => any::<usize>(),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = proptest::collection::vec(any::<u8>(), 0..300);
    let length = || prop_oneof![9 => 0..300usize, 1 => 0..5000usize];
    prop_oneof![
        offset().prop_map(Step::Load32),
        (offset(), any::<u32>()).prop_map(|(at, v)| Step::Store32(at, v)),
        (offset(), 0..3u32, 0..3u32).prop_map(|(at, c, n)| Step::Exchange32(at, c, n)),
        offset().prop_map(Step::Load64),
        (offset(), any::<u64>()).prop_map(|(at, v)| Step::Store64(at, v)),
        (offset(), 0..3u64, 0..3u64).prop_map(|(at, c, n)| Step::Exchange64(at, c, n)),
        (offset(), length()).prop_map(|(at, n)| Step::Out(at, n)),
        (offset(), bytes).prop_map(|(at, b)| Step::In(at, b)),
        (offset(), length()).prop_map(|(at, n)| Step::Zero(at, n)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn mapping_and_heap_do_the_same(bytes in 0..540usize, steps in proptest::collection::vec(step(), 1..60)) {
        // Whole words: the heap has nothing smaller.
        let bytes = bytes / 8 * 8;
        let (real, memory) = mapping(bytes, 64);
        let plain = Heap::new(bytes);
        for step in &steps {
            prop_assert_eq!(perform(&real, step), perform(&plain, step), "{:?}", step);
        }
        let (mut ours, mut theirs) = (vec![0; bytes], vec![0; bytes]);
        prop_assert!(real.copy_out(0, &mut ours) && plain.copy_out(0, &mut theirs));
        prop_assert_eq!(ours, theirs);
        prop_assert!(memory[bytes / 8..].iter().all(|&w| w == 0), "something was written beyond the end");
    }

    #[test]
    fn copies_of_every_length_and_alignment_are_exact(at in 0..40usize, bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
        let (real, memory) = mapping(1024, 0);
        prop_assert!(real.copy_in(at, &bytes));
        let mut back = vec![0; bytes.len()];
        prop_assert!(real.copy_out(at, &mut back));
        prop_assert!(back == bytes);
        let flat: Vec<u8> = memory.iter().flat_map(|w| w.to_ne_bytes()).collect();
        prop_assert!(flat[..at].iter().chain(&flat[at + bytes.len()..]).all(|&b| b == 0));
        prop_assert!(real.zero(at, bytes.len()));
        prop_assert!(memory.iter().all(|&w| w == 0));
    }
}

#[test]
fn growth_shows_and_shrinking_does_not_happen() {
    let plain = Heap::with_room(64, 256);
    plain.store64(64, 7, RELAXED);
    assert_eq!(plain.load64(64, RELAXED), 0);
    plain.grow(256);
    plain.grow(8);
    assert_eq!(plain.len(), 256);
    plain.store64(64, 7, RELAXED);
    assert_eq!(plain.load64(64, RELAXED), 7);
    plain.grow(100_000);
    assert_eq!(plain.len(), 256, "no further than room was made for");
}

#[test]
fn additions_of_several_threads_are_all_counted() {
    const THREADS: usize = 4;
    const TIMES: u64 = 20_000;
    let (real, _memory) = mapping(64, 0);
    let plain = Heap::new(64);
    fn add(words: &impl Words) {
        for _ in 0..TIMES {
            let mut seen = words.load64(8, RELAXED);
            while let Err(found) = words.compare_exchange64(8, seen, seen + 1, Ordering::AcqRel, RELAXED) {
                seen = found;
            }
        }
    }
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| add(&real));
            scope.spawn(|| add(&plain));
        }
    });
    assert_eq!(real.load64(8, RELAXED), THREADS as u64 * TIMES);
    assert_eq!(plain.load64(8, RELAXED), THREADS as u64 * TIMES);
}

#[test]
fn a_copy_during_writes_gives_only_bytes_that_were_written() {
    let (real, _memory) = mapping(4096, 0);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for turn in 0..2000u32 {
                let value = if turn % 2 == 0 { 0x11 } else { 0x22 };
                assert!(real.copy_in(0, &[value; 4096]));
            }
        });
        let mut seen = vec![0; 4096];
        while !writer.is_finished() {
            assert!(real.copy_out(0, &mut seen));
            assert!(seen.iter().all(|b| matches!(b, 0 | 0x11 | 0x22)));
        }
    });
}

#[test]
fn a_scribbler_repeats_itself_and_can_be_stopped() {
    let loads = |seed| {
        let words = Scribbled::new(Heap::new(256), seed, 3);
        (0..200usize)
            .map(|i| words.load32(i % 64 * 4, RELAXED))
            .collect::<Vec<u32>>()
    };
    assert_eq!(loads(5), loads(5));
    assert_ne!(loads(5), loads(6));
    assert!(loads(5).iter().any(|&word| word != 0), "it never scribbled");
    let words = Scribbled::new(Heap::new(256), 5, 1);
    words.scribble(false);
    assert!((0..200usize).all(|i| words.load32(i % 64 * 4, RELAXED) == 0));
}
