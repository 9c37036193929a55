use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

type Entry = (Seq, Lsn);

/// Every rule the code relies on; returns the entries.
fn checked(index: &Index) -> Vec<Entry> {
    let entries: Vec<Entry> = index.iter().collect();
    assert!(entries.is_sorted_by(|a, b| a.0 < b.0), "iterates in order");
    assert_eq!(entries.len(), index.len());
    assert_eq!(entries.first().copied(), index.first());
    assert!(
        entries
            .last()
            .is_none_or(|&(seq, _)| seq <= index.last_seq())
    );
    match &index.head {
        Some(head) => assert_eq!(head.chunk.next(0).map(|(slot, _)| slot), Some(head.first)),
        None => assert!(
            index.middle.is_empty(),
            "the oldest sealed chunk is the head"
        ),
    }
    assert!(
        index
            .middle
            .keys()
            .all(|&number| index.head.as_ref().is_some_and(|head| head.number < number))
    );
    assert!(index.middle.values().all(|chunk| chunk.len() > 0));
    entries
}

fn decoded(bytes: &[u8]) -> Result<Index, Corrupt> {
    let mut input = bytes;
    let index = Index::decode(&mut input)?;
    assert!(input.is_empty(), "takes all of its bytes");
    Ok(index)
}

fn round_tripped(index: &Index) -> Index {
    let mut bytes = Vec::new();
    index.encode(&mut bytes);
    let back = decoded(&bytes).expect("what encode wrote");
    assert_eq!(back.last_seq(), index.last_seq());
    back
}

/// Records of `size` bytes for the numbers from 1 to `n`.
fn filled(n: u64, size: u64) -> Index {
    let mut index = Index::new();
    for i in 1..=n {
        index.push(Seq(i), Lsn(i * size));
    }
    index
}

#[test]
fn an_empty_index_has_no_heap() {
    let mut index = Index::new();
    assert_eq!(index.heap_bytes(), 0);
    assert_eq!(
        (index.first(), index.last_seq(), index.len()),
        (None, Seq(0), 0)
    );
    assert_eq!(index.next_at_or_after(Seq(0)), None);
    for seq in [0, 1, 255, 256, u64::MAX] {
        assert_eq!(index.get(Seq(seq)), None);
        assert_eq!(index.remove(Seq(seq)), None);
    }
    assert!(checked(&round_tripped(&index)).is_empty());
}

#[test]
fn the_last_number_survives_its_removal() {
    let mut index = Index::new();
    index.push(Seq(700), Lsn(8));
    assert_eq!(index.remove(Seq(700)), Some(Lsn(8)));
    let mut index = round_tripped(&index);
    assert_eq!(index.last_seq(), Seq(700));
    index.push(Seq(701), Lsn(16));
    assert_eq!(index.first(), Some((Seq(701), Lsn(16))));
}

#[test]
#[should_panic(expected = "pushed after")]
fn a_number_is_handed_out_once() {
    let mut index = filled(3, 8);
    index.push(Seq(3), Lsn(800));
}

#[test]
fn the_top_of_the_range_works() {
    let mut index = Index::new();
    index.push(Seq(u64::MAX - 1), Lsn(u64::MAX - 8));
    index.push(Seq(u64::MAX), Lsn(0));
    let index = round_tripped(&index);
    assert_eq!(index.get(Seq(u64::MAX)), Some(Lsn(0)));
    assert_eq!(checked(&index).len(), 2);
    assert_eq!(index.range(Seq(u64::MAX)).count(), 1);
}

#[test]
fn memory_an_entry_follows_the_size_of_records() {
    for (size, most) in [(120, 2.5), (1064, 2.5), (1 << 20, 4.5)] {
        let index = filled(200_000, size);
        let each = index.heap_bytes() as f64 / 200_000.0;
        assert!(each <= most, "{each} bytes for records of {size}");
    }
}

#[test]
fn memory_goes_with_the_entries() {
    let mut index = filled(100_000, 1064);
    for seq in (1..=100_000).filter(|seq| seq % 1000 != 0) {
        index.remove(Seq(seq));
    }
    assert_eq!(checked(&index).len(), 100);
    assert!(
        index.heap_bytes() < 100 * 100,
        "{} bytes",
        index.heap_bytes()
    );
    for seq in (1..=100).map(|i| Seq(i * 1000)) {
        index.remove(seq);
    }
    assert_eq!(checked(&index), []);
    assert!(index.heap_bytes() <= KEEP_CAPACITY * 8);
}

#[test]
fn every_form_of_chunk_keeps_its_positions() {
    type Position = fn(u64) -> u64;
    let forms: [(&str, Position); 6] = [
        ("16 bits", |i| 4096 + i * 1064),
        ("32 bits", |i| 4096 + i * 10_000_000),
        ("too far apart", |i| i << 40),
        ("kept in memory now and then", |i| {
            (i * 8) | (u64::from(i % 3 == 0) << 63)
        }),
        ("always in memory", |i| (i * 8) | (1 << 63)),
        ("no multiples of 8, descending", |i| 1_000_003 - i),
    ];
    for (what, lsn) in forms {
        let mut index = Index::new();
        for i in 1..=600 {
            index.push(Seq(i), Lsn(lsn(i)));
        }
        let mut index = round_tripped(&index);
        for i in 1..=600 {
            assert_eq!(index.get(Seq(i)), Some(Lsn(lsn(i))), "{what}");
        }
        for i in (1..=600).rev() {
            assert_eq!(index.remove(Seq(i)), Some(Lsn(lsn(i))), "{what}");
            assert_eq!(index.get(Seq(i)), None, "{what}");
        }
    }
}

