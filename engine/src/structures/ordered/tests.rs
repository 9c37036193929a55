use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// Every rule the code relies on; returns the entries.
fn checked(set: &OrderedSet) -> Vec<Pair> {
    let entries: Vec<Pair> = set.iter().collect();
    assert!(entries.is_sorted_by(|a, b| a < b), "iterates in order");
    assert_eq!(entries.len(), set.len());
    assert_eq!(entries.is_empty(), set.is_empty());
    assert_eq!(entries.first().copied(), set.first());
    assert!(set.front.len() <= CHUNK_MAX);
    if let Some(rest) = &set.rest {
        assert!(rest.len > 0);
        assert!(!set.front.is_empty(), "the front is filled first");
        assert!(set.front.back().is_some_and(|&back| back < rest.bound));
        assert!(rest.open.len() <= OPEN_MAX);
        let mut lows: Vec<Pair> = rest.packed.keys().copied().collect();
        for (lo, chunk) in &rest.packed {
            assert!(chunk.len() > 0 && chunk.len() <= CHUNK_MAX);
            assert_eq!(chunk.iter().count(), chunk.len());
            assert_eq!(chunk.iter().last(), Some(chunk.last()));
            assert!(chunk.iter().next() >= Some(*lo));
        }
        for open in &rest.open {
            assert!(!open.entries.is_empty() && open.entries.len() <= CHUNK_MAX);
            assert!(open.entries[0] >= open.lo);
            lows.push(open.lo);
        }
        lows.sort_unstable();
        assert!(
            lows.is_sorted_by(|a, b| a < b),
            "no two chunks start at the same pair"
        );
        assert!(lows.iter().all(|&lo| lo >= rest.bound));
        for open in &rest.open {
            let next = lows
                .iter()
                .find(|&&lo| lo > open.lo)
                .copied()
                .unwrap_or(UNLIMITED);
            assert!(
                open.hi <= next,
                "an open chunk claims nothing of the next one's"
            );
        }
    }
    entries
}

fn decoded(bytes: &[u8]) -> Result<OrderedSet, Corrupt> {
    let mut input = bytes;
    let set = OrderedSet::decode(&mut input)?;
    assert!(input.is_empty(), "takes all of its bytes");
    Ok(set)
}

fn assert_round_trip(set: &OrderedSet) {
    let mut bytes = Vec::new();
    set.encode(&mut bytes);
    let back = decoded(&bytes).expect("what encode wrote");
    assert_eq!(checked(&back), checked(set));
}

#[test]
fn an_empty_set_has_no_heap() {
    let mut set = OrderedSet::new();
    assert_eq!(set.heap_bytes(), 0);
    assert_eq!((set.len(), set.first(), set.pop_first()), (0, None, None));
    assert!(!set.remove(1, 1));
    assert!(!set.contains(1, 1));
    assert_round_trip(&set);
    assert!(set.insert(7, 9));
    assert!(!set.insert(7, 9));
    assert!(set.heap_bytes() <= 64);
    set.clear();
    assert_eq!(set.heap_bytes(), 0);
}

#[test]
fn the_ends_of_the_range_are_ordinary_pairs() {
    let mut set = OrderedSet::new();
    let far = [(u64::MAX, u64::MAX), (0, 0), (u64::MAX, 0), (0, u64::MAX)];
    for (key, seq) in far {
        assert!(set.insert(key, seq));
    }
    for i in 0..3000 {
        assert!(set.insert(u64::MAX, u64::MAX - 1 - i));
        assert!(!set.insert(u64::MAX, u64::MAX));
    }
    for (key, seq) in far {
        assert!(set.contains(key, seq));
    }
    assert_round_trip(&set);
    for (key, seq) in far {
        assert!(set.remove(key, seq));
    }
    assert_eq!(checked(&set).len(), 3000);
}

#[test]
fn a_million_in_sequence_take_little_more_than_a_byte_each() {
    for gap in [1, 127] {
        let mut set = OrderedSet::new();
        for seq in 1..=1_000_000 {
            set.insert(1024, seq * gap);
        }
        assert!(
            set.heap_bytes() <= 1_300_000,
            "{} bytes with gap {gap}",
            set.heap_bytes()
        );
        for seq in 1..=1_000_000 {
            assert_eq!(set.pop_first(), Some((1024, seq * gap)));
        }
        assert_eq!(set.heap_bytes(), KEEP_CAPACITY * size_of::<Pair>());
    }
}

#[test]
fn what_was_taken_goes_back_without_a_new_chunk() {
    let mut set = OrderedSet::new();
    for seq in 0..10_000 {
        set.insert(5, seq);
    }
    let packed = |set: &OrderedSet| set.rest.as_ref().map(|rest| rest.packed.len());
    let before = packed(&set);
    for _ in 0..2000 {
        let (key, seq) = set.pop_first().expect("not empty");
        assert!(set.insert(key, seq));
    }
    assert_eq!(packed(&set), before);
    assert_eq!(checked(&set).len(), 10_000);
}

#[test]
fn a_few_priorities_side_by_side_keep_their_chunks_open() {
    let mut set = OrderedSet::new();
    for seq in 0..30_000u64 {
        set.insert(seq % 4, seq);
    }
    let expected: Vec<Pair> = (0..4)
        .flat_map(|key| (0..7500).map(move |i| (key, i * 4 + key)))
        .collect();
    assert_eq!(checked(&set), expected);
    assert!(set.heap_bytes() < 4 * 30_000 + (OPEN_MAX + 1) * CHUNK_MAX * size_of::<Pair>());
}

