use std::mem;

use proptest::prelude::*;

use super::*;

/// Every rule the code relies on.
fn check(set: &IntervalSet) {
    assert!(!set.contains(set.floor()));
    assert_eq!(
        set.absent_from(set.floor()),
        set.floor(),
        "the floor has moved as far as it can"
    );
    let runs: Vec<(u64, u64)> = set.runs().collect();
    assert!(runs.iter().all(|run| run.0 > set.floor() && run.0 < run.1));
    assert!(
        runs.is_sorted_by(|a, b| a.1 < b.0),
        "runs ascend and do not touch"
    );
    assert_eq!(
        runs.iter().map(|run| run.1 - run.0).sum::<u64>(),
        set.len_above_floor()
    );
    assert_eq!(set.parts.is_empty(), set.len_above_floor() == 0);
    let mut free = 0;
    for (&number, part) in &set.parts {
        assert!(number >= free);
        free = number + 1;
        match part {
            Part::Complete { through } => {
                assert!(number <= *through && *through < LAST_PART);
                free = through + 1;
            }
            Part::Mixed(container) => {
                assert!(container.count(0, u16::MAX) > 0);
                if let Container::Runs(runs) = container {
                    assert!(runs.len() <= container::RUNS_MAX);
                }
            }
        }
        assert!(
            free > split(set.floor()).0,
            "nothing is kept that lies below the floor"
        );
    }
}

fn decoded(bytes: &[u8]) -> Result<IntervalSet, Corrupt> {
    let mut input = bytes;
    let set = IntervalSet::decode(&mut input)?;
    assert!(input.is_empty(), "takes all of its bytes");
    Ok(set)
}

fn round_tripped(set: &IntervalSet) -> IntervalSet {
    let mut bytes = Vec::new();
    set.encode(&mut bytes);
    let back = decoded(&bytes).expect("what encode wrote");
    assert_eq!(
        (back.floor(), back.len_above_floor()),
        (set.floor(), set.len_above_floor())
    );
    assert!(back.runs().eq(set.runs()));
    back
}

#[test]
fn in_order_only_the_floor_moves() {
    let mut set = IntervalSet::with_floor(1);
    for v in 1..1000 {
        assert!(set.insert(v));
        assert!(!set.insert(v));
        assert_eq!(set.floor(), v + 1);
    }
    assert_eq!((set.heap_bytes(), set.runs().next()), (0, None));
    assert!(set.contains(0) && set.contains(999) && !set.contains(1000));
    check(&round_tripped(&set));
}

#[test]
fn the_floor_moves_over_a_gap_that_closes() {
    let mut set = IntervalSet::new();
    assert!(set.insert(1) && set.insert(2) && set.insert(5));
    assert_eq!((set.floor(), set.len_above_floor()), (0, 3));
    assert!(set.runs().eq([(1, 3), (5, 6)]));
    assert_eq!(
        (set.next_absent(0), set.next_absent(1), set.next_absent(4)),
        (0, 3, 4)
    );
    assert!(set.insert(0));
    assert_eq!((set.floor(), set.len_above_floor()), (3, 1));
    set.set_floor(5);
    assert_eq!(
        (set.floor(), set.len_above_floor(), set.heap_bytes()),
        (6, 0, 0)
    );
    set.set_floor(2);
    assert_eq!(set.floor(), 6);
}

#[test]
fn a_million_in_reverse_order_are_a_few_runs() {
    let mut set = IntervalSet::new();
    for v in (1..=1_000_000).rev() {
        assert!(set.insert(v));
        assert!(set.parts.len() <= 3);
    }
    assert!(set.heap_bytes() < 1000, "{} bytes", set.heap_bytes());
    assert!(set.insert(0));
    assert_eq!((set.floor(), set.heap_bytes()), (1_000_001, 0));
}

#[test]
fn a_million_scattered_take_kilobytes() {
    let mut set = IntervalSet::new();
    let most = 1_000_000 / 8 + 20_000;
    for v in 1..=1_000_000 {
        assert!(set.insert(v * 2));
    }
    assert_eq!(set.runs().count(), 1_000_000);
    assert!(set.heap_bytes() <= 2 * most, "{} bytes", set.heap_bytes());
    check(&round_tripped(&set));
    // As the gaps close, bit maps become runs again.
    for v in 1..1_000_000 {
        assert!(set.insert(v * 2 + 1));
    }
    assert!(set.runs().eq([(2, 2_000_001)]));
    assert!(set.heap_bytes() < 1000, "{} bytes", set.heap_bytes());
}

#[test]
fn numbers_below_the_floor_do_not_pile_up() {
    let mut set = IntervalSet::new();
    set.insert(60_000);
    for v in (0..20_000).map(|i| i * 2) {
        assert!(set.insert(v + 1));
        assert!(set.insert(v));
        assert_eq!(set.floor(), v + 2);
    }
    assert!(set.heap_bytes() < 200, "{} bytes", set.heap_bytes());
}

#[test]
fn huge_ranges_are_as_cheap_as_small_ones() {
    let mut set = IntervalSet::new();
    assert_eq!(set.insert_range(1 << 20, u64::MAX), u64::MAX - (1 << 20));
    assert!(!set.insert(u64::MAX));
    assert_eq!(set.next_absent(1 << 20), u64::MAX);
    assert!(set.heap_bytes() < 300);
    check(&set);
    let mut set = round_tripped(&set);
    assert_eq!(set.insert_range(0, 1 << 20), 1 << 20);
    assert_eq!((set.floor(), set.len_above_floor()), (u64::MAX, 0));
    assert!(!set.insert(u64::MAX));
    check(&round_tripped(&set));
}