#[test]
fn damaged_bytes_are_refused() {
    let mut index = filled(1000, 1 << 20);
    for seq in 300..500 {
        index.remove(Seq(seq));
    }
    let mut bytes = Vec::new();
    index.encode(&mut bytes);
    for cut in 0..bytes.len() {
        assert!(Index::decode(&mut &bytes[..cut]).is_err(), "cut to {cut}");
    }
    // An entry above the last number; a chunk above it; an empty list; slots out of order; an unknown form.
    assert!(decoded(&[5, 1, 0, 0, 1, 6, 16]).is_err());
    assert!(decoded(&[5, 1, 1, 0, 1, 5, 16]).is_err());
    assert!(decoded(&[5, 1, 0, 0, 0]).is_err());
    assert!(decoded(&[5, 1, 0, 0, 2, 3, 16, 3, 16]).is_err());
    assert!(decoded(&[5, 1, 0, 4, 0, 0]).is_err());
    assert!(decoded(&[5, 1, 0, 0, 2, 3, 16, 5, 16]).is_ok());
}

#[derive(Clone, Debug)]
enum Op {
    /// `n` numbers a fixed step apart, records of a fixed size.
    Push {
        skip: u64,
        step: u64,
        size: u64,
        n: u64,
        memory: bool,
    },
    /// Removal from the front.
    Consume {
        n: usize,
    },
    /// Removal of every `step`th entry from the `skip`th on.
    Thin {
        skip: usize,
        step: usize,
    },
    RoundTrip,
}

fn op() -> impl Strategy<Value = Op> {
    let size = prop_oneof![
        Just(8u64),
        Just(1064),
        Just(100_000),
        Just(1 << 36),
        Just(13)
    ];
    prop_oneof![
        4 => (0u64..600, 1u64..3, size, 1u64..700, any::<bool>())
            .prop_map(|(skip, step, size, n, memory)| Op::Push { skip, step, size, n, memory }),
        2 => (1usize..700).prop_map(|n| Op::Consume { n }),
        3 => (0usize..1000, 1usize..6).prop_map(|(skip, step)| Op::Thin { skip, step }),
        1 => Just(Op::RoundTrip),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn behaves_like_a_btree_map(ops in prop::collection::vec(op(), 1..20), probe: u64) {
        let mut index = Index::new();
        let mut model: BTreeMap<Seq, Lsn> = BTreeMap::new();
        let mut end = 0;
        for op in ops {
            match op {
                Op::Push { skip, step, size, n, memory } => {
                    let first = index.last_seq().0 + 1 + skip;
                    for seq in (first..).step_by(step as usize).take(n as usize) {
                        end += size;
                        let lsn = Lsn(end | u64::from(memory) << 63);
                        index.push(Seq(seq), lsn);
                        model.insert(Seq(seq), lsn);
                        prop_assert_eq!(index.last_seq(), Seq(seq));
                    }
                }
                Op::Consume { n } => {
                    for _ in 0..n {
                        prop_assert_eq!(index.first(), model.first_key_value().map(|(&seq, &lsn)| (seq, lsn)));
                        let Some((seq, lsn)) = model.pop_first() else { break };
                        prop_assert_eq!(index.remove(seq), Some(lsn));
                    }
                }
                Op::Thin { skip, step } => {
                    let victims: Vec<Seq> = model.keys().copied().skip(skip).step_by(step).collect();
                    for seq in victims {
                        prop_assert_eq!(index.remove(seq), model.remove(&seq));
                        prop_assert_eq!(index.remove(seq), None);
                    }
                }
                Op::RoundTrip => index = round_tripped(&index),
            }
            prop_assert!(checked(&index).into_iter().eq(model.iter().map(|(&seq, &lsn)| (seq, lsn))));
            for i in 0..8u64 {
                let seq = Seq((probe.rotate_left(i as u32 * 8)) % (index.last_seq().0 + 300));
                prop_assert_eq!(index.get(seq), model.get(&seq).copied());
                prop_assert_eq!(index.contains(seq), model.contains_key(&seq));
                let next = model.range(seq..).next().map(|(&seq, &lsn)| (seq, lsn));
                prop_assert_eq!(index.next_at_or_after(seq), next);
                prop_assert!(index.range(seq).map(|(seq, _)| seq).eq(model.range(seq..).map(|(&seq, _)| seq)));
            }
        }
    }

    #[test]
    fn any_bytes_decode_to_a_sound_index_or_an_error(
        mut bytes in prop::collection::vec(prop_oneof![0u8..4, any::<u8>()], 0..900),
    ) {
        if let Ok(index) = Index::decode(&mut bytes.as_slice()) {
            checked(&index);
        }
        bytes.splice(..0, [0xff, 0x7f, 3]);
        if let Ok(index) = Index::decode(&mut bytes.as_slice()) {
            checked(&index);
        }
    }
}