#[test]
fn damaged_bytes_are_refused() {
    let mut set = OrderedSet::new();
    for seq in 0..2000 {
        set.insert(seq / 100, seq);
    }
    let mut bytes = Vec::new();
    set.encode(&mut bytes);
    for cut in 0..bytes.len() {
        assert!(
            OrderedSet::decode(&mut &bytes[..cut]).is_err(),
            "cut to {cut}"
        );
    }
    // Two chunks of one entry each, the second one equal to the first.
    assert!(decoded(&[2, 1, 2, 5, 5, 1, 2, 5, 5]).is_err());
    // A key difference of 0.
    assert!(decoded(&[1, 2, 5, 5, 5, 0, 0, 2]).is_err());
    // More bytes than entries; a chunk of no entries; as many chunks as can be written.
    assert!(decoded(&[1, 1, 3, 5, 5, 1]).is_err());
    assert!(decoded(&[1, 0, 0]).is_err());
    assert!(decoded(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]).is_err());
}

#[derive(Clone, Debug)]
enum Op {
    /// `n` insertions with one key, sequence numbers a fixed step apart.
    Insert {
        key: u64,
        seq: u64,
        step: u64,
        n: u64,
    },
    /// `n` insertions at scattered places.
    Scatter {
        seed: u64,
        n: u64,
    },
    /// `n` removals of what was scattered.
    Gather {
        seed: u64,
        n: u64,
    },
    /// Removal of every `step`th entry from the `skip`th on.
    Thin {
        skip: usize,
        step: usize,
    },
    Pop {
        n: usize,
    },
    PopAndReturn {
        n: usize,
    },
    RoundTrip,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0u64..4, 0u64..3000, prop_oneof![Just(1u64), 1u64..200], 1u64..900)
            .prop_map(|(key, seq, step, n)| Op::Insert { key, seq, step, n }),
        2 => (0u64..4, 1u64..700).prop_map(|(seed, n)| Op::Scatter { seed, n }),
        2 => (0u64..4, 1u64..700).prop_map(|(seed, n)| Op::Gather { seed, n }),
        2 => (0usize..1000, 1usize..6).prop_map(|(skip, step)| Op::Thin { skip, step }),
        2 => (1usize..1200).prop_map(|n| Op::Pop { n }),
        1 => (1usize..600).prop_map(|n| Op::PopAndReturn { n }),
        1 => Just(Op::RoundTrip),
    ]
}

/// The `i`th of a fixed series of scattered pairs.
fn scattered(seed: u64, i: u64) -> Pair {
    let x = (i + 1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(seed as u32 * 7);
    (x % 7, x >> 40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn behaves_like_a_btree_set(ops in prop::collection::vec(op(), 1..24), probe: u64) {
        let mut set = OrderedSet::new();
        let mut model = BTreeSet::new();
        for op in ops {
            match op {
                Op::Insert { key, seq, step, n } => {
                    for seq in (seq..).step_by(step as usize).take(n as usize) {
                        prop_assert_eq!(set.insert(key, seq), model.insert((key, seq)));
                    }
                }
                Op::Scatter { seed, n } => {
                    for (key, seq) in (0..n).map(|i| scattered(seed, i)) {
                        prop_assert_eq!(set.insert(key, seq), model.insert((key, seq)));
                    }
                }
                Op::Gather { seed, n } => {
                    for (key, seq) in (0..n).map(|i| scattered(seed, i)) {
                        prop_assert_eq!(set.remove(key, seq), model.remove(&(key, seq)));
                    }
                }
                Op::Thin { skip, step } => {
                    let victims: Vec<Pair> = model.iter().copied().skip(skip).step_by(step).collect();
                    for (key, seq) in victims {
                        model.remove(&(key, seq));
                        prop_assert!(set.remove(key, seq));
                        prop_assert!(!set.contains(key, seq));
                    }
                }
                Op::Pop { n } => {
                    for _ in 0..n {
                        prop_assert_eq!(set.pop_first(), model.pop_first());
                    }
                }
                Op::PopAndReturn { n } => {
                    let taken: Vec<Pair> = (0..n).map_while(|_| set.pop_first()).collect();
                    for &(key, seq) in taken.iter().rev() {
                        prop_assert!(model.contains(&(key, seq)));
                        prop_assert!(set.insert(key, seq));
                    }
                }
                Op::RoundTrip => {
                    let mut bytes = Vec::new();
                    set.encode(&mut bytes);
                    set = decoded(&bytes).expect("what encode wrote");
                }
            }
            prop_assert!(checked(&set).iter().eq(model.iter()));
            for i in 0..8 {
                let (key, seq) = scattered(probe % 64, i + probe % 1000);
                prop_assert_eq!(set.contains(key, seq), model.contains(&(key, seq)));
                prop_assert!(set.range_from(key, seq).take(600).eq(model.range((key, seq)..).copied().take(600)));
            }
        }
    }

    #[test]
    fn any_bytes_decode_to_a_sound_set_or_an_error(bytes in prop::collection::vec(prop_oneof![0u8..6, any::<u8>()], 0..200)) {
        if let Ok(set) = OrderedSet::decode(&mut bytes.as_slice()) {
            checked(&set);
        }
    }

    #[test]
    fn a_changed_byte_is_refused_or_leaves_a_sound_set(at in 0usize..4000, to: u8) {
        let mut set = OrderedSet::new();
        for i in 0..1500 {
            let (key, seq) = scattered(1, i);
            set.insert(key, seq);
        }
        let mut bytes = Vec::new();
        set.encode(&mut bytes);
        let at = at % bytes.len();
        bytes[at] = to;
        if let Ok(set) = OrderedSet::decode(&mut bytes.as_slice()) {
            checked(&set);
        }
    }
}