#[test]
fn damaged_bytes_are_refused() {
    let mut set = IntervalSet::with_floor(7);
    set.insert_range(1 << 18, 1 << 20);
    for v in 0..3000 {
        set.insert(100 + v * 3);
        set.insert((1 << 21) + v * 100);
    }
    let mut bytes = Vec::new();
    set.encode(&mut bytes);
    for cut in 0..bytes.len() {
        assert!(
            IntervalSet::decode(&mut &bytes[..cut]).is_err(),
            "cut to {cut}"
        );
    }
    let top = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f];
    let last_part = |rest: &[u8]| [&[0, 1], &top[..], rest].concat();
    // u64::MAX as a member, in two ways; its neighbour is one.
    assert!(decoded(&last_part(&[0, 1, 0xff, 0xff, 0x03, 0])).is_err());
    assert!(decoded(&last_part(&[1])).is_err());
    assert!(decoded(&last_part(&[0, 1, 0xfe, 0xff, 0x03, 0])).is_ok());
    // The floor is a member; parts overlap; runs touch; a run ends above 65,535; an empty bit map.
    assert!(decoded(&[5, 1, 0, 0, 1, 5, 0]).is_err());
    assert!(decoded(&[0, 1, 0, 0, 1, 0, 0]).is_err());
    assert!(decoded(&[0, 2, 1, 3, 2, 1]).is_err());
    assert!(decoded(&[0, 1, 1, 0, 2, 5, 0, 0, 0]).is_err());
    assert!(decoded(&[0, 1, 1, 0, 1, 0xff, 0xff, 0x03, 1]).is_err());
    assert!(decoded(&[&[0, 1, 1, 0, 0][..], &[0; 8192]].concat()).is_err());
}

#[derive(Clone, Debug)]
enum Op {
    Insert {
        v: u64,
    },
    /// `n` numbers a fixed step apart.
    Series {
        from: u64,
        step: u64,
        n: u64,
    },
    Range {
        from: u64,
        len: u64,
    },
    SetFloor {
        floor: u64,
    },
    RoundTrip,
}

/// The model has a place for every number, so everything happens in four parts.
const TOP: u64 = 4 << PART_BITS;

/// Numbers near the ends of parts and elsewhere.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..TOP,
        (0u64..4, 0u64..6).prop_map(|(part, v)| ((part << PART_BITS) + v).saturating_sub(3)),
        0u64..50
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => number().prop_map(|v| Op::Insert { v }),
        3 => (number(), 1u64..5, prop_oneof![1u64..50, 1u64..20_000]).prop_map(|(from, step, n)| Op::Series { from, step, n }),
        3 => (number(), prop_oneof![0u64..50, 0..TOP]).prop_map(|(from, len)| Op::Range { from, len }),
        1 => (0u64..TOP / 2).prop_map(|floor| Op::SetFloor { floor }),
        1 => Just(Op::RoundTrip),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn behaves_like_a_set_of_numbers(ops in prop::collection::vec(op(), 1..12), probes in prop::collection::vec(number(), 16)) {
        let mut set = IntervalSet::new();
        // Whether a number is in the set; the last one never is.
        let mut model = vec![false; TOP as usize + 1];
        for op in ops {
            match op {
                Op::Insert { v } => prop_assert_eq!(set.insert(v), !mem::replace(&mut model[v as usize], true)),
                Op::Series { from, step, n } => {
                    for v in (from..TOP).step_by(step as usize).take(n as usize) {
                        prop_assert_eq!(set.insert(v), !mem::replace(&mut model[v as usize], true));
                    }
                }
                Op::Range { from, len } => {
                    let to = (from + len).min(TOP);
                    let range = &mut model[from as usize..to as usize];
                    let added = range.iter().filter(|&&present| !present).count();
                    range.fill(true);
                    prop_assert_eq!(set.insert_range(from, to), added as u64);
                }
                Op::SetFloor { floor } => {
                    set.set_floor(floor);
                    model[..floor as usize].fill(true);
                }
                Op::RoundTrip => set = round_tripped(&set),
            }
            check(&set);
            let next = |from: u64, wanted: bool| {
                let distance = model[from as usize..].iter().position(|&present| present == wanted);
                distance.map(|distance| from + distance as u64)
            };
            prop_assert_eq!(Some(set.floor()), next(0, false));
            for &v in &probes {
                prop_assert_eq!(set.contains(v), model[v as usize]);
                prop_assert_eq!(Some(set.next_absent(v)), next(v, false));
                prop_assert_eq!(set.next_present(v), next(v, true));
            }
            let mut from = set.floor();
            for (start, end) in set.runs() {
                prop_assert_eq!((next(from, true), next(start, false)), (Some(start), Some(end)));
                from = end;
            }
            prop_assert_eq!(next(from, true), None);
        }
    }

    #[test]
    fn any_bytes_decode_to_a_sound_set_or_an_error(bytes in prop::collection::vec(prop_oneof![0u8..4, any::<u8>()], 0..100)) {
        if let Ok(set) = IntervalSet::decode(&mut bytes.as_slice()) {
            check(&set);
        }
    }
}
